"""Column names of sound tables: how the audio, label, fold, group and time columns are found."""

from __future__ import annotations

import difflib
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

SPLIT_NAMES = {"train": "train", "training": "train", "valid": "validation", "validation": "validation",
               "val": "validation", "dev": "validation", "test": "test", "testing": "test", "eval": "test",
               "evaluation": "test"}  # fmt: skip
DTYPES = {"fold": "int32", "group": "string", "split": "string"}


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
    by_lower = {name.lower(): name for name in present}
    return next((by_lower[name] for name in COLUMN_NAMES[role] if name in by_lower), None)


def encode(values: Sequence[str]) -> tuple[list[str], list[int]]:
    """Labels and their ids: classes in alphabetical order, or by value where all of them are numbers."""
    numbers = all(value.isdecimal() for value in values)
    names = sorted(set(values), key=(lambda name: (int(name), name)) if numbers else None)
    ids = {name: position for position, name in enumerate(names)}
    return names, [ids[value] for value in values]


def split_name(name: str, where: str) -> str:
    """train, validation or test, whatever the data set calls them. Raises UserError for any other name."""
    if name.strip().lower() not in SPLIT_NAMES:
        known = ", ".join(SPLIT_NAMES)
        raise UserError(f"a split is called {known}; found {name!r}", where, "rename it")
    return SPLIT_NAMES[name.strip().lower()]


def columns_of(rows: Iterable[Mapping[str, object]]) -> dict[str, str]:
    """The optional columns that these rows have, with their types."""
    present = {name for row in rows for name in row}
    return {name: dtype for name, dtype in DTYPES.items() if name in present}
