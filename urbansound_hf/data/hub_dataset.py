"""Labelled sounds that are already a data set: on the Hub, as Parquet in a folder, or written by `save_to_disk`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from huggingface_hub.errors import HFValidationError

from urbansound_hf import progress
from urbansound_hf.data.builder import Row
from urbansound_hf.data.columns import encode, find_column, find_columns, split_name
from urbansound_hf.errors import UserError

EXPORT = "refs/convert/parquet"  # the branch where the Hub keeps Parquet copies of data sets that were once scripts


@dataclass(frozen=True)
class StoredRows:
    """Rows whose sounds stay in the memory-mapped data set until they are asked for."""

    sounds: datasets.Dataset  # one column, "audio", not decoded
    columns: Mapping[str, Sequence[Any]]

    def __len__(self) -> int:
        return len(self.sounds)

    def __getitem__(self, part: slice, /) -> list[Row]:
        numbers = range(*part.indices(len(self)))
        return [
            {
                "source": sound["bytes"] or sound["path"] or "",
                "path": sound["path"] or f"row {number}",
                **{name: values[number] for name, values in self.columns.items()},
            }
            for number, sound in zip(numbers, self.sounds[part]["audio"], strict=True)
        ]


@dataclass(frozen=True)
class Stored:
    """A stored data set, read as far as its labels."""

    rows: StoredRows
    labels: list[str]
    notes: list[str]
    key: str  # changes with the source


def is_stored(folder: Path) -> bool:
    """Whether a folder holds a data set as Parquet or as `save_to_disk` writes it."""
    return _on_disk(folder) or any(folder.rglob("*.parquet"))


def read_stored(
    name: str,
    config: str | None = None,
    revision: str | None = None,
    audio_column: str | None = None,
    label_column: str | None = None,
) -> Stored:
    """Finds the sounds of a stored data set, their labels, and, where it has them, folds, groups and splits.

    Args:
        name: a Hub id or a folder.
        config: which configuration of it; with the revision `refs/convert/parquet`, the folder of that branch.
        revision: branch, tag or commit on the Hub.
        audio_column: default: the one typed `Audio`, or found by its name.
        label_column: default: found by its name, or the only one typed `ClassLabel`.

    Raises:
        UserError: there is no such data set, it cannot be read, or its columns or splits are not what they must be.
    """
    where = f"--dataset {name}"
    parts = _parts(name, config, revision, where)
    first = next(iter(parts.values()))
    present = [column for column in first.column_names if all(column in part.column_names for part in parts.values())]
    wanted = {"audio": audio_column or _only(first, datasets.Audio), "label": label_column}
    if not label_column and not find_column(present, "label"):
        wanted["label"] = _only(first, datasets.ClassLabel)
    roles = find_columns(present, wanted, where)
    used = list(dict.fromkeys(roles.values()))  # one column may be asked for in two roles
    table = datasets.concatenate_datasets([part.select_columns(used) for part in parts.values()])
    labels, ids = _labels(table, roles["label"], where)
    columns = {"label": ids, **_optional(table, roles, parts, where)}
    kept = [number for number, label in enumerate(ids) if label is not None]
    notes = [f"{len(ids) - len(kept):,} of {len(ids):,} sounds have no label and are left out"]
    rows = StoredRows(
        _sounds(table, roles["audio"], where).select(kept),
        {name: [values[number] for number in kept] for name, values in columns.items()},
    )
    state = repr((roles, labels, rows.columns, [part._fingerprint for part in parts.values()]))
    key = hashlib.sha256(state.encode()).hexdigest()[:16]
    return Stored(rows, labels, notes * (len(kept) < len(ids)), key)


def _on_disk(folder: Path) -> bool:
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _parts(name: str, config: str | None, revision: str | None, where: str) -> dict[str, datasets.Dataset]:
    """The splits of the data set. Raises UserError, with the way out, for whatever stops `datasets`."""
    try:
        with progress.library_bars():
            if _on_disk(Path(name)):
                found = datasets.load_from_disk(name)
            elif revision == EXPORT:  # that branch has no card, so its configurations are only folders
                found = datasets.load_dataset(name, data_dir=config, revision=revision)
            else:
                found = datasets.load_dataset(name, config, revision=revision)
    except (DatasetsError, HFValidationError, OSError, ValueError, RuntimeError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(f"the data set cannot be read: {reason}", where, _way_out(name, error, reason)) from None
    return dict(found) if isinstance(found, datasets.DatasetDict) else {"train": found}


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


def _only(table: datasets.Dataset, kind: type) -> str | None:
    """The only column of a kind, or None."""
    columns = [name for name, feature in table.features.items() if isinstance(feature, kind)]
    return columns[0] if len(columns) == 1 else None


def _sounds(table: datasets.Dataset, column: str, where: str) -> datasets.Dataset:
    try:
        sounds = table.select_columns([column]).cast_column(column, datasets.Audio(decode=False))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, TypeError):
        kinds = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in table.features.items())
        raise UserError(f"the column {column} holds no audio; there are {kinds}", where, "--audio_column") from None
    return sounds if column == "audio" else sounds.rename_column(column, "audio")


def _values(table: datasets.Dataset, column: str) -> list[Any]:
    return table.select_columns([column])[:][column]


def _labels(table: datasets.Dataset, column: str, where: str) -> tuple[list[str], list[int | None]]:
    """The classes, and the class id of every sound; None for a sound without a label (null, or -1 as on the Hub)."""
    feature, values = table.features[column], _values(table, column)
    if isinstance(feature, datasets.ClassLabel):
        return feature.names, [value if value is not None and value >= 0 else None for value in values]
    if not isinstance(feature, datasets.Value) or feature.dtype.startswith(("float", "double")):
        raise UserError(f"a label is one class; the column {column} holds {feature}", where, "--label_column")
    names, _ = encode([str(value) for value in values if value is not None])
    ids = {name: position for position, name in enumerate(names)}
    return names, [ids[str(value)] if value is not None else None for value in values]


def _optional(
    table: datasets.Dataset, roles: Mapping[str, str], parts: Mapping[str, datasets.Dataset], where: str
) -> dict[str, list]:
    """The columns fold, group and split; the data set's own splits count before a column that names some."""
    columns: dict[str, list] = {role: _values(table, roles[role]) for role in ("fold", "group") if role in roles}
    if "group" in columns:
        columns["group"] = ["" if value is None else str(value).strip() for value in columns["group"]]
    if "fold" in columns:
        try:
            columns["fold"] = [int(value) for value in columns["fold"]]
        except (TypeError, ValueError) as error:
            raise UserError(f"fold is a whole number ({error})", f"{where}, column {roles['fold']}") from None
    if len(parts) > 1:
        columns["split"] = [split_name(name, where) for name, part in parts.items() for _ in range(len(part))]
    elif "split" in roles:
        columns["split"] = [split_name(str(name), where) for name in _values(table, roles["split"])]
    return columns
