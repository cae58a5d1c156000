"""Serving: a checkpoint folder or Hub id in, labels for clips, folders and long recordings out.

For a sound no longer than the window, the scores are those of the stock `pipeline("audio-classification")` to 1e-4:
each window goes alone through the feature extractor, and only windows of equal shape share a batch. A longer sound is
scored window by window, as in evaluation; the pipeline, which knows no test-time shifts either, takes it at once.
"""

from __future__ import annotations

import json
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

import numpy as np

from urbansound_hf import progress
from urbansound_hf.audio.io import LIMITS, AudioError, Source
from urbansound_hf.errors import NotFiniteError, UserError
from urbansound_hf.features.extract import Features, equal_shapes, extract_or_refuse, shifted
from urbansound_hf.inference.backend import Backend, OnnxBackend, chosen_backend
from urbansound_hf.inference.inputs import THREADS, Cut, Cutting, Window, read_windows
from urbansound_hf.inference.output import MULTI_LABEL_SCORE, Classification, Prediction, activation
from urbansound_hf.layout import ENSEMBLE
from urbansound_hf.profiling import stage

BATCHES_AHEAD = 4  # batches of windows that are sorted by shape at once; on an accelerator four times as many
OUT_OF_MEMORY = re.compile("out ?of ?memory|memoryerror|allocate memory|bad_alloc", re.IGNORECASE)
TOO_LARGE = "a window of it does not fit into the memory of the model's device"
Prepared = tuple[Window, list[Features] | AudioError]
Scored = tuple[Window, np.ndarray | AudioError]
Track = Callable[[int], object]
Wait = Callable[[], np.ndarray]  # for the outputs of a forward pass that was started
MEANS = ("geometric", "arithmetic")
LOWEST = 1e-9  # of a score in a geometric mean, so that one model cannot rule a class out
DEFAULT_WINDOW_SECONDS = 10.0  # of a checkpoint without clip_seconds whose family takes any length


