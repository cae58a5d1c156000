"""From waveforms to a model's inputs, by the model's own feature extractor, one clip at a time.

The group-norm wav2vec2 and HuBERT models see no attention mask, so padding changes their scores. Therefore nothing is
ever padded here: evaluation and serving extract each clip alone, exactly as the stock pipeline does, and put only
clips of equal shape into one batch. A clip's score cannot depend on its neighbours. For training, where a batch needs
one shape, a short clip is repeated until it fills the window; mean pooling then sees the same sound either way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from urbansound_hf.audio.io import LIMITS, AudioError, Limits, window_bounds

if TYPE_CHECKING:
    import torch

Features = dict[str, np.ndarray]
KEPT = ("labels", "clip")  # columns that are not model inputs
WAVEFORM = "waveform"
FeatureExtractor = Any  # transformers' FeatureExtractionMixin, which declares neither its call nor its sampling_rate


class Spectrogram(NamedTuple):
    """Where a model's spectrogram lies: the name of the input, and its axes without the batch axis."""

    name: str
    frequency_axis: int
    time_axis: int


def extract(feature_extractor: FeatureExtractor, waveform: np.ndarray) -> Features:
    """One clip, `(samples,)` float32 at the extractor's rate, as the model's inputs without a batch axis."""
    encoded = feature_extractor(waveform, sampling_rate=feature_extractor.sampling_rate, return_tensors="np")
    return {name: np.asarray(values)[0] for name, values in encoded.items()}


def extract_or_refuse(feature_extractor: FeatureExtractor, waveform: np.ndarray, name: str, shortest: int) -> Features:
    """`extract`, or an AudioError that names the clip where it is too short (`shortest` samples) for the model."""
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
    """A `(samples,)` waveform and `shifts` copies of it, shifted in a circle by equal steps."""
    return [np.roll(waveform, -len(waveform) * number // (shifts + 1)) for number in range(shifts + 1)]


class Waveforms:
    """In place of a feature extractor, keeps the waveforms themselves: `waveform` `(samples,)` float32."""

    def __init__(self, sampling_rate: int) -> None:
        self.sampling_rate = sampling_rate

    def __call__(self, waveform: np.ndarray, **_: Any) -> Features:
        return {WAVEFORM: waveform[None]}


def fills_window(feature_extractor: FeatureExtractor, window: int) -> bool:
    """Whether the extractor brings every clip to one shape (Whisper, AST), whatever its length (unlike wav2vec2's)."""
    short, full = (extract(feature_extractor, np.zeros(samples, np.float32)) for samples in (window // 2, window))
    return all(short[name].shape == full[name].shape for name in full)


def fill(waveform: np.ndarray, samples: int, how: str) -> np.ndarray:
    """Brings a `(n,)` waveform to `samples`; one that is long enough, or "none", leaves it as it is.

    `how`: "repeat" it; "zeros" after it; "reflect" it back and forth.
    """
    missing = samples - len(waveform)
    if missing <= 0 or how == "none":
        return waveform
    if how == "repeat":
        return np.resize(waveform, samples)
    return np.pad(waveform, (0, missing), mode="symmetric" if how == "reflect" else "constant")


class Cut(NamedTuple):
    """How clips become windows: a longer clip several, one every half window, as serving cuts it."""

    window: int  # samples
    filled: str = "none"  # how short clips are brought to the window, see `fill`
    shifts: int = 0  # further rows for each window, of the sound shifted in a circle
    shortest: int = 1  # fewest samples that the model accepts
    limits: Limits = LIMITS  # of streamed sounds


def cut_clip(waveform: np.ndarray, cut: Cut) -> list[np.ndarray]:
    """The windows of a `(samples,)` waveform that become a row of model inputs each."""
    waveform = fill(waveform, cut.window, cut.filled)
    bounds = window_bounds(len(waveform), cut.window, cut.window // 2)
    return [sound for start, end in bounds for sound in shifted(waveform[start:end], cut.shifts)]


def filling(feature_extractor: FeatureExtractor, window: int, asked: str) -> str:
    """How short training clips are filled: as was asked; "auto" repeats them where the extractor leaves them short."""
    if asked != "auto":
        return asked
    return "none" if fills_window(feature_extractor, window) else "repeat"


def as_tensors(batch: Features) -> dict[str, torch.Tensor]:
    """Numpy arrays as torch tensors, without a copy where the memory allows."""
    import torch  # not on import: a model of ONNX Runtime needs none

    return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in batch.items()}
