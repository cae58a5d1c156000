"""Metrics of classification and the registry that training, reports and cards iterate over.

A new metric is one function under the decorator `metric`, see docs/extend/metric.md. scikit-learn and SciPy are
imported when a metric is computed, as the flags need the names only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from urbansound_hf.evaluation import confidence

MetricFunction = Callable[[np.ndarray, np.ndarray, np.ndarray], float]
"""`true (clips,)` and `predicted (clips,)` class ids, `probabilities (clips, classes)` → the value.

Where clips have several labels, `true` and `predicted` are `(clips, classes)` of 0 and 1.
"""
Thresholds = Sequence[float] | None
"""Of each class, the score from which a clip has it; None where a clip has one label."""


@dataclass(frozen=True)
class Metric:
    """A registered metric."""

    name: str  # its key: `test_<name>` in metrics.json, `<name>` for `metric_for_best_model`
    title: str  # the heading of its column in reports and cards
    function: MetricFunction
    labels: str = "one"  # of a clip: "one", "several", or "any" for a metric of both
    greater_is_better: bool = True  # whether the checkpoint with the greatest value is the best
    hub_type: str | None = None  # the Hub's name of this metric, for the metadata of model cards; None: it has none


ALL_METRICS: dict[str, Metric] = {}
"""The registered metrics by name; reports show them in this order."""


def metric(title: str, labels: str = "one", **facts: Any) -> Callable[[MetricFunction], MetricFunction]:
    """Registers a function as the metric of its name; the arguments are those of `Metric`."""

    def register(function: MetricFunction) -> MetricFunction:
        name = getattr(function, "__name__", "")
        ALL_METRICS[name] = Metric(name, title, function, labels, **facts)
        return function

    return register


@metric("mAP", "several", hub_type="map")
def mean_average_precision(true: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray) -> float:
    """The unweighted mean of the average precision of all classes that some clip has."""
    return _mean(ranking_scores(true, probabilities)[0])


@metric("AUC", "several", hub_type="roc_auc")
def roc_auc(true: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray) -> float:
    """The unweighted mean of the area under the ROC curve of all classes that some clips have and others have not."""
    return _mean(ranking_scores(true, probabilities)[1])


@metric("accuracy", "any", hub_type="accuracy")
def accuracy(true: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray) -> float:
    """The share of clips whose highest score is that of the true class; of several labels, with all of them right."""
    return float(np.mean(right(true, predicted)))


@metric("macro-F1", "any", hub_type="f1")
def macro_f1(true: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray) -> float:
    """The unweighted mean of the F1 of all classes that occur as true or predicted class."""
    hits, sizes = _hits_and_sizes(true, predicted)
    occurs = sizes > 0
    return _mean(2 * hits[occurs] / sizes[occurs])  # as scikit-learn's, without its checks: resampled often


@metric("micro-F1", "several")
def micro_f1(true: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray) -> float:
    """The F1 of all labels of all clips together."""
    hits, sizes = _hits_and_sizes(true, predicted)
    return float(2 * hits.sum() / max(1, sizes.sum()))


@metric("loss", "any", greater_is_better=False)
def loss(true: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray) -> float:
    """The mean negative log-likelihood in nats: of the true classes; of several labels, over clips and classes."""
    several = true.ndim == 2
    chosen = np.where(true > 0, probabilities, 1 - probabilities) if several else probabilities[range(len(true)), true]
    return float(-np.log(np.maximum(chosen, 1e-12)).mean())


def right(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Whether the predicted class of each clip is the true one, or all its labels are right: `(clips,)` bool."""
    return true == predicted if true.ndim == 1 else (true == predicted).all(axis=1)


def _mean(values: np.ndarray) -> float:
    """The mean of those that exist; 0 if none does."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else 0.0


def _hits_and_sizes(true: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each class, the clips that have it in truth and prediction, and the sum of those of either."""
    if true.ndim == 2:
        return (true * predicted).sum(axis=0), true.sum(axis=0) + predicted.sum(axis=0)
    classes = 1 + max(true.max(), predicted.max())
    hits = np.bincount(true[true == predicted], minlength=classes)
    return hits, np.bincount(true, minlength=classes) + np.bincount(predicted, minlength=classes)


def ranking_scores(true: np.ndarray, scores: np.ndarray, times: np.ndarray | None = None) -> np.ndarray:
    """Average precision and area under the ROC curve, as scikit-learn's, in many resamples at once.

    From `(clips, classes)` to `(2, classes)`, with `(resamples, clips)` times that each clip occurs to
    `(2, classes, resamples)`; NaN where a class has no clip, or for the area no other.
    """
    if times is None:
        return ranking_scores(true, scores, np.ones((1, len(true))))[..., 0]
    return np.stack([_ranked(*columns, times) for columns in zip(true.T, scores.T, strict=True)], axis=1)


