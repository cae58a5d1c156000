"""A Python without this package: it imports Transformers once, and runs each program in a fork of itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

SERVER = """
import json, os, sys, traceback
sys.modules["urbansound_hf"] = None
import numpy, torch, torchaudio, soundfile, transformers.pipelines.audio_classification
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline
for line in sys.stdin:
    asked = json.loads(line)
    if not (pid := os.fork()):
        os.dup2(os.open(asked["out"], os.O_WRONLY | os.O_CREAT), 1)
        os.dup2(os.open(asked["err"], os.O_WRONLY | os.O_CREAT), 2)
        os.chdir(asked["folder"])
        import transformers.dynamic_module_utils as remote
        remote.HF_MODULES_CACHE = asked["modules"]
        code = 1
        try:
            exec(compile(asked["program"], "program", "exec"), {"__name__": "__main__"})
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Elsewhere:
    """Runs programs where `urbansound_hf` cannot be imported."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def run(self, program: str, folder: Path) -> SimpleNamespace:
        """Runs a program in a folder: its `returncode`, `stdout` and `stderr`; it has a cache of modules of its own."""
        files = {name: str(folder / f"elsewhere.{name}") for name in ("out", "err")}
        asked = {"program": program, "folder": str(folder), "modules": str(folder / "modules"), **files}
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        code = int(self.process.stdout.readline())
        out, err = (Path(files[name]).read_text(encoding="utf-8") for name in ("out", "err"))
        return SimpleNamespace(returncode=code, stdout=out, stderr=err)


@contextmanager
def elsewhere() -> Iterator[Elsewhere]:
    """Starts that Python, and ends it."""
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "SB_DISABLE_QUIRKS")}
    command, pipe = [sys.executable, "-c", SERVER], subprocess.PIPE
    with subprocess.Popen(command, env=own, stdin=pipe, stdout=pipe, cwd="/", encoding="utf-8") as process:
        try:
            yield Elsewhere(process)
        finally:
            assert process.stdin
            process.stdin.close()
