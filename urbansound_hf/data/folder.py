"""Labelled sounds in a folder: classes as folders, or a metadata CSV. Columns, folds and parts go by their names."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

from urbansound_hf.audio.files import SOUND_NAMES, SUFFIXES, UNREAD_SUFFIXES, AudioFiles, find_audio_files, is_hidden
from urbansound_hf.data.builder import DEFAULTS, Row, SoundRequest
from urbansound_hf.data.columns import (
    READERS,
    SPLIT_NAMES,
    clean_text,
    find_columns,
    is_fold_name,
    read_csv,
    read_label_map,
    seconds,
    split_name,
)  # fmt: skip
from urbansound_hf.data.segments import Listed, background, named_segments, read_annotations, refuse, segment_mistakes
from urbansound_hf.errors import UserError
from urbansound_hf.text import counted, first_ten


def read_folder(folder: Path, request: SoundRequest = DEFAULTS) -> tuple[list[Row], list[str]]:
    """Lists the labelled sounds of a folder.

    It holds a metadata CSV (`metadata.csv`, or the only `*.csv` or `*.tsv`), label files beside recordings (see
    `segments`), or one folder a class. Above or below the classes there may be folders called train, validation and
    test, or fold1, fold2, …. Segments whose labels `label_map` merges or drops later may overlap.

    Returns the rows (source, path, label as text, or a list of texts where a column `labels` has `;`; fold, group,
    split, start and end where the data has them), and a note on everything in the folder that is not used. Raises
    UserError for no labelled sounds, an ambiguous or unfit CSV, and missing files.
    """
    found, label_map = find_audio_files(folder), read_label_map(request.label_map)
    annotations = Path(request.annotations) if request.annotations else None
    if table := None if annotations else find_csv(folder):
        wanted = {"audio": request.audio_column, "label": request.label_column}
        rows, places, notes = listed_sounds(table, found, wanted, request.allow_missing_files)
    else:
        segments = read_annotations(found, annotations, request.label_column, label_map)
        rows, places, notes = segments or _class_folders(found)
    refuse(segment_mistakes(rows, places, label_map))
    if request.background_class:
        rows = [*rows, *background(rows, request.background_class, request.clip_seconds)]
    return named_segments(rows), notes + found.notes()


def find_csv(folder: Path) -> Path | None:
    """The metadata CSV of a folder, or None. Raises UserError if there are several and none is `metadata.csv`."""
    visible = (path for path in folder.iterdir() if not is_hidden(path.name))
    tables = sorted(path for path in visible if path.suffix.lower() in (".csv", ".tsv"))
    named = [path for path in tables if path.stem.lower() == "metadata"]
    if len(named or tables) > 1:
        found = first_ten([path.name for path in named or tables])
        raise UserError(f"one CSV lists the sounds, found {found}", str(folder), "call that one metadata.csv")
    return next(iter(named or tables), None)


def _class_folders(found: AudioFiles) -> Listed:
    names = found.names(found.sounds)
    roles = _folder_roles([name.split("/") for name in names], str(found.folder))
    rows, outside = list[Row](), []
    for name, source in zip(names, found.sounds, strict=True):
        *folders, _ = name.split("/")
        if len(folders) < len(roles):
            outside.append(name)
        else:
            read = {role: READERS[role](part, name) for role, part in zip(roles, folders, strict=False)}
            rows.append({"source": str(source), "path": name, **read})
    if len({row["label"] for row in rows}) < 2:
        there = first_ten(sorted(path.name for path in found.folder.iterdir())) or "nothing"
        what = f"a data folder has one folder of sounds a class (two at least), or a metadata CSV; found {there}"
        raise UserError("; ".join([what, *found.notes()]), str(found.folder), SOUND_NAMES)
    note = f"{counted(len(outside), 'sound')} in no folder of a class, left out: {first_ten(outside)}"
    return rows, [""] * len(rows), [note] if outside else []


def _folder_roles(paths: Sequence[Sequence[str]], where: str) -> list[str]:
    """What the folders of each level are: label, with split and fold above or below it where there are such."""
    roles: list[str] = []
    for depth in count():
        role = _level_role([parts[depth] for parts in paths if len(parts) > depth + 1], where)
        if role in ("label", *roles):
            break
        roles.append(role)
    roles, depth = [*roles, "label"], len(roles) + 1
    below = _level_role([parts[depth] if parts[depth + 1 :] else "" for parts in paths if len(parts) > depth], where)
    return roles if below in roles else [*roles, below]


def _level_role(names: Iterable[str], where: str) -> str:
    """Whether the folders of one level are parts ("split"), folds or classes ("label"; "" is a file among them)."""
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


class ListedFiles:
    """The files below a folder, by the names that a table may have for them.

    Names are compared in Unicode form NFC; backslashes separate folders as slashes do; a name may lack the suffix of
    its sound. A bare file name may lie in any folder below, unless it is the end of another of the `listed` names; a
    name with a folder is never looked for elsewhere.
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
        inside = source is not None and source.is_relative_to(self.folder) and ".." not in source.parts
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


