"""Progress: a bar in a terminal (here a real pseudo-terminal), a line in a log, nothing when quiet."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile

from tests.helpers import tiny
from tests.helpers.processes import exit_status
from tests.helpers.zenodo_server import serve
from urbansound_hf import cli, progress
from urbansound_hf.data import __main__, synthetic
from urbansound_hf.data.download import fetch
from urbansound_hf.data.urbansound8k import CLASSES
from urbansound_hf.errors import exit_code
from urbansound_hf.evaluation.receipts import INCIDENTAL
from urbansound_hf.evaluation.runs import Run
from urbansound_hf.progress import Bar, computed, duration, library_bars, quietly, remaining, say
from urbansound_hf.training.cross_validation import run_experiment

pytestmark = pytest.mark.usefixtures("plain_reports")


@contextmanager
def terminal() -> Iterator[Callable[[], str]]:
    """Standard error is a terminal within; the function returns what has been written to it."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 160, 0, 0))  # rows and columns
    written = bytearray()

    def read() -> None:
        try:
            while part := os.read(master, 65536):
                written.extend(part)
        except OSError:  # the other end is closed
            return

    reader = threading.Thread(target=read)
    reader.start()
    before, sys.stderr = sys.stderr, os.fdopen(slave, "w")
    try:
        yield written.decode
    finally:
        sys.stderr.close()
        sys.stderr = before
        reader.join()
        os.close(master)


@pytest.fixture
def long_steps(monkeypatch):
    """Every step counts as a long one."""
    monkeypatch.setattr(progress, "SHORT_SECONDS", 0.0)


# ---- the mechanism


def test_in_a_terminal_a_bar_shows_rate_and_remaining_time():
    with terminal() as written:
        for _ in Bar(range(30), "Classifying", unit="sounds"):
            time.sleep(0.01)
    frames = written().split("\r")
    assert len(frames) > 2, "it moves"
    assert re.search(r"Classifying:  \d+%.*\| \d+/30 \[00:00<00:00, .* sounds/s\]", "\r".join(frames[1:-1]))
    assert re.search(r"100%.*30/30 \[.*sounds/s\]$", frames[-2])


def test_in_a_log_a_step_is_one_line_at_its_end(long_steps, capsys):
    for number in Bar(range(680), "Classifying", unit="sounds"):
        assert number or capsys.readouterr().err == ""
    assert re.fullmatch(r"Classifying: 680 sounds in \d\.\d s \([\d,]+/s\)\n", capsys.readouterr().err)


def test_bytes_are_written_as_people_read_them(long_steps, capsys):
    with Bar(desc="file.tar.gz", total=5_000_000, unit="B") as bar:
        bar.update(5_000_000)
    assert re.fullmatch(r"file.tar.gz: 5\.00MB in 0\.0 s \(.*B/s\)\n", capsys.readouterr().err)


def test_what_stopped_before_its_end_says_how_far_it_came(long_steps, capsys):
    with pytest.raises(KeyError), Bar(range(10), "Reading", unit="files") as bar:
        for number in bar:
            if number == 3:
                raise KeyError
    assert capsys.readouterr().err.startswith("Reading: 3 of 10 files in ")


def test_a_short_step_and_one_within_another_leave_no_line(monkeypatch, capsys):
    list(Bar(range(10), "Short", unit="clips"))
    monkeypatch.setattr(progress, "SHORT_SECONDS", 0.0)
    list(Bar(range(10), "Inner", unit="clips", leave=False))
    list(Bar(range(10), "Off", unit="clips", disable=True))
    assert capsys.readouterr().err == ""


def test_a_very_long_step_shows_signs_of_life_in_a_log(long_steps, monkeypatch, capsys):
    monkeypatch.setattr(progress, "SIGN_OF_LIFE_SECONDS", 0.1)
    with Bar(desc="Training", total=4, unit="steps", mininterval=0) as bar:
        bar.set_postfix_str("loss 0.512", refresh=False)
        for _ in range(4):
            time.sleep(0.11)
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert re.fullmatch(r"Training: 2 of 4 steps in 0\.\d s \(\S+/s\), 0\.\d s to go; loss 0\.512", lines[1])
    assert re.fullmatch(r"Training: 4 steps in 0\.\d s \(\S+/s\); loss 0\.512", lines[-1])


def test_when_quiet_nothing_is_said(long_steps, capsys):
    with quietly():
        list(Bar(range(10), "Quiet", unit="clips"))
        say("not this")
        with quietly(False), terminal() as written:
            list(Bar(range(10), "Quiet still", unit="clips"))
    assert capsys.readouterr().err == written() == ""
    say("this")
    assert capsys.readouterr().err == "this\n"


