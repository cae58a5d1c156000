"""The one finder of sound files: links, cycles, hidden files, and what it passes over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from urbansound_hf.audio.files import SUFFIXES, UNREAD_SUFFIXES, find_audio_files
from urbansound_hf.audio.io import AudioError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_sounds_are_sorted_and_hidden_files_and_folders_are_not_among_them(tmp_path):
    touch(tmp_path, "b/2.WAV", "b/1.flac", "a/deep/3.mp3", "a/notes.txt", "a/._3.mp3", ".cache/4.wav", "__MACOSX/5.wav")
    found = find_audio_files(tmp_path)
    assert found.names(found.sounds) == ["a/deep/3.mp3", "b/1.flac", "b/2.WAV"]
    assert found.notes() == []


def test_linked_files_and_folders_are_like_others(tmp_path):
    touch(tmp_path / "elsewhere", "c/1.wav", "2.wav")
    touch(tmp_path / "data", "a/0.wav")
    (tmp_path / "data/c").symlink_to(tmp_path / "elsewhere/c")
    (tmp_path / "data/a/linked.wav").symlink_to("../../elsewhere/2.wav")
    found = find_audio_files(tmp_path / "data")
    assert found.names(found.sounds) == ["a/0.wav", "a/linked.wav", "c/1.wav"] and found.notes() == []


@pytest.mark.parametrize("target", [".", "..", "../..", "../other"])
def test_cycles_of_links_end(tmp_path, target):
    touch(tmp_path, "data/a/0.wav", "data/other/1.wav")
    (tmp_path / "data/a/link").symlink_to(target)
    (tmp_path / "data/other/back").symlink_to("../a")
    (tmp_path / "data/itself.wav").symlink_to("itself.wav")
    found = find_audio_files(tmp_path / "data")
    assert {"a/0.wav", "other/1.wav"} <= set(found.names(found.sounds))
    assert found.loops and found.names(found.broken_links) == ["itself.wav"]


def test_what_is_passed_over_is_counted_and_named(tmp_path):
    touch(tmp_path, "a/0.wav", "c/1.mpc", "c/2.MPC", "c/3.opus.dsf", "d/deep/notes.txt", "a/empty/readme.md")
    (tmp_path / "a/folder.wav").mkdir()
    (tmp_path / "e").symlink_to(tmp_path / "unmounted")
    (tmp_path / "a/up").symlink_to("..")
    os.mkfifo(tmp_path / "a/pipe.wav")
    assert find_audio_files(tmp_path).notes() == [
        "4 audio files passed over, no format that is read (2 .mpc, 1 .wav, 1 .dsf): "
        "a/pipe.wav, c/1.mpc, c/2.MPC, c/3.opus.dsf",
        "4 folders without a sound that is read: a/empty, a/folder.wav, c, d",
        "1 link to nothing: e",
        "1 link to a folder above, not followed: a/up",
    ]


def test_many_names_are_cut_and_suffixes_do_not_overlap(tmp_path):
    (note, _) = find_audio_files(touch(tmp_path, *(f"a/{n}.shn" for n in range(12)))).notes()
    assert note.startswith("12 audio files passed over") and note.endswith("and 2 more")
    assert not SUFFIXES & UNREAD_SUFFIXES


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(AudioError, match="the folder cannot be read"):
        find_audio_files(tmp_path / "nowhere")
