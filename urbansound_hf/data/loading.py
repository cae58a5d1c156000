"""Loads labelled sounds of any source, decoded once and kept in the cache of `datasets`."""

import difflib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np

from urbansound_hf.audio.io import SAMPLING_RATE, Limits
from urbansound_hf.data import synthetic
from urbansound_hf.data.builder import PreparedSounds, Row, SoundRequest, cache_key, digest, one_label, sound_features
from urbansound_hf.data.columns import columns_of, encode, mapped_labels, read_label_map
from urbansound_hf.data.folder import read_folder
from urbansound_hf.data.hub_dataset import is_stored, read_stored
from urbansound_hf.data.known import KNOWN, KnownDataset
from urbansound_hf.data.segments import named_segments
from urbansound_hf.data.shards import read_shards
from urbansound_hf.data.urbansound8k import UrbanSound8K, find_root
from urbansound_hf.errors import UserError
from urbansound_hf.layout import expand_user
from urbansound_hf.text import first_ten


def load_urbansound8k(
    data_dir: str | Path | None = None,
    sampling_rate: int = SAMPLING_RATE,
    allow_missing_files: bool = False,
    num_proc: int | None = None,
    download: bool = False,
) -> datasets.Dataset:
    """UrbanSound8K as a `datasets` table, ready for `load_audio(row["audio"]["bytes"])`.

    Columns: `audio`, `label` (the data set's own classID), `fold`, `group` (the recording), `fsID`, `class`,
    `salience` (1 foreground, 2 background), `start` and `end` in the recording (seconds). Without `data_dir`, the data
    set is searched in `data` and downloaded there (about 6 GB, from Zenodo) if it is missing; a `data_dir` that is
    given must hold it, unless `download` is true.

    Raises:
        UserError: as `UrbanSound8K`.

    Examples:
        >>> dataset = ush.load_urbansound8k("sounds")
        >>> len(dataset), ush.load_audio(dataset[0]["audio"]["bytes"]).dtype
        (100, dtype('float32'))
    """
    return UrbanSound8K(data_dir, sampling_rate, allow_missing_files, download=download).load(num_proc)


NAMED = ("urbansound8k", "synthetic")
SYNTHETIC_NOTE = "synthetic sounds: these scores say nothing about real ones"


@dataclass(frozen=True)
class Sounds:
    """Labelled sounds, decoded: what `load_sounds` returns.

    `dataset` has the columns `audio` (`{"bytes": a float WAV, "path": its name in the data}`) and `label`, and,
    where the data has them, `fold`, `group` (the recording or speaker) and `split` (train, validation, test). A label
    is a position in `labels`; of sounds with several labels, a list of positions.

    Examples:
        >>> sounds = ush.load_sounds("sounds")
        >>> isinstance(sounds, ush.Sounds), sounds.labels[sounds.dataset[0]["label"]], sounds.notes[0].partition(";")[0]
        (True, 'air_conditioner', 'subset: 100 of 8,732 official clips (folds 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)')
    """

    name: str
    dataset: datasets.Dataset
    labels: list[str]
    notes: list[str]  # what every score from these sounds must say
    fingerprint: str  # identifies what was prepared: labels, columns, names and samples
    known: KnownDataset | None = None  # the public data set that was recognised

    @property
    def multi_label(self) -> bool:
        """Whether a sound may have several labels, or none."""
        return isinstance(self.dataset.features["label"], datasets.List)

    @cached_property
    def targets(self) -> np.ndarray:
        """The class id of every sound, `(sounds,)` int64; with several labels, `(sounds, classes)` of 0 and 1."""
        ids, classes = self.dataset["label"][:], range(len(self.labels))
        return np.array([np.isin(classes, each) for each in ids] if self.multi_label else ids, np.int64)


def load_sounds(dataset: str | Path | SoundRequest = "urbansound8k", **options: Any) -> Sounds:
    """Labelled sounds of any source, checked and decoded; a second call with nothing changed decodes nothing.

    Args:
        dataset: a folder (classes as folders, or with a metadata CSV), the folder of UrbanSound8K, a Hub id,
            "urbansound8k" or "synthetic"; or a `SoundRequest`, which holds all options.
        options: the other fields of `SoundRequest`, such as `label_column` or `sampling_rate` in Hz.

    Raises:
        UserError: the data do not exist, cannot be read, or contradict themselves.

    Examples:
        >>> sounds = ush.load_sounds("sounds")
        >>> len(sounds.dataset), sounds.labels[3], sounds.dataset.column_names[:4]
        (100, 'dog_bark', ['audio', 'label', 'fold', 'group'])
    """
    request = dataset if isinstance(dataset, SoundRequest) else SoundRequest(str(dataset), **options)
    if request.streaming:
        name = request.dataset.rstrip("/").rpartition("/")[2]
        table, labels, notes, key = read_shards(request)
        new = _new_labels(table.features["label"], name, request)
        return _relabelled(Sounds(name, table, labels, notes, key), new, request)
    builder = find_builder(request)
    feature = builder.info.features["label"]
    new = _new_labels(feature, builder.title, request)  # a mistake there is reported before an hour of decoding
    builder.limits = Limits(request.min_rate, request.max_seconds)
    table, notes = builder.load(request.num_proc), builder.notes + builder.sound_notes()
    sounds = Sounds(builder.title, table, one_label(feature).names, notes, builder.fingerprint(), builder.known)
    return _relabelled(sounds, new, request)


