"""Tables of sounds: the names of their columns, how the text in them is read, and metadata CSV files."""

import codecs
import csv
import difflib
import io
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import dropwhile
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from urbansound_hf.errors import UserError, joined
from urbansound_hf.text import alternatives, first_ten

COLUMN_NAMES = {
    "audio": ("audio", "file", "file_name", "filename", "path", "slice_file_name"),
    "label": ("label", "class", "category", "target", "labels", "classid", "annotation", "species", "common name"),
    "fold": ("fold",),
    "group": ("group", "recording", "speaker", "speaker_id", "fsid", "src_file"),
    "split": ("split", "subset"),
    "start": ("start", "start_time", "begin time (s)", "start (s)"),
    "end": ("end", "end_time", "end time (s)", "end (s)"),
}
"""The names that a column of each role may have, the first match in this order counting; case does not matter.

`start` and `end` are seconds. Every table of sounds is read by these names: data sets, CSVs and the leak report.
"""

INVISIBLE = " \t\r\n\v\f\u00a0\u2007\u202f\u3000\ufeff\u200b\u200e\u200f"
"""Blanks of any width and the marks without one, which text takes along from web pages and spreadsheets."""

SPLIT_NAMES = {"train": "train", "training": "train", "valid": "validation", "validation": "validation",
               "val": "validation", "dev": "validation", "test": "test", "testing": "test", "eval": "test",
               "evaluation": "test"}  # fmt: skip
LabelMap = Mapping[str, str | None]  # the new name of a label, None where it is dropped
DTYPES = {"fold": "int32", "group": "string", "split": "string", "start": "float64", "end": "float64"}
FOLD = re.compile(r"(?:fold[ _-]?)?0*(\d{1,9})(?:\.0+)?", re.IGNORECASE)  # fold3, 3.0; of 32 bits


def clean_text(text: object) -> str:
    """The text of a cell, label, group or file name as it is compared: Unicode form NFC, no blanks around it."""
    return unicodedata.normalize("NFC", str(text)).strip(INVISIBLE)


def fold_number(text: object, where: str) -> int:
    """The number of a fold, written `3`, `3.0` or `fold3`. Raises UserError for anything else."""
    match = FOLD.fullmatch(clean_text(text))
    if not match:
        raise UserError(f"fold is a whole number, found {text!r}", where, "write 1, 2, 3 …")
    return int(match[1])


def is_fold_name(name: str) -> bool:
    """Whether a folder is called `fold3` or the like; a mere number may be a class."""
    return bool(FOLD.fullmatch(clean_text(name))) and not clean_text(name)[0].isdecimal()


def seconds(text: str, role: str, where: str) -> float | None:
    """A time in seconds; None for an empty cell. Raises UserError for anything else."""
    with suppress(ValueError):
        if not text or math.isfinite(float(text)):
            return float(text) if text else None
    fix = "write seconds with a decimal point, or rename the column if it holds something else"
    raise UserError(f"{role} is a time in seconds, found {text!r}", where, fix)


def find_columns(
    present: Sequence[str], wanted: Mapping[str, str | None], where: str, required: Sequence[str] = ("audio", "label")
) -> dict[str, str]:
    """The column of each role, as the user named it (`wanted`) or by its usual names, among those `present` in a table.

    Raises UserError for each required column that is not there, or not under the name that was asked for.
    """
    columns, problems = {}, []
    for role in COLUMN_NAMES:
        asked = wanted.get(role)
        found = asked if asked in present else find_column(present, role)
        if (asked and asked != found) or (role in required and not found):
            names = [asked] if asked else list(COLUMN_NAMES[role])
            near = next((close[0] for name in names if (close := difflib.get_close_matches(name, present, 1))), None)
            fix = f"name it with --{role}_column" if role in ("audio", "label") else f"rename it to {names[0]}"
            what = f"the {role} column is called {alternatives(names)}; found {', '.join(present)}"
            problems.append(UserError(what, where, fix + (f"; did you mean {near}?" if near else "")))
        elif found:
            columns[role] = found
    if problems:
        raise joined(problems)
    return columns


def find_column(present: Sequence[str], role: str) -> str | None:
    """The column that is called as one of a role usually is, or None."""
    by_lower = {clean_text(name).lower(): name for name in reversed(present)}
    return next((by_lower[name] for name in COLUMN_NAMES[role] if name in by_lower), None)


def encode(values: Sequence[str | list[str]]) -> tuple[list[str], list[Any]]:
    """Labels and their ids: classes in alphabetical order, or by value where all of them are numbers.

    A list of labels has a list of ids, in ascending order, each once.
    """
    flat = [name for value in values for name in ([value] if isinstance(value, str) else value)]
    numbers = all(name.isdecimal() for name in flat)
    names = sorted(set(flat), key=(lambda name: (int(name), name)) if numbers else None)
    ids = {name: position for position, name in enumerate(names)}
    return names, [ids[each] if isinstance(each, str) else sorted({ids[name] for name in each}) for each in values]


def read_label_map(path: str | None) -> dict[str, str | None]:
    """A YAML file `old: new` or `old: null`, for labels that are renamed, merged or dropped; empty without one."""
    if not path:
        return {}
    where = f"--label_map {path}"
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"cannot be read: {error}", where) from None
    if not isinstance(content, dict) or any(isinstance(new, list | dict) for new in content.values()):
        raise UserError("a label map has lines such as `old: new`, or `old: null`", where, "write it so")
    return {clean_text(old): None if new is None else clean_text(new) for old, new in content.items()}