def _ranked(true: np.ndarray, scores: np.ndarray, times: np.ndarray) -> np.ndarray:
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # of clips of equal scores
    drawn = times[:, order]
    above, hits = (np.cumsum(each, axis=1)[:, last] for each in (drawn, drawn * true[order]))  # of this score or higher
    gained, lost = np.diff(hits, prepend=0), np.diff(above - hits, prepend=0)
    positives, negatives = hits[:, -1], (above - hits)[:, -1]
    with np.errstate(invalid="ignore"):
        precision = (gained * hits / np.maximum(above, 1)).sum(axis=1) / positives
        return np.stack([precision, (lost * (hits - gained / 2)).sum(axis=1) / (positives * negatives)])


UNTUNED = 0.5  # threshold of a label for which no validation clip chooses one


def best_thresholds(true: np.ndarray, scores: np.ndarray) -> list[float]:
    """The threshold of each class with the highest F1, halfway to the next lower score, of `(clips, classes)`."""
    from sklearn.metrics import precision_recall_curve

    found = [UNTUNED] * true.shape[1]
    for number in np.flatnonzero(true.any(axis=0)):
        precision, recall, levels = precision_recall_curve(true[:, number], scores[:, number])  # levels ascend
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        best = int(f1[:-1].argmax())
        found[number] = float(levels[best] + (levels[best - 1] if best else 0.0)) / 2
    return found


def compute_metrics(true: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """The values of all metrics of these clips, by name; the arguments are those of a `MetricFunction`."""
    return {each.name: each.function(true, predicted, probabilities) for each in metrics_of(true)}


def all_scores(
    true: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray, labels: Sequence[str]
) -> dict[str, Any]:
    """`compute_metrics`, and as `per_class` and `confusion_matrix` what the functions below compute; for JSON."""
    return {
        **compute_metrics(true, predicted, probabilities),
        "per_class": per_class_scores(true, predicted, labels),
        "confusion_matrix": confusion_counts(true, predicted, len(labels)).tolist(),
    }


def metrics_of(true: np.ndarray) -> list[Metric]:
    """The registered metrics of one label a clip `(clips,)`, or of several `(clips, classes)`."""
    return [each for each in ALL_METRICS.values() if each.labels in ("any", "several" if true.ndim == 2 else "one")]


def present_metrics(values: Mapping[str, Any], prefix: str = "") -> list[Metric]:
    """The registered metrics that `values` has under `<prefix><name>`; results of earlier versions may lack some."""
    return [each for name, each in ALL_METRICS.items() if f"{prefix}{name}" in values]


def per_class_scores(true: np.ndarray, predicted: np.ndarray, labels: Sequence[str]) -> dict[str, dict[str, float]]:
    """`{class: {precision, recall, f1, support}}` by class ids or 0 and 1; 0 where a ratio has no denominator."""
    counts = confidence.count_by_recording(true, predicted, np.zeros(len(true)), len(labels))[0]
    scores = np.nan_to_num(confidence.classification_scores(counts)[2:]).reshape(3, -1).T  # (classes, 3)
    return {
        name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(n)}
        for name, (p, r, f), n in zip(labels, scores, counts[1], strict=True)
    }


def confusion_counts(true: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """The confusion matrix `(classes, classes)` int64 of `(clips,)` class ids; rows: true, columns: predicted.

    Of several labels, a row counts the clips of a true label: on the diagonal those where it is predicted, elsewhere
    those where it is missed and another label is predicted that is not true.
    """
    if true.ndim == 2:
        missed, wrong = true * (1 - predicted), predicted * (1 - true)
        return (missed.T @ wrong + np.diag((true * predicted).sum(axis=0))).astype(np.int64)
    return np.bincount(classes * true + predicted, minlength=classes**2).reshape(classes, classes)


def mean_over_windows(probabilities: np.ndarray, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Averages `(windows, classes)` by the `(windows,)` clips: those in ascending order, and `(clips, classes)`."""
    names, position = np.unique(clips, return_inverse=True)
    total = np.zeros((len(names), probabilities.shape[1]))
    np.add.at(total, position, probabilities)
    return names, (total / np.bincount(position)[:, None]).astype(np.float32)


def predicted_classes(probabilities: np.ndarray, thresholds: Thresholds | float) -> np.ndarray:
    """`(clips, classes)` → the class ids of the highest `(clips,)`; with thresholds `(clips, classes)` of 0 and 1."""
    if thresholds is None:
        return probabilities.argmax(axis=1)
    return (probabilities >= np.asarray(thresholds, np.float32)).astype(np.int64)


def clip_scores(logits: Any, targets: Any) -> dict[str, np.ndarray]:
    """Combines `(windows, classes)` logits to the arguments of `compute_metrics`, in the order of the clips' rows.

    The targets are the class `(windows,)` or labels `(windows, classes)` of each window, and its clip's row.
    """
    from scipy.special import expit, softmax

    labels, clips = targets
    several = labels.ndim == 2
    scores = expit(logits) if several else softmax(logits, axis=-1)
    probabilities = mean_over_windows(scores, clips)[1]
    first = np.unique(clips, return_index=True)[1]
    predicted = predicted_classes(probabilities, UNTUNED if several else None)
    return {"true": labels[first], "predicted": predicted, "probabilities": probabilities}