def test_a_message_stands_above_the_bar():
    with terminal() as written, Bar(desc="Work", total=3, unit="clips") as bar:
        bar.update()
        say("a message")
    assert re.search(r"\ra message\r\n.*Work:  33%", written(), re.DOTALL)


def test_times_are_written_for_people():
    assert [duration(seconds) for seconds in (0.04, 59.94, 59.96, 185, 7620)] == [
        "0.0 s", "59.9 s", "1 min 00 s", "3 min 05 s", "2 h 07 min"
    ]  # fmt: skip
    assert remaining("folds", 3, 10, 372) == "3 of 10 folds in 6 min 12 s, about 14 min 28 s to go"
    assert remaining("folds", 10, 10, 372) == "10 of 10 folds in 6 min 12 s"


def test_what_is_found_in_the_cache_is_no_step(tmp_path, long_steps, capsys):
    rows = datasets.Dataset.from_dict({"x": list(range(200))})
    with library_bars():
        rows.save_to_disk(tmp_path / "rows")
    rows = datasets.load_from_disk(tmp_path / "rows")

    def work() -> datasets.Dataset:
        return rows.map(lambda row: {"y": row["x"]}, desc="Counting", new_fingerprint="counted")

    computed("Counting", 200, work)
    assert re.fullmatch(r"Counting: 200 clips in \d\.\d s \([\d,]+/s\)\n", capsys.readouterr().err)
    time.sleep(0.05)
    computed("Counting", 200, work)
    assert capsys.readouterr().err == ""
    assert not datasets.are_progress_bars_disabled()
    for file in rows.map(lambda row: row, new_fingerprint="counted").cache_files:
        Path(file["filename"]).unlink()
    with terminal() as written:
        computed("Counting", 200, work)
    assert re.search(r"Counting: 100%.*200/200 .*examples/s\]", written())