def mapped_labels(names: Sequence[str], label_map: LabelMap, where: str) -> list[str | None]:
    """The new label of each class; None where it is dropped. Raises UserError for a class that there is not."""
    if unknown := [old for old in label_map if old not in names]:
        near = difflib.get_close_matches(unknown[0], names, n=1)
        fix = f"did you mean {near[0]}?" if near else f"the classes are {first_ten(names)}"
        raise UserError(f"the data have no class {first_ten(unknown)}", where, fix)
    return [label_map.get(name, name) for name in names]


def split_name(name: str, where: str) -> str:
    """train, validation or test, whatever the data set calls them. Raises UserError for any other name."""
    known = clean_text(name).lower()
    if known not in SPLIT_NAMES:
        raise UserError(f"a split is called {', '.join(SPLIT_NAMES)}; found {name!r}", where, "rename it")
    return SPLIT_NAMES[known]


READERS: dict[str, Callable[[str, str], Any]] = {
    "label": lambda text, where: clean_text(text), "group": lambda text, where: text, "split": split_name,
    "fold": fold_number,
}  # fmt: skip
"""How the name of a folder or the text of a cell is read, by its role."""


def columns_of(rows: Iterable[Mapping[str, object]]) -> dict[str, str]:
    """The optional columns that these rows have, with their types."""
    present = {name for row in rows for name in row}
    return {name: dtype for name, dtype in DTYPES.items() if name in present}


DELIMITERS = ",;\t|"
SEPARATOR_LINE = re.compile("sep=.?")  # with which Excel may begin a CSV
BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
                    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # fmt: skip
"""What a text file can begin with, and how it is then encoded; UTF-32's marks begin with those of UTF-16."""


class MetadataCsv(NamedTuple):
    columns: list[str]  # without nameless ones
    records: list[tuple[int, dict[str, str]]]  # number and cells of each line that is not blank; "" where one lacks


def read_csv(path: Path) -> MetadataCsv:
    """Reads a CSV in UTF-8, or in UTF-16 or UTF-32 with a byte order mark; delimited by `,`, `;`, tab or `|`.

    Raises UserError if it cannot be read, has another encoding, an open quote, a column twice, or nameless cells.
    """
    if path.is_fifo() or path.is_char_device():  # which may have no end
        raise UserError("not a readable CSV (it is a device)", str(path))
    try:
        lines = list(io.StringIO(_decoded(path.read_bytes(), str(path)), newline=""))
    except OSError as error:
        raise UserError(f"not a readable CSV ({error.strerror})", str(path)) from None
    header = next((line for line in lines if line.strip() and not SEPARATOR_LINE.fullmatch(line.strip())), "")
    most_columns = max(DELIMITERS, key=lambda delimiter: len(next(csv.reader([header], delimiter=delimiter))))
    reader = csv.reader(lines, delimiter=most_columns, strict=True)
    try:
        cleaned = [(reader.line_num, [clean_text(cell) for cell in cells]) for cells in reader]
    except csv.Error as error:
        fix = "close the quote, or save the table again as CSV UTF-8"
        raise UserError(f"the table is no CSV ({error})", f"{path}, line {reader.line_num}", fix) from None
    filled = ((line, cells) for line, cells in cleaned if any(cells))
    rows = list(dropwhile(lambda row: SEPARATOR_LINE.fullmatch("".join(row[1])), filled))
    columns = rows[0][1] if rows else []
    while columns and not columns[-1]:
        columns.pop()
    if twice := [column for column, count in Counter(columns).items() if column and count > 1]:
        raise UserError(f"a column has one name, found {first_ten(twice)} twice", str(path), "rename one of them")
    records = [(line, _record(columns, cells, f"{path}, line {line}")) for line, cells in rows[1:]]
    return MetadataCsv([column for column in columns if column], records)


def _decoded(content: bytes, name: str) -> str:
    encoding = next((kind for mark, kind in BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line, fix = content[: error.start].count(b"\n") + 1, "save it as CSV UTF-8"
        if encoding == "utf-8":
            shown = content.splitlines()[line - 1].decode("cp1252", "replace").strip()
            fix += f"; if that line reads {shown!r}, it is Latin-1 or Windows-1252: iconv -f WINDOWS-1252 -t UTF-8"
        expected, byte = encoding.upper().removesuffix("-SIG"), content[error.start]
        what = f"this table is text in {expected}, found the byte {byte:#04x}"
        raise UserError(what, f"{name}, line {line}", fix) from None
    if "\0" in text:
        raise UserError("the table holds zero bytes, as UTF-16 without its mark has them", name, "save it as CSV UTF-8")
    return text


def _record(columns: Sequence[str], cells: Sequence[str], where: str) -> dict[str, str]:
    """The cells by column. A nameless first column, the row numbers of pandas, is left out."""
    beyond = [cell for cell in cells[len(columns) :] if cell]
    beyond += [cell for column, cell in list(zip(columns, cells, strict=False))[1:] if cell and not column]
    if beyond:
        what = f"the line has cells that belong to no column ({first_ten(beyond)}); the header has {len(columns)}"
        raise UserError(what, where, "put a cell that holds the delimiter in quotes, or name the column")
    filled = [*cells, *[""] * (len(columns) - len(cells))]
    return {column: cell for column, cell in zip(columns, filled, strict=False) if column}
