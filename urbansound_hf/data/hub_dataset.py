"""Labelled sounds that are already a data set: on the Hub, as Parquet in a folder, or written by `save_to_disk`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from huggingface_hub.errors import HFValidationError

from urbansound_hf import progress
from urbansound_hf.audio.files import find_audio_files, is_hidden
from urbansound_hf.data.builder import DEFAULTS, Row, SoundRequest, digest, file_state, one_label
from urbansound_hf.data.columns import READERS, clean_text, encode, find_column, find_columns, split_name
from urbansound_hf.errors import UserError
from urbansound_hf.text import counted, first_ten

EXPORT = "refs/convert/parquet"  # the branch where the Hub keeps Parquet copies of data sets that were once scripts


@dataclass(frozen=True)
class StoredRows:
    """Rows whose sounds stay in the memory-mapped data set until they are asked for."""

    sounds: datasets.Dataset  # one column, "audio", not decoded
    names: Sequence[str]  # of the sounds, each once
    columns: Mapping[str, Sequence[Any]]

    def __len__(self) -> int:
        return len(self.sounds)

    def __getitem__(self, part: slice, /) -> list[Row]:
        sources = [sound["bytes"] or sound["path"] or "" for sound in self.sounds[part]["audio"]]
        cells = zip(sources, self.names[part], *(values[part] for values in self.columns.values()), strict=True)
        return [dict(zip(("source", "path", *self.columns), row, strict=True)) for row in cells]


class Part(NamedTuple):
    """A split of a data set, or a file of one, with features of its own: class ids are positions in its own names."""

    split: str
    table: datasets.Dataset

    def texts(self, column: str, where: str) -> list[Any]:
        """The cleaned text of each cell (or list), class names for ids; None for null, blank, and -1 as on the Hub."""
        feature, cells = self.table.features[column], self.table.select_columns([column])[:][column]
        names = [clean_text(name) for name in _names(feature) or ()]

        def text(value: Any) -> str | None:
            if value is None or not names:
                return None if value is None else clean_text(value) or None
            if value >= len(names):
                raise UserError(f"the column {column} has a class id beyond its {len(names)} classes", where)
            return names[value] if value >= 0 else None

        if one_label(feature) is feature:
            return [text(cell) for cell in cells]
        return [None if cell is None else list(filter(None, map(text, cell))) for cell in cells]


def is_stored(folder: Path) -> bool:
    """Whether a folder holds a data set as Parquet or as `save_to_disk` writes it."""
    return _on_disk(folder) or bool(_parquet_files(folder))


def read_stored(name: str, request: SoundRequest = DEFAULTS) -> tuple[StoredRows, list[str], list[str], str]:
    """The sounds of a Hub id or a stored folder: rows, labels, notes, and a key that changes with the source.

    Columns that the request does not name are found by their types or names; of the revision `refs/convert/parquet`,
    the configuration is a folder. Raises UserError if the data set cannot be read, or lacks the columns or splits.
    """
    where = f"--dataset {name}"
    parts, notes = _parts(name, request.dataset_config, request.dataset_revision, where)
    if beside := find_audio_files(Path(name)).sounds if Path(name).is_dir() else []:
        notes.append(f"{counted(len(beside), 'sound file')} beside the stored data set, left out")
    roles, labels, columns = described(parts, request.audio_column, request.label_column, where, notes)
    sounds = datasets.concatenate_datasets([_sounds(part.table, roles["audio"], where) for part in parts])
    names = pyarrow.compute.struct_field(sounds.data.column("audio"), "path").to_pylist()
    kept, unique, columns = labelled(names, columns, labels, notes)
    rows = StoredRows(sounds.select(kept), unique, columns)
    source = [part.table._fingerprint for part in parts], _folder_state(Path(name))
    return rows, labels, notes, digest(roles, labels, columns, source)


def _on_disk(folder: Path) -> bool:
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _parquet_files(folder: Path) -> list[Path]:
    found = (path for path in folder.rglob("*.parquet") if path.is_file())
    return sorted(path for path in found if not any(map(is_hidden, path.relative_to(folder).parts)))


def _folder_state(folder: Path) -> list[tuple[int, ...]]:
    """What changes with the files of a stored data set; nothing for a Hub id, whose revision `datasets` knows."""
    if not folder.is_dir():
        return []
    files = sorted(folder.rglob("*.arrow")) if _on_disk(folder) else _parquet_files(folder)
    return [file_state(path) for path in [*files, *sorted(folder.glob("*.md"))]]


def _parts(name: str, config: str | None, revision: str | None, where: str) -> tuple[list[Part], list[str]]:
    """The parts, and notes. Raises UserError, with the way out, for whatever stops `datasets`."""
    try:
        with progress.library_bars():
            if _on_disk(Path(name)):
                found = datasets.load_from_disk(name)
                splits = found if isinstance(found, datasets.DatasetDict) else {"train": found}
                return [Part(str(split), table) for split, table in splits.items()], []
            return _load(name, config, revision)
    except (DatasetsError, HFValidationError, OSError, ValueError, RuntimeError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(f"the data set cannot be read: {reason}", where, _way_out(name, error, reason)) from None


def _load(name: str, config: str | None, revision: str | None) -> tuple[list[Part], list[str]]:
    """As `load_dataset`, which reads all files by the features of the first: those that disagree are read alone."""
    cache = None
    if Path(name).is_dir():  # `datasets` itself would tell local files apart only by their times of modification
        cache = str(Path(datasets.config.HF_DATASETS_CACHE) / f"stored_{digest(_folder_state(Path(name)))}")
    # The branch of the Parquet copies has no card, so its configurations are only folders.
    which = {"data_dir": config} if revision == EXPORT else {"name": config}
    builder = datasets.load_dataset_builder(name, revision=revision, cache_dir=cache, **which)
    files = _local_files(builder)
    if _agree(builder.info.features, [_file_features(path) for paths in files.values() for path in paths]):
        builder.download_and_prepare()
        parts = [Part(str(split), table) for split, table in builder.as_dataset().items()]
    else:
        parts = []
        for split, path in ((split, path) for split, paths in files.items() for path in paths):
            kind = Path(path).suffix.removeprefix(".")
            parts.append(Part(split, datasets.load_dataset(kind, data_files=[path], split="train", cache_dir=cache)))
    if not Path(name).is_dir() or not files:
        return parts, []
    used = {Path(path).resolve() for paths in files.values() for path in paths}
    left = [path.relative_to(name).as_posix() for path in _parquet_files(Path(name)) if path.resolve() not in used]
    # `datasets` leaves out files beside others whose names tell their split.
    return parts, [f"{counted(len(left), 'Parquet file')} of no split, left out: {first_ten(left)}"] if left else []


def _way_out(name: str, error: Exception, reason: str) -> str:
    if isinstance(error, (DatasetNotFoundError, HFValidationError)):
        return "give urbansound8k, synthetic, a folder that exists, or a data set's id on the Hub (owner/name)"
    if "scripts are no longer supported" in reason:
        return f"try its Parquet copy: --dataset_revision {EXPORT}"
    if "torchcodec" in reason:  # raw sound files on the Hub: `datasets` wants to encode them, we need not
        return f"hf download {name} --repo-type dataset --local-dir DIR, then --dataset DIR"
    if isinstance(error, ConnectionError):
        return "check the network (and HF_HUB_OFFLINE), or give a folder"
    return "see its page on the Hub for its configurations (--dataset_config) and revisions (--dataset_revision)"


def _local_files(builder: datasets.DatasetBuilder) -> dict[str, list[str]]:
    """The Parquet and Arrow files of each split, downloaded; nothing where `datasets` has others or its cache only."""
    named = {str(split): list(files) for split, files in (builder.config.data_files or {}).items()}
    suffixes = {Path(file).suffix for files in named.values() for file in files}
    if not suffixes or not suffixes <= {".parquet", ".arrow"}:
        return {}
    options = datasets.DownloadConfig(token=builder.token)
    manager = datasets.DownloadManager(dataset_name=builder.dataset_name, download_config=options)
    return {split: manager.download(files) for split, files in named.items()}


def _file_features(path: str) -> datasets.Features:
    if Path(path).suffix == ".arrow":
        with pa.memory_map(path) as source:
            return datasets.Features.from_arrow_schema(pa.ipc.open_stream(source).schema)
    return datasets.Features.from_arrow_schema(pyarrow.parquet.read_schema(path))


def _agree(card: datasets.Features | None, files: Sequence[datasets.Features]) -> bool:
    """Whether class ids mean the same in all files; without names of their own they are read by those of the card."""
    for column in {name for features in [card or {}, *files] for name, kind in features.items() if _names(kind)}:
        expected = _names((card or {}).get(column))
        found = {_names(features.get(column)) or expected for features in files}
        if len(found | {expected} if card else found) > 1:
            return False
    return True


def _names(feature: Any) -> tuple[str, ...] | None:
    return tuple(one_label(feature).names) if isinstance(one_label(feature), datasets.ClassLabel) else None


def described(
    parts: Sequence[Part], audio_column: str | None, label_column: str | None, where: str, notes: list[str]
) -> tuple[dict[str, str], list[str], dict[str, list]]:
    """The column of each role, the labels, and the columns of all rows: `label` and the optional ones."""
    first = parts[0].table
    present = [name for name in first.column_names if all(name in part.table.column_names for part in parts)]
    if not label_column and not find_column(present, "label"):
        label_column = _only(first, datasets.ClassLabel)
    wanted = {"audio": audio_column or _only(first, datasets.Audio), "label": label_column}
    roles = find_columns(present, wanted, where)
    labels, ids = _labels(parts, roles["label"], where, notes)
    return roles, labels, {"label": ids, **_optional(parts, roles, where)}


def labelled(
    names: Sequence[str | None], columns: Mapping[str, list], labels: Sequence[str], notes: list[str]
) -> tuple[list[int], list[str], dict[str, list]]:
    """The rows that have a label: their numbers, a name for each sound that no other has, and their columns.

    Names that repeat get their class before them, if need be their split too, or their row.
    """
    ids = columns["label"]
    kept = [number for number, label in enumerate(ids) if label is not None]
    if len(kept) < len(ids):
        notes.append(f"{len(ids) - len(kept):,} of {len(ids):,} sounds have no label and are left out")
    columns = {name: [values[number] for number in kept] for name, values in columns.items()}
    plain = [names[number] or f"row {row}" for row, number in enumerate(kept)]
    if len(set(plain)) == len(plain):
        return kept, plain, columns
    of_row = [[label] if isinstance(label, int) else label for label in columns["label"]]
    classes = [f"{'+'.join(labels[each] for each in ids)}/{name}" for ids, name in zip(of_row, plain, strict=True)]
    splits = [f"{split}/{name}" for split, name in zip(columns.get("split", classes), classes, strict=True)]
    rows = [f"{row}/{name}" for row, name in enumerate(plain)]
    unique = next(each for each in (classes, splits, rows) if len(set(each)) == len(each))
    return kept, unique, columns


def _only(table: datasets.Dataset, kind: type) -> str | None:
    columns = [name for name, feature in table.features.items() if isinstance(feature, kind)]
    return columns[0] if len(columns) == 1 else None


def _sounds(table: datasets.Dataset, column: str, where: str) -> datasets.Dataset:
    try:
        sounds = table.select_columns([column]).cast_column(column, datasets.Audio(decode=False))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, TypeError):
        kinds = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in table.features.items())
        raise UserError(f"the column {column} holds no audio; there are {kinds}", where, "--audio_column") from None
    return sounds if column == "audio" else sounds.rename_column(column, "audio")


def _labels(parts: Sequence[Part], column: str, where: str, notes: list[str]) -> tuple[list[str], list[Any]]:
    """The classes, and the class id of every sound, or its list of ids, by name in all parts; None without one."""
    features = [one_label(part.table.features[column]) for part in parts]
    kinds = {part.table.features[column] != feature for part, feature in zip(parts, features, strict=True)}
    several = True in kinds
    if len(kinds) > 1:
        raise UserError(f"the column {column} holds lists in some files or splits only", where, "store it alike in all")
    lists = [names for feature in features if (names := _names(feature))]
    for feature in features:
        if isinstance(feature, datasets.ClassLabel):
            continue
        if not isinstance(feature, datasets.Value) or feature.dtype.startswith(("float", "double")):
            raise UserError(f"a label is one class; the column {column} holds {feature}", where, "--label_column")
        if lists and "string" not in feature.dtype:
            what = f"the column {column} has class names in some files or splits, and only ids in others"
            raise UserError(what, where, "store it with the same class names everywhere")
    texts = [text for part in parts for text in part.texts(column, where)]
    if len(set(lists)) > 1:
        notes.append(f"the parts of the data list the classes of {column} differently: mapped by name")
    named = {clean_text(name): None for names in lists for name in names}  # in order, each once
    flat = texts if not several else [text for each in texts for text in each or ()]
    others, _ = encode([text for text in flat if text is not None and text not in named])
    ids = {name: number for number, name in enumerate([*named, *others])}
    numbers = ((sorted({ids[text] for text in each}) if several else ids[each]) if each else each for each in texts)
    return list(ids), list(numbers)


def _optional(parts: Sequence[Part], roles: Mapping[str, str], where: str) -> dict[str, list]:
    """The columns fold, group, split, start and end; the data set's own splits come before a column that names some."""
    columns: dict[str, list] = {}
    for role in ("fold", "group", "split"):
        if role == "split" and len({part.split for part in parts}) > 1:
            columns[role] = [split_name(part.split, where) for part in parts for _ in range(len(part.table))]
        elif role in roles:
            place, read = f"{where}, column {roles[role]}", READERS[role]
            columns[role] = [read(text or "", place) for part in parts for text in part.texts(roles[role], where)]
    times = [role for role in ("start", "end") if role in roles]
    kinds = [part.table.features[roles[role]].dtype for part in parts for role in times]
    if len(times) == 2 and all("float" in kind or "int" in kind for kind in kinds):
        columns |= {role: [value for part in parts for value in part.table[roles[role]]] for role in times}
    return columns
