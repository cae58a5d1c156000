"""The columns of sound tables: their names, and how the text in them is read."""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from urbansound_hf.errors import UserError, joined
from urbansound_hf.text import alternatives

COLUMN_NAMES = {
    "audio": ("audio", "file", "file_name", "filename", "path", "slice_file_name"),
    "label": ("label", "class", "category", "target", "labels", "classid"),
    "fold": ("fold",),
    "group": ("group", "recording", "speaker", "speaker_id", "fsid", "src_file"),
    "split": ("split", "subset"),
    "start": ("start",),
    "end": ("end",),
}
"""The names that a column of each role may have, the first match in this order counting; case does not matter.

`start` and `end` are seconds. Every table of sounds is read by these names: data sets, CSVs and the leak report.
"""

INVISIBLE = " \t\r\n\v\f\u00a0\u2007\u202f\u3000\ufeff\u200b\u200e\u200f"
"""Blanks of any width and the marks without one, which text takes along from web pages and spreadsheets."""

SPLIT_NAMES = {"train": "train", "training": "train", "valid": "validation", "validation": "validation",
               "val": "validation", "dev": "validation", "test": "test", "testing": "test", "eval": "test",
               "evaluation": "test"}  # fmt: skip
DTYPES = {"fold": "int32", "group": "string", "split": "string", "start": "float64", "end": "float64"}
FOLD = re.compile(r"(?:fold[ _-]?)?(\d+)(?:\.0+)?", re.IGNORECASE)  # 3, fold3, Fold 3, and 3.0 as pandas writes it


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
    try:
        value = float(text) if text else None
    except ValueError:
        value = math.nan
    if value is not None and not math.isfinite(value):
        fix = "write seconds with a decimal point, or rename the column if it holds something else"
        raise UserError(f"{role} is a time in seconds, found {text!r}", where, fix)
    return value


def find_columns(
    present: Sequence[str],
    wanted: Mapping[str, str | None],
    where: str,
    required: Sequence[str] = ("audio", "label"),
) -> dict[str, str]:
    """Finds the column of each role.

    Args:
        present: the names of the columns that are there.
        wanted: the name that the user gave for a role, if any.
        where: the table, for errors.
        required: the roles that must be there.

    Returns:
        The column of each role that has one.

    Raises:
        UserError: for each required column that is not there, or has not the name that was asked for.
    """
    columns, problems = {}, []
    for role in COLUMN_NAMES:
        asked = wanted.get(role)
        found = asked if asked in present else find_column(present, role)
        if (asked and asked != found) or (role in required and not found):
            problems.append(_missing_column(role, asked, present, where))
        elif found:
            columns[role] = found
    if problems:
        raise joined(problems)
    return columns


def _missing_column(role: str, asked: str | None, present: Sequence[str], where: str) -> UserError:
    names = [asked] if asked else list(COLUMN_NAMES[role])
    near = next((close[0] for name in names if (close := difflib.get_close_matches(name, present, 1))), None)
    option = f"name it with --{role}_column" if role in ("audio", "label") else f"rename it to {names[0]}"
    what = f"the {role} column is called {alternatives(names)}; found {', '.join(present)}"
    return UserError(what, where, option + (f"; did you mean {near}?" if near else ""))


def find_column(present: Sequence[str], role: str) -> str | None:
    """The column that is called as one of a role usually is, or None."""
    by_lower = {clean_text(name).lower(): name for name in reversed(present)}
    return next((by_lower[name] for name in COLUMN_NAMES[role] if name in by_lower), None)


def encode(values: Sequence[str]) -> tuple[list[str], list[int]]:
    """Labels and their ids: classes in alphabetical order, or by value where all of them are numbers."""
    numbers = all(value.isdecimal() for value in values)
    names = sorted(set(values), key=(lambda name: (int(name), name)) if numbers else None)
    ids = {name: position for position, name in enumerate(names)}
    return names, [ids[value] for value in values]


def split_name(name: str, where: str) -> str:
    """train, validation or test, whatever the data set calls them. Raises UserError for any other name."""
    known = clean_text(name).lower()
    if known not in SPLIT_NAMES:
        raise UserError(f"a split is called {', '.join(SPLIT_NAMES)}; found {name!r}", where, "rename it")
    return SPLIT_NAMES[known]


def columns_of(rows: Iterable[Mapping[str, object]]) -> dict[str, str]:
    """The optional columns that these rows have, with their types."""
    present = {name for row in rows for name in row}
    return {name: dtype for name, dtype in DTYPES.items() if name in present}
