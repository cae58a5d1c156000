"""Any labelled sounds as one kind of table: UrbanSound8K, the synthetic set, a folder, or a data set on the Hub."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

import datasets

from urbansound_hf import synthetic, tables
from urbansound_hf.audio import SAMPLING_RATE
from urbansound_hf.errors import UserError
from urbansound_hf.prepare import PreparedSounds, fingerprints, sound_features
from urbansound_hf.stored import is_stored, read_stored
from urbansound_hf.urbansound8k import UrbanSound8K, find_root

NAMED = ("urbansound8k", "synthetic")
SYNTHETIC_NOTE = "synthetic sounds: these scores say nothing about real ones"


@dataclass(frozen=True)
class SoundRequest:
    """Which sounds, and how to read them; `tables.COLUMN_NAMES` says how columns are found unless they are named."""

    dataset: str = "urbansound8k"  # or synthetic, a folder, a Hub id
    data_dir: str | None = None  # where UrbanSound8K lies or goes
    dataset_config: str | None = None  # of a Hub data set
    dataset_revision: str | None = None  # of a Hub data set
    audio_column: str | None = None
    label_column: str | None = None
    allow_missing_files: bool = False
    sampling_rate: int = SAMPLING_RATE  # Hz
    num_proc: int | None = None  # processes that decode; default: one a core
    seed: int = 0  # of the synthetic set


@dataclass(frozen=True)
class Sounds:
    """Labelled sounds, decoded.

    `dataset` has the columns `audio` (`{"bytes": a 16-bit WAV, "path": its name in the data}`) and `label`, and,
    where the data has them, `fold`, `group` (the recording or speaker) and `split` (train, validation, test).
    """

    name: str
    dataset: datasets.Dataset
    labels: list[str]
    notes: list[str]  # what every score from these sounds must say
    fingerprint: str  # identifies the data, not where it lies


def load_sounds(request: SoundRequest) -> Sounds:
    """Finds, checks and decodes the sounds; a second call with nothing changed decodes nothing.

    Raises:
        UserError: there are no such data, or they are not what they should be.
    """
    folder = Path(request.dataset).expanduser()
    if request.dataset == "urbansound8k":
        return _urbansound8k(request, Path(request.data_dir or "data"))
    if request.dataset == "synthetic":
        return _synthetic(request)
    if folder.is_dir() and find_root(folder):
        return _urbansound8k(request, folder)
    if folder.is_dir() and not is_stored(folder):
        return _folder(request, folder)
    _refuse_typos(request.dataset, folder)
    return _stored(request)


def _urbansound8k(request: SoundRequest, data_dir: Path) -> Sounds:
    builder = UrbanSound8K(data_dir, request.sampling_rate, request.allow_missing_files)
    return _loaded(builder, "UrbanSound8K", builder.notes, builder.fingerprint, request)


def _synthetic(request: SoundRequest) -> Sounds:
    root = Path(datasets.config.HF_DATASETS_CACHE) / f"urbansound_synthetic_seed{request.seed}"
    builder = UrbanSound8K(synthetic.write(root, seed=request.seed), request.sampling_rate)
    return _loaded(builder, "synthetic", [SYNTHETIC_NOTE], builder.fingerprint, request)


def _refuse_typos(name: str, folder: Path) -> None:
    """What looks like a path or nearly like a name of ours is not asked of the Hub."""
    near = difflib.get_close_matches(name.lower(), NAMED, n=1, cutoff=0.8)
    if not folder.is_dir() and (near or name.startswith((".", "/", "~")) or name.count("/") > 1):
        fix = f"did you mean {near[0]}?" if near else "give urbansound8k, synthetic, a folder or a Hub id"
        raise UserError(f"there is no folder {name}", "--dataset", fix)


def _folder(request: SoundRequest, folder: Path) -> Sounds:
    rows, notes = tables.read_folder(folder, request.audio_column, request.label_column, request.allow_missing_files)
    names, ids = tables.encode([row["label"] for row in rows])
    rows = [row | {"label": label} for row, label in zip(rows, ids, strict=True)]
    fingerprint, key = fingerprints(rows, names)
    features = sound_features(names, tables.columns_of(rows), request.sampling_rate)
    name = folder.resolve().name
    builder = PreparedSounds(rows, features, key, name, request.sampling_rate)
    return _loaded(builder, name, notes, fingerprint, request)


def _stored(request: SoundRequest) -> Sounds:
    found = read_stored(
        request.dataset, request.dataset_config, request.dataset_revision, request.audio_column, request.label_column
    )
    features = sound_features(found.labels, tables.columns_of([found.rows.columns]), request.sampling_rate)
    name = Path(request.dataset).name if Path(request.dataset).is_dir() else request.dataset
    builder = PreparedSounds(found.rows, features, found.fingerprint, name, request.sampling_rate)
    return _loaded(builder, name, found.notes, found.fingerprint, request)


def _loaded(builder: PreparedSounds, name: str, notes: list[str], fingerprint: str, request: SoundRequest) -> Sounds:
    labels = builder.info.features["label"].names
    if len(labels) < 2:
        raise UserError(
            f"a classifier tells classes apart, found {len(labels)}: {', '.join(labels)}", name, "bring another"
        )
    dataset = builder.load(request.num_proc)
    return Sounds(name, dataset, dataset.features["label"].names, notes, fingerprint)
