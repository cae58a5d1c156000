"""Inputs of infer.py by their names: tildes, pipes, devices, and names that are none."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import tiny
from tests.helpers.processes import exit_status, fork
from urbansound_hf import cli
from urbansound_hf.audio.io import load_audio, to_wav
from urbansound_hf.errors import exit_code
from urbansound_hf.inference.inputs import find_sounds

WAV = to_wav(np.linspace(-0.5, 0.5, 1600, dtype=np.float32))


@pytest.mark.parametrize("name", ["~recording.wav", "~", "[1].wav", "a b.wav", "-.wav", "狗.wav"])
def test_any_name_of_a_file_in_the_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(WAV)
    (sound,), problems = find_sounds([name])
    assert len(load_audio(sound)) == 1600 and not problems


@pytest.mark.parametrize(
    ("name", "reason"),
    [("", "has no name"), ("n" * 300, "File name too long"), ("n" * 300 + "*", "File name too long")],
)
def test_a_name_that_is_none_is_a_problem_of_its_own(name, reason):
    sounds, (problem,) = find_sounds([name])
    assert not sounds and reason in problem.what


def test_a_pipe_is_read_to_its_end(tmp_path):
    pipe = tmp_path / "pipe.wav"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(WAV,))
    writer.start()
    (sound,), _ = find_sounds([str(pipe)])
    writer.join()
    assert sound.name == str(pipe) and len(load_audio(sound)) == 1600


@pytest.mark.parametrize(
    ("source", "reason"), [("/dev/null", "is a device, not a file"), ("/dev/absent", "does not exist")]
)
def test_what_is_no_file_says_so(source, reason):
    sounds, _ = find_sounds([source])
    with pytest.raises(Exception, match=reason):
        load_audio(sounds[0])


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny.save("yamnet", tmp_path_factory.mktemp("model"), clip_seconds=1.0)


@pytest.mark.parametrize("name", ["/dev/fd/{}", "/dev/stdin", "-"])  # the first is the shell's <(command)
def test_pipes_of_the_shell(name, model, tmp_path, monkeypatch):
    reading, writing = os.pipe()
    os.write(writing, WAV)
    os.close(writing)
    words = [name.format(reading), "--quiet", "--device", "cpu", "--model", str(model)]
    words += ["--output", str(tmp_path / "out.csv")]

    def infer() -> None:
        os.dup2(reading, 0)
        monkeypatch.setattr(sys, "stdin", os.fdopen(0))
        monkeypatch.setattr(sys, "argv", ["infer.py", *words])
        assert cli.infer(words) == 0

    assert exit_status(fork(infer)) == 0
    os.close(reading)
    assert (tmp_path / "out.csv").read_text(encoding="utf-8").count("\n") == 2


@pytest.mark.parametrize("output", ["/proc/x.csv", "/dev/full/x.csv", "n" * 300 + ".csv"])
def test_an_output_that_cannot_be_written_is_refused_before_the_model_is_opened(output, tmp_path, capsys):
    (tmp_path / "clip.wav").write_bytes(WAV)
    words = [str(tmp_path / "clip.wav"), "--model", str(tmp_path / "absent"), "--output", output]
    code, refused = exit_code(lambda: cli.infer(words)), capsys.readouterr().err
    assert code == 2 and refused.startswith("error: ") and output in refused and "absent" not in refused
