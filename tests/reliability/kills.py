"""Kills at random moments: each command is killed several times, continued, and compared with its uninterrupted run.

A case is one signal, SIGKILL or SIGTERM; the last of a chain runs to the end: the weights, the predictions, the trials
and the rows must be equal, to the last bit.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from safetensors.torch import load_file

from tests.conftest import TINY
from tests.helpers import tiny
from tests.helpers.processes import exit_status, fork
from tests.reliability import Case
from tests.reliability.disks import logged
from urbansound_hf import cli
from urbansound_hf.data import synthetic

KILLS, CHAIN = 104, 4
"""Signals in all, and how many of them before a command may run to its end."""
SECONDS = 5400
"""Then no further chain is begun."""
FINISHED = "this run is finished already"
"""What a second start says where the first had come to its end before the signal."""
Command = Callable[[Path], int]
Result = Callable[[Path], object]


def commands(root: Path) -> dict[str, tuple[Command, Result]]:
    """By name, a command that writes below the folder it gets, and its result as plain values."""
    sounds = synthetic.synthetic_dataset(root / "sounds", clips_per_class_and_fold=1)
    model = tiny.save("yamnet", root / "model", clip_seconds=1.0)
    (root / "tiny.yaml").write_text(TINY, encoding="utf-8")

    def train(to: Path, **flags: object) -> int:
        given = {"data_dir": sounds, "test_fold": 1, "output_dir": to / "run", "max_steps": 6, "save_steps": 1,
                 "eval_steps": 1, **flags}  # fmt: skip
        words = [str(word) for name, value in given.items() for word in (f"--{name}", value)]
        return cli.train([str(root / "tiny.yaml"), "--quiet", *words])

    def infer(to: Path) -> int:
        words = [
            sounds / "audio",
            "--model",
            model,
            "--device",
            "cpu",
            "--batch_size",
            2,
            "--output",
            to / "rows.jsonl",
        ]
        return cli.infer([*map(str, words), "--output", str(to / "rows.jsonl"), "--quiet", "--resume"])

    def folds(to: Path) -> object:
        found = sorted(to.glob("run/fold[0-9]*"))
        weights = [
            {name: weight.tolist() for name, weight in load_file(each / "model.safetensors").items()} for each in found
        ]
        return weights, [(each / "predictions.csv").read_text(encoding="utf-8") for each in found]

    def trials(to: Path) -> object:
        with next(to.glob("run/search/trials.csv")).open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["state"] == "complete"]
        kept = ("learning_rate", "validation ")
        return [[value for name, value in row.items() if name.startswith(kept)] for row in rows]

    def rows(to: Path) -> object:
        lines = (to / "rows.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    search = partial(train, search=3, search_space="learning_rate=1e-4..1e-1", max_steps=3)
    return {
        "training": (train, folds),
        "cross-validation": (partial(train, test_fold="1,2", max_steps=3), folds),
        "search": (search, trials),
        "infer": (infer, rows),
    }


def start(command: Command, to: Path, log: Path) -> int:
    """Starts the command in a fork, its output in `log`; returns the process id."""

    to.mkdir(parents=True, exist_ok=True)
    return fork(partial(logged, lambda: command(to), log, log.parent))


def kill(command: Command, to: Path, log: Path, number: int, after: float) -> str:
    """Sends a signal after some seconds. Returns how the process ended."""
    pid = start(command, to, log)
    time.sleep(after)
    os.kill(pid, number)
    code, said = exit_status(pid), log.read_text(encoding="utf-8", errors="replace")
    assert "Traceback" not in said, f"traceback: {said[-900:]}"
    code = 0 if FINISHED in said else code
    assert code in (0, 143, -number), f"exit code {code}: {said[-600:]}"
    return {0: "finished before the signal", 143: "left with 143"}.get(code, f"killed by signal {number}")


def last(command: Command, result: Result, expected: object, to: Path, log: Path, number: int, after: float) -> str:
    """The last kill of a chain; the command then runs to its end, and its result must be the uninterrupted one."""
    outcome = kill(command, to, log, number, after)
    code, said = exit_status(start(command, to, log)), log.read_text(encoding="utf-8", errors="replace")
    assert code == 0 or FINISHED in said, f"does not continue: exit code {code}: {said[-900:]}"
    assert result(to) == expected, "another result than without the kills"
    shutil.rmtree(to)
    return outcome


def cases(root: Path, kills: int = KILLS) -> Iterator[Case]:
    draw, end = random.Random(0), time.monotonic() + SECONDS
    ready = {}
    for name, (command, result) in commands(root).items():
        whole, log = root / f"{name} whole", root / f"{name} log"
        for _ in range(2):  # the first call prepares the data
            shutil.rmtree(whole, ignore_errors=True)
            started = time.monotonic()
            assert exit_status(start(command, whole, log)) == 0, f"{name}: {log.read_text(encoding='utf-8')[-900:]}"
        ready[name] = command, result, result(whole), time.monotonic() - started, log
    for chain, name in zip(range(0, kills, CHAIN), itertools.cycle(ready), strict=False):
        command, result, expected, seconds, log = ready[name]
        if time.monotonic() > end:
            return
        to = root / f"chain{chain}"
        for each in range(chain, chain + CHAIN):
            number, after = draw.choice((signal.SIGKILL, signal.SIGTERM)), draw.uniform(0.02, 0.8) * seconds
            case: Callable[..., str] = kill
            if each == chain + CHAIN - 1:
                case = partial(last, result=result, expected=expected)
            given = {"command": command, "to": to, "log": log, "number": number, "after": after}
            yield f"{name}, kill {each}, {number.name} after {after:.1f} of {seconds:.1f} s", partial(case, **given)
