"""Folders of labelled sounds: every file and folder is used or reported, and no guess contradicts the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.data.test_urbansound8k import cache, tone  # noqa: F401 (a fixture)
from urbansound_hf.audio.io import load_audio
from urbansound_hf.data.columns import fold_number
from urbansound_hf.data.folder import read_folder
from urbansound_hf.data.loading import SoundRequest, load_sounds
from urbansound_hf.errors import UserError


def sounds_in(folder: Path, *names: str) -> Path:
    for name in names:
        tone(folder / name)
    return folder


def listing(folder: Path, *lines: str, encoding: str = "utf-8", name: str = "metadata.csv") -> Path:
    (folder / name).write_text("\n".join(lines) + "\n", encoding=encoding)
    return folder


def sources(folder: Path) -> dict[str, str]:
    """The file that each listed sound is read from, relative to the folder."""
    return {row["path"]: Path(row["source"]).relative_to(folder).as_posix() for row in read_folder(folder)[0]}


# ---- classes as folders


def test_linked_classes_and_cycles(tmp_path):
    sounds_in(tmp_path / "elsewhere", "owl/1.wav", "owl/2.wav", "3.wav")
    data = sounds_in(tmp_path / "data", "wren/1.wav")
    (data / "owl").symlink_to(tmp_path / "elsewhere/owl")
    (data / "wren/2.wav").symlink_to("../../elsewhere/3.wav")
    (data / "wren/loop").symlink_to(data)
    sounds = load_sounds(SoundRequest(str(data)))
    assert sounds.labels == ["owl", "wren"] and sounds.dataset["label"][:] == [0, 0, 1, 1]
    assert sounds.notes == ["1 link to a folder above, not followed: wren/loop"]


def test_what_is_not_used_is_counted_named_and_noted(tmp_path):
    sounds_in(tmp_path, "owl/1.wav", "wren/1.wav", "stray.wav", ".trash/1.wav", ".trash/2.wav")
    for name in ("crow/1.mpc", "crow/2.dsf", "wren/2.tak", "empty/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"sound?")
    (tmp_path / "gone").symlink_to("/nowhere/at/all")
    sounds = load_sounds(SoundRequest(str(tmp_path)))
    assert sounds.labels == ["owl", "wren"]
    assert sounds.notes == [
        "1 sound in no folder of a class, left out: stray.wav",
        "3 audio files passed over, no format that is read (1 .mpc, 1 .dsf, 1 .tak): crow/1.mpc, crow/2.dsf, "
        "wren/2.tak",
        "2 folders without a sound that is read: crow, empty",
        "1 link to nothing: gone",
    ]


def test_one_class_of_unread_files_is_named_in_the_error(tmp_path):
    sounds_in(tmp_path, "owl/1.wav")
    (tmp_path / "wren").mkdir()
    (tmp_path / "wren/1.mpc").touch()
    with pytest.raises(UserError, match=r"two at least.*1 audio file passed over, .*wren/1\.mpc; 1 folder without"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["fold1/owl", "fold2/owl", "fold10/wren"], {("owl", 1), ("owl", 2), ("wren", 10)}),
        (["Fold_1/owl", "fold 2/wren"], {("owl", 1), ("wren", 2)}),
        (["owl/fold1", "owl/fold2", "wren/fold1"], {("owl", 1), ("owl", 2), ("wren", 1)}),
    ],
)
def test_folders_called_fold_are_folds(tmp_path, names, expected):
    rows, notes = read_folder(sounds_in(tmp_path, *(f"{name}/1.wav" for name in names)))
    assert {(row["label"], row["fold"]) for row in rows} == expected and not notes


@pytest.mark.parametrize(
    "names",
    [
        ["train/owl", "train/wren", "test/owl", "valid/wren"],
        ["owl/train", "wren/train", "owl/test", "wren/valid"],
    ],
)
def test_parts_above_and_below_the_classes(tmp_path, names):
    rows, _ = read_folder(sounds_in(tmp_path, *(f"{name}/1.wav" for name in names)))
    assert {(row["label"], row["split"]) for row in rows} == {
        ("owl", "train"), ("wren", "train"), ("owl", "test"), ("wren", "validation")
    }  # fmt: skip


def test_folds_within_parts(tmp_path):
    rows, _ = read_folder(sounds_in(tmp_path, *(f"train/fold{k}/{c}/1.wav" for k in (1, 2) for c in ("owl", "wren"))))
    assert {(row["split"], row["fold"], row["label"]) for row in rows} == {
        ("train", k, c) for k in (1, 2) for c in ("owl", "wren")
    }


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["fold1/owl", "fold2/wren", "extra/owl"], "fold1, fold2 are names of folds or parts .* lie extra"),
        (["train/owl", "test/wren", "more/owl"], "test, train are names of folds or parts .* lie more"),
        (["owl/train", "owl/test", "wren"], "test, train are names of folds or parts .* lie files"),
        (["fold1/owl", "test/wren"], "fold1 are names of folds or parts .* lie test"),
    ],
)
def test_folds_and_parts_beside_classes_are_refused(tmp_path, names, said):
    with pytest.raises(UserError, match=said):
        read_folder(sounds_in(tmp_path, *(f"{name}/1.wav" for name in names)))


def test_a_class_may_be_called_train(tmp_path):
    rows, _ = read_folder(sounds_in(tmp_path, "train/1.wav", "car/1.wav", "bus/deep/1.wav"))
    assert {row["label"] for row in rows} == {"train", "car", "bus"} and "split" not in rows[0]


def test_one_label_in_two_unicode_forms_is_one_class(tmp_path):
    names = ("train/H\u00e4hne/1.wav", "test/Ha\u0308hne/1.wav", "train/Amsel/1.wav", "test/Amsel/1.wav")
    assert load_sounds(SoundRequest(str(sounds_in(tmp_path, *names)))).labels == ["Amsel", "H\u00e4hne"]


# ---- a metadata CSV: which file is meant


def test_only_a_bare_name_is_looked_for_elsewhere(tmp_path):
    sounds_in(tmp_path, "background/167.wav", "other/168.wav")
    listing(tmp_path, "file,label", "vessel/167.wav,a", "168.wav,b")
    with pytest.raises(UserError, match=r"1 of 2 have none: vessel/167\.wav"):
        read_folder(tmp_path)
    rows, notes = read_folder(tmp_path, SoundRequest(allow_missing_files=True))
    assert [row["path"] for row in rows] == ["other/168.wav"]
    assert notes == [
        "1 of 2 listed sounds have no file and are left out",
        "1 sound not listed in metadata.csv, left out: background/167.wav",
    ]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["a/1.wav,x", "a/1.wav,y"], "a/1.wav is listed 2 times\n.*lines 2, 3"),
        (["a/1.wav,x", "./a/1.wav,y"], "a/1.wav is listed 2 times"),
        (["a/1.wav,x", "b/../a/1.wav,x"], "a/1.wav is listed 2 times"),
        (["a/1.wav,x", "a\\1.wav,x"], "a/1.wav is listed 2 times"),
        (["a/1.wav,x", "a/1,x"], "a/1.wav is listed 2 times"),
        (["a/1.wav,x", "1.wav,y"], "1.wav has no folder, and the table lists 2 files of this name\n.*line 3"),
        (["c/1.wav,x", "1.wav,y"], "1.wav has no folder, and the table lists 2 files of this name"),
        (["a/1.wav,x", "2.wav,y"], "2.wav is the name of 2 files: a/2.wav, b/2.wav"),
        (["a/1.wav,x", ",y"], "the line names no file .*\n.*line 3"),
        (["a/1.WAV,x", "a/2.wav,y"], "1 of 2 have none: a/1.WAV\n.*\n.*did you mean a/1.wav"),
        (["a/1.wav,x", "C:\\data\\a\\2.wav,y"], "1 of 2 have none: C:\\\\data\\\\a\\\\2.wav"),
        (["a/1.wav,x", f"{'long' * 2000}.wav,y"], "1 of 2 have none"),
    ],
)
def test_one_file_is_never_given_to_two_names(tmp_path, lines, said):
    listing(sounds_in(tmp_path, "a/1.wav", "a/2.wav", "b/2.wav"), "file,label", *lines)
    with pytest.raises(UserError, match=said):
        read_folder(tmp_path)


def test_links_are_files_like_others(tmp_path):
    sounds_in(tmp_path / "store", "1.wav", "deep/2.wav")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/linked.wav").symlink_to(tmp_path / "store/1.wav")
    (tmp_path / "data/same.wav").symlink_to(tmp_path / "store/1.wav")
    (tmp_path / "data/folder").symlink_to(tmp_path / "store/deep")
    listing(tmp_path / "data", "file,label", "linked.wav,a", "same.wav,a", "2.wav,b")
    assert sources(tmp_path / "data") == {
        "linked.wav": "linked.wav", "same.wav": "same.wav", "folder/2.wav": "folder/2.wav"
    }  # fmt: skip


def test_names_in_other_spellings_find_their_files(tmp_path):
    sounds_in(tmp_path, "a/Ha\u0308hne.wav", "a/\u00e9t\u00e9.flac", "b/three.3.wav", "b/4.wav", "5.wav")
    listing(
        tmp_path, "file,label", "a/H\u00e4hne.wav,x", "e\u0301te\u0301.flac,y", "b\\three.3,x", " 4 ,y", ".\\5.wav,x"
    )
    assert sorted(sources(tmp_path).values()) == [
        "5.wav", "a/Ha\u0308hne.wav", "a/\u00e9t\u00e9.flac", "b/4.wav", "b/three.3.wav"
    ]  # fmt: skip
    sounds_in(tmp_path, "b/4.flac")
    with pytest.raises(UserError, match=r"4 is the name of 2 files: b/4\.flac, b/4\.wav"):
        read_folder(tmp_path)


# ---- a metadata CSV: segments of files


def ramp(path: Path, seconds: int, rate: int = 8_000) -> Path:
    soundfile.write(path, np.repeat(np.arange(1, seconds + 1) / 16, rate), rate)
    return path


def test_one_file_on_many_lines_is_cut_where_they_say(tmp_path):
    ramp(tmp_path / "long.wav", 6)
    ramp(tmp_path / "short.wav", 2)
    lines = ["long.wav,a,0,2", "long.wav,b,3.5,4.5", "short.wav,a,1,2.04", "short.wav,b,,"]
    listing(tmp_path, "file,label,start,end", *lines)
    with pytest.raises(UserError, match=r"short\.wav is listed 2 times"):
        read_folder(tmp_path)
    listing(tmp_path, "file,label,start,end", *lines[:3])
    sounds = load_sounds(SoundRequest(str(tmp_path), sampling_rate=8_000))
    assert [row["path"] for row in sounds.dataset["audio"]] == [
        "long.wav#0.0-2.0", "long.wav#3.5-4.5", "short.wav#1.0-2.04"
    ]  # fmt: skip
    assert sounds.dataset["group"][:] == ["long.wav", "long.wav", "short.wav"]
    first, second, third = (load_audio(row["bytes"], 8_000) for row in sounds.dataset["audio"])
    assert np.unique(first).tolist() == [1 / 16, 2 / 16] and len(first) == 16_000
    assert np.unique(second).tolist() == [4 / 16, 5 / 16] and len(second) == 8_000
    assert np.unique(third).tolist() == [2 / 16] and len(third) == 8_000


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("long.wav,b,5,7", "the segment 5 to 7 s is not within the 6.00 s of its file"),
        ("long.wav,b,-1,1", "the segment -1 to 1 s is not within"),
        ("long.wav,b,3,2", "ends at 2.0 s, before it starts at 3.0 s\n.*line 3"),
        ("long.wav,b,0,2", "long.wav is listed 2 times"),
        ("long.wav,b,0;5,2", "start is a time in seconds, found '0;5'\n.*line 3"),
        ("long.wav,b,nan,2", "start is a time in seconds, found 'nan'"),
    ],
)
def test_segments_that_are_none(tmp_path, line, said):
    ramp(tmp_path / "long.wav", 6)
    listing(tmp_path, "file,label,start,end", "long.wav,a,0,2", line)
    with pytest.raises(UserError, match=said):
        load_sounds(SoundRequest(str(tmp_path)))


# ---- a metadata CSV: its text


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_delimiters_and_encodings(tmp_path, delimiter, encoding):
    sounds_in(tmp_path, "a.wav", "b.wav")
    lines = ["file,label,fold,group", '"a.wav",H\u00e4hne,1,r1', "b.wav,Amsel,2,r2"]
    listing(tmp_path, *(line.replace(",", delimiter) for line in lines), encoding=encoding)
    rows, _ = read_folder(tmp_path)
    assert [(row["label"], row["fold"], row["group"]) for row in rows] == [("H\u00e4hne", 1, "r1"), ("Amsel", 2, "r2")]


@pytest.mark.parametrize(
    "text",
    [
        "File , LABEL,Fold, group \n a.wav , x , 1 , r1 \nb.wav,\u00a0y\u200b,fold2,r2",
        "sep=;\r\nfile;label;fold;group\r\na.wav;x;1.0;r1\r\n\r\nb.wav;y;Fold 2;r2\r\n;;;\r\n",
        ",file,label,fold,group,,\n0,a.wav,x,1,r1,,\n1,b.wav,y,2.0,r2,,,\n",
        "file,label,fold,group\ra.wav,x,1,r1\rb.wav,y,2,r2\r",
    ],
)
def test_blanks_spreadsheets_and_row_numbers(tmp_path, text):
    (sounds_in(tmp_path, "a.wav", "b.wav") / "list.CSV").write_bytes(text.encode())
    rows, _ = read_folder(tmp_path)
    found = [(row["path"], row["label"], row["fold"], row["group"]) for row in rows]
    assert found == [("a.wav", "x", 1, "r1"), ("b.wav", "y", 2, "r2")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("file,label\na.wav,x, y\nb.wav,z", r"cells that belong to no column \(y\); the header has 2\n.*line 2"),
        ("file,label,\na.wav,x,y\nb.wav,z,", r"cells that belong to no column \(y\)"),
        ("file,label,label\na.wav,x,y", "a column has one name, found label twice"),
        ('file,label\n"a.wav,x\nb.wav,y', "the table is no CSV .unexpected end of data"),
        (
            "file,label\na.wav,H\u00e4hne".encode("latin-1"),
            "found the byte 0xe4\n.*line 2\n.*'a.wav,H\u00e4hne', it is Latin-1",
        ),
        ("file,label\na.wav,x".encode("utf-16-le"), "zero bytes, as UTF-16 without its mark"),
        (b"\xff\xfef\x00i\x00", "the audio column is called .*; found fi"),
        (b"\xff\xfef\x00i", "text in UTF-16, found the byte"),
        ("file,label,fold\na.wav,x,1\nb.wav,y,1.5", "fold is a whole number, found '1.5'\n.*line 3"),
        ("file,label,fold\na.wav,x,1\nb.wav,y", "fold is a whole number, found ''\n.*line 3"),
        ("file,label\n\u00a0\n", "the table lists no sounds"),
        ("", "the audio column is called"),
    ],
)
def test_each_message_names_the_cause(tmp_path, content, said):
    sounds_in(tmp_path, "a.wav", "b.wav")
    (tmp_path / "metadata.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=said):
        read_folder(tmp_path)


def test_blanks_make_no_new_class_group_or_part(tmp_path):
    sounds_in(tmp_path, "a.wav", "b.wav", "c.wav", "d.wav")
    lines = ["a.wav,dog,r1,train", "b.wav, dog,r1 ,Train ", "c.wav,dog\u00a0,r2,TEST", "d.wav,cat,r2, test"]
    sounds = load_sounds(SoundRequest(str(listing(tmp_path, "file,label,group,split", *lines))))
    assert sounds.labels == ["cat", "dog"] and sounds.dataset["label"][:] == [1, 1, 1, 0]
    assert sounds.dataset["group"][:] == ["r1", "r1", "r2", "r2"]
    assert sounds.dataset["split"][:] == ["train", "train", "test", "test"]


@pytest.mark.parametrize("text", ["1" * 30, "1" * 5000, "-1", "1e3", "fold", ""])
def test_a_fold_that_no_number_of_32_bits_holds_is_an_error(text):
    with pytest.raises(UserError, match="fold is a whole number"):
        fold_number(text, "metadata.csv:2")
    assert [fold_number(each, "") for each in ("3", "fold3", "003", "3.0", "0")] == [3, 3, 3, 3, 0]


def test_a_table_without_an_end_is_refused(tmp_path):
    sounds_in(tmp_path, "a.wav", "b.wav")
    (tmp_path / "metadata.csv").symlink_to("/dev/zero")
    with pytest.raises(UserError, match="it is a device"):
        read_folder(tmp_path)
