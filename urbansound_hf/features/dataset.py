"""Model inputs of a data set: the cached `map` step, its rows read in batches, and the batch collators."""

import inspect
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
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


class Column:
    """A column of arrays, lists or nested lists of a table; each is a view of the table's memory, read-only."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.chunks = [_flat(chunk) for chunk in column.chunks]
        self.first = np.cumsum([0, *map(len, column.chunks)])  # row of each chunk

    def __getitem__(self, row: int) -> np.ndarray:
        chunk = int(np.searchsorted(self.first, row, side="right")) - 1
        values, starts, shape = self.chunks[chunk]
        row -= int(self.first[chunk])
        return values[starts[row] : starts[row + 1]].reshape(-1, *shape)

    def sizes(self) -> np.ndarray:
        """The numbers in each row's array: `(rows,)`."""
        return np.concatenate([np.diff(starts) for _, starts, _ in self.chunks])


def _flat(chunk: pa.Array) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """All numbers of a chunk, where each row starts (and the last one ends), and the shape behind the first axis."""
    chunk = getattr(chunk, "storage", chunk)  # of `datasets.Array2D` and its like
    starts, shape = np.arange(len(chunk) + 1), []
    while isinstance(chunk, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        lists = max(1, starts[-1] - starts[0])
        if isinstance(chunk, pa.FixedSizeListArray):
            starts = (starts + chunk.offset) * chunk.type.list_size
        else:
            starts = chunk.offsets.to_numpy()[starts]
        shape.append(int(starts[-1] - starts[0]) // int(lists))
        chunk = chunk.values
    return chunk.to_numpy(zero_copy_only=False), starts, shape[1:]


class PreparedClips(torch.utils.data.Dataset):
    """The rows of `prepare_features` or `linear_probe.embeddings`, without a copy, and faster than by `datasets`."""

    def __init__(self, prepared: datasets.Dataset) -> None:
        self.prepared = prepared
        table, indices = prepared.data, prepared._indices
        self.rows = np.arange(len(table)) if indices is None else indices.column(0).to_numpy()
        self.kept = {name: np.array(list(table.column(name).to_numpy()))[self.rows] for name in KEPT}
        names = [name for name in prepared.column_names if name not in KEPT]
        self.columns = {name: Column(table.column(name)) for name in names}

    def __reduce__(self) -> tuple[type, tuple[datasets.Dataset]]:
        return PreparedClips, (self.prepared,)  # a data-loader worker that is not forked maps the file itself

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The model inputs of one row, and its `labels` and `clip`."""
        row = int(self.rows[index])
        inputs = {name: column[row] for name, column in self.columns.items()}
        return {**inputs, **{name: values[index] for name, values in self.kept.items()}}

    def by_size(self) -> list[int]:
        """The indices of all rows, the longest first, rows of equal length in their order."""
        sizes = next(iter(self.columns.values())).sizes()[self.rows]
        return np.argsort(-sizes, kind="stable").tolist()

    def nbytes(self) -> int:
        """The memory that all rows take."""
        return len(self) * sum(column[int(self.rows[0])].nbytes for column in self.columns.values())


def readable(dataset: Any) -> Any:
    """The data set as Trainer's data loaders read it."""
    return PreparedClips(dataset) if isinstance(dataset, datasets.Dataset) else dataset


class WithFrozen(torch.utils.data.Dataset):
    """Rows together with the stored output of a model's frozen part, a tensor each."""

    def __init__(self, clips: PreparedClips, outputs: Sequence[torch.Tensor] | torch.Tensor) -> None:
        self.clips, self.outputs = clips, outputs
        self.by_size = clips.by_size

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.clips[index], FROZEN: self.outputs[index]}

    def nbytes(self) -> int:
        return self.clips.nbytes()


class OnDevice(torch.utils.data.Dataset):
    """Rows of one shape as tensors on a device, where each batch is gathered."""

    def __init__(self, clips: PreparedClips | WithFrozen, device: torch.device) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        plain = clips.clips if isinstance(clips, WithFrozen) else clips
        for first in range(0, len(plain), AT_ONCE):
            rows = range(first, min(first + AT_ONCE, len(plain)))
            for name, values in collate_training([plain[row] for row in rows]).items():
                whole = self.tensors.setdefault(name, values.new_empty((len(plain), *values.shape[1:]), device=device))
                whole[first : first + len(values)] = values.to(device)
        if isinstance(clips, WithFrozen):
            self.tensors[FROZEN] = torch.stack(list(clips.outputs)).to(device)
        self.device = device

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