class SoundClassifier:
    """A trained model with its feature extractor, for sounds of any length, rate and format.

    Attributes:
        labels: class names in the order of the columns of `probabilities`.
        sampling_rate: of the model's input, in Hz.
        window_seconds: the length it was trained on; longer recordings are cut into windows of it.
        limits: what is refused of sounds (`audio.io.Limits`); may be set.
        thresholds: of a multi-label model, the score of each class from which a sound has it; else None.

    Examples:
        >>> model = ush.SoundClassifier.from_pretrained("outputs/base/fold10")  # the folder of a run, or a Hub id
        >>> result = model.classify("clip.wav")
        >>> len(result.windows), result.windows[0].label in model.labels
        (1, True)
        >>> model.probabilities([ush.load_audio("clip.wav", model.sampling_rate)]).shape
        (1, 10)
    """

    def __init__(self, backend: Backend) -> None:
        self.backend, config, self.limits = backend, backend.config, LIMITS
        self.feature_extractor = backend.feature_extractor
        self.sampling_rate, self.problem_type = self.feature_extractor.sampling_rate, config.get("problem_type")
        names = {int(number): str(label) for number, label in (config.get("id2label") or {}).items()}
        self.labels = [label for _, label in sorted(names.items())]
        several = self.problem_type == "multi_label_classification"
        self.thresholds = (config.get("thresholds") or [MULTI_LABEL_SCORE] * len(self.labels)) if several else None
        trained_on, longest = config.get("clip_seconds"), backend.longest_seconds
        self.longest_seconds = longest and max(longest, trained_on or 0.0)  # the window of training is always accepted
        self.window_seconds: float = trained_on or self.longest_seconds or DEFAULT_WINDOW_SECONDS
        self.shifts, self.shortest_samples = config.get("test_time_shifts", 0), backend.shortest_samples

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | Sequence[str | Path],
        revision: str | None = None,
        device: str | None = None,
        trust_remote_code: bool = False,
        backend: str = "auto",
        dtype: str | None = None,
    ) -> SoundClassifier:
        """Opens a checkpoint: the folder of a run or a Hub id; arguments and errors as of `load_checkpoint`.

        Args:
            name_or_path: several of them, or the folder of a fold of `urbansound-hf ensemble`, give one classifier with
                the geometric mean of their scores, or the ensemble's mean; see `EnsembleClassifier`.
            device: `cpu`, `cuda`, `cuda:1`, `mps` … (default: the accelerator of this machine, else the CPU).
            backend: `torch`; `onnx`, ONNX Runtime on an export of `urbansound-hf export`; `auto`: that export where a
                local folder has an up-to-date one, ONNX Runtime is installed and the device is the CPU.
            dtype: `float32`, `bfloat16`, `float16`, or `int8` of an export (default: as the checkpoint was saved).
        """
        if ensemble := members_of(name_or_path):
            how = (revision, device, trust_remote_code, backend, dtype)
            members = [SoundClassifier.from_pretrained(name, *how) for name in ensemble.pop("members")]
            return EnsembleClassifier(members, **ensemble)
        assert isinstance(name_or_path, str | Path)  # a list is an ensemble
        if chosen_backend(name_or_path, device, backend, dtype) == "onnx":
            return cls(OnnxBackend(name_or_path, revision, int8=dtype == "int8"))
        from urbansound_hf.inference.torch_backend import TorchBackend
        from urbansound_hf.models.checkpoint import load_checkpoint

        return cls(TorchBackend(*load_checkpoint(name_or_path, revision, trust_remote_code), device, dtype))

    @classmethod
    def zero_shot(
        cls,
        name_or_path: str | Path,
        labels: Sequence[str],
        revision: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
    ) -> SoundClassifier:
        """A classifier of any labels, without training, by the text tower of a CLAP; errors as of `load_zero_shot`."""
        from urbansound_hf.inference.torch_backend import TorchBackend
        from urbansound_hf.models.clap.zero_shot import load_zero_shot

        return cls(TorchBackend(*load_zero_shot(name_or_path, labels, revision), device, dtype))

    def probabilities(self, waveforms: Sequence[np.ndarray], batch_size: int | None = None) -> np.ndarray:
        """Scores clips as they are, without windows.

        Args:
            waveforms: each `(samples,)` float32, full scale 1.0, at `sampling_rate`.
            batch_size: clips of equal length that go through the model together; it does not change the scores
                (default: 8 on a CPU, 64 on an accelerator).

        Returns:
            `(clips, classes)` float32, by the function that the stock pipeline applies: softmax, or what the config's
            `problem_type` asks for.

        Raises:
            AudioError: a clip is too short for the model, or does not fit into the memory.
        """
        return self._clips(waveforms, batch_size)

    def embed(self, source: Source | list[np.ndarray], **options: Any) -> np.ndarray:
        """The pooled output of the backbone, before the head.

        Args:
            source: a sound, cut into windows; or a list of waveforms, as for `probabilities`, without windows.
            options: as for `classify_many`; for waveforms, `batch_size`.

        Returns:
            `(windows, hidden)` float32; with test-time shifts, their mean.

        Raises:
            AudioError: the sound cannot be read, or is too short for the model.

        Examples:
            >>> model = ush.SoundClassifier.from_pretrained("outputs/base/fold10")
            >>> model.embed("long.wav").shape, model.embed([ush.load_audio("clip.wav", model.sampling_rate)]).shape
            ((3, 16), (1, 16))
        """
        if isinstance(source, list):
            return self._clips(source, embed=True, **options)[:, len(self.labels) :]
        windows = self.classify(source, embeddings=True, **options).windows
        return np.stack([window.embedding for window in windows if window.embedding is not None])

    def _clips(self, waveforms: Sequence[np.ndarray], batch_size: int | None = None, embed: bool = False) -> np.ndarray:
        clips = [self._features(waveform, f"clip {number}") for number, waveform in enumerate(waveforms)]
        found = self._forward(clips, batch_size or self.backend.batch_size, embed)()
        for number in np.flatnonzero(np.isnan(found[:, 0])):
            raise AudioError(TOO_LARGE, f"clip {number}")
        return found

    def classify(self, source: Source, **options: Any) -> Classification:
        """Classifies one sound; options as for `classify_many`. Raises AudioError if it cannot be read.

        Examples:
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
        batch_size: int | None = None,
        track: Track = lambda windows: None,
        embeddings: bool = False,
        on_window: Callable[[str, Prediction], object] = lambda path, prediction: None,
    ) -> Iterator[Classification]:
        """Classifies any number of sounds in flat memory.

        Threads read ahead, processes beside an accelerator; windows are batched across sounds.

        Args:
            sources: paths, bytes or open files; they may come from a generator.
            top_k: labels to keep for each window.
            window_seconds: a longer recording is cut into windows of this length (default: as trained).
            hop_seconds: from the start of one window to the next (default: half a window).
            batch_size: windows that go through the model together; it does not change the scores (default: 8 on a
                CPU, 64 on an accelerator).
            track: called after each batch with the number of its windows.
            embeddings: whether each window gets its `embedding`.
            on_window: called with the path and the prediction of each window, before the result of its sound is ready.

        Returns:
            one result for each source, in their order; for an unreadable one `error` is set.

        Raises:
            UserError: the window or the hop is impossible for this model.
        """
        cutting = Cutting(self.sampling_rate, *self.window_samples(window_seconds, hop_seconds), self.limits)
        size = batch_size or self.backend.batch_size

        def stream() -> Iterator[Classification]:
            pool = ThreadPoolExecutor(THREADS)
            try:
                if self.backend.on_accelerator and progress.worker_count() > 2 and sys.platform == "linux":
                    from urbansound_hf.inference.workers import WholeClips, prepared_in_processes

                    prepared = prepared_in_processes(WholeClips(cutting, self._prepare), pool, sources)
                else:  # on a CPU, calls of torch at a time would compete; elsewhere than on Linux, a fork is not safe
                    prepared = map(self._prepare, read_windows(pool, sources, cutting))
                scored = self._score(prepared, size, embeddings, track)
                for _, pairs in groupby(scored, key=lambda pair: pair[0].sound):
                    yield self._result(pairs, top_k, on_window)
            finally:
                pool.shutdown(cancel_futures=True)

        return stream()

    def window_samples(self, window_seconds: float | None, hop_seconds: float | None) -> tuple[int, int]:
        """Window and hop in samples; the defaults and errors are those of `classify_many`."""
        window = self.window_seconds if window_seconds is None else window_seconds
        hop = window / 2 if hop_seconds is None else hop_seconds
        if self.longest_seconds and window > self.longest_seconds:
            what = f"a window of {window:g} s is longer than the {self.longest_seconds:g} s that this model takes"
            raise UserError(what, "--window_seconds", f"give at most {self.longest_seconds:g}")
        if not 1 / self.sampling_rate <= hop <= window < float("inf"):
            what = f"windows of {window:g} s, one every {hop:g} s, do not cover a recording"
            fix = "both are above 0, and the hop is no longer than the window"
            raise UserError(what, "--window_seconds, --hop_seconds", fix)
        return round(window * self.sampling_rate), round(hop * self.sampling_rate)

    def _prepare(self, item: Cut) -> Prepared:
        window, waveform = item
        try:
            with stage("extract"):
                return window, waveform if isinstance(waveform, AudioError) else self._features(waveform, window.name)
        except AudioError as error:
            return window, error
        except MemoryError:
            return window, AudioError("its features do not fit into the memory", window.name)

    def _features(self, waveform: np.ndarray, name: str) -> list[Features]:
        """The model's inputs of a window, and of each shift of it that it was evaluated with."""
        sounds = shifted(waveform, self.shifts)
        return [extract_or_refuse(self.feature_extractor, each, name, self.shortest_samples) for each in sounds]

    def _score(self, windows: Iterator[Prepared], batch_size: int, embed: bool, track: Track) -> Iterator[Scored]:
        """The outputs of windows, sorted into batches of equal shape; on an accelerator, one round of batches late."""
        waiting: list[tuple[list[Prepared], Wait]] = []
        sorted_at_once = BATCHES_AHEAD * batch_size * (4 if self.backend.on_accelerator else 1)
        while True:
            with stage("extract"):
                chunk = list(islice(windows, sorted_at_once))
            if chunk:
                readable = [features for _, features in chunk if not isinstance(features, AudioError)]
                waiting.append((chunk, self._forward(readable, batch_size, embed, track)))
            while len(waiting) > (self.backend.on_accelerator and bool(chunk)):
                started, finish = waiting.pop(0)
                with stage("forward"):
                    rows = iter(finish())
                for window, features in started:
                    outcome = features if isinstance(features, AudioError) else next(rows)
                    if isinstance(outcome, np.ndarray) and np.isnan(outcome[0]):
                        outcome = AudioError(TOO_LARGE, window.name)
                    yield window, outcome
            if not chunk:
                return

    def _forward(self, clips: Sequence[Any], batch_size: int, embed: bool = False, track: Track | None = None) -> Wait:
        """Starts the forward passes of clips; what is returned waits for `(clips, classes [+ hidden])` float32.

        A batch that does not fit into the memory is halved; a clip that does not has NaN.
        """
        started: list[tuple[list[int], Wait]] = []
        for positions, stacked in equal_shapes(chain.from_iterable(clips)):
            parts = deque(slice(first, first + batch_size) for first in range(0, len(positions), batch_size))
            while parts:
                part = parts.popleft()
                count, first = len(positions[part]), part.start
                try:
                    with stage("forward"):
                        waits = self.backend.start({name: values[part] for name, values in stacked.items()}, embed)
                    started.append((positions[part], waits))
                except Exception as error:  # of PyTorch, of ONNX Runtime
                    if not OUT_OF_MEMORY.search(f"{type(error).__name__} {error}"):
                        raise
                    if count > 1:
                        middle = first + count // 2
                        parts.extendleft((slice(middle, first + count), slice(first, middle)))
                        continue
                if track:
                    track(count)

        def finish() -> np.ndarray:
            found, classes = [(positions, outputs()) for positions, outputs in started], len(self.labels)
            width = found[0][1].shape[1] if found else classes
            rows = np.full((len(clips) * (self.shifts + 1), width), np.nan, np.float32)
            for positions, outputs in found:
                scores = activation(outputs[:, :classes], self.problem_type)
                if not np.isfinite(scores).all():
                    fix = "train it again, or serve it in float32"
                    raise NotFiniteError("the model gives scores that are not finite", "", fix)
                rows[positions] = np.concatenate([scores, outputs[:, classes:]], axis=1)
            return rows.reshape(len(clips), self.shifts + 1, width).mean(axis=1)

        return finish

    def _result(self, pairs: Iterable[Scored], top_k: int, on_window: Callable[..., object]) -> Classification:
        scores, windows, classes = [], [], len(self.labels)
        for window, outcome in pairs:
            if isinstance(outcome, AudioError):
                return Classification.failed(outcome)
            scores.append(outcome[:classes])
            embedding = outcome[classes:] if len(outcome) > classes else None
            windows.append(self.prediction(window, scores[-1], top_k, embedding))
            on_window(window.name, windows[-1])
        whole = Window(window.sound, window.name, 0, window.end, max(each.level_db for each in windows))
        summary = self.prediction(whole, np.mean(scores, axis=0), top_k) if len(windows) > 1 else None
        return Classification(window.name, tuple(windows), summary, "", self.labels, np.stack(scores), self.thresholds)

    def prediction(
        self, window: Window, scores: np.ndarray, top_k: int, embedding: np.ndarray | None = None
    ) -> Prediction:
        best = np.argsort(-scores, kind="stable")[:top_k]
        top = tuple((self.labels[number], float(scores[number])) for number in best)
        labels = None
        if self.thresholds:
            reached = np.flatnonzero(scores >= np.asarray(self.thresholds, np.float32))
            labels = tuple(self.labels[number] for number in reached[np.argsort(-scores[reached], kind="stable")])
        start, end = window.start / self.sampling_rate, window.end / self.sampling_rate
        return Prediction(start, end, top, window.level_db, embedding, labels)


