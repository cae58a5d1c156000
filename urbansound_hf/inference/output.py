"""The results of classification: predictions of windows, their summary and events, and the records that are written.

The starts and ends of all windows divide the recording into cells. The scores of a cell are the mean of the windows
that cover it. A model with one label for each sound gives every cell the label of its highest score, so events never
overlap; a multi-label model gives it every label whose score reaches the threshold. Neighbouring cells of one label
are an event; its score is the mean over its cells, weighted by their length.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from urbansound_hf.errors import UserError

SILENCE_DB = -60.0  # dBFS, RMS of a window; below, a score says little
UNKNOWN = "unknown"  # the label of cells in which no score reaches `min_score`
MULTI_LABEL_SCORE = 0.5  # default threshold of multi-label models
SHORTEST_CELL = 0.01  # seconds; windows whose length is no multiple of the hop leave slivers of a sample
NOTHING, BELOW = -2, -1  # in place of a class number: no event, `UNKNOWN`
Record = dict[str, Any]


@dataclass(frozen=True)
class Prediction:
    """The classes of one window."""

    start: float  # of the window in the recording, in seconds
    end: float
    top: tuple[tuple[str, float], ...]  # labels and their scores, highest score first
    level_db: float = 0.0  # RMS level of the model's input in dBFS (full scale 1.0); of a summary, the loudest window's
    embedding: np.ndarray | None = field(default=None, repr=False, compare=False)  # (hidden,) float32, if asked for
    labels: tuple[str, ...] | None = None  # of a multi-label model, those that reach their thresholds, highest first

    @property
    def label(self) -> str:
        return self.top[0][0]

    @property
    def score(self) -> float:
        return self.top[0][1]


@dataclass(frozen=True)
class Event:
    """A stretch of a recording with one label."""

    start: float  # seconds
    end: float
    label: str  # a class, or `unknown`
    score: float  # mean of the label's scores over the stretch; of `unknown`, mean of the highest scores
    silence: bool = False  # whether all windows that cover it are silent; the label and the score of the model stay

    @property
    def text(self) -> str:
        """The label, or `silence`."""
        return "silence" if self.silence else self.label


@dataclass(frozen=True)
class Classification:
    """The result of one input: a single window, several windows with their summary, or an error."""

    path: str  # name of the input
    windows: tuple[Prediction, ...] = ()  # in time order; empty for an unreadable input
    summary: Prediction | None = None  # mean of the scores of all windows, where there are several
    error: str = ""  # why the input could not be read
    labels: Sequence[str] = field(default=(), repr=False)  # class names in the order of the columns of `scores`
    scores: np.ndarray | None = field(default=None, repr=False, compare=False)  # (windows, classes) float32
    thresholds: Sequence[float] | None = field(default=None, repr=False)  # of a multi-label model, one for each class

    @classmethod
    def failed(cls, error: UserError) -> Classification:
        return cls(error.where, error="; ".join(filter(None, (error.what, error.fix))))

    @property
    def overall(self) -> Prediction:
        """The summary, or the only window."""
        return self.summary or self.windows[0]

    def events(
        self, min_score: float | None = None, min_seconds: float = 0.0, smooth: int = 1, silence_db: float = SILENCE_DB
    ) -> list[Event]:
        """Merged stretches of one label; where windows overlap, their scores are averaged.

        Args:
            min_score: of a model with one label for each sound, stretches below it are labelled `unknown` (default:
                none are); of a multi-label model, the score from which a label is an event (default: its thresholds).
            min_seconds: shorter events are left out.
            smooth: median of each class's scores over so many cells (an odd number; 1: none); a cell is a hop where
                the window is a multiple of it.
            silence_db: RMS level in dBFS below which a window is silent.

        Raises:
            UserError: an even `smooth`, or a negative `min_seconds`.

        Examples:
            >>> model = ush.SoundClassifier.from_pretrained("outputs/base/fold10")
            >>> result = model.classify("long.wav", hop_seconds=0.5)
            >>> events = result.events(min_score=0.3, min_seconds=0.5, smooth=3)
            >>> all(event.start < event.end for event in events)
            True
        """
        if smooth < 1 or smooth % 2 == 0:
            raise UserError(f"the median is over an odd number of cells, found {smooth}", "smooth", f"{smooth + 1}")
        if min_seconds < 0:
            raise UserError(f"an event has no length of {min_seconds:g} s", "min_seconds", "give 0 or more")
        if not self.windows:
            return []
        labels, scores = self.labels, self.scores
        if scores is None:  # what is known of them
            labels = list(dict.fromkeys(label for window in self.windows for label, _ in window.top))
            scores = np.array([[dict(window.top).get(label, 0.0) for label in labels] for window in self.windows])
        bounds = np.array([(window.start, window.end) for window in self.windows])
        edges, means, quiet = _cells(bounds, scores, np.array([each.level_db < silence_db for each in self.windows]))
        if smooth > 1:
            from scipy.ndimage import median_filter

            means = median_filter(means, (smooth, 1), mode="nearest")
        if self.thresholds is not None:
            reached = means >= (self.thresholds if min_score is None else min_score)  # (cells, classes)
            tracks = [(np.where(each, number, NOTHING), means[:, number]) for number, each in enumerate(reached.T)]
        else:
            highest = means.max(axis=1)
            least = -np.inf if min_score is None else min_score
            tracks = [(np.where(highest < least, BELOW, means.argmax(axis=1)), highest)]
        events = [each for keys, of in tracks for each in _runs(keys, quiet, of, edges, labels)]
        return sorted((each for each in events if each.end - each.start >= min_seconds), key=lambda each: each.start)


def _cells(bounds: np.ndarray, scores: np.ndarray, silent: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(cells + 1,)` edges in seconds, `(cells, classes)` mean scores, `(cells,)` whether all windows are silent."""
    starts, ends = bounds.T
    edges = np.unique(bounds)
    apart = np.diff(edges, prepend=-1.0) > SHORTEST_CELL
    edges = np.append(edges[:-1][apart[:-1]], edges[-1])
    centres = (edges[1:] + edges[:-1]) / 2
    first, behind = np.searchsorted(ends, centres), np.searchsorted(starts, centres)  # the windows that cover a cell
    sums = np.zeros((len(bounds) + 1, scores.shape[1] + 1))
    np.cumsum(np.column_stack([scores, silent]), axis=0, out=sums[1:])
    means = (sums[behind] - sums[first]) / (behind - first)[:, None]
    return edges, means[:, :-1], means[:, -1] > 1 - 1e-9


