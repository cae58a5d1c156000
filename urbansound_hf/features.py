"""From waveforms to a model's inputs, by the model's own feature extractor, one clip at a time.

The group-norm wav2vec2 and HuBERT models see no attention mask, so padding changes their scores. Therefore nothing is
ever padded here: evaluation and serving extract each clip alone, exactly as the stock pipeline does, and put only
clips of equal shape into one batch. A clip's score cannot depend on its neighbours. For training, where a batch needs
one shape, a short clip is repeated until it fills the window; mean pooling then sees the same sound either way.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import datasets
import numpy as np
import torch

from urbansound_hf import audio, progress
from urbansound_hf.audio import AudioError

Features = dict[str, np.ndarray]
KEPT = ("labels", "clip")  # columns that are no input of the model
WAVEFORM = "waveform"
FeatureExtractor = Any  # transformers' FeatureExtractionMixin, which declares neither its call nor its sampling_rate


def extract(feature_extractor: FeatureExtractor, waveform: np.ndarray) -> Features:
    """One clip, `(samples,)` float32 at the extractor's rate, as the model's inputs without a batch axis."""
    encoded = feature_extractor(waveform, sampling_rate=feature_extractor.sampling_rate, return_tensors="np")
    return {name: np.asarray(values)[0] for name, values in encoded.items()}


def extract_or_refuse(feature_extractor: FeatureExtractor, waveform: np.ndarray, name: str, shortest: int) -> Features:
    """`extract`, or an AudioError that calls the clip by `name` where the model cannot hear it.

    Args:
        shortest: the samples that the model needs for one frame.
    """
    reason = f"it needs {shortest}"
    if len(waveform) >= shortest:
        try:
            found = extract(feature_extractor, waveform)
            if all(values.size and np.isfinite(values).all() for values in found.values()):
                return found
            reason = "its features are empty or not finite"  # wav2vec2-bert divides by the deviation of the frames
        except (ValueError, RuntimeError, AssertionError) as error:  # a filter bank without a single full frame
            reason = str(error)
    rate = feature_extractor.sampling_rate
    what = f"is too short for this model ({len(waveform)} samples at {rate} Hz; {reason})"
    raise AudioError(what, name, "leave it out, or bring a longer one")


def equal_shapes(features: Iterable[Mapping[str, Any]]) -> Iterator[tuple[list[int], Features]]:
    """Stacks clips of equal shape into batches; yields `(positions in the input, batch)`."""
    groups: dict[tuple, list[int]] = {}
    clips = list(features)
    for position, clip in enumerate(clips):
        groups.setdefault(tuple(np.shape(values) for values in clip.values()), []).append(position)
    for positions in groups.values():
        names = clips[positions[0]].keys()
        yield positions, {name: np.stack([clips[i][name] for i in positions]) for name in names}


def shifted(waveform: np.ndarray, shifts: int) -> list[np.ndarray]:
    """A `(samples,)` waveform, and the same begun at `shifts` more places evenly over it, in a circle."""
    return [np.roll(waveform, -len(waveform) * number // (shifts + 1)) for number in range(shifts + 1)]


class Waveforms:
    """Stands for a feature extractor where the waveforms themselves are prepared: `waveform` `(samples,)` float32."""

    def __init__(self, sampling_rate: int) -> None:
        self.sampling_rate = sampling_rate

    def __call__(self, waveform: np.ndarray, **_: Any) -> Features:
        return {WAVEFORM: waveform[None]}


def fills_window(feature_extractor: FeatureExtractor, window: int) -> bool:
    """Whether the extractor itself brings every clip to one shape (Whisper, AST) or follows its length (wav2vec2)."""
    short, full = (extract(feature_extractor, np.zeros(samples, np.float32)) for samples in (window // 2, window))
    return all(short[name].shape == full[name].shape for name in full)


def fill(waveform: np.ndarray, samples: int, how: str) -> np.ndarray:
    """Brings a `(n,)` waveform to `samples`; one that is long enough is returned as it is.

    Args:
        how: "repeat" it; "zeros" after it; "reflect" it back and forth; "none": leave it.
    """
    missing = samples - len(waveform)
    if missing <= 0 or how == "none":
        return waveform
    if how == "repeat":
        return np.resize(waveform, samples)
    return np.pad(waveform, (0, missing), mode="symmetric" if how == "reflect" else "constant")


def filling(feature_extractor: FeatureExtractor, window: int, asked: str) -> str:
    """How short training clips are filled: as was asked; "auto" repeats them where the extractor leaves them short."""
    if asked != "auto":
        return asked
    return "none" if fills_window(feature_extractor, window) else "repeat"


def prepare(
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
        dataset: rows with `audio` (16-bit WAV bytes at the extractor's rate) and `label`.
        clip_seconds: window; a longer clip becomes several rows, one every half window, as serving cuts it.
        filled: how short clips are brought to the window (see `fill`), for training batches of one shape.
        num_proc: processes (default: one).
        shortest_samples: what the model needs to hear anything.
        shifts: so many rows more for each window, of the sound shifted in a circle.

    Returns:
        Rows of the extractor's outputs plus `labels` and `clip` (the clip's row in `dataset`), as numpy arrays.

    Raises:
        AudioError: a clip is too short for the extractor or the model.
    """
    window = round(clip_seconds * feature_extractor.sampling_rate)
    options = {
        "feature_extractor": feature_extractor,
        "window": window,
        "filled": filled,
        "shifts": shifts,
        "shortest": shortest_samples,
        "code": source_code(extract, type(feature_extractor)),
    }
    prepared = progress.mapped(
        dataset,
        _extract_rows,
        with_indices=True,
        with_rank=True,
        batched=True,
        batch_size=64,
        writer_batch_size=64,
        num_proc=num_proc if num_proc and num_proc > 1 and len(dataset) > 64 * num_proc else None,
        remove_columns=dataset.column_names,
        features=_schema(extract(feature_extractor, np.zeros(window, np.float32))),
        fn_kwargs=options,
        desc="Extracting features",
    )
    return prepared.with_format("numpy")


