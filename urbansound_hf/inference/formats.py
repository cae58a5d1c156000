"""Output formats: a table, JSON lines, CSV, Parquet, and the label files of Audacity and Raven.

A format is a function of the records of each sound, an open text file and the options; an entry in `FORMATS` makes it
a choice of `--format` and, as a suffix, of `--output`.
"""

from __future__ import annotations

import csv
import json
import sys
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from urbansound_hf.errors import printable
from urbansound_hf.inference.output import SILENCE_DB, UNKNOWN, Classification, Prediction, Record, window_record
from urbansound_hf.progress import Bar
from urbansound_hf.text import in_csv

ANNOTATIONS = {"audacity": ".txt", "raven": ".selections.txt"}
"""Formats of one file for each sound, without its name, and the ends of their file names."""

LIVE = "live"  # the path in the records of live sound
BAR_WIDTH = 10  # characters
BLOCKS = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")  # eighths of a █
RAVEN = ("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)",
         "Label", "Score")  # fmt: skip
ROWS_AT_ONCE = 10_000  # of a Parquet file


@dataclass(frozen=True)
class WriteOptions:
    """What is written of each result."""

    top_k: int = 5  # number of labels of each window, which decides the columns of a CSV
    events: bool = False  # merged events instead of windows; always for the formats in `ANNOTATIONS`
    rules: Mapping[str, Any] = field(default_factory=dict)  # arguments of `Classification.events`
    highest_hz: float = 8000.0  # the upper end of the model's frequencies, for Raven
    embeddings: bool = False  # whether windows have an embedding, which goes into a column of Parquet
    multi_label: bool = False  # whether windows have a list of `labels`


def records(result: Classification, form: str, options: WriteOptions) -> list[Record]:
    """The records of a result in a format: windows, or events; for a table, the events of a long one and its summary.

    A sound that could not be read is one record of its path and its error. The summary of several windows comes last,
    with the number of `windows` it is the mean of; where there are embeddings, there is none.
    """
    if result.error:
        return [{"path": result.path, "error": result.error}]
    merged, path = options.events or form in ANNOTATIONS, result.path
    events = [
        {"path": path, "start": round(each.start, 4), "end": round(each.end, 4), "label": each.label,
         "score": round(each.score, 6), "silence": each.silence}
        for each in (result.events(**options.rules) if merged or (form == "table" and result.summary) else ())
    ]  # fmt: skip
    if merged:
        return events
    silence_db = options.rules.get("silence_db", SILENCE_DB)
    windows = [window_record(path, each, silence_db) for each in result.windows]
    if result.summary and "embedding" not in windows[-1]:
        windows.append({**window_record(path, result.summary, silence_db), "windows": len(windows)})
    return [*events, windows[-1]] if form == "table" else windows


def format_of(path: str | None) -> str:
    """The format of a file name, by its suffix; `table` where that is no format, and for standard output."""
    suffix = Path(path or "").suffix[1:].lower()
    return suffix if suffix in FORMATS else "table"