class EnsembleClassifier(SoundClassifier):
    """Several classifiers of the same labels, whose scores are combined; each sound is decoded and cut once.

    A window is that of the member with the shortest one. Embeddings are those of all members, side by side.

    Args:
        members: at least two.
        weights, mean: as for `combined`.

    Raises:
        UserError: their labels, sampling rates or kinds of scores differ.
    """

    def __init__(
        self, members: Sequence[SoundClassifier], weights: Sequence[float] | None = None, mean: str = "geometric"
    ) -> None:
        names = ("labels", "sampling rate in Hz", "kind of scores")
        facts = [(sorted(each.labels), each.sampling_rate, each.problem_type or "one label") for each in members]
        differ = [
            f"{name}: {a} and {b}" for each in facts for name, a, b in zip(names, facts[0], each, strict=True) if a != b
        ]
        if differ or not members or members[0].problem_type == "regression":
            found = "; ".join(differ[:3]) or "found none, or a regression"
            what = f"the models of an ensemble share labels, sampling rate and kind of scores; {found}"
            raise UserError(what, "--model", "give models that were trained on the same data")
        order = sorted(range(len(members)), key=lambda place: members[place].window_seconds)
        self.members, self.mean = [members[place] for place in order], mean
        super().__init__(self.members[0].backend)
        self.weights = weights and [weights[place] for place in order]
        self.columns = [[member.labels.index(label) for label in self.labels] for member in self.members]
        if self.thresholds:
            by_member = [
                np.array(each.thresholds)[columns] for each, columns in zip(self.members, self.columns, strict=True)
            ]
            self.thresholds = np.mean(by_member, axis=0).tolist()
        longest = [member.longest_seconds for member in self.members if member.longest_seconds]
        self.longest_seconds, self.shifts = min(longest, default=None), 0

    def _features(self, waveform: np.ndarray, name: str) -> Any:
        return [member._features(waveform, name) for member in self.members]

    def _forward(self, clips: Sequence[Any], batch_size: int, embed: bool = False, track: Track | None = None) -> Wait:
        started = [
            member._forward([clip[number] for clip in clips], batch_size, embed, None if number else track)
            for number, member in enumerate(self.members)
        ]

        def finish() -> np.ndarray:
            outputs, classes = [wait() for wait in started], len(self.labels)
            scores = np.stack([each[:, columns] for each, columns in zip(outputs, self.columns, strict=True)])
            several = self.problem_type == "multi_label_classification"
            mean = combined(scores, self.weights, self.mean, several)
            return np.concatenate([mean, *(each[:, classes:] for each in outputs)], axis=1).astype(np.float32)

        return finish


