"""The results of classification: predictions of windows, their summary and events, and the records that are written."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from urbansound_hf.errors import UserError
from urbansound_hf.inference.events import SILENCE_DB, Event, merge_windows

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
        silent = np.array([window.level_db < silence_db for window in self.windows])
        least = self.thresholds if min_score is None and self.scores is not None else min_score
        several = self.thresholds is not None
        return merge_windows(bounds, scores, silent, labels, several, least, min_seconds, smooth)


def activation(logits: np.ndarray, problem_type: str | None) -> np.ndarray:
    """The scores `(…, classes)` of logits, as the stock pipeline chooses their function; NaN stays NaN."""
    if problem_type == "regression":
        return logits
    if problem_type == "multi_label_classification":
        return np.exp(-np.logaddexp(0, -logits))  # the sigmoid, without an overflow
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def window_records(result: Classification, silence_db: float) -> Iterator[Record]:
    """A record for each window; a timeline's summary comes last, with the number of `windows` it is the mean of.

    Where there are embeddings, there is no summary; they are base64 of float32, little-endian.
    """
    for prediction in result.windows:
        yield window_record(result.path, prediction, silence_db)
    if result.summary and prediction.embedding is None:
        yield {**window_record(result.path, result.summary, silence_db), "windows": len(result.windows)}


def event_records(result: Classification, rules: Mapping[str, Any]) -> Iterator[Record]:
    """A record for each event; `rules` are the arguments of `Classification.events`."""
    for event in result.events(**rules):
        times = {"start": round(event.start, 4), "end": round(event.end, 4)}
        score = {"label": event.label, "score": round(event.score, 6), "silence": event.silence}
        yield {"path": result.path, **times, **score}


def window_record(path: str, prediction: Prediction, silence_db: float) -> Record:
    """The record of a window."""
    top = [{"label": label, "score": round(score, 6)} for label, score in prediction.top]
    times = {"start": round(prediction.start, 4), "end": round(prediction.end, 4)}
    level = {"level_db": round(prediction.level_db, 1), "silence": prediction.level_db < silence_db}
    vector = prediction.embedding
    embedded = {} if vector is None else {"embedding": b64encode(vector.astype("<f4").tobytes()).decode()}
    labels = {} if prediction.labels is None else {"labels": list(prediction.labels)}
    return {"path": path, **times, **top[0], "top": top, **labels, **level, **embedded}
