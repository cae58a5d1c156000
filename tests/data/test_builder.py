"""The prepared table holds the samples that serving reads, bit by bit, and tells what was unusual in the files."""

from __future__ import annotations

import io
import os
import struct
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile

from urbansound_hf.audio.io import load_audio, to_float_wav
from urbansound_hf.data.builder import CLIPS_PER_TABLE, NOTE, PreparedSounds, sound_features
from urbansound_hf.data.loading import SoundRequest, load_sounds
from urbansound_hf.errors import UserError

LEVELS = (1.0, 1e-3, 5e-5, 2e-5, 1e-7, 1.5, 3.0, 1e-30)
FORMATS = {
    "wav16": ("WAV", "PCM_16"), "wav24": ("WAV", "PCM_24"), "float": ("WAV", "FLOAT"), "double": ("WAV", "DOUBLE"),
    "flac": ("FLAC", "PCM_24"), "ogg": ("OGG", "VORBIS"), "mp3": ("MP3", "MPEG_LAYER_III"), "aiff": ("AIFF", "PCM_24"),
}  # fmt: skip


def noise(level: float, seed: int, rate: int = 16_000, channels: int = 1) -> np.ndarray:
    return level * np.random.default_rng(seed).uniform(-1, 1, (rate // 4, channels))


def classes(root: Path, files: dict[str, bytes]) -> Path:
    """A folder with these files by turns in two classes."""
    for number, (name, content) in enumerate(files.items()):
        path = root / "ab"[number % 2] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def encode(samples: np.ndarray, rate: int, container: str, subtype: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=container, subtype=subtype)
    return buffer.getvalue()


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 44_100])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_level_is_stored_bit_by_bit(tmp_path, rate, channels):
    files = {f"{level}.wav": encode(noise(level, 0, rate, channels), rate, "WAV", "FLOAT") for level in LEVELS}
    files |= {f"{name}.{kind[0]}": encode(noise(0.9, 1, rate, channels), rate, *kind) for name, kind in FORMATS.items()}
    root = classes(tmp_path / "data", files)
    sounds = load_sounds(SoundRequest(dataset=str(root)))
    assert len(sounds.dataset) == len(files)
    peaks = []
    for row in sounds.dataset:
        stored, served = load_audio(row["audio"]["bytes"]), load_audio(root / row["audio"]["path"])
        assert stored.tobytes() == served.tobytes() and stored.any()
        peaks.append(np.abs(stored).max())
    assert max(peaks) > 2 and min(peaks) < 1e-29, "nothing is clipped, nothing is rounded to 16 bits"


@pytest.mark.parametrize("num_proc", [1, 2])
def test_what_was_unusual_in_the_files_is_noted(tmp_path, num_proc):
    sound = encode(noise(0.5, 0), 16_000, "WAV", "PCM_16")
    files = {f"{number:02}.wav": encode(noise(0.5, number), 16_000, "WAV", "PCM_16") for number in range(40)}
    files["03.wav"] = sound[:40] + struct.pack("<I", len(sound)) + sound[44:]
    files["17.wav"] = encode(32767 * noise(0.9, 1), 16_000, "WAV", "FLOAT")
    files["36.flac"] = 2 * encode(noise(0.5, 2), 16_000, "FLAC", "PCM_16")
    files["39.wav"] = 2 * sound
    root = classes(tmp_path / "data", files)
    for _ in ("prepared", "found in the cache"):
        sounds = load_sounds(SoundRequest(dataset=str(root), num_proc=num_proc))
        assert NOTE not in sounds.dataset.column_names
        (note,) = [note for note in sounds.notes if "unusual" in note]
        assert note.startswith("4 of 41 sounds are unusual: ") and note.endswith("; and 1 more")
        assert "a/36.flac: it holds 2 sounds joined end to end" in note
        assert "b/03.wav: its header promises 8,044 bytes of samples, 8,000 are there" in note
        assert "b/17.wav: 100% of its samples lie beyond full scale" in note
    (root / "b" / "03.wav").write_bytes(sound)
    (note,) = [note for note in load_sounds(SoundRequest(dataset=str(root))).notes if "unusual" in note]
    assert note.startswith("3 of 41 sounds are unusual: ") and "more" not in note


def test_sounds_in_order_have_no_note(tmp_path):
    files = {f"{number}.wav": encode(noise(1.0, number), 16_000, "WAV", "FLOAT") for number in range(4)}
    assert not [
        note for note in load_sounds(SoundRequest(dataset=str(classes(tmp_path, files)))).notes if "unus" in note
    ]


class Deadly(list):
    """Rows that end the process which reads the last of them, unless it is this one."""

    parent = os.getpid()

    def __getitem__(self, part: slice) -> list[dict]:
        if os.getpid() != self.parent:
            os._exit(9) if part.stop == len(self) else time.sleep(60)
        return super().__getitem__(part)


def test_a_killed_process_is_reported_and_stops_the_others(tmp_path):
    rows = Deadly({"source": b"", "path": f"{number}.wav", "label": 0} for number in range(2 * CLIPS_PER_TABLE))
    builder = PreparedSounds(rows, sound_features(["a", "b"], {}), "key", "deadly", cache_dir=tmp_path)
    with pytest.raises(UserError, match="a process that decoded sounds was killed"):
        builder.load(num_proc=2)


def test_sounds_of_many_files_and_processes_keep_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "MAX_SHARD_SIZE", 1)  # bytes: a file for each table
    clip = to_float_wav(np.zeros(10, np.float32))
    rows = [{"source": clip, "path": f"{number}.wav", "label": 0} for number in range(5 * CLIPS_PER_TABLE)]
    prepared = PreparedSounds(rows, sound_features(["a", "b"], {}), "key", "many", cache_dir=tmp_path).load(num_proc=2)
    assert [audio["path"] for audio in prepared["audio"]] == [row["path"] for row in rows]
    assert len(prepared.cache_files) > 2