def combined(
    scores: np.ndarray, weights: Sequence[float] | None = None, mean: str = "geometric", several: bool = False
) -> np.ndarray:
    """The scores `(models, clips, classes)` of several models as those of one, `(clips, classes)`; NaN stays NaN.

    Args:
        weights: of each model, 1 in sum (default: equal).
        mean: "arithmetic", or "geometric", whose scores are brought to a sum of 1 again (logarithmic opinion pool).
        several: whether several classes may be true at a time: each class then has a geometric mean of its own.
    """
    shares = np.full(len(scores), 1 / len(scores)) if weights is None else np.asarray(weights)
    if mean == "arithmetic":
        return np.tensordot(shares, scores, 1)
    yes, no = (np.exp(np.tensordot(shares, np.log(np.maximum(each, LOWEST)), 1)) for each in (scores, 1 - scores))
    return yes / (yes + no if several else yes.sum(axis=-1, keepdims=True))


def members_of(folder: str | Path | Sequence[str | Path]) -> dict[str, Any] | None:
    """The `members` of a list, or the `members`, `weights` and `mean` of a folder of `urbansound-hf ensemble`.

    None for any other folder. Raises UserError if the ensemble's file is damaged.
    """
    if not isinstance(folder, str | Path):
        return {"members": list(folder)}
    path = Path(folder) / ENSEMBLE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {"members": [str(path.parent / name) for name in found["members"]],
                "weights": [float(each) for each in found["weights"]], "mean": str(found["mean"])}  # fmt: skip
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"cannot be read: {error}", str(path), "make the ensemble again") from error
