"""Progress of long steps: a bar in a terminal, one line at the end in a log, nothing with --quiet."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from urbansound_hf.errors import printable_lines, redacted, writing

if TYPE_CHECKING:
    import datasets


SHORT_SECONDS = 1.0  # a step that took less is not long, and leaves no line in a log
SIGN_OF_LIFE_SECONDS = 600.0  # a longer one says every so often in a log how far it is
QUIET: ContextVar[bool] = ContextVar("quiet", default=False)


class Bar(tqdm):
    """tqdm's bar on standard error, where that is a terminal; else a line at the end, if `leave`.

    `unit` is what is counted, in the plural ("clips"); "B", bytes, is written as kB, MB, GB.
    """

    def __init__(self, *args: Any, unit: str, disable: bool = False, **kwargs: Any) -> None:
        self.in_log, self.reported_at = not sys.stderr.isatty(), time.monotonic()
        look: dict[str, Any] = {"file": Nowhere()} if self.in_log else {"dynamic_ncols": True}
        look |= {"unit": "B", "unit_scale": True} if unit == "B" else {"unit": f" {unit}"}
        super().__init__(*args, disable=disable or QUIET.get(), **look, **kwargs)

    def display(self, *args: Any, **kwargs: Any) -> Any:
        """Shows the current state; tqdm calls this at most ten times a second."""
        late = time.monotonic() - self.reported_at >= SIGN_OF_LIFE_SECONDS
        if self.in_log and late and not self.disable and self.n != self.total:
            self.reported_at = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)
        return super().display(*args, **kwargs)

    def close(self) -> None:
        """Ends the bar; in a log, a long step gets its line now."""
        shown = not getattr(self, "disable", True)
        super().close()
        if shown and self.in_log and self.leave and self.format_dict["elapsed"] >= SHORT_SECONDS:
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """ "Classifying: 680 sounds in 2.1 s (324/s)", or how far it is: "300 of 680 sounds in …, 1.2 s to go"."""
        seconds, unfinished = self.format_dict["elapsed"], self.total is not None and self.n < self.total
        rate = (self.n - self.initial) / max(seconds, 1e-9)
        done, total, speed = f"{self.n:,}", f"{self.total or 0:,}{self.unit}", number(rate)
        if self.unit == "B":
            done, total, speed = (self.format_sizeof(count, "B") for count in (self.n, self.total or 0, rate))
        amount = f"{done} of {total}" if unfinished else done + self.unit.removeprefix("B")
        text = f"{self.desc}: {amount} in {duration(seconds)} ({speed}/s)"
        if unfinished and rate and not self.disable:
            text += f", {duration((self.total - self.n) / rate)} to go"
        return text + (f"; {self.postfix}" if self.postfix else "")


class Nowhere(io.TextIOBase):
    """A file that drops what is written: in a log, bars are not drawn."""

    def write(self, text: str) -> int:
        return len(text)


@contextmanager
def quietly(quiet: bool = True) -> Iterator[None]:
    """No progress bars and no progress lines within; with `quiet` False nothing changes.

    Examples:
        >>> with ush.quietly():
        ...     folder = ush.synthetic_dataset("sounds", clips_per_class_and_fold=1)
    """
    token = QUIET.set(quiet or QUIET.get())
    try:
        yield
    finally:
        QUIET.reset(token)


def in_terminal() -> bool:
    """Whether bars are drawn: standard error is a terminal, and not within `quietly`."""
    return sys.stderr.isatty() and not QUIET.get()


def say(text: str) -> None:
    """Prints a line on standard error, above the bars; nothing within `quietly`."""
    if not QUIET.get():
        Bar.write(printable_lines(redacted(text)), file=sys.stderr)


def computed(what: str, rows: int, work: Callable[[], datasets.Dataset], unit: str = "clips") -> datasets.Dataset:
    """Runs a step of `datasets` over `rows` clips, which draws its own bar; a result from its cache gets no line."""
    import datasets

    started = time.time()
    with library_bars(), writing(datasets.config.HF_DATASETS_CACHE):
        dataset = work()
    seconds = time.time() - started
    new = any(Path(file["filename"]).stat().st_mtime >= started - 1e-2 for file in dataset.cache_files)  # clock's tick
    if new and seconds >= SHORT_SECONDS and not sys.stderr.isatty():
        amount = f"{rows:,} {unit}" if len(dataset) == rows else f"{len(dataset):,} windows of {rows:,} {unit}"
        say(f"{what}: {amount} in {duration(seconds)} ({number(rows / seconds)}/s)")
    return dataset


def worker_count() -> int:
    """The default number of processes or threads: the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def mapped(
    dataset: datasets.Dataset,
    function: Callable[..., Any],
    *,
    desc: str,
    num_proc: int | None = None,
    batch_size: int = 64,
    unit: str = "clips",
    **options: Any,
) -> datasets.Dataset:
    """`dataset.map` with progress over its `unit`, by `worker_count()` processes if each has a batch or more."""
    processes = num_proc or worker_count()
    options["num_proc"] = processes if processes > 1 and len(dataset) > batch_size * processes else None
    work = partial(dataset.map, function, desc=desc, batch_size=batch_size, **options)
    return computed(desc, len(dataset), work, unit)


@contextmanager
def library_bars() -> Iterator[None]:
    """Lets `datasets` draw its bars within, but only in a terminal; in a log each would be a hundred lines."""
    import datasets

    if in_terminal() or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


def remaining(unit: str, done: int, total: int, seconds: float) -> str:
    """ "3 of 10 folds in 6 min 12 s, about 14 min 28 s to go", for steps too long and too talkative for a bar."""
    left = f", about {duration(seconds / done * (total - done))} to go" if done < total else ""
    return f"{done:,} of {total:,} {unit} in {duration(seconds)}{left}"


def duration(seconds: float) -> str:
    """ "2.1 s", "3 min 05 s", "2 h 07 min"."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def number(rate: float) -> str:
    """A rate, rounded to two digits below ten and to whole numbers above."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
