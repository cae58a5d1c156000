"""Model inputs of a data set: the cached `map` step, its rows read in batches, and the batch collators."""

import inspect
import math
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from urbansound_hf import progress
from urbansound_hf.audio.io import load_audio
from urbansound_hf.features.extract import (
    KEPT,
    Cut,
    FeatureExtractor,
    Features,
    as_tensors,
    cut_clip,
    equal_shapes,
    extract,
    extract_or_refuse,
)

FROZEN = "frozen"  # the stored output of a model's frozen part, see `models.adapt`
AT_ONCE = 256  # clips that are copied to the device together


def prepare_features(
    dataset: datasets.Dataset, feature_extractor: FeatureExtractor, cut: Cut, num_proc: int | None = None
) -> datasets.Dataset:
    """The cached, multi-process `map` step from clips to model inputs, a row for each window.

    Of rows with `audio` (float WAV bytes at the extractor's rate) and `label`, gives the extractor's outputs, `labels`
    (a class id or, of several labels, 0 or 1 for each class) and `clip` (the clip's row in `dataset`), as numpy arrays.
    Raises AudioError if a clip is too short for the extractor or the model.
    """
    label = dataset.features["label"]
    classes = label.feature.num_classes if isinstance(label, datasets.List) else 0
    code = source_code(extract, type(feature_extractor))
    prepared = progress.mapped(
        dataset,
        _extract_rows,
        with_indices=True,
        with_rank=True,
        batched=True,
        writer_batch_size=64,
        num_proc=num_proc,
        remove_columns=dataset.column_names,
        features=_schema(extract(feature_extractor, np.zeros(cut.window, np.float32)), classes),
        fn_kwargs={"feature_extractor": feature_extractor, "cut": cut, "classes": classes, "code": code},
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


def _lists(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The nested lists as which `datasets.Array2D` and its like are stored; other columns as they are."""
    chunks = [getattr(chunk, "storage", chunk) for chunk in column.chunks]
    return pa.chunked_array(chunks, getattr(column.type, "storage_type", column.type))


def _array(cell: pa.ListScalar) -> np.ndarray:
    """The array, list or nested list of one row: a view of the table's memory, read-only."""
    values, shape = cell.values, list[int]()
    while isinstance(values, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        shape.append(len(values) // math.prod(shape))
        values = values.flatten()
    return values.to_numpy(zero_copy_only=False).reshape(*shape, -1)


class PreparedClips(torch.utils.data.Dataset):
    """The rows of `prepare_features` or `linear_probe.embeddings`, without a copy, and faster than by `datasets`.

    With `frozen`, a tensor each, they have the stored output of a model's frozen part too, see `models.adapt`.
    """

    def __init__(self, prepared: datasets.Dataset, frozen: Sequence[torch.Tensor] | None = None) -> None:
        self.prepared, self.frozen = prepared, frozen
        table, indices = prepared.data, prepared._indices
        self.rows = np.arange(len(table)) if indices is None else indices.column(0).to_numpy()
        self.kept = {name: np.array(list(table.column(name).to_numpy()))[self.rows] for name in KEPT}
        self.columns = {name: _lists(table.column(name)) for name in prepared.column_names if name not in KEPT}

    def __reduce__(self) -> tuple[Any, ...]:
        return PreparedClips, (self.prepared, self.frozen)  # a worker that is not forked maps the file itself

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The model inputs of one row, and its `labels` and `clip`."""
        row = int(self.rows[index])
        inputs = {name: _array(column[row]) for name, column in self.columns.items()}
        stored = {} if self.frozen is None else {FROZEN: self.frozen[index]}
        return {**inputs, **{name: values[index] for name, values in self.kept.items()}, **stored}

    def by_size(self) -> list[int]:
        """The indices of all rows, the longest first, rows of equal length in their order."""
        sizes = pc.list_value_length(next(iter(self.columns.values()))).to_numpy()[self.rows]
        return np.argsort(-sizes, kind="stable").tolist()

    def nbytes(self) -> int:
        """The memory that the inputs of all rows take."""
        return len(self) * sum(_array(column[int(self.rows[0])]).nbytes for column in self.columns.values())


def readable(dataset: Any) -> Any:
    """The data set as Trainer's data loaders read it."""
    return PreparedClips(dataset) if isinstance(dataset, datasets.Dataset) else dataset


class OnDevice(torch.utils.data.Dataset):
    """Rows of one shape as tensors on a device, where each batch is gathered."""

    def __init__(self, clips: PreparedClips, device: torch.device) -> None:
        self.device, self.tensors = device, dict[str, torch.Tensor]()
        for first in range(0, len(clips), AT_ONCE):
            rows = range(first, min(first + AT_ONCE, len(clips)))
            for name, values in collate_training([clips[row] for row in rows]).items():
                whole = self.tensors.setdefault(name, values.new_empty((len(clips), *values.shape[1:]), device=device))
                whole[first : first + len(values)] = values.to(device)

    def __len__(self) -> int:
        return len(self.tensors["labels"])

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """A batch, as `collate_training` makes it."""
        chosen = torch.tensor(indices)
        if self.device.type == "cuda":
            chosen = chosen.pin_memory().to(self.device, non_blocking=True)
        return {name: values[chosen] for name, values in self.tensors.items()}


def collate_training(rows: list[dict[str, Any]] | dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A training batch: inputs `(batch, …)` of one shape each; `labels` `(batch,)`, or `(batch, classes)`."""
    if isinstance(rows, dict):  # a batch already
        return rows
    ((_, batch),) = equal_shapes(map(_inputs, rows))
    labels = torch.from_numpy(np.stack([row["labels"] for row in rows]))
    return {**as_tensors(batch), "labels": labels, **_stored(rows)}


def collate_evaluation(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """An evaluation batch: `labels`, `clip` `(batch,)`, and `groups` of equal shape with their `positions`."""
    groups = list(equal_shapes(map(_inputs, rows)))
    return {
        "labels": torch.from_numpy(np.stack([row["labels"] for row in rows])),
        "clip": torch.tensor([int(row["clip"]) for row in rows]),
        "positions": [torch.tensor(positions) for positions, _ in groups],
        "groups": [as_tensors(batch) | _stored([rows[i] for i in positions]) for positions, batch in groups],
    }


def _inputs(row: dict[str, Any]) -> Features:
    return {name: values for name, values in row.items() if name not in (*KEPT, FROZEN)}


def _stored(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {FROZEN: torch.stack([row[FROZEN] for row in rows])} if FROZEN in rows[0] else {}