def bar(score: float, blocks: bool = True) -> str:
    """A score in [0, 1] as at most `BAR_WIDTH` characters; where blocks can be shown, to an eighth of a character."""
    eighths = round(min(max(score, 0.0), 1.0) * BAR_WIDTH * 8)
    return "█" * (eighths // 8) + BLOCKS[eighths % 8] if blocks else "#" * round(eighths / 8)


# ---- CSV, Parquet


def _jsonl(sounds: Iterable[list[Record]], stream: TextIO, options: WriteOptions) -> None:
    stream.writelines(json.dumps(record) + "\n" for record in chain.from_iterable(sounds))


def _columns(options: WriteOptions) -> list[str]:
    """The names of what a record of a window or an event can have, in order."""
    if options.events:
        return ["path", "start", "end", "label", "score", "silence", "error"]
    several, vectors = ["labels"] * options.multi_label, ["embedding"] * options.embeddings
    window = ["start", "end", "label", "score", "top", *several, "level_db", "silence", "windows", *vectors]
    return ["path", *window, "error"]


def _csv(sounds: Iterable[list[Record]], stream: TextIO, options: WriteOptions) -> None:
    others = [f"{name}_{place}" for place in range(2, options.top_k + 1) for name in ("label", "score")]
    names = chain.from_iterable(others if name == "top" else [name] for name in _columns(options))
    table = csv.DictWriter(stream, list(names), lineterminator="\n")
    table.writeheader()
    table.writerows(_csv_row(**record) for record in chain.from_iterable(sounds))


def _csv_row(top: Sequence[Record] = (), labels: Sequence[str] | None = None, **row: Any) -> Record:
    row |= {f"{name}_{place}": value for place, answer in enumerate(top[1:], 2) for name, value in answer.items()}
    row |= {} if labels is None else {"labels": ";".join(labels)}
    return {name: in_csv(value) for name, value in row.items()}


def _parquet(sounds: Iterable[list[Record]], stream: TextIO, options: WriteOptions) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, number = pa.string(), pa.float64()
    kinds = {"top": pa.list_(pa.struct({"label": text, "score": number})), "labels": pa.list_(text),
             "path": text, "label": text, "error": text, "windows": pa.int64(), "silence": pa.bool_(),
             "embedding": pa.list_(pa.float32())}  # fmt: skip
    schema = pa.schema({name: kinds.get(name, number) for name in _columns(options)})
    rows = map(_parquet_row, chain.from_iterable(sounds))
    with pq.ParquetWriter(stream.buffer, schema) as file:
        while some := list(islice(rows, ROWS_AT_ONCE)):
            file.write_table(pa.Table.from_pylist(some, schema))


def _parquet_row(record: Record) -> Record:
    row = {**record, "path": record["path"].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")}
    return row | ({"embedding": np.frombuffer(b64decode(row["embedding"]), "<f4")} if "embedding" in row else {})


# ---- label files


def _audacity(sounds: Iterable[list[Record]], stream: TextIO, options: WriteOptions) -> None:
    """https://manual.audacityteam.org/man/importing_and_exporting_labels.html: start, end, label; tabs, no header."""
    for sound in sounds:
        stream.writelines(f"{each['start']:.6f}\t{each['end']:.6f}\t{label}\n" for label, each in _labelled(sound))


def _raven(sounds: Iterable[list[Record]], stream: TextIO, options: WriteOptions) -> None:
    """A selection table of Raven Pro, with a header and two columns of its own: Label, Score."""
    print(*RAVEN, sep="\t", file=stream)
    for sound in sounds:
        for number, (label, each) in enumerate(_labelled(sound), start=1):
            place = each["start"], each["end"], 0, f"{options.highest_hz:g}"
            print(number, "Spectrogram 1", 1, *place, label, each["score"], sep="\t", file=stream)


def _labelled(sound: list[Record]) -> Iterator[tuple[str, Record]]:
    """The events of a sound, with their labels; an error goes to standard error."""
    for record in sound:
        if "error" in record:
            print_error(record)
        else:
            yield "silence" if record["silence"] else printable(record["label"]), record


# ---- the table


def print_error(record: Record) -> None:
    """Names an unreadable sound on standard error."""
    Bar.write(printable(f"{record['path']}: {record['error']}"), file=sys.stderr)  # above a bar that may be there


def _table(sounds: Iterable[list[Record]], stream: TextIO, options: WriteOptions) -> None:
    for sound in filter(None, sounds):
        if "error" in sound[0]:
            print_error(sound[0])
        else:
            _print(_table_lines(sound, _shows_blocks(stream), options.rules.get("min_score") or 0), stream)


def _table_lines(sound: list[Record], blocks: bool, least: float) -> list[str]:
    events, overall = [record for record in sound if "top" not in record], sound[-1]
    answers = [*chain(events, overall.get("top", ()))]
    width = max(len(printable(answer["label"])) for answer in answers)
    lines, digits = [sound[0]["path"]], len(f"{overall['end']:.1f}")
    for event in events:
        times = f"{event['start']:{digits}.1f}–{event['end']:{digits}.1f} s"
        lines.append(f"  {times}  {_line(event, width, blocks)}{'  silence' if event['silence'] else ''}")
    if "top" in overall:
        lines += [f"  mean of {overall.get('windows')} windows"] if "windows" in overall else []
        lines += [f"  {_line(answer, width, blocks)}" for answer in overall["top"]]
        if "labels" in overall:
            lines.append(f"  labels: {', '.join(overall['labels']) or 'none reaches its threshold'}")
        if overall["score"] < least:
            lines.append(f"  {UNKNOWN}: no score reaches {least:g}")
        if overall["silence"]:
            lines.append(f"  silence: {overall['level_db']:g} dBFS")
    return lines


def write_live(predictions: Iterable[Prediction], form: str, options: WriteOptions, stream: TextIO) -> None:
    """Writes each window when it comes: JSON lines, CSV, or for a table a line of its times, label and score."""
    windows = (records(Classification(LIVE, (each,)), "jsonl", options) for each in predictions)
    if form != "table":
        FORMATS[form](windows, stream, options)
        return
    for (window,) in windows:
        answer = window | ({"label": UNKNOWN} if window["score"] < (options.rules.get("min_score") or 0) else {})
        text = f"{window['start']:.1f}–{window['end']:.1f} s  {_line(answer, 16, _shows_blocks(stream))}"
        _print([f"{text}  silence" if window["silence"] else text], stream)


def _print(lines: Iterable[str], stream: TextIO) -> None:
    text = "\n".join(map(printable, lines))
    print(text if _shows_blocks(stream) else text.replace("–", "-"), file=stream)


def _line(answer: Record, width: int, blocks: bool) -> str:
    return f"{printable(answer['label']):{width}}  {bar(answer['score'], blocks):{BAR_WIDTH}} {answer['score']:.2f}"


def _shows_blocks(stream: TextIO) -> bool:
    try:
        "█▏–".encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


FORMATS: dict[str, Callable[[Iterable[list[Record]], TextIO, WriteOptions], None]] = {
    "table": _table,
    "jsonl": _jsonl,
    "csv": _csv,
    "parquet": _parquet,
    "audacity": _audacity,
    "raven": _raven,
}
"""Every output format by its name, which is also the suffix of its files."""
