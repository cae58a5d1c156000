"""Seconds of the stages of a command, as a table and as a trace, for `--profile`."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from urbansound_hf.errors import write_text
from urbansound_hf.text import table

STAGES = ("load", "decode", "extract", "frozen part", "wait", "forward", "backward", "optimiser", "evaluate", "write")
"""The stages of a training or of serving, in the order of the table; a command may name others."""
IN_THREADS = " (in threads)"
TRACED = 100_000  # stages of a trace; the table counts them all


class Profile:
    """The seconds of each stage since the profile was made; of stages within one another, the inner one counts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.running: dict[int, list[str]] = defaultdict(list)  # of each thread, outer stage first
        self.changed: dict[int, float] = {}
        self.trace: list[dict[str, Any]] = []
        self.started, self.thread, self.lock = time.perf_counter(), threading.get_ident(), threading.Lock()

    def switch(self) -> list[str]:
        """Gives the time since this thread's last switch to its innermost stage; returns the stages that it is in.

        The first thread waits for the work that a GPU still does, so that it counts where it was asked for.
        """
        thread, torch = threading.get_ident(), sys.modules.get("torch")
        if thread == self.thread and torch is not None and torch.cuda.is_initialized():
            torch.cuda.synchronize()
        now = time.perf_counter()
        with self.lock:
            running, since = self.running[thread], self.changed.get(thread, now)
            if running:
                self.seconds[running[-1]] += now - since
                if len(self.trace) < TRACED:  # in the format of chrome://tracing, microseconds
                    times = {"ts": 1e6 * (since - self.started), "dur": 1e6 * (now - since)}
                    self.trace.append({"name": running[-1], "ph": "X", "pid": os.getpid(), "tid": thread, **times})
            self.changed[thread] = now
        return running

    def table(self) -> str:
        """Seconds and percentages of all stages, and of what belongs to none."""
        all_seconds = max(time.perf_counter() - self.started, 1e-9)
        order = [name + where for where in ("", IN_THREADS) for name in STAGES]
        rows = {name: self.seconds[name] for name in [*order, *self.seconds] if name in self.seconds}
        other = all_seconds - sum(seconds for name, seconds in rows.items() if not name.endswith(IN_THREADS))
        rows |= {"other": other, "all": all_seconds}
        cells = [(name, f"{seconds:.2f}", f"{100 * seconds / all_seconds:.1f}") for name, seconds in rows.items()]
        return table(("stage", "seconds", "%"), cells)


ACTIVE: list[Profile] = []  # the one of this process, which its threads share


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Counts the time of a block as that of a stage; nothing unless within `profiling`."""
    if not ACTIVE:
        yield
        return
    profile = ACTIVE[-1]
    profile.switch().append(name if threading.get_ident() == profile.thread else name + IN_THREADS)
    try:
        yield
    finally:
        profile.switch().pop()


@contextmanager
def profiling(wanted: bool = True, trace: Path | None = None) -> Iterator[None]:
    """Prints the table of the stages within on standard error, unless not `wanted`.

    `trace` is a file for the stages one by one, which chrome://tracing opens.
    """
    if not wanted:
        yield
        return
    profile = Profile()
    ACTIVE.append(profile)
    try:
        yield
    finally:
        ACTIVE.remove(profile)
        print(profile.table(), file=sys.stderr)
        if trace:
            write_text(trace, json.dumps({"traceEvents": profile.trace}))
