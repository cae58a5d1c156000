"""Nothing finished is lost: whatever ends a call, the same call with --resume gives what an uninterrupted one gives."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from tests.conftest import ROOT
from tests.helpers.processes import exit_status, fork
from urbansound_hf.audio import io as audio_io
from urbansound_hf.audio.io import AudioError
from urbansound_hf.errors import Terminated
from urbansound_hf.inference import classifier as classifier_module
from urbansound_hf.inference import inputs, results
from urbansound_hf.inference.classifier import SoundClassifier
from urbansound_hf.inference.torch_backend import TorchBackend

PART = Path("labels.jsonl.part")
KILLER = """
import os, soundfile
begin = soundfile.SoundFile.__init__
def deadly(self, file, *args, **kwargs):
    if "killer" in str(file):
        os.kill(os.getpid(), 9)
    begin(self, file, *args, **kwargs)
soundfile.SoundFile.__init__ = deadly
"""


@pytest.fixture
def folder(sounds) -> Path:
    """Forty clips of two lengths, one in ten unreadable."""
    Path("many").mkdir()
    for number in range(40):
        source = "broken.wav" if number % 10 == 3 else ("long.wav", "a.wav")[number % 2]
        Path(f"many/{number:02}.wav").symlink_to(Path(source).resolve())
    return Path("many")


def rows(path: str | Path) -> list[tuple]:
    records = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    return [(r["path"], r.get("start"), r.get("label"), pytest.approx(r.get("score"), abs=1e-5)) for r in records]


@contextmanager
def interrupted_after(batches: int, monkeypatch) -> Iterator[None]:
    """Ctrl-C comes after so many forward passes."""
    forward, calls = SoundClassifier._forward, count()

    def interrupted(self, *arguments):
        if next(calls) >= batches:
            raise KeyboardInterrupt
        return forward(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(SoundClassifier, "_forward", interrupted)
        yield


def in_this_process(open_model, suspects):
    return map(open_model(), suspects)


def test_any_beginning_of_the_part_file_is_continued(folder, run, monkeypatch):
    """A kill leaves a beginning of what was written, down to half a line."""
    monkeypatch.setattr(results, "classify_alone", in_this_process)  # the other process has a test of its own
    flags = ("many", "--batch_size", "2", "--output", "labels.jsonl")
    kept: list[bytes] = []
    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path, **options: (
        kept.append(path.read_bytes()) if path.name.endswith(".part") else None, unlink(path, **options))[1]
    )  # fmt: skip
    code, _, summary = run(*flags)
    expected, part = rows("labels.jsonl"), kept[0]
    assert code == 1 and len({row[0] for row in expected}) == 40
    for cut in [0, 1, 500, len(part) // 3, len(part) // 2 + 1, len(part) - 3, len(part)]:
        PART.write_bytes(part[:cut])
        code, _, again = run(*flags, "--resume")
        assert (code, again.splitlines()[-1]) == (1, summary.splitlines()[-1])
        assert rows("labels.jsonl") == expected and not PART.exists()


def test_ctrl_c_keeps_what_is_finished_and_resume_needs_the_same_call(folder, run, monkeypatch):
    flags = ("many", "--batch_size", "1", "--output", "labels.jsonl")
    assert run(*flags)[0] == 1
    expected = rows("labels.jsonl")
    with interrupted_after(9, monkeypatch):
        code, _, err = run(*flags)
    done = sum("done" in json.loads(line) for line in PART.open(encoding="utf-8"))
    assert code == 130 and done > 5
    assert f"interrupted; {done} of 40 sounds are kept in labels.jsonl.part; --resume" in err
    code, _, err = run(*flags)
    assert code == 2 and f"{done} of 40 sounds are kept" in err and "--resume" in err and f"delete {PART}" in err
    assert run(*flags, "--resume", "--dtype", "bfloat16")[0] == 2  # other scores
    code, _, err = run(*flags, "--resume", "--hop_seconds", "0.3")
    assert code == 2 and "hop_seconds was None, is 0.3" in err and PART.exists()
    code, _, err = run("a.wav", *flags, "--resume")
    assert code == 2 and "inputs was 40 (" in err
    assert run(*flags, "--resume")[0] == 1 and rows("labels.jsonl") == expected


def test_a_full_disk_keeps_what_is_finished(folder, run):
    flags = ("many", "--batch_size", "1", "--output", "labels.jsonl")
    assert run(*flags)[0] == 1
    expected, before = rows("labels.jsonl"), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        code, _, err = run(*flags)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 2 and "File too large" in err and "where: labels.jsonl.part" in err and "sounds are kept" in err
    assert run(*flags, "--resume")[0] == 1 and rows("labels.jsonl") == expected


def test_kill_9_and_a_sound_that_kills_twice(folder, run, monkeypatch, tmp_path):
    """The first process is killed by its last sound, which then also kills the process for suspects."""
    flags = ["many", "--batch_size", "2", "--output", "labels.jsonl"]
    Path("many/39.wav").rename("many/39-killer.wav")
    assert run(*flags)[0] == 1
    expected = rows("labels.jsonl")
    Path("labels.jsonl").unlink()
    Path("site").mkdir()
    Path("site/sitecustomize.py").write_text(KILLER, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{ROOT}")

    def first() -> None:
        exec(KILLER, {})
        run(*flags)

    assert exit_status(fork(first)) == -signal.SIGKILL and PART.exists()
    assert run(*flags, "--resume")[0] == 1
    found = rows("labels.jsonl")
    killed = [row for row in found if "killer" in row[0]]
    assert killed[0][1:3] == (None, None) and "died twice" in Path("labels.jsonl").read_text(encoding="utf-8")
    assert [row for row in found if "killer" not in row[0]] == [row for row in expected if "killer" not in row[0]]


def test_one_bad_input_never_ends_the_call(sounds, run, monkeypatch):
    load, scandir = inputs.stream_audio, os.scandir

    def memory(source, *arguments):
        if "deep/c" in str(source):
            raise MemoryError
        yield from load(source, *arguments)

    def refused(path):
        if str(path).endswith("er"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(inputs, "stream_audio", memory)
    monkeypatch.setattr(os, "scandir", refused)
    code, out, _ = run("x" * 300, "~x.wav", "deep", "a.wav", f"deep/{'y' * 300}.wav", "--format", "jsonl")
    records = {Path(r["path"]).name[:5]: r for r in map(json.loads, out.splitlines())}
    assert code == 1 and "score" in records["a.wav"]
    for name, what in {"xxxxx": "too long", "yyyyy": "too long", "~x.wa": "does not exist", "er": "Permission denied",
                       "c.WAV": "MemoryError"}.items():  # fmt: skip
        assert what in records[name]["error"], name


def test_a_file_that_vanishes_before_its_figure_is_one_failed_row(sounds, run, monkeypatch):
    classify = SoundClassifier.classify_many

    def vanish(self, sources, *arguments, **options):
        for result in classify(self, sources, *arguments, **options):
            Path("a.wav").unlink(missing_ok=True)
            yield result

    monkeypatch.setattr(SoundClassifier, "classify_many", vanish)
    code, out, _ = run("a.wav", "deep/c.WAV", "--format", "jsonl", "--plot", "figures")
    gone, there = map(json.loads, out.splitlines())
    assert code == 1 and "but cannot be plotted: does not exist" in gone["error"] and "score" in there
    assert [path.name for path in Path("figures").iterdir()] == ["c.png"]


def test_embeddings_are_the_windows_of_parquet_with_a_vector_each(folder, run, model, monkeypatch):
    flags = ("many", "--batch_size", "2", "--embeddings", "e.parquet", "--quiet")
    assert run(*flags)[0] == 1
    expected = pq.read_table("e.parquet").to_pylist()
    with interrupted_after(5, monkeypatch):
        assert run(*flags)[0] == 130 and Path("e.parquet.part").stat().st_size > 1000
    assert run(*flags, "--resume")[0] == 1
    assert pq.read_table("e.parquet").to_pylist() == expected
    classifier = SoundClassifier.from_pretrained(model, device="cpu")
    for path in ("many/00.wav", "many/01.wav"):
        rows = [row for row in expected if row["path"] == path]
        np.testing.assert_allclose([row["embedding"] for row in rows], classifier.embed(path), atol=1e-5)
    assert [(row["start"], row["end"]) for row in expected][:4] == [(0, 1), (0.5, 1.5), (1, 2), (1.5, 2.5)]
    assert next(row for row in expected if row["error"])["embedding"] is None
    assert run("a.wav", "--embeddings", "e.csv")[0] == run("a.wav", "--embeddings", "e.parquet", "--events")[0] == 2


def test_a_long_sound_writes_its_windows_before_it_is_finished(sounds, run, monkeypatch):
    """The windows of one that breaks off are taken back."""
    blocks, seen = inputs.Recording._blocks, []

    def broken(self, *arguments):
        for block in blocks(self, *arguments):
            yield block
            seen.append(Path("w.jsonl.part").read_text(encoding="utf-8").count('"label"'))
        if "long" in self.name:
            raise AudioError("ends early", self.name)

    monkeypatch.setattr(inputs.Recording, "_blocks", broken)
    monkeypatch.setattr(audio_io, "BLOCK_FRAMES", 8000)
    monkeypatch.setattr(inputs, "AHEAD_SECONDS", 0.5)
    monkeypatch.setattr(classifier_module, "BATCHES_AHEAD", 1)
    soundfile.write("long.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 80_000), 16_000)
    code, *_ = run("a.wav", "long.wav", "deep/c.WAV", "--output", "w.jsonl", "--batch_size", "1")
    first, failed, last = map(json.loads, Path("w.jsonl").read_text(encoding="utf-8").splitlines())
    assert code == 1 and failed["error"] == "ends early" and "score" in first and "score" in last
    assert max(seen) > 3


def test_a_batch_that_does_not_fit_is_halved_and_a_sound_that_does_not_is_unreadable(folder, run, monkeypatch):
    assert run("many", "--output", "whole.jsonl", "--batch_size", "8")[0] == 1
    start, sizes = TorchBackend.start, []

    def small(self, batch, embed=False):
        samples = batch["input_features"]
        sizes.append(len(samples))
        if len(samples) > 2 or samples.shape[1] > 96:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return start(self, batch, embed)

    monkeypatch.setattr(TorchBackend, "start", small)
    code, _, err = run("many", "long.wav", "--output", "small.jsonl", "--batch_size", "8")
    assert code == 1 and "Traceback" not in err and max(sizes) == 8
    whole, found = rows("whole.jsonl"), rows("small.jsonl")
    classified = [row for row in found if row[2]]
    assert classified and classified == [row for row in whole if row[0] in {row[0] for row in classified}]
    assert "does not fit into the memory" in Path("small.jsonl").read_text(encoding="utf-8")


def test_a_second_interruption_after_a_torn_line_keeps_the_file_and_its_kind(tmp_path):
    made = str(tmp_path / "rows.jsonl"), "jsonl", ["a", "b"], {"model": "m"}
    with pytest.raises(Terminated), results.ResultFile(*made, resume=False) as file:
        file.add([{"path": "a"}])
        raise Terminated
    with file.part.open("ab") as part:
        part.write(b'{"torn": ' + b"x" * 5000)
    with pytest.raises(Terminated, match="1 of 2 sounds are kept"), results.ResultFile(*made, resume=True):
        raise Terminated
    assert b"\0" not in file.part.read_bytes()
