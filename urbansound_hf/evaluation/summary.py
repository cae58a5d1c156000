"""All that a report says of a table of predictions, as plain values for JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from urbansound_hf.evaluation import confidence
from urbansound_hf.evaluation.runs import Predictions

LENGTHS = {"< 1 s": 0.0, "1–2 s": 1.0, "2–4 s": 2.0, "≥ 4 s": 3.99}  # from so many seconds; whole slices are 3.99… s
SALIENCES = {"foreground": 1, "background": 2}
MISTAKES = 10


def measure(predictions: Predictions) -> dict[str, Any]:
    """All that can be said of a table of predictions, ready for JSON; an interval that does not exist is None."""
    true, predicted, groups = predictions.true, predictions.predicted, predictions.groups
    counts = confidence.count_by_recording(true, predicted, groups, len(predictions.labels))
    values = np.nan_to_num(confidence.classification_scores(counts.sum(axis=0)))
    intervals = [known(ends) for ends in confidence.bootstrap_interval(confidence.classification_scores, counts).T]
    confusion = np.zeros((len(predictions.labels),) * 2, dtype=np.int64)
    np.add.at(confusion, (true, predicted), 1)
    diagram = confidence.reliability(predictions.probabilities, true)
    seconds, salience = predictions.seconds, predictions.salience
    length = np.digitize(seconds, list(LENGTHS.values())) - 1
    return {
        "clips": len(predictions),
        "recordings": len(counts),
        "accuracy": float(values[0]),
        "accuracy_interval": intervals[0],
        "macro_f1": float(values[1]),
        "macro_f1_interval": intervals[1],
        "per_class": _per_class(predictions.labels, counts, values[2:], intervals[2:]),
        "confusion_matrix": confusion.tolist(),
        "labels": predictions.labels,
        "ece": diagram.error,
        "reliability": {key: _gaps(getattr(diagram, key)) for key in ("counts", "confidence", "accuracy")},
        "by_length": _by(predictions, {name: (length == i) & ~np.isnan(seconds) for i, name in enumerate(LENGTHS)}),
        "by_salience": _by(predictions, {name: salience == code for name, code in SALIENCES.items()}),
        "confident_mistakes": confident_mistakes(predictions),
    }


def _per_class(
    labels: Sequence[str], counts: np.ndarray, values: np.ndarray, intervals: Sequence[list[float] | None]
) -> dict[str, dict[str, Any]]:
    support, recordings = counts[:, 1].sum(axis=0), (counts[:, 1] > 0).sum(axis=0)
    rows: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(labels):
        row: dict[str, Any] = {"support": int(support[i]), "recordings": int(recordings[i])}
        for key, at in zip(("precision", "recall", "f1"), range(i, len(values), len(labels)), strict=True):
            row |= {key: float(values[at]), f"{key}_interval": intervals[at]}
        rows[name] = row
    return rows


def _by(predictions: Predictions, conditions: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """The accuracy of the clips under each condition that occurs."""
    rows = {}
    for name, mask in conditions.items():
        if mask.any():
            correct, groups = predictions.correct[mask], predictions.groups[mask]
            rows[name] = {
                "accuracy": float(correct.mean()),
                "accuracy_interval": list(confidence.mean_interval(correct, groups)),
                "clips": int(mask.sum()),
                "recordings": len(np.unique(groups)),
            }
    return rows


def confident_mistakes(predictions: Predictions, most: int = MISTAKES) -> list[dict[str, Any]]:
    """The wrong predictions of highest score: path, true, predicted, score."""
    wrong = predictions.select(~predictions.correct)
    scores = wrong.probabilities.max(axis=1)
    return [
        {
            "path": str(wrong.paths[i]),
            "true": wrong.labels[wrong.true[i]],
            "predicted": wrong.labels[wrong.predicted[i]],
            "score": float(scores[i]),
        }
        for i in np.argsort(-scores, kind="stable")[:most]
    ]


def known(ends: np.ndarray) -> list[float] | None:
    """An interval for JSON, which knows no NaN: None where it does not exist."""
    return None if np.isnan(ends).any() else ends.tolist()


def _gaps(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
