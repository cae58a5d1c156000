"""What the speed benchmarks share: rows, what a machine must have, sides measured in turn, and their receipts.

A speed benchmark is a module with `rows(options)`, which yields `Row`s, and a `LeftOut` for what this machine does not
allow (raised, it leaves out the rest as well). Its first row is the one that README.md shows.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from urbansound_hf.evaluation.receipts import environment
from urbansound_hf.text import table

ROOT = Path(__file__).parents[1]
RECEIPTS = ROOT / "docs" / "receipts"
NONE = "*No receipts yet.*"


class LeftOut(Exception):
    """A case, or the rest of a benchmark, that this machine does not allow, and why."""


@dataclass(frozen=True)
class Row:
    """One case, this project and the stock library: medians of the rounds, the ratio the median of the rounds' ratios.

    The ratio is ours / stock, whatever the unit: in clips/s the higher is the better, in s and MiB the lower.
    """

    case: str
    ours: float
    stock: float | None
    ratio: float | None
    unit: str


@dataclass(frozen=True)
class Options:
    """What the command line gives to every benchmark."""

    data_dir: Path | None = None  # UrbanSound8K or a part of it, official layout
    transformers_example: Path | None = None  # run_audio_classification.py of huggingface/transformers
    whisper: Path | None = None  # a checkpoint of Whisper-tiny
    yamnet: Path | None = None  # the published graph, model.onnx
    rounds: int = 5

    def clips(self) -> Path:
        """The folder of real clips."""
        return given(self.data_dir, "no real clips: give --data_dir")

    def checkpoint(self) -> Path:
        """A checkpoint of Whisper-tiny."""
        return given(self.whisper, "no checkpoint: give --whisper")

    def example(self) -> Path:
        """The training script of Transformers."""
        return given(self.transformers_example, "no training script of Transformers: give --transformers_example")


def given(path: Path | None, why: str) -> Path:
    """A path that exists; raises LeftOut where it does not."""
    if path is None or not path.exists():
        raise LeftOut(why if path is None else f"{why} ({path} does not exist)")
    return path.absolute()


def needs_gpu() -> None:
    """Raises LeftOut on a machine without a GPU."""
    if not gpus():
        raise LeftOut("no GPU")


def needs_packages(*names: str) -> None:
    """Raises LeftOut where an optional package is not installed."""
    if missing := [name for name in names if importlib.util.find_spec(name) is None]:
        raise LeftOut(f"{', '.join(missing)} not installed")


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compared(
    case: str, ours: Callable[[], float], stock: Callable[[], float] | None, rounds: int, unit: str = "clips/s"
) -> Row:
    """Both sides in turn, each a function that measures itself once."""
    pairs = [(ours(), stock() if stock else None) for _ in range(rounds)]
    mine = [pair[0] for pair in pairs]
    theirs = [pair[1] for pair in pairs if pair[1] is not None]
    ratios = [own / other for own, other in zip(mine, theirs, strict=False)]
    return Row(case, median(mine), median(theirs) if theirs else None, median(ratios) if ratios else None, unit)


def rate(clips: int, work: Callable[[], object]) -> Callable[[], float]:
    """A side for `compared`: clips a second of `work`, which has been called once to warm up."""
    work()
    return lambda: clips / seconds(work)


@dataclass(frozen=True)
class Cost:
    """What a process took, with the children it waited for: seconds, CPU seconds, and the largest one's memory."""

    seconds: float
    cpu_seconds: float
    peak_mib: float


WATCHED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
raise SystemExit(code if code >= 0 else 1)
"""
"""A small process between this one and the command: the peak memory of a process starts with that of its parent."""


def cost(command: Sequence[str | Path], env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Cost:
    """Runs a command to its end, in a fresh process.

    Raises:
        RuntimeError: it failed; with the end of what it printed.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", WATCHED, *map(str, command)], cwd=cwd or ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr and process.stdout
    printed = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        ended = f"exit code {process.returncode}, of a signal if it is negative"
        raise RuntimeError(f"{command} failed:\n{printed.decode(errors='replace')[-2000:]}\n{ended}")
    taken, peak = time.perf_counter() - started, int(process.stdout.read())
    return Cost(taken, usage.ru_utime + usage.ru_stime, peak / 1024)


def python(code: str, *words: str | Path) -> list[str | Path]:
    """The command that runs `code`, with `words` as its arguments."""
    return [sys.executable, "-c", code, *words]


def receipt(name: str, rows: Iterable[Row], left_out: Sequence[str], load: float) -> dict[str, Any]:
    """What is stored of one benchmark; `load` is the load average before it began."""
    return {
        "benchmark": name,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "load": round(load, 1),
        "left_out": list(left_out),
        "rows": [{"benchmark": name, **asdict(row)} for row in rows],
        "environment": environment(),
        "gpus": gpus(),
    }


def gpus() -> list[str]:
    """The names of this machine's GPUs."""
    import torch

    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def path_of(kind: str, folder: Path = RECEIPTS) -> Path:
    """The receipts of a kind of machine, "cpu" or "gpu"."""
    return folder / f"speed_{kind}.json"


def save(path: Path, measured: Sequence[Mapping[str, Any]]) -> None:
    """Adds receipts to a file; those of the same benchmark are replaced."""
    known = {entry["benchmark"]: entry for entry in [*load(path), *measured]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([known[name] for name in sorted(known)], indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> list[dict[str, Any]]:
    """The receipts of a file, by the name of the benchmark; none where there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def ratio_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """The table of rows as they are stored."""
    figures = ("ours", "stock", "ratio")
    cells = [(row["benchmark"], row["case"], row["unit"], *(number(row[name]) for name in figures)) for row in rows]
    return table(("benchmark", "case", "unit", *figures), cells, texts=3)


def number(value: float | None) -> str:
    """Three digits, or all before the point; – where there is none."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"
