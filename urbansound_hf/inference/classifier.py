"""Serving: a checkpoint folder or Hub id in, labels for clips, folders and long recordings out.

All that is known comes from the checkpoint. For a sound no longer than the window, the scores are those of the stock
`pipeline("audio-classification")` to 1e-4: each window goes alone through the feature extractor, and only windows of
equal shape share a batch. A longer sound is scored window by window, as in evaluation; the pipeline passes it to the
model at once, and some models ignore all but its beginning. Test-time shifts are not known to the pipeline either.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import FeatureExtractionMixin, PreTrainedModel

from urbansound_hf.audio.io import AudioError, Source
from urbansound_hf.errors import UserError
from urbansound_hf.features.extract import Features, as_tensors, equal_shapes, extract_or_refuse, shifted
from urbansound_hf.inference.inputs import THREADS, Window, ahead, read_windows
from urbansound_hf.inference.output import Classification, Prediction
from urbansound_hf.models import checkpoint
from urbansound_hf.models.clap import zero_shot
from urbansound_hf.models.registry import family_of

BATCHES_AHEAD = 4  # batches of windows that are sorted by shape at once
DEFAULT_WINDOW_SECONDS = 10.0  # of a checkpoint without clip_seconds whose family takes any length


class SoundClassifier:
    """A trained model with its feature extractor, for sounds of any length, rate and format.

    Attributes:
        labels: class names in the order of the columns of `probabilities`.
        sampling_rate: of the model's input, in Hz.
        window_seconds: the length it was trained on; longer recordings are cut into windows of it.

    >>> model = ush.SoundClassifier.from_pretrained("outputs/base/fold10")  # the folder of a run, or a Hub id
    >>> result = model.classify("clip.wav")
    >>> len(result.windows), result.windows[0].label in model.labels
    (1, True)
    >>> model.probabilities([ush.load_audio("clip.wav", model.sampling_rate)]).shape
    (1, 10)
    """

    def __init__(
        self, model: PreTrainedModel, feature_extractor: FeatureExtractionMixin, device: str | None = None
    ) -> None:
        self.device = choose_device(device)
        self.model: torch.nn.Module = model.eval()
        self.model.to(self.device)
        self.dtype, self.problem_type = model.dtype, model.config.problem_type
        self.feature_extractor = feature_extractor
        self.labels = [str(label) for _, label in sorted((model.config.id2label or {}).items())]
        self.sampling_rate: int = feature_extractor.to_dict()["sampling_rate"]
        lengths = family_of(model.config.model_type).lengths
        trained_on, longest = getattr(model.config, "clip_seconds", None), lengths.longest_seconds(feature_extractor)
        self.longest_seconds = longest and max(longest, trained_on or 0.0)  # the window of training is always accepted
        self.window_seconds: float = trained_on or self.longest_seconds or DEFAULT_WINDOW_SECONDS
        self.shifts: int = getattr(model.config, "test_time_shifts", 0)
        self.shortest_samples = lengths.shortest_samples(model.config)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        revision: str | None = None,
        device: str | None = None,
        trust_remote_code: bool = False,
    ) -> SoundClassifier:
        """Opens a checkpoint: the folder of a run or a Hub id; arguments and errors as of `load_checkpoint`.

        Args:
            device: `cpu`, `cuda`, `cuda:1`, `mps` … (default: the accelerator of this machine, else the CPU).
        """
        return cls(*checkpoint.load_checkpoint(name_or_path, revision, trust_remote_code), device)

    @classmethod
    def zero_shot(
        cls, name_or_path: str | Path, labels: Sequence[str], revision: str | None = None, device: str | None = None
    ) -> SoundClassifier:
        """A classifier of any labels, without training, by the text tower of a CLAP; errors as of `load_zero_shot`."""
        return cls(*zero_shot.load_zero_shot(name_or_path, labels, revision), device)

    def probabilities(self, waveforms: Sequence[np.ndarray], batch_size: int = 8) -> np.ndarray:
        """Scores clips as they are, without windows.

        Args:
            waveforms: each `(samples,)` float32, full scale 1.0, at `sampling_rate`.
            batch_size: clips of equal length that go through the model together; it does not change the scores.

        Returns:
            `(clips, classes)` float32, by the function that the stock pipeline applies: softmax, or what the config's
            `problem_type` asks for.

        Raises:
            AudioError: a clip is too short for the model.
        """
        clips = [self._features(waveform, f"clip {number}") for number, waveform in enumerate(waveforms)]
        return self._forward(clips, batch_size)

    def classify(self, source: Source, **options: Any) -> Classification:
        """Classifies one sound; options as for `classify_many`. Raises AudioError if it cannot be read.

        >>> result = ush.SoundClassifier.from_pretrained("outputs/base/fold10").classify("long.wav", top_k=3)
        >>> [(window.start, window.end) for window in result.windows]  # seconds; a window every two
        [(0.0, 4.0), (2.0, 6.0), (4.0, 8.0)]
        """
        (result,) = self.classify_many([source], **options)
        if result.error:
            raise AudioError(result.error, result.path)
        return result

    def classify_many(
        self,
        sources: Iterable[Source],
        top_k: int = 5,
        window_seconds: float | None = None,
        hop_seconds: float | None = None,
        batch_size: int = 8,
    ) -> Iterator[Classification]:
        """Classifies any number of sounds in flat memory: threads read ahead, windows are batched across sounds.

        Args:
            sources: paths, bytes or open files; they may come from a generator.
            top_k: labels to keep for each window.
            window_seconds: a longer recording is cut into windows of this length (default: as trained).
            hop_seconds: from the start of one window to the next (default: half a window).
            batch_size: windows that go through the model together; it does not change the scores.

        Returns:
            one result for each source, in their order; for an unreadable one `error` is set.

        Raises:
            UserError: the window or the hop is impossible for this model.
        """
        window, hop = self._window_samples(window_seconds, hop_seconds)

        def stream() -> Iterator[Classification]:
            pool = ThreadPoolExecutor(THREADS)
            try:
                windows = read_windows(pool, sources, self.sampling_rate, window, hop)
                if self.device.type == "cpu":  # two torch calls at a time would only get into each other's way
                    prepared: Iterator[tuple[Window, list[Features] | AudioError]] = map(self._prepare, windows)
                else:
                    prepared = ahead(pool, self._prepare, windows, BATCHES_AHEAD * batch_size)
                scored = self._score(prepared, batch_size)
                for _, pairs in groupby(scored, key=lambda pair: pair[0].sound):
                    yield self._result(list(pairs), top_k)
            finally:
                pool.shutdown(cancel_futures=True)

        return stream()

    def _window_samples(self, window_seconds: float | None, hop_seconds: float | None) -> tuple[int, int]:
        window = self.window_seconds if window_seconds is None else window_seconds
        hop = window / 2 if hop_seconds is None else hop_seconds
        if self.longest_seconds and window > self.longest_seconds:
            raise UserError(
                f"a window of {window:g} s is longer than the {self.longest_seconds:g} s that this model takes",
                "--window_seconds",
                f"give at most {self.longest_seconds:g}",
            )
        if not 1 / self.sampling_rate <= hop <= window < float("inf"):
            raise UserError(
                f"windows of {window:g} s, one every {hop:g} s, do not cover a recording",
                "--window_seconds, --hop_seconds",
                "both are above 0, and the hop is no longer than the window",
            )
        return round(window * self.sampling_rate), round(hop * self.sampling_rate)

    def _prepare(self, item: tuple[Window, np.ndarray | AudioError]) -> tuple[Window, list[Features] | AudioError]:
        window, waveform = item
        if isinstance(waveform, AudioError):
            return window, waveform
        try:
            return window, self._features(waveform, window.name)
        except AudioError as error:
            return window, error
        except MemoryError:
            return window, AudioError("its features do not fit into the memory", window.name)

    def _features(self, waveform: np.ndarray, name: str) -> list[Features]:
        """The model's inputs of a window, and of each shift of it that it was evaluated with."""
        sounds = shifted(waveform, self.shifts)
        return [extract_or_refuse(self.feature_extractor, each, name, self.shortest_samples) for each in sounds]

    def _score(
        self, windows: Iterator[tuple[Window, list[Features] | AudioError]], batch_size: int
    ) -> Iterator[tuple[Window, np.ndarray | AudioError]]:
        while chunk := list(islice(windows, BATCHES_AHEAD * batch_size)):
            readable = [features for _, features in chunk if not isinstance(features, AudioError)]
            scores = iter(self._forward(readable, batch_size))
            for window, features in chunk:
                yield window, features if isinstance(features, AudioError) else next(scores)

    @torch.inference_mode()
    def _forward(self, clips: Sequence[list[Features]], batch_size: int) -> np.ndarray:
        scores = np.empty((len(clips) * (self.shifts + 1), len(self.labels)), np.float32)
        for positions, stacked in equal_shapes(chain.from_iterable(clips)):
            tensors = as_tensors(stacked)
            for first in range(0, len(positions), batch_size):
                part = slice(first, first + batch_size)
                logits = self.model(**{name: self._to_model(values[part]) for name, values in tensors.items()}).logits
                scores[positions[part]] = self._activation(logits).float().cpu().numpy()  # (batch, classes)
        return finite(scores.reshape(len(clips), self.shifts + 1, len(self.labels)).mean(axis=1))

    def _to_model(self, values: torch.Tensor) -> torch.Tensor:
        return values.to(self.device, self.dtype if values.is_floating_point() else values.dtype)

    def _activation(self, logits: torch.Tensor) -> torch.Tensor:
        if self.problem_type == "regression":  # the choice that transformers' AudioClassificationPipeline makes
            return logits
        return logits.sigmoid() if self.problem_type == "multi_label_classification" else logits.softmax(-1)

    def _result(self, pairs: list[tuple[Window, np.ndarray | AudioError]], top_k: int) -> Classification:
        name, scores, windows = pairs[0][0].name, [], []
        for window, outcome in pairs:
            if isinstance(outcome, AudioError):
                return Classification.failed(outcome)
            scores.append(outcome)
            windows.append(self._prediction(window, outcome, top_k))
        whole = Window(window.sound, name, 0, window.end, max(each.level_db for each, _ in pairs))
        summary = self._prediction(whole, np.mean(scores, axis=0), top_k) if len(windows) > 1 else None
        multi_label = self.problem_type == "multi_label_classification"
        return Classification(name, tuple(windows), summary, "", self.labels, np.stack(scores), multi_label)

    def _prediction(self, window: Window, scores: np.ndarray, top_k: int) -> Prediction:
        best = np.argsort(-scores, kind="stable")[:top_k]
        top = tuple((self.labels[number], float(scores[number])) for number in best)
        return Prediction(window.start / self.sampling_rate, window.end / self.sampling_rate, top, window.level_db)


def finite(scores: np.ndarray) -> np.ndarray:
    """The scores; raises UserError where one is not a finite number."""
    if not np.isfinite(scores).all():
        raise UserError("the model gives scores that are not finite", "", "train it again, or serve it in float32")
    return scores


def choose_device(name: str | None = None) -> torch.device:
    """The device that was named, else the accelerator of this machine (CUDA, Apple's mps, Intel's xpu …), else the CPU.

    Raises:
        UserError: there is no device of that name, or this machine does not have it.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name is None:
        return accelerator or torch.device("cpu")
    kind = accelerator.type if accelerator else "cpu"
    count = torch.accelerator.device_count() if accelerator else 1
    fix = f"cpu, {kind} or {kind}:{count - 1}" if accelerator else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"there is no device called {name!r}", "--device", fix) from None
    if device.type != "cpu" and (device.type != kind or (device.index or 0) >= count):
        found = f"{count} of type {kind}" if accelerator else "no accelerator"
        raise UserError(f"{name} is not there: this machine has {found}", "--device", fix)
    return device
