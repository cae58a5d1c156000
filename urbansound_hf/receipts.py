"""The receipt of a run (`run.json`): everything needed to believe its number and to get it again."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from urbansound_hf import __version__

FILE = "run.json"
PACKAGES = ("transformers", "datasets", "evaluate", "torch", "torchaudio", "accelerate", "soundfile", "soxr", "numpy")


INCIDENTAL = frozenset({
    "test_fold", "output_dir", "overwrite", "resume_from_checkpoint", "keep_checkpoints", "save_total_limit",
    "preprocessing_num_workers", "dataloader_num_workers", "report_to", "logging_dir", "logging_steps", "run_name",
    "logging_strategy", "logging_first_step", "disable_tqdm", "log_level", "project", "hub_model_id", "push_to_hub",
    "data_dir",
})  # fmt: skip
"""Flags that do not change what a run learns."""


class Stopwatch:
    """Seconds and peak memory (GiB, this process and its children) of a block.

    The memory is sampled every 0.2 s, so that the peak is the block's own and not the process's since its start.
    """

    def __enter__(self) -> Stopwatch:
        self.seconds, self.peak_memory_gib = 0.0, 0.0
        self._started, self._stop = time.perf_counter(), threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._sampler.join()
        self.seconds = time.perf_counter() - self._started

    def _sample(self) -> None:
        process = psutil.Process()
        while True:
            self.peak_memory_gib = max(self.peak_memory_gib, resident_gib(process))
            if self._stop.wait(0.2):
                return


def resident_gib(process: psutil.Process) -> float:
    """Resident memory of a process and its children, in GiB; pages they share count once for each."""
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / 2**30


def environment() -> dict[str, Any]:
    """Versions, code state and hardware of this machine; no user name, host name or path."""
    return {
        "urbansound_hf": __version__,
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "code": code_state(),
        "hardware": {"cpu": _cpu(), "cores": _cores(), "memory_gib": round(psutil.virtual_memory().total / 2**30, 1)},
        "platform": f"{platform.system()} {platform.machine()}",
    }  # fmt: skip


def code_state() -> dict[str, Any]:
    """The commit of this project's checkout and whether files differ from it; empty when installed from a package."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    if not (Path(__file__).parent.parent / "pyproject.toml").is_file():
        return {}
    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", ".."))}
    except (OSError, subprocess.CalledProcessError):
        return {}


def write(folder: Path, receipt: dict[str, Any]) -> Path:
    """Writes `run.json`, the last file of a run: where it stands, the run is finished."""
    path = folder / FILE
    whole = {**receipt, "environment": environment(), "peak_process_memory_gib": _peak_process_gib()}
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps(whole, indent=2, default=str) + "\n")
    return partial.replace(path)


def finished(folder: Path) -> bool:
    """Whether the run in this folder came to its end."""
    return (folder / FILE).is_file()


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a resolved config that decide its result: not where it writes, which fold it tests, how it runs."""
    return {name: value for name, value in config.items() if name not in INCIDENTAL}


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """`["learning_rate: 3e-05 here, 0.0001 there", …]` for every value that differs."""
    absent = "not set"
    return [
        f"{name}: {one.get(name, absent)} before, {other.get(name, absent)} now"
        for name in sorted({*one, *other})
        if one.get(name, absent) != other.get(name, absent)
    ]


def mismatches(runs: Sequence[Path]) -> list[str]:
    """What keeps finished runs from being one experiment: configs, data or code that differ; empty if nothing does."""
    found = []
    first, *others = [(run.name, json.loads((run / FILE).read_text())) for run in runs]
    for name, receipt in others:
        facts = [_identity(first[1]), _identity(receipt)]
        found += [
            f"{key} is {facts[0].get(key, 'not set')} in {first[0]} and {facts[1].get(key, 'not set')} in {name}"
            for key in sorted({*facts[0], *facts[1]})
            if facts[0].get(key) != facts[1].get(key)
        ]
    return found


def _identity(receipt: Mapping[str, Any]) -> dict[str, Any]:
    environment = receipt["environment"]
    code = {"version": environment["urbansound_hf"], **environment["code"]}
    return {
        **settings_of(receipt["config"]),
        "data fingerprint": receipt["data"]["fingerprint"],
        "code": " ".join(f"{key} {value}" for key, value in code.items()),
    }


def _peak_process_gib() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 2)


def _cores() -> int | None:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()


def _cpu() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