def listed_sounds(table: Path, found: AudioFiles, wanted: Mapping[str, str | None], allow_missing: bool) -> Listed:
    """The rows of a CSV with their files."""
    content = read_csv(table)
    columns = find_columns(content.columns, wanted, str(table))
    records = [(line, {role: cells[name] for role, name in columns.items()}) for line, cells in content.records]
    files = ListedFiles(found, [record["audio"] for _, record in records])
    several = clean_text(columns["label"]).lower() == "labels" and any(";" in record["label"] for _, record in records)
    numbered, problems = list[tuple[int, Row]](), list[UserError]()
    for line, record in records:
        try:
            numbered.append((line, _row(record, files, several, f"{table}, line {line}")))
        except UserError as error:
            problems.append(error)
    numbered = _as_segments(numbered, table, problems)
    refuse(problems or ([] if numbered else [UserError("the table lists no sounds", str(table))]))
    rows = [row for _, row in numbered if row["source"]]
    missing = [row["path"] for _, row in numbered if not row["source"]]
    if missing and not (allow_missing and rows):
        what = f"every row needs its file, {len(missing):,} of {len(numbered):,} have none: {first_ten(missing)}"
        near = files.nearest(missing[0])
        fix = f"did you mean {near}?" if near else "copy them there, or do without them: --allow_missing_files"
        raise UserError(what, str(table), fix)
    left_out = [f"{len(missing):,} of {len(numbered):,} listed sounds have no file and are left out"] if missing else []
    places = [f"{table}, line {line}" for line, row in numbered if row["source"]]
    return rows, places, left_out + found.unlisted((row["source"] for row in rows), table.name)


def _row(record: Mapping[str, str], files: ListedFiles, several: bool, where: str) -> Row:
    """One line, with `several` labels separated by semicolons; its source is None where the file is missing."""
    name, text = record["audio"], record["label"]
    if not name or not (text or several):
        what = f"{name} has no label" if name else f"the line names no file (its label: {text!r})"
        raise UserError(what, where, "complete the line, or take it out")
    label = list(filter(None, map(clean_text, text.split(";")))) if several else text
    source = files.find(name, where)
    row: Row = {"source": str(source) if source else None, "path": files.name(source) or name, "label": label}
    row |= {role: READERS[role](record[role], where) for role in ("fold", "group", "split") if role in record}
    if {"start", "end"} <= record.keys():
        row |= {role: seconds(record[role], role, where) for role in ("start", "end")}
        if None not in (row["start"], row["end"]) and row["end"] <= row["start"]:
            raise UserError(f"{name} ends at {row['end']} s, before it starts at {row['start']} s", where)
    return row


def _as_segments(numbered: list[tuple[int, Row]], table: Path, problems: list[UserError]) -> list[tuple[int, Row]]:
    """The rows as segments of their files, in one group, where a file has several lines; each needs its own times."""
    by_file: dict[str, list[tuple[int, Row]]] = defaultdict(list)
    for line, row in numbered:
        by_file[os.path.normpath(row["source"] or row["path"])].append((line, row))
    for same in by_file.values():
        times = {(row.get("start"), row.get("end")) for _, row in same}
        if len(same) > 1 and (len(times) < len(same) or any(None in each for each in times)):
            where = f"{table}, lines {', '.join(str(line) for line, _ in same)}"
            fix = "list it once, with its folder; or give each line a start and an end of its own"
            problems.append(UserError(f"{same[0][1]['path']} is listed {len(same)} times", where, fix))
    if len(by_file) == len(numbered):
        return numbered
    cut = []
    for line, row in numbered:
        segment = (row.get("start"), row.get("end"))
        cut.append((line, {"group": row["path"]} | row | ({} if None in segment else {"segment": segment})))
    return cut
