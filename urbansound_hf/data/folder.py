"""Labelled sounds in a folder: classes as folders, or a CSV that lists them. Columns and splits go by their names."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from urbansound_hf.audio.files import SUFFIXES, find_audio_files
from urbansound_hf.data.builder import Row
from urbansound_hf.data.columns import SPLIT_NAMES, find_columns, split_name
from urbansound_hf.errors import UserError, UserErrors
from urbansound_hf.text import first_ten


def read_folder(
    folder: Path, audio_column: str | None = None, label_column: str | None = None, allow_missing_files: bool = False
) -> tuple[list[Row], list[str]]:
    """Lists the labelled sounds of a folder.

    Args:
        folder: holds a metadata CSV (`metadata.csv`, or the only `*.csv`), or one folder a class, which may lie in
            folders called train, validation and test.
        audio_column: the CSV's column of file names (default: found by its name).
        label_column: the CSV's column of labels (default: found by its name).
        allow_missing_files: leave out sounds of the CSV without a file instead of raising.

    Returns:
        The rows (source, path, label as text; fold, group and split where the data has them) and notes on them.

    Raises:
        UserError: no labelled sounds, an ambiguous or unfit CSV, or missing files.
    """
    found = find_audio_files(folder)
    sounds = dict(zip(found.names(found.sounds), found.sounds, strict=True))
    table = find_csv(folder)
    if table:
        rows = _listed(table, sounds, {"audio": audio_column, "label": label_column})
        return _with_files(rows, table, allow_missing_files)
    return _class_folders(folder, sounds), []


def find_csv(folder: Path) -> Path | None:
    """The metadata CSV of a folder, or None. Raises UserError if there are several and none is `metadata.csv`."""
    tables = sorted(path for path in folder.glob("*.csv") if not path.name.startswith("."))
    named = [path for path in tables if path.name.lower() == "metadata.csv"]
    if len(tables) > 1 and not named:
        found = first_ten([path.name for path in tables])
        raise UserError(f"one CSV lists the sounds, found {found}", str(folder), "call that one metadata.csv")
    return next(iter(named or tables), None)


def _class_folders(folder: Path, sounds: Mapping[str, Path]) -> list[Row]:
    top = {name.split("/")[0] for name in sounds}
    split = bool(top) and all(name.lower() in SPLIT_NAMES for name in top)
    depth = 1 + split
    rows: list[Row] = []
    for name, path in sounds.items():
        parts = name.split("/")
        if len(parts) > depth:
            row = {"source": str(path), "path": name, "label": parts[depth - 1]}
            rows.append(row | ({"split": split_name(parts[0], str(folder))} if split else {}))
    classes = {row["label"] for row in rows}
    if len(classes) < 2:
        found = first_ten(sorted(path.name for path in folder.iterdir())) or "nothing"
        what = f"a data folder has one folder of sounds a class (two at least), or a metadata CSV; found {found}"
        raise UserError(what, str(folder), f"sounds are files that end in {', '.join(sorted(SUFFIXES))}")
    return rows


def _listed(table: Path, sounds: Mapping[str, Path], wanted: Mapping[str, str | None]) -> list[Row]:
    """The rows of a CSV; `source` is None where no file has the name that is listed."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            columns = find_columns(reader.fieldnames or [], wanted, str(table))
            records = [(reader.line_num, {role: record[name] for role, name in columns.items()}) for record in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"a metadata table is CSV in UTF-8 ({error})", str(table), "save it as CSV UTF-8") from None
    by_name = defaultdict(list)
    for path in sounds.values():
        by_name[path.name].append(path)
    rows, problems = [], []
    for line, record in records:
        try:
            rows.append(_row(record, table.parent, by_name, f"{table}, line {line}"))
        except UserError as error:
            problems.append(error)
    for name, lines in _repeated(records).items():
        problems.append(
            UserError(f"{name} is listed {len(lines)} times", f"{table}, lines {', '.join(lines)}", "list it once")
        )
    if problems or not rows:
        rest = [UserError(f"… and {len(problems) - 10:,} more lines")] * (len(problems) > 10)
        raise UserErrors([*problems[:10], *rest] or [UserError("the table lists no sounds", str(table))])
    return rows


def _repeated(records: Sequence[tuple[int, Mapping[str, str]]]) -> dict[str, list[str]]:
    lines = defaultdict(list)
    for line, record in records:
        lines[record["audio"].strip()].append(str(line))
    return {name: found for name, found in lines.items() if len(found) > 1}


def _row(record: Mapping[str, str], folder: Path, by_name: Mapping[str, list[Path]], where: str) -> Row:
    name = record["audio"].strip()
    same = [folder / name] if (folder / name).is_file() else by_name.get(Path(name).name, [])
    if len(same) > 1:
        raise UserError(f"{name} is the name of {len(same)} files", where, "list it with its folder")
    row: Row = {"source": str(same[0]) if same else None, "path": name, "label": record["label"].strip()}
    if not row["label"]:
        raise UserError(f"{name} has no label", where, "give it one, or take out the line")
    if "fold" in record:
        if not record["fold"].strip().isdecimal():
            raise UserError(f"fold is a whole number, found {record['fold']!r}", where)
        row["fold"] = int(record["fold"])
    if "group" in record:
        row["group"] = record["group"]
    if "split" in record:
        row["split"] = split_name(record["split"], where)
    return row


def _with_files(rows: list[Row], table: Path, allow_missing_files: bool) -> tuple[list[Row], list[str]]:
    missing = [row["path"] for row in rows if not row["source"]]
    there = [row for row in rows if row["source"]]
    if missing and (not allow_missing_files or not there):
        what = f"every row needs its file, {len(missing):,} of {len(rows):,} have none: {first_ten(missing)}"
        fix = "copy them there, or do without them: --allow_missing_files"
        raise UserError(what, str(table), fix)
    return there, [f"{len(missing):,} of {len(rows):,} listed sounds have no file and are left out"] * bool(missing)
