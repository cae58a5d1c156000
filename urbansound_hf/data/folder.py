"""Labelled sounds in a folder: classes as folders, or a metadata CSV. Columns, folds and parts go by their names."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from urbansound_hf.audio.files import SOUND_NAMES, SUFFIXES, UNREAD_SUFFIXES, AudioFiles, find_audio_files, is_hidden
from urbansound_hf.data.builder import Row
from urbansound_hf.data.columns import (
    SPLIT_NAMES,
    clean_text,
    find_columns,
    fold_number,
    is_fold_name,
    read_csv,
    seconds,
    split_name,
)
from urbansound_hf.data.segments import background, named_segments, read_annotations, refuse, segment_mistakes
from urbansound_hf.errors import UserError
from urbansound_hf.text import counted, first_ten


def read_folder(
    folder: Path,
    audio_column: str | None = None,
    label_column: str | None = None,
    allow_missing_files: bool = False,
    annotations: Path | None = None,
    background_class: str | None = None,
    clip_seconds: float = 4.0,
    label_map: Mapping[str, str | None] | None = None,
) -> tuple[list[Row], list[str]]:
    """Lists the labelled sounds of a folder.

    Args:
        folder: holds a metadata CSV (`metadata.csv`, or the only `*.csv` or `*.tsv`), label files beside recordings
            (see `segments`), or one folder a class. Above or below the classes there may be folders called train,
            validation and test, or fold1, fold2, ….
        audio_column: the CSV's column of file names (default: found by its name).
        label_column: the CSV's column of labels (default: found by its name).
        allow_missing_files: leave out sounds of the CSV without a file instead of raising.
        annotations: the label files, where they do not lie beside the recordings.
        background_class: the class of the stretches of recordings that no segment covers, left out without it.
        clip_seconds: the longest clip of that class.
        label_map: labels that are merged or dropped later, so that segments of theirs may overlap.

    Returns:
        The rows (source, path, label as text, or a list of texts where a column `labels` has `;`; fold, group, split,
        start and end where the data has them), and a note on everything in the folder that is not used.

    Raises:
        UserError: no labelled sounds, an ambiguous or unfit CSV, or missing files.
    """
    found = find_audio_files(folder)
    table = None if annotations else find_csv(folder)
    marked = None if table else read_annotations(found, annotations, label_column)
    if table:
        wanted = {"audio": audio_column, "label": label_column}
        rows, places, notes = listed_sounds(table, found, wanted, allow_missing_files)
    elif marked:
        rows, places, notes = marked
    else:
        rows, notes = _class_folders(found)
        places = [""] * len(rows)
    refuse(segment_mistakes(rows, places, label_map))
    if background_class:
        rows = [*rows, *background(rows, background_class, clip_seconds)]
    return named_segments(rows), notes + found.notes()


def find_csv(folder: Path) -> Path | None:
    """The metadata CSV of a folder, or None. Raises UserError if there are several and none is `metadata.csv`."""
    tables = sorted(
        path for path in folder.iterdir() if path.suffix.lower() in (".csv", ".tsv") and not is_hidden(path.name)
    )
    named = [path for path in tables if path.stem.lower() == "metadata"]
    if len(named or tables) > 1:
        found = first_ten([path.name for path in named or tables])
        raise UserError(f"one CSV lists the sounds, found {found}", str(folder), "call that one metadata.csv")
    return next(iter(named or tables), None)


# ---- classes as folders


def _class_folders(found: AudioFiles) -> tuple[list[Row], list[str]]:
    names = found.names(found.sounds)
    paths = [name.split("/") for name in names]
    roles = _folder_roles(paths, str(found.folder))
    outside = [name for name, parts in zip(names, paths, strict=True) if len(parts) <= len(roles)]
    rows: list[Row] = [
        {"source": str(source), "path": name}
        | {role: READERS[role](part, name) for role, part in zip(roles, parts, strict=False)}
        for name, source, parts in zip(names, found.sounds, paths, strict=True)
        if len(parts) > len(roles)
    ]
    if len({row["label"] for row in rows}) < 2:
        there = first_ten(sorted(path.name for path in found.folder.iterdir())) or "nothing"
        what = f"a data folder has one folder of sounds a class (two at least), or a metadata CSV; found {there}"
        fix = SOUND_NAMES
        raise UserError("; ".join([what, *found.notes()]), str(found.folder), fix)
    note = f"{counted(len(outside), 'sound')} in no folder of a class, left out: {first_ten(outside)}"
    return rows, [note] * bool(outside)


def _folder_roles(paths: Sequence[Sequence[str]], where: str) -> list[str]:
    """What the folders of each level are: label, with split and fold above or below it where there are such."""
    roles: list[str] = []
    while (role := _level_role([parts[len(roles)] for parts in paths if len(parts) > len(roles) + 1], where)) not in (
        "label",
        *roles,
    ):
        roles.append(role)
    depth = len(roles) + 1
    inside = [parts[depth] if len(parts) > depth + 1 else "" for parts in paths if len(parts) > depth]
    below = _level_role(inside, where)
    return [*roles, "label", *([below] if below not in ("label", *roles) else [])]


def _level_role(names: Iterable[str], where: str) -> str:
    """Whether the folders of one level are parts ("split"), folds or classes ("label"; "" is a file among them).

    Raises:
        UserError: some are parts or folds, and others beside them are not.
    """
    present = set(names)
    parts = {name for name in present if clean_text(name).lower() in SPLIT_NAMES}
    folds = {name for name in present if is_fold_name(name)}
    others = present - parts - folds
    if present and present == parts:
        return "split"
    if present and present == folds:
        return "fold"
    if folds or {"train", "test"} <= {split_name(name, where) for name in parts}:  # `train` alone may be a railway's
        named, odd = (folds, parts | others) if folds else (parts, others)
        found = first_ten(sorted(named)), first_ten([name or "files" for name in sorted(odd)])
        what = f"{found[0]} are names of folds or parts of the data, and beside them lie {found[1]}"
        raise UserError(what, where, "keep folds, parts and classes on levels of their own, or rename the folders")
    return "label"


READERS: dict[str, Callable[[str, str], Any]] = {
    "label": lambda name, where: clean_text(name), "split": split_name, "fold": fold_number,
}  # fmt: skip
"""How the name of a folder is read, by its role."""


# ---- a metadata CSV


def listed_sounds(
    table: Path, found: AudioFiles, wanted: Mapping[str, str | None], allow_missing_files: bool
) -> tuple[list[Row], list[str], list[str]]:
    """The rows of a CSV with their files, the place of each, and notes."""
    content = read_csv(table)
    columns = find_columns(content.columns, wanted, str(table))
    records: list[tuple[int, dict[str, Any]]]
    records = [(line, {role: record[name] for role, name in columns.items()}) for line, record in content.records]
    files = ListedFiles(found, [record["audio"] for _, record in records])
    if clean_text(columns["label"]).lower() == "labels" and any(";" in record["label"] for _, record in records):
        for _, record in records:  # of an empty cell none: the sound has none of the labels
            record["label"] = list(filter(None, map(clean_text, record["label"].split(";"))))
    rows, lines, problems = [], [], []
    for line, record in records:
        try:
            rows.append(_row(record, files, f"{table}, line {line}"))
            lines.append(line)
        except UserError as error:
            problems.append(error)
    problems += _repeated(rows, lines, table)
    refuse(problems or [UserError("the table lists no sounds", str(table))] * (not rows))
    unlisted = found.unlisted((row["source"] for row in rows if row["source"]), table.name)
    missing = [row["path"] for row in rows if not row["source"]]
    numbered = [each for each in zip(_as_segments(rows), lines, strict=True) if each[0]["source"]]
    there, places = [row for row, _ in numbered], [f"{table}, line {line}" for _, line in numbered]
    if missing and (not allow_missing_files or not there):
        what = f"every row needs its file, {len(missing):,} of {len(rows):,} have none: {first_ten(missing)}"
        near = files.nearest(missing[0])
        fix = f"did you mean {near}?" if near else "copy them there, or do without them: --allow_missing_files"
        raise UserError(what, str(table), fix)
    left_out = f"{len(missing):,} of {len(rows):,} listed sounds have no file and are left out"
    return there, places, [left_out] * bool(missing) + unlisted


def _row(record: Mapping[str, Any], files: ListedFiles, where: str) -> Row:
    """One line; its source is None where the file is missing."""
    name, label = record["audio"], record["label"]
    if not name or label == "":
        what = f"{name} has no label" if name else f"the line names no file (its label: {label!r})"
        raise UserError(what, where, "complete the line, or take it out")
    source = files.find(name, where)
    row: Row = {"source": str(source) if source else None, "path": files.name(source) or name, "label": label}
    if "fold" in record:
        row["fold"] = fold_number(record["fold"], where)
    if "group" in record:
        row["group"] = record["group"]
    if "split" in record:
        row["split"] = split_name(record["split"], where)
    if {"start", "end"} <= record.keys():
        row |= {role: seconds(record[role], role, where) for role in ("start", "end")}
        if None not in (row["start"], row["end"]) and row["end"] <= row["start"]:
            raise UserError(f"{name} ends at {row['end']} s, before it starts at {row['start']} s", where)
    return row


def _repeated(rows: Sequence[Row], lines: Sequence[int], table: Path) -> list[UserError]:
    """The files that several lines name, unless each of these lines has another start and end."""
    problems = []
    for numbers in _by_file(rows).values():
        times = {(rows[number].get("start"), rows[number].get("end")) for number in numbers}
        if len(numbers) > 1 and (len(times) < len(numbers) or any(None in each for each in times)):
            where = f"{table}, lines {', '.join(str(lines[number]) for number in numbers)}"
            what = f"{rows[numbers[0]]['path']} is listed {len(numbers)} times"
            fix = "list it once, with its folder; or give each line a start and an end of its own"
            problems.append(UserError(what, where, fix))
    return problems


def _by_file(rows: Sequence[Row]) -> dict[str, list[int]]:
    same = defaultdict(list)
    for number, row in enumerate(rows):
        same[os.path.normpath(row["source"] or row["path"])].append(number)
    return same


def _as_segments(rows: Sequence[Row]) -> list[Row]:
    """The rows as segments of their files, where a file is listed more than once; its segments are one group."""
    if len(_by_file(rows)) == len(rows):
        return list(rows)
    cut = []
    for row in rows:
        times = (row.get("start"), row.get("end"))
        segment = {} if None in times else {"segment": times}
        cut.append({"group": row["path"]} | row | segment)
    return cut


# ---- the files that a table names


class ListedFiles:
    """The files below a folder, by the names that a table may have for them.

    Names are compared in Unicode form NFC; backslashes separate folders as slashes do; a name may lack the suffix of
    its sound. A bare file name may lie in any folder below; a name with a folder is never looked for elsewhere.

    Args:
        found: the files.
        listed: all names of the table. A bare name that is the end of another listed name is not looked for.
    """

    def __init__(self, found: AudioFiles, listed: Sequence[str]) -> None:
        self.folder = found.folder
        self.names = dict(zip(found.sounds, found.names(found.sounds), strict=True))
        self.by_path: dict[str, list[Path]] = defaultdict(list)
        self.by_name: dict[str, list[Path]] = defaultdict(list)
        for path, name in self.names.items():
            cleaned = clean_text(name)
            # Without its suffix, the dot that stays tells a name from that of a file that has none.
            for key in (cleaned, cleaned.removesuffix(Path(cleaned).suffix) + "."):
                self.by_path[key].append(path)
                self.by_name[key.rpartition("/")[2]].append(path)
        self.times_listed = Counter(_slashes(name).rpartition("/")[2] for name in listed)

    def find(self, name: str, where: str) -> Path | None:
        """The file of a name, or None. Raises UserError, with `where`, if it could be one of several files."""
        spelled = _slashes(name)
        for path in (self.folder / name, self.folder / spelled):
            with suppress(OSError, ValueError):  # longer than the system allows
                if path.is_file():
                    return path
        found = self._lookup(self.by_path, spelled.removeprefix("./"))
        if not found and "/" not in spelled:
            found = self._lookup(self.by_name, spelled)
            if found and self.times_listed[spelled] > 1:
                what = f"{name} has no folder, and the table lists {self.times_listed[spelled]} files of this name"
                raise UserError(what, where, "list it with its folder")
        if len(found) > 1:
            named = first_ten([self.names[path] for path in found])
            raise UserError(f"{name} is the name of {len(found)} files: {named}", where, "list it with its folder")
        return found[0] if found else None

    def name(self, source: Path | None) -> str:
        """What a file is called in the data: its path below the folder, or "" for one that lies elsewhere."""
        if source in self.names:
            return self.names[source]
        inside = source and source.is_relative_to(self.folder) and ".." not in source.parts
        return source.relative_to(self.folder).as_posix() if source and inside else ""

    def nearest(self, name: str) -> str | None:
        """The file whose name differs only in the case of its letters, if there is one."""
        wanted = _slashes(name).removeprefix("./").lower()
        return next((found for found in self.names.values() if clean_text(found).lower() == wanted), None)

    def _lookup(self, index: dict[str, list[Path]], name: str) -> list[Path]:
        suffix = Path(name).suffix.lower()
        return index.get(name) or ([] if suffix in SUFFIXES | UNREAD_SUFFIXES else index.get(f"{name}.", []))


def _slashes(name: str) -> str:
    return name.replace("\\", "/")
