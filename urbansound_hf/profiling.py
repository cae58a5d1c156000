"""Where the time of a command goes: the seconds of its stages, for `--profile`."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from urbansound_hf.text import table

STAGES = ("decode", "extract", "frozen part", "wait", "forward", "backward", "optimiser", "evaluate", "write")
"""The stages of a training, in the order of the table; a command may name others."""


class Profile:
    """The seconds of each stage since the profile was made; of stages within one another, the inner one counts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.running: list[str] = []
        self.started = self.changed = time.perf_counter()

    def switch(self) -> None:
        """Gives the time since the last switch to the innermost stage."""
        now = time.perf_counter()
        if self.running:
            self.seconds[self.running[-1]] += now - self.changed
        self.changed = now

    def table(self) -> str:
        """Seconds and percentages of all stages, and of what belongs to none."""
        whole = max(time.perf_counter() - self.started, 1e-9)
        named = {name: self.seconds[name] for name in [*STAGES, *self.seconds] if name in self.seconds}
        rows = {**named, "other": whole - sum(named.values()), "all": whole}
        cells = [(name, f"{seconds:.2f}", f"{100 * seconds / whole:.1f}") for name, seconds in rows.items()]
        return table(("stage", "seconds", "%"), cells)


ACTIVE: ContextVar[Profile | None] = ContextVar("profile", default=None)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Counts the time of a block as that of a stage; nothing unless within `profiling`."""
    profile = ACTIVE.get()
    if profile is None:
        yield
        return
    _wait_for_device()
    profile.switch()
    profile.running.append(name)
    try:
        yield
    finally:
        _wait_for_device()
        profile.switch()
        profile.running.pop()


@contextmanager
def profiling(wanted: bool = True) -> Iterator[None]:
    """Prints the table of the stages within on standard error; with `wanted` False nothing is measured or printed."""
    if not wanted:
        yield
        return
    profile = Profile()
    token = ACTIVE.set(profile)
    try:
        yield
    finally:
        ACTIVE.reset(token)
        print(profile.table(), file=sys.stderr)


def _wait_for_device() -> None:
    """A GPU works on while Python goes on: waits, so that its work counts where it was asked for."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()