def _runs(
    keys: np.ndarray, quiet: np.ndarray, scores: np.ndarray, edges: np.ndarray, labels: Sequence[str]
) -> Iterator[Event]:
    """Neighbouring cells of equal class number and silence as one event; none for `NOTHING`."""
    changes = np.flatnonzero((np.diff(keys) != 0) | (np.diff(quiet) != 0)) + 1
    for first, behind in zip([0, *changes], [*changes, len(keys)], strict=True):
        if keys[first] != NOTHING:
            label = UNKNOWN if keys[first] == BELOW else labels[keys[first]]
            score = np.average(scores[first:behind], weights=np.diff(edges[first : behind + 1]))
            yield Event(float(edges[first]), float(edges[behind]), label, float(score), bool(quiet[first]))


def activation(logits: np.ndarray, problem_type: str | None) -> np.ndarray:
    """The scores `(…, classes)` of logits, as the stock pipeline chooses their function; NaN stays NaN."""
    if problem_type == "regression":
        return logits
    if problem_type == "multi_label_classification":
        return np.exp(-np.logaddexp(0, -logits))  # the sigmoid, without an overflow
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def window_record(path: str, prediction: Prediction, silence_db: float) -> Record:
    """The record of a window; its embedding is base64 of float32, little-endian."""
    top = [{"label": label, "score": round(score, 6)} for label, score in prediction.top]
    times = {"start": round(prediction.start, 4), "end": round(prediction.end, 4)}
    level = {"level_db": round(prediction.level_db, 1), "silence": prediction.level_db < silence_db}
    vector = prediction.embedding
    embedded = {} if vector is None else {"embedding": b64encode(vector.astype("<f4").tobytes()).decode()}
    labels = {} if prediction.labels is None else {"labels": list(prediction.labels)}
    return {"path": path, **times, **top[0], "top": top, **labels, **level, **embedded}
