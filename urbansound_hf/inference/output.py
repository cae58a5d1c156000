"""The results of classification, and the formats in which they are written: a table, JSON lines, CSV.

A format is a function of an open text file and the number of labels that returns the function that writes one result;
an entry in `FORMATS` makes it a choice of `--format` and, as a suffix, of `--output`.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any, TextIO

from urbansound_hf.errors import Interrupted, UserError, writing
from urbansound_hf.progress import Bar, say

BAR_WIDTH = 10  # characters
Write = Callable[["Classification"], object]
BLOCKS = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")  # eighths of a █


@dataclass(frozen=True)
class Prediction:
    """The classes of one window.

    Args:
        start, end: of the window in the recording, in seconds.
        top: labels and their scores, highest score first.
    """

    start: float
    end: float
    top: tuple[tuple[str, float], ...]

    @property
    def label(self) -> str:
        return self.top[0][0]

    @property
    def score(self) -> float:
        return self.top[0][1]


@dataclass(frozen=True)
class Classification:
    """The result of one input: a single window, several windows with their summary, or an error.

    Args:
        path: name of the input.
        windows: one prediction for each window, in time order; empty for an unreadable input.
        summary: mean of the scores of all windows, where there are several.
        error: why the input could not be read.
    """

    path: str
    windows: tuple[Prediction, ...] = ()
    summary: Prediction | None = None
    error: str = ""

    @classmethod
    def failed(cls, error: UserError) -> Classification:
        return cls(error.where, error="; ".join(filter(None, (error.what, error.fix))))


def write_results(results: Iterable[Classification], form: str, top_k: int, stream: TextIO) -> int:
    """Writes each result as soon as it is computed; counts go to standard error where `stream` is a file.

    Args:
        form: one of `FORMATS`. A table writes errors to standard error, the others in place of the result.
        top_k: number of labels of each prediction, which decides the columns of a CSV.

    Returns:
        the exit code: 0; 1 if some inputs could not be read; 2 if none could.
    """
    classified = unreadable = 0
    try:
        write = FORMATS[form](stream, top_k)
        for result in results:
            classified, unreadable = classified + (not result.error), unreadable + bool(result.error)
            write(result)
            stream.flush()
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if stream is not sys.stdout:
        say(f"{Path(stream.name).stem}: {classified} classified, {unreadable} could not be read")
    return 2 if not classified else int(unreadable > 0)


def records(result: Classification) -> Iterator[dict[str, Any]]:
    """The JSON lines of a result; a timeline's summary comes last, with the number of `windows` it is the mean of."""
    if result.error:
        yield {"path": result.path, "error": result.error}
    for prediction in result.windows:
        yield _record(result.path, prediction)
    if result.summary:
        yield {**_record(result.path, result.summary), "windows": len(result.windows)}


def format_of(path: str | None) -> str:
    """The format of a file name, by its suffix; `table` where that is no format, and for standard output."""
    suffix = Path(path or "").suffix[1:].lower()
    return suffix if suffix in FORMATS else "table"


@contextmanager
def destination(path: str | None) -> Iterator[TextIO]:
    """Standard output, or a file that appears under its name only once it is complete."""
    if path is None:
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="replace")  # a file name that the terminal cannot show is no reason to stop
        yield sys.stdout
        return
    folder = Path(path).parent
    if not folder.is_dir() or Path(path).is_dir():
        raise UserError("the output must be a file in a folder that exists", f"--output {path}", f"mkdir -p {folder}")
    part = Path(f"{path}.part")
    with writing(path):
        try:
            with part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                yield file
            part.replace(path)
        except KeyboardInterrupt as error:
            raise Interrupted(f"interrupted; {path} was not written") from error
        finally:
            part.unlink(missing_ok=True)


def bar(score: float, blocks: bool = True) -> str:
    """A score in [0, 1] as at most `BAR_WIDTH` characters; where blocks can be shown, to an eighth of a character."""
    eighths = round(min(max(score, 0.0), 1.0) * BAR_WIDTH * 8)
    return "█" * (eighths // 8) + BLOCKS[eighths % 8] if blocks else "#" * round(eighths / 8)


# ---- JSON lines and CSV


def _jsonl(stream: TextIO, top_k: int) -> Write:
    return lambda result: stream.writelines(json.dumps(record) + "\n" for record in records(result))


def _csv(stream: TextIO, top_k: int) -> Write:
    table = csv.DictWriter(stream, _columns(top_k), lineterminator="\n")
    table.writeheader()
    return lambda result: table.writerows(_csv_row(record) for record in records(result))


def _record(path: str, prediction: Prediction) -> dict[str, Any]:
    top = [{"label": label, "score": round(score, 6)} for label, score in prediction.top]
    times = {"start": round(prediction.start, 4), "end": round(prediction.end, 4)}
    return {"path": path, **times, **top[0], "top": top}


def _columns(top_k: int) -> list[str]:
    others = [f"{name}_{place}" for place in range(2, top_k + 1) for name in ("label", "score")]
    return ["path", "start", "end", "label", "score", *others, "windows", "error"]


def _csv_row(record: dict[str, Any]) -> dict[str, Any]:
    others = enumerate(record.pop("top", [])[1:], start=2)
    return record | {f"{name}_{place}": value for place, answer in others for name, value in answer.items()}


# ---- the table


def _table(stream: TextIO, top_k: int) -> Write:
    return lambda result: _print_table(result, stream)


def _print_table(result: Classification, stream: TextIO) -> None:
    if result.error:
        Bar.write(f"{result.path}: {result.error}", file=sys.stderr)  # above a bar that may be there
        return
    blocks = _shows_blocks(stream)
    overall = result.summary or result.windows[0]
    width = max(len(label) for prediction in (overall, *result.windows) for label, _ in prediction.top)
    lines = [result.path]
    if result.summary:
        digits = len(f"{overall.end:.1f}")
        for start, end, label, score in spells(result.windows):
            lines.append(f"  {start:{digits}.1f}–{end:{digits}.1f} s  {_line(label, score, width, blocks)}")
        lines.append(f"  mean of {len(result.windows)} windows")
    lines += [f"  {_line(label, score, width, blocks)}" for label, score in overall.top]
    text = "\n".join(lines)
    print(text if blocks else text.replace("–", "-"), file=stream)


def _line(label: str, score: float, width: int, blocks: bool) -> str:
    return f"{label:{width}}  {bar(score, blocks):{BAR_WIDTH}} {score:.2f}"


def spells(windows: Iterable[Prediction]) -> Iterator[tuple[float, float, str, float]]:
    """Neighbouring windows of one label as one: start, end, label, mean score."""
    for label, group in groupby(windows, key=lambda window: window.label):
        spell = list(group)
        yield spell[0].start, spell[-1].end, label, fmean(window.score for window in spell)


def _shows_blocks(stream: TextIO) -> bool:
    try:
        "█▏–".encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


FORMATS: dict[str, Callable[[TextIO, int], Write]] = {"table": _table, "jsonl": _jsonl, "csv": _csv}
"""Every output format by its name, which is also the suffix of its files."""