def test_work_is_shared_out_over_the_cores_of_this_process():
    """One count for decoding, features, duplicates and reading ahead; a smaller table stays in one process."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, set(list(before)[:1]))
        assert progress.worker_count() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert progress.worker_count() == len(before)
    rows = datasets.Dataset.from_dict({"x": list(range(200))})
    for num_proc, batch_size, files in ((2, 64, 2), (2, 100, 1), (1, 64, 1)):
        made = progress.mapped(
            rows, lambda row: {"pid": os.getpid()}, desc="Counting", num_proc=num_proc, batch_size=batch_size
        )
        assert len(set(made["pid"])) == files


# ---- the commands


def train(configure: Callable, synthetic_root: Path, out: Path, *more: object) -> int:
    data = ["--data_dir", synthetic_root, "--preprocessing_num_workers", 1, "--test_fold", "1,2"]
    return run_experiment(configure(*data, "--output_dir", out, "--disable_tqdm", "false", *more))


def test_training_in_a_terminal_shows_bars(configure, synthetic_root, tmp_path, capsys):
    with terminal() as written:
        assert train(configure, synthetic_root, tmp_path / "out", "--clip_seconds", 2.5) == 0
    told = written()
    assert re.search(r"Extracting features: 100%.*100/100 .*examples/s\]", told)
    assert re.search(r"Training:  50%.* 2/4 \[\d\d:\d\d<.* steps/s.*loss \d\.\d{3}, validation accuracy 0\.\d{3}", told)
    assert "Scoring:" in told and "1 of 2 folds in " in told and " to go" in told
    assert "shards" not in told
    assert "{'loss'" not in told and "{'eval_loss'" not in capsys.readouterr().out


def test_training_in_a_log_is_a_line_a_step(configure, synthetic_root, tmp_path, long_steps, capsys):
    assert train(configure, synthetic_root, tmp_path / "out", "--clip_seconds", 2.6) == 0
    out, err = capsys.readouterr()
    assert "\r" not in out + err and "{'" not in out + err
    steps = [line for line in err.splitlines() if re.search(r" in \d+\.\d s", line)]
    kinds = [line.partition(":")[0] if ":" in line else line[:10] for line in steps]
    assert kinds.count("Training") == 2
    assert [kind for kind in kinds if "of 2" in kind] == ["1 of 2 fol", "2 of 2 fol"]
    assert any(kind == "Extracting features" for kind in kinds)
    assert any(re.match(r"Extracting features: \d+ windows of 100 clips in ", line) for line in steps)
    (line, _) = [line for line in steps if line.startswith("Training")]
    assert re.fullmatch(
        r"Training: 4 steps in \d+\.\d s \(\S+/s\); loss \d\.\d{3}, validation accuracy \d\.\d{3}", line
    )


def test_quiet_training_prints_nothing_but_the_result(configure, synthetic_root, tmp_path, long_steps, capsys):
    with terminal() as written:
        assert train(configure, synthetic_root, tmp_path / "out", "--clip_seconds", 2.7, "--quiet") == 0
    assert written() == ""
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "" and out[1].startswith("test accuracy") and out[-2] == f"report: {tmp_path / 'out/report.html'}"
    assert out[-1] == f"try it: urbansound-hf infer CLIP.wav --model {tmp_path / 'out/fold2'}"
    assert Run(tmp_path / "out/fold1").receipt["config"]["quiet"] is True and "quiet" in INCIDENTAL


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> tuple[Path, Path]:
    """A tiny model, and a folder of six sounds and one that is none."""
    folder = tmp_path_factory.mktemp("sounds")
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000)
    for number in range(6):
        soundfile.write(folder / f"{number}.wav", noise, 16_000)
    (folder / "broken.wav").write_text("no sound", encoding="utf-8")
    return tiny.save("yamnet", tmp_path_factory.mktemp("model"), clip_seconds=1.0), folder


def classify(monkeypatch, served: tuple[Path, Path], *more: str) -> int:
    model, folder = served
    monkeypatch.setattr(sys, "argv", ["infer.py", str(folder), "--model", str(model), "--device", "cpu", *more])
    return exit_code(lambda: cli.infer(sys.argv[1:]))


def test_the_bar_of_many_sounds_stands_beside_the_table_not_in_it(monkeypatch, served, capsys):
    with terminal() as written:
        assert classify(monkeypatch, served) == 1
    out = capsys.readouterr().out
    assert re.search(r"Classifying: 100%.*7/7 \[.*sounds/s\]", written())
    assert out.count(".wav") == 6 and "\r" not in out and "Classifying" not in out
    assert re.search(r"\r\S*broken.wav: not a sound.*\r\n", written()), "the message has a line of its own"


def test_many_sounds_into_a_file_are_a_line_in_a_log(monkeypatch, served, tmp_path, long_steps, capsys):
    assert classify(monkeypatch, served, "--output", str(tmp_path / "out.csv")) == 1
    told = capsys.readouterr()
    lines = told.err.splitlines()
    assert re.fullmatch(r"Classifying: 7 sounds in \d+\.\d s \(\S+/s\)", lines[0])
    assert lines[1:] == ["out.csv: 6 classified, 1 could not be read"] and told.out == ""


def test_quiet_classification_still_names_what_it_could_not_read(monkeypatch, served, tmp_path, long_steps, capsys):
    assert classify(monkeypatch, served, "--quiet", "--output", str(tmp_path / "out.csv")) == 1
    assert capsys.readouterr() == ("", "")
    assert classify(monkeypatch, served, "--quiet") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "broken.wav: not a sound" in line


def test_a_table_in_a_terminal_needs_no_bar(served):
    """Both streams are the terminal: the table itself shows how far it is."""
    model, folder = served
    pid, master = pty.fork()
    if not pid:
        sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8") for number in (1, 2))
        words = [str(folder / "0.wav"), str(folder / "1.wav"), "--model", str(model), "--top_k", "1"]
        code = exit_code(lambda: cli.infer(words))
        sys.stdout.flush()
        os._exit(code)
    written = b""
    with suppress(OSError):  # the other end is closed
        while part := os.read(master, 65536):
            written += part
    os.close(master)
    assert exit_status(pid) == 0, written
    assert b"Classifying" not in written and written.count(b".wav") == 2


def test_a_download_in_a_log_is_a_line(tmp_path, long_steps, capsys):
    content = os.urandom(300_000)
    with serve(content) as server:
        fetch(server.url, tmp_path / "file.bin", server.md5)
    first, second = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"file\.bin: 300kB in \d\.\d s \(.*B/s\)", first) and second.startswith("Checking: 300kB")


def test_the_data_commands_say_how_far_they_are(tmp_path, monkeypatch, long_steps, capsys):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(synthetic, "CLASSES", CLASSES[:2])
    assert cli.run(["data", "synthetic", str(tmp_path / "data"), "--clips", "1"]) == 0
    assert cli.run(["data", "--data_dir", str(tmp_path / "data")]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("100 synthetic clips in ") and "20 clips\n" in out
    lines = [line.partition(" in ")[0] for line in err.splitlines()]
    assert lines == ["Making the synthetic sounds: 10 folds", "Preparing the sounds: 20 clips"]
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "another")
    with terminal() as written:
        assert __main__.main(["--data_dir", str(tmp_path / "data"), "--quiet"]) == 0
    assert written() == "" and "20 clips\n" in capsys.readouterr().out
