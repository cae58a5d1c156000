"""Column names of sound tables: how the audio, label, fold, group and time columns are found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from urbansound_hf.errors import UserError

COLUMN_NAMES = {
    "audio": ("audio", "file", "file_name", "filename", "path", "slice_file_name"),
    "label": ("label", "class", "category", "target", "labels"),
    "fold": ("fold",),
    "group": ("group", "recording", "speaker", "speaker_id", "fsid", "src_file"),
    "split": ("split", "subset"),
}
"""What the columns of a table of sounds are called, the first match in this order counting; case does not matter."""

SPLIT_NAMES = {"train": "train", "training": "train", "valid": "validation", "validation": "validation",
               "val": "validation", "dev": "validation", "test": "test", "testing": "test", "eval": "test",
               "evaluation": "test"}  # fmt: skip
DTYPES = {"fold": "int32", "group": "string", "split": "string"}


def find_columns(present: Sequence[str], wanted: Mapping[str, str | None], where: str) -> dict[str, str]:
    """Which column is the audio, the label, the fold, the group and the split; the last three need not be there.

    Args:
        present: the columns that are there.
        wanted: the name that the user gave for a role, if any.
        where: the table, for errors.

    Raises:
        UserError: the audio or the label column is not there, or not the one that was asked for.
    """
    columns = {}
    for role, names in COLUMN_NAMES.items():
        asked = wanted.get(role)
        found = asked if asked in present else find_column(present, role)
        if (asked and asked != found) or (role in ("audio", "label") and not found):
            what = f"the {role} column is called {asked or ', '.join(names[:-1]) + ' or ' + names[-1]}"
            raise UserError(f"{what}; found {', '.join(present)}", where, f"name it with --{role}_column")
        if found:
            columns[role] = found
    return columns


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
