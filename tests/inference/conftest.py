"""`infer` in this process, with a tiny model and a folder of sounds."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.helpers import tiny
from urbansound_hf import cli
from urbansound_hf.errors import exit_code

RATE = 16_000


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return tiny.save("yamnet", tmp_path_factory.mktemp("run"), clip_seconds=1.0)


@pytest.fixture
def sounds(tmp_path, monkeypatch) -> Path:
    """A working directory with three clips, a long recording and two things that are no sounds."""
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, size=3 * RATE)
    for number, name in enumerate(["a.wav", "deep/er/b.flac", "deep/c.WAV"], start=1):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(name, noise[:: 4 - number][: RATE // 2], RATE)
    soundfile.write("long.wav", noise[: 5 * RATE // 2], RATE)
    Path("broken.wav").write_text("no sound", encoding="utf-8")
    Path("deep/notes.txt").write_text("not looked at", encoding="utf-8")
    Path("deep/._c.wav").write_text("left by macOS", encoding="utf-8")
    return tmp_path


@pytest.fixture
def run(model, monkeypatch, capsys):
    """Runs infer.py in this process: exit code, standard output, standard error."""

    def run_infer(*arguments: str, model: Path | None = model) -> tuple[int, str, str]:
        chosen = ("--model", str(model), "--device", "cpu") if model else ()
        monkeypatch.setattr(sys, "argv", ["infer.py", *arguments, *chosen])
        try:
            code = exit_code(lambda: cli.infer(sys.argv[1:]))
        except SystemExit as leaving:
            code = leaving.code
        return code, *capsys.readouterr()

    return run_infer