def source_code(*objects: Any) -> str:
    """The source of the modules of some functions and classes, of which the cache's key knows otherwise only names."""
    return "".join(inspect.getsource(module) for module in map(inspect.getmodule, objects) if module)


def collate_training(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A training batch: inputs `(batch, …)` of one shape each; `labels` `(batch,)`, or `(batch, classes)` shares."""
    inputs = [{name: values for name, values in row.items() if name not in KEPT} for row in rows]
    ((_, batch),) = equal_shapes(inputs)
    return {**as_tensors(batch), "labels": torch.from_numpy(np.stack([row["labels"] for row in rows]))}


def collate_evaluation(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """An evaluation batch: `labels`, `clip` `(batch,)`, and `groups` of equal shape with their `positions`."""
    inputs = [{name: values for name, values in row.items() if name not in KEPT} for row in rows]
    groups = list(equal_shapes(inputs))
    return {
        "labels": torch.tensor([int(row["labels"]) for row in rows]),
        "clip": torch.tensor([int(row["clip"]) for row in rows]),
        "positions": [torch.tensor(positions) for positions, _ in groups],
        "groups": [as_tensors(batch) for _, batch in groups],
    }


def as_tensors(batch: Features) -> dict[str, torch.Tensor]:
    """Numpy arrays as torch tensors, without a copy where the memory allows."""
    return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in batch.items()}


def _extract_rows(
    batch: dict[str, list],
    indices: list[int],
    rank: int | None,
    feature_extractor: FeatureExtractor,
    window: int,
    filled: str,
    shifts: int,
    shortest: int,
    code: str,  # is not used here: it makes edited code extract anew
) -> dict[str, list]:
    if rank is not None:  # one of several forked processes: OpenMP's threads did not survive the fork, and would hang
        torch.set_num_threads(1)
    rows: dict[str, list] = {"labels": [], "clip": []}
    for clip, label, index in zip(batch["audio"], batch["label"], indices, strict=True):
        waveform = audio.load(clip["bytes"], feature_extractor.sampling_rate, name=clip["path"])
        waveform = fill(waveform, window, filled)
        for start, end in audio.windows(len(waveform), window, window // 2):
            for sound in shifted(waveform[start:end], shifts):
                rows["labels"].append(label)
                rows["clip"].append(index)
                for name, values in extract_or_refuse(feature_extractor, sound, clip["path"], shortest).items():
                    rows.setdefault(name, []).append(values)
    return rows


def _schema(example: Features) -> datasets.Features:
    columns: dict[str, Any] = {"labels": datasets.Value("int64"), "clip": datasets.Value("int64")}
    for name, values in example.items():
        dtype = str(values.dtype)
        array = {2: datasets.Array2D, 3: datasets.Array3D}.get(values.ndim)
        columns[name] = array((None, *values.shape[1:]), dtype) if array else datasets.List(datasets.Value(dtype))
    return datasets.Features(columns)
