"""Accuracy, macro-F1, per-class scores, confusion: an `evaluate.Metric` of our own, so that nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support


class AudioClassificationMetric(evaluate.Metric):
    """Scores of single-label classification; `compute(predictions=…, references=…)` of class ids.

    Args:
        labels: the class names in the order of their ids.

    `compute` returns `accuracy`, `macro_f1` (over the classes that occur in the references or the predictions),
    `per_class` ({class: precision, recall, f1, support}) and `confusion_matrix` (rows: true, columns: predicted).
    """

    def __init__(self, labels: Sequence[str], **kwargs: Any) -> None:
        self.labels = list(labels)
        super().__init__(**{"keep_in_memory": True, **kwargs})  # processes would share its file

    def _info(self) -> evaluate.MetricInfo:
        ids = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(
            description="Accuracy, macro-F1, per-class scores, confusion matrix",
            citation="",
            inputs_description="predictions, references: class ids",
            features=ids,
        )

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, Any]:
        ids = np.arange(len(self.labels))
        precision, recall, f1, support = precision_recall_fscore_support(
            references, predictions, labels=ids, zero_division=0.0
        )
        occurs = np.isin(ids, [*references, *predictions])
        per_class = {
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(n)}
            for name, p, r, f, n in zip(self.labels, precision, recall, f1, support, strict=True)
        }
        return {
            "accuracy": float(np.mean(np.equal(predictions, references))),
            "macro_f1": float(f1[occurs].mean()),
            "per_class": per_class,
            "confusion_matrix": confusion_matrix(references, predictions, labels=ids).tolist(),
        }


def softmax(logits: np.ndarray) -> np.ndarray:
    """`(clips, classes)` logits → probabilities, float32."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (shifted / shifted.sum(axis=-1, keepdims=True)).astype(np.float32)


def mean_over_windows(probabilities: np.ndarray, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Averages the windows of each clip, as serving does.

    Args:
        probabilities: `(windows, classes)`.
        clips: `(windows,)`, the clip that each window belongs to.

    Returns:
        the clips in ascending order `(n,)`, and their mean probabilities `(n, classes)`.
    """
    names, position = np.unique(clips, return_inverse=True)
    total = np.zeros((len(names), probabilities.shape[1]))
    np.add.at(total, position, probabilities)
    return names, (total / np.bincount(position)[:, None]).astype(np.float32)


def clip_scores(logits: Any, targets: Any) -> dict[str, np.ndarray]:
    """Windows → clips, in the order of their rows.

    Args:
        logits: `(windows, classes)`.
        targets: of each window, its class `(windows,)` and its clip's row `(windows,)`.

    Returns:
        `rows`, `predicted` and `true` `(clips,)`, and `probabilities` `(clips, classes)` float32.
    """
    labels, clips = targets
    rows, probabilities = mean_over_windows(softmax(logits), clips)
    first = np.unique(clips, return_index=True)[1]
    return {"rows": rows, "probabilities": probabilities, "predicted": probabilities.argmax(1), "true": labels[first]}


def scores(test: Mapping[str, np.ndarray], labels: list[str]) -> dict[str, Any]:
    """The test part of metrics.json."""
    result = AudioClassificationMetric(labels).compute(predictions=test["predicted"], references=test["true"])
    return {
        "test_accuracy": result["accuracy"],
        "test_macro_f1": result["macro_f1"],
        "test_loss": clip_loss(test),
        "per_class": result["per_class"],
        "confusion_matrix": result["confusion_matrix"],
    }


def clip_loss(whole: Mapping[str, np.ndarray]) -> float:
    """Mean negative log-likelihood (nats) of the true classes, of what `clip_scores` returns."""
    likelihood = whole["probabilities"][np.arange(len(whole["true"])), whole["true"]]
    return float(-np.log(np.maximum(likelihood, 1e-12)).mean())