def find_builder(request: SoundRequest) -> PreparedSounds:
    """Lists the sounds of a data set; nothing is decoded yet. Raises UserError as `load_sounds`."""
    folder, kind = expand_user(request.dataset), kind_of_dataset(request.dataset)
    if kind == "urbansound8k":
        data_dir = Path(request.data_dir) if request.data_dir else None
        named = data_dir if request.dataset == kind else folder
        return UrbanSound8K(named, request.sampling_rate, request.allow_missing_files, download=request.download)
    if kind == "synthetic":
        root = Path(datasets.config.HF_DATASETS_CACHE) / f"urbansound_synthetic_seed{request.seed}"
        builder = UrbanSound8K(synthetic.synthetic_dataset(root, seed=request.seed), request.sampling_rate)
        builder.title, builder.notes = "synthetic", [SYNTHETIC_NOTE]
        return builder
    if kind == "stored" or not folder.is_dir():
        return _stored(request, folder)
    for known in KNOWN:
        if known_root := known.root(folder):
            name = known.title(request.dataset_variant or "")
            rows, notes = known.read(known_root, request)
            builder = _prepared(request, named_segments(rows), name, notes)
            builder.known = known
            return builder
    rows, notes = read_folder(folder, request)
    return _prepared(request, rows, folder.resolve().name, notes)


def kind_of_dataset(name: str) -> Literal["urbansound8k", "synthetic", "folder", "stored"]:
    """How a data set is read: "stored" are Hub ids and folders of Parquet or `save_to_disk`, "folder" any other one."""
    folder = expand_user(name)
    if name in NAMED:
        return "synthetic" if name == "synthetic" else "urbansound8k"
    if folder.is_dir() and find_root(folder, around=False):
        return "urbansound8k"
    return "folder" if not is_stored(folder) and (folder.is_dir() or is_path(name)) else "stored"


def is_path(name: str) -> bool:
    """Whether the name of a data set cannot be a Hub id."""
    return name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1


def _prepared(request: SoundRequest, rows: list[Row], name: str, notes: list[str]) -> PreparedSounds:
    texts = (str(row[column]) for row in rows for column in ("label", "path"))
    # Python reads UTF-8 names in an ASCII locale as surrogates, which no encoding has.
    if odd := next((text for text in texts if text != text.encode("utf-8", "ignore").decode("utf-8")), ""):
        fix = "set PYTHONUTF8=1 or LANG=C.UTF-8, or rename the file"
        raise UserError(f"the name is not text in this locale: {odd!r}", "--dataset", fix)
    names, ids = encode([row["label"] for row in rows])
    rows = [row | {"label": label} for row, label in zip(rows, ids, strict=True)]
    features = sound_features(names, columns_of(rows), request.sampling_rate, isinstance(ids[0], list))
    return PreparedSounds(rows, features, cache_key(rows, names), name, notes)


def _stored(request: SoundRequest, folder: Path) -> PreparedSounds:
    source = name = request.dataset
    near = difflib.get_close_matches(name.lower(), NAMED, n=1, cutoff=0.8)
    if folder.is_dir():
        source, name = str(folder.absolute()), folder.resolve().name
    elif near or is_path(name):  # the Hub need not be asked
        fix = f"did you mean {near[0]}?" if near else "give urbansound8k, synthetic, a folder or a Hub id"
        raise UserError(f"there is no folder {name}", "--dataset", fix)
    rows, labels, notes, key = read_stored(source, request)
    several = any(isinstance(label, list) for label in rows.columns["label"][:1])
    features = sound_features(labels, columns_of([rows.columns]), request.sampling_rate, several)
    return PreparedSounds(rows, features, key, name, notes)


def _new_labels(feature: Any, name: str, request: SoundRequest) -> list[str | None]:
    """The new name of each label, None where `--label_map` drops it."""
    labels = one_label(feature).names
    if one_label(feature) is not feature and (odd := [each for each in labels if ";" in each]):
        what = "the labels of a sound are separated by ; in predictions.csv, and these names have one"
        raise UserError(f"{what}: {first_ten(odd)}", name, "rename them")
    new = mapped_labels(labels, read_label_map(request.label_map), f"--label_map {request.label_map}")
    left = list(dict.fromkeys(label for label in new if label is not None))
    if len(left) < 2:
        what = f"a classifier tells classes apart, found {len(left)}: {', '.join(left)}"
        raise UserError(what, name, "bring another")
    return new


def _relabelled(sounds: Sounds, new: list[str | None], request: SoundRequest) -> Sounds:
    if request.label_map:
        several, dataset = sounds.multi_label, sounds.dataset
        left = list(dict.fromkeys(label for label in new if label is not None))
        ids = [None if label is None else left.index(label) for label in new]
        values: list[Any] = dataset["label"][:]
        values = [sorted({ids[i] for i in each} - {None}) if several else ids[each] for each in values]
        kept = [row for row, value in enumerate(values) if value is not None]
        feature = sound_features(left, {}, multi_label=several)["label"]
        filled = [0 if each is None else each for each in values]
        dataset = dataset.remove_columns("label").add_column("label", filled, feature=feature)
        dataset = dataset.select(kept)  # last: a column cannot be added to a selection without copying the sounds
        note = f"labels changed by {Path(request.label_map).name}: {len(kept):,} of {len(values):,} clips left"
        key = digest(sounds.fingerprint, new)
        sounds = replace(sounds, dataset=dataset, labels=left, notes=[*sounds.notes, note], fingerprint=key)
    if sounds.multi_label and (none := int((sounds.targets.sum(axis=1) == 0).sum())):
        sounds.notes.append(f"{none:,} of {len(sounds.dataset):,} sounds have none of the labels")
    return sounds
