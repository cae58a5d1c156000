"""What the operating system refuses becomes an error with the path, and with the free space where a disk is full."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from tests.conftest import ROOT
from tests.helpers.processes import exit_status, fork
from urbansound_hf import progress
from urbansound_hf.errors import UserError, check_writable, exit_code, storage_problem, write_text, writing
from urbansound_hf.layout import expand_user

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full, a disk that is always full")


def fill_text() -> None:
    with FULL.open("w", encoding="utf-8") as file:
        file.write("a line\n")


def fill_safetensors() -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")  # its words


def fill_torch() -> None:
    with FULL.open("wb", buffering=0) as file:
        torch.save({"weight": torch.zeros(4096)}, file)


@needs_full
@pytest.mark.parametrize("fill", [fill_text, fill_safetensors, fill_torch])
def test_a_full_disk_names_the_folder_and_the_space(fill, tmp_path, capsys):
    def main() -> None:
        with writing(tmp_path / "run"):
            fill()

    assert exit_code(main) == 2
    message = capsys.readouterr().err
    assert "No space left on device; " in message and "MiB are free" in message and "Traceback" not in message
    assert "--output_dir" in message
    assert str(tmp_path / "run") in message or "/dev/full" in message


def test_a_file_that_cannot_be_written_in_full_leaves_the_one_before(tmp_path):
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        with pytest.raises(UserError, match="File too large") as caught:
            write_text(tmp_path / "report.md", "new " * 1000)
        assert str(tmp_path) in caught.value.where

    (tmp_path / "report.md").write_text("old", encoding="utf-8")
    assert exit_status(fork(work)) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == "old"


@needs_full
def test_a_full_disk_in_a_worker_process_of_datasets_names_the_cache(monkeypatch):
    def fail(_: dict) -> dict:
        fill_text()
        return {}

    dataset = datasets.Dataset.from_dict({"clip": list(range(4))})
    with pytest.raises(UserError, match="No space left on device") as caught:
        progress.mapped(dataset, fail, desc="filling", num_proc=2)
    assert caught.value.where == str(datasets.config.HF_DATASETS_CACHE)


@pytest.mark.parametrize(
    ("path", "reason"),
    [("absent/file.txt", "No such file"), (".", "Is a directory"), ("file/inside.txt", "Not a directory"),
     ("n" * 300, "name too long")],
)  # fmt: skip
def test_a_file_that_cannot_be_opened_is_named(path, reason, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert exit_code(lambda: (tmp_path / path).write_text("", encoding="utf-8")) == 2
    message = capsys.readouterr().err
    assert reason in message and f"where: {tmp_path / path}" in message and "Traceback" not in message


def test_other_errors_keep_their_traceback():
    for error in (ValueError("a bug"), ConnectionRefusedError(111, "refused"), OSError("no number")):
        assert storage_problem(error) is None
        with pytest.raises(type(error)):
            exit_code(lambda error=error: raise_(error))


def raise_(error: Exception) -> None:
    raise error


def test_weights_that_cannot_be_written_are_named(tmp_path):
    with pytest.raises(UserError, match="No such file or directory") as caught, writing(tmp_path / "absent"):
        save_file({"weight": torch.zeros(4)}, tmp_path / "absent" / "model.safetensors")
    assert caught.value.where == str(tmp_path / "absent")


@pytest.mark.parametrize("folder", ["/proc/nowhere", "/proc/nowhere/run", "/dev/null/run"])
def test_a_folder_that_cannot_be_made_is_refused(folder):
    with pytest.raises(UserError) as caught:
        check_writable(folder, "--output_dir")
    assert caught.value.where == f"--output_dir {folder}" and caught.value.fix


def test_a_folder_that_can_be_made_is_left_as_it_was(tmp_path):
    check_writable(tmp_path / "a" / "b", "--output_dir")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["~recording.wav", "~nobody-of-this-name/x.wav", "~~", "a~b"])
def test_a_tilde_that_means_no_user_stays(name):
    assert expand_user(name) == Path(name)


def test_the_home_folder_is_found_and_a_file_of_that_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert expand_user("~/x.wav") == tmp_path / "home" / "x.wav"
    monkeypatch.chdir(tmp_path)
    Path("~").mkdir()
    assert expand_user("~") == Path("~")


def test_a_label_that_the_terminal_cannot_show_is_printed_with_question_marks():
    script = "from urbansound_hf.errors import exit_code; raise SystemExit(exit_code(lambda: print('\\u72d7: 0.97')))"
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
    done = subprocess.run([sys.executable, "-c", script], env=env, cwd=ROOT, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"?: 0.97\n"), done.stderr
