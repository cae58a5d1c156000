"""The content of a run's receipt (`run.json`): versions, code, hardware, costs, and the comparison of receipts."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from urbansound_hf import __version__
from urbansound_hf.layout import PACKAGE_ROOT
from urbansound_hf.progress import worker_count

PACKAGES = ("transformers", "datasets", "evaluate", "torch", "torchaudio", "accelerate", "soundfile", "numpy")

INCIDENTAL = frozenset({
    "test_fold", "output_dir", "overwrite", "resume_from_checkpoint", "keep_checkpoints", "save_total_limit",
    "preprocessing_num_workers", "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers",
    "dataloader_prefetch_factor", "per_device_eval_batch_size", "eval_accumulation_steps", "local_rank", "dataset",
    "report_to", "logging_steps", "logging_strategy", "logging_first_step", "log_level", "disable_tqdm", "quiet",
    "profile", "cache_frozen", "run_name", "project", "hub_model_id", "push_to_hub", "hub_strategy", "hub_always_push",
    "hub_private_repo", "hub_revision", "data_dir", "download",  # of the data, the fingerprint knows
})  # fmt: skip
"""Flags that do not affect the trained model: output folder, test fold, data loading, logging and the Hub."""


class PeakMemory:
    """The peak memory of a block in GiB, of this process and its children.

    The memory is sampled, as the system's peak is the process's since its start: every 0.2 s, or more rarely where
    that would take more than a hundredth of a core.
    """

    def __enter__(self) -> PeakMemory:
        self.gib, self._stop = 0.0, threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._sampler.join()

    def _sample(self) -> None:
        process = psutil.Process()
        while True:
            began, total = time.thread_time(), 0
            for member in [process, *process.children(recursive=True)]:  # pages that they share count once for each
                with suppress(psutil.NoSuchProcess):
                    total += member.memory_info().rss
            self.gib = max(self.gib, total / 2**30)
            if self._stop.wait(max(0.2, 100 * (time.thread_time() - began))):
                return


def environment() -> dict[str, Any]:
    """Versions, code state and hardware of this machine; no user name, host name or path."""
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8") if sys.platform == "linux" else ""
    named = re.search(r"^model name\s*:(.*)$", cpu, re.MULTILINE)
    memory = round(psutil.virtual_memory().total / 2**30, 1)
    model = named[1].strip() if named else platform.processor() or platform.machine()
    return {
        "urbansound_hf": __version__,
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "code": code_state(),
        "hardware": {"cpu": model, "cores": worker_count(), "memory_gib": memory},
        "platform": f"{platform.system()} {platform.machine()}",
    }


@functools.cache
def code_state() -> dict[str, Any]:
    """The code of this process when first asked for: `source`, a hash of this package's modules.

    In a checkout, also its `commit`, and whether tracked files are `dirty`, that is, differ from it.
    """
    content = hashlib.sha256()
    for path in sorted(PACKAGE_ROOT.rglob("*.py")):
        content.update(f"{path.relative_to(PACKAGE_ROOT).as_posix()}\n".encode() + path.read_bytes())
    source = {"source": content.hexdigest()[:12]}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(PACKAGE_ROOT), *arguments]
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout.strip()

    if not (PACKAGE_ROOT.parent / "pyproject.toml").is_file():
        return source
    try:
        changes = git("status", "--porcelain", "--untracked-files=no", "--", "..")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changes), **source}
    except (OSError, subprocess.CalledProcessError):
        return source


def mismatches(receipts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The settings, data and code in which runs of one experiment must not differ, and do, by receipts of names.

    Such as `["learning_rate is 3e-05 in fold1, fold2 and 0.0001 in fold3", …]`.
    """
    facts: dict[str, dict[str, Any]] = {}
    for name, receipt in receipts.items():
        environment = receipt["environment"]
        code = {"version": environment["urbansound_hf"], **environment["code"]}
        facts[name] = {
            **{flag: value for flag, value in receipt["config"].items() if flag not in INCIDENTAL},
            **{f"{package} version": version for package, version in environment.get("packages", {}).items()},
            "number of processes": receipt.get("processes", 1),
            "data fingerprint": receipt["data"]["fingerprint"],
            "code": ", ".join(f"{key} {code[key]}" for key in code if key not in ("commit", "dirty")),
        }
    found = []
    for key in sorted({key for values in facts.values() for key in values}):
        holders: dict[str, list[str]] = {}  # of each value
        for name, values in facts.items():
            holders.setdefault(str(values.get(key, "not set")), []).append(name)
        if len(holders) > 1:
            listed = [f"{value} in {', '.join(names)}" for value, names in holders.items()]
            found.append(f"{key} is {' and '.join(listed)}")
    return found
