"""Model inputs of a data set: the cached `map` step."""

from __future__ import annotations

import inspect
from typing import Any

import datasets
import numpy as np
import torch

from urbansound_hf import progress
from urbansound_hf.audio.io import load_audio
from urbansound_hf.features.extract import Cut, FeatureExtractor, Features, cut_clip, extract, extract_or_refuse


def prepare_features(
    dataset: datasets.Dataset,
    feature_extractor: FeatureExtractor,
    clip_seconds: float,
    filled: str = "none",
    num_proc: int | None = None,
    shortest_samples: int = 1,
    shifts: int = 0,
) -> datasets.Dataset:
    """The cached, multi-process `map` step from clips to model inputs.

    Args:
        dataset: rows with `audio` (float WAV bytes at the extractor's rate) and `label`.
        clip_seconds: window; a longer clip becomes several rows, one every half window, as serving cuts it.
        filled: how short clips are brought to the window (see `fill`), for training batches of one shape.
        num_proc: processes (default: `progress.worker_count()`).
        shortest_samples: fewest samples that the model accepts (`Lengths.shortest_samples`).
        shifts: number of further rows for each window, of the sound shifted in a circle.

    Returns:
        Rows of the extractor's outputs plus `labels` (a class id or, of several labels, 0 or 1 for each class) and
        `clip` (the clip's row in `dataset`), as numpy arrays.

    Raises:
        AudioError: a clip is too short for the extractor or the model.
    """
    window = round(clip_seconds * feature_extractor.sampling_rate)
    label = dataset.features["label"]
    classes = label.feature.num_classes if isinstance(label, datasets.List) else 0
    options = {
        "feature_extractor": feature_extractor,
        "cut": Cut(window, filled, shifts, shortest_samples),
        "classes": classes,
        "code": source_code(extract, type(feature_extractor)),
    }
    prepared = progress.mapped(
        dataset,
        _extract_rows,
        with_indices=True,
        with_rank=True,
        batched=True,
        writer_batch_size=64,
        num_proc=num_proc,
        remove_columns=dataset.column_names,
        features=_schema(extract(feature_extractor, np.zeros(window, np.float32)), classes),
        fn_kwargs=options,
        desc="Extracting features",
    )
    return prepared.with_format("numpy")


def source_code(*objects: Any) -> str:
    """Source of the modules of functions and classes, for the cache's key, which has only their names otherwise."""
    return "".join(inspect.getsource(module) for module in map(inspect.getmodule, objects) if module)


def _extract_rows(
    batch: dict[str, list],
    indices: list[int],
    rank: int | None,
    feature_extractor: FeatureExtractor,
    cut: Cut,
    classes: int,
    code: str,  # is not used here: it makes edited code extract anew
) -> dict[str, list]:
    if rank is not None:  # one of several forked processes: OpenMP's threads did not survive the fork, and would hang
        torch.set_num_threads(1)
    rows: dict[str, list] = {"labels": [], "clip": []}
    for clip, label, index in zip(batch["audio"], batch["label"], indices, strict=True):
        waveform = load_audio(clip["bytes"], feature_extractor.sampling_rate, name=clip["path"])
        for window in cut_clip(waveform, cut):
            rows["labels"].append(np.isin(range(classes), label).astype(np.float32) if classes else label)
            rows["clip"].append(index)
            for name, values in extract_or_refuse(feature_extractor, window, clip["path"], cut.shortest).items():
                rows.setdefault(name, []).append(values)
    return rows


def _schema(example: Features, classes: int) -> datasets.Features:
    label = datasets.List(datasets.Value("float32"), length=classes) if classes else datasets.Value("int64")
    columns: dict[str, Any] = {"labels": label, "clip": datasets.Value("int64")}
    for name, values in example.items():
        dtype = str(values.dtype)
        array = {2: datasets.Array2D, 3: datasets.Array3D}.get(values.ndim)
        columns[name] = array((None, *values.shape[1:]), dtype) if array else datasets.List(datasets.Value(dtype))
    return datasets.Features(columns)
