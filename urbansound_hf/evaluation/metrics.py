"""Metrics of single-label classification and the registry that training, reports and cards iterate over.

A new metric is one function of `(true, predicted, probabilities)` under the decorator `metric`, which names its column:

    @metric("top-3 accuracy")
    def top_3_accuracy(true, predicted, probabilities):
        return np.mean((np.argsort(-probabilities)[:, :3] == true[:, None]).any(axis=1))

It then stands in metrics.json as `test_top_3_accuracy`, in reports, cards and summaries, and
`--metric_for_best_model top_3_accuracy` selects the checkpoint by it. scikit-learn is imported when a metric is
computed, as the flags need the names only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MetricFunction = Callable[[np.ndarray, np.ndarray, np.ndarray], float]
"""`true (clips,)` and `predicted (clips,)` class ids, `probabilities (clips, classes)` → the value."""


@dataclass(frozen=True)
class Metric:
    """A registered metric."""

    name: str  # its key: `test_<name>` in metrics.json, `<name>` for `metric_for_best_model`
    title: str  # the heading of its column in reports and cards
    function: MetricFunction
    greater_is_better: bool = True  # whether the checkpoint with the greatest value is the best
    hub_type: str | None = None  # the Hub's name of this metric, for the metadata of model cards; None: it has none


ALL_METRICS: dict[str, Metric] = {}
"""The registered metrics by name; reports show them in this order."""


def metric(
    title: str, greater_is_better: bool = True, hub_type: str | None = None
) -> Callable[[MetricFunction], MetricFunction]:
    """Registers a function as the metric of its name; the arguments are those of `Metric`."""

    def register(function: MetricFunction) -> MetricFunction:
        name = getattr(function, "__name__", "")
        ALL_METRICS[name] = Metric(name, title, function, greater_is_better, hub_type)
        return function

    return register


@metric("accuracy", hub_type="accuracy")
def accuracy(true: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray) -> float:
    """The share of clips whose highest score is that of the true class."""
    return float(np.mean(true == predicted))


@metric("macro-F1", hub_type="f1")
def macro_f1(true: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray) -> float:
    """The unweighted mean of the F1 of all classes that occur as true or predicted class."""
    classes = 1 + max(true.max(), predicted.max())
    hits = np.bincount(true[true == predicted], minlength=classes)
    sizes = np.bincount(true, minlength=classes) + np.bincount(predicted, minlength=classes)
    occurs = sizes > 0
    return float(np.mean(2 * hits[occurs] / sizes[occurs]))  # as scikit-learn's, without its checks: resampled often


@metric("loss", greater_is_better=False)
def loss(true: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray) -> float:
    """The mean negative log-likelihood of the true classes, in nats."""
    likelihood = probabilities[np.arange(len(true)), true]
    return float(-np.log(np.maximum(likelihood, 1e-12)).mean())


def compute_metrics(true: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """The values of all registered metrics, by name; the arguments are those of a `MetricFunction`."""
    return {name: each.function(true, predicted, probabilities) for name, each in ALL_METRICS.items()}


def present_metrics(values: Mapping[str, Any], prefix: str = "") -> list[Metric]:
    """The registered metrics that `values` has under `<prefix><name>`; results of earlier versions may lack some."""
    return [each for name, each in ALL_METRICS.items() if f"{prefix}{name}" in values]


def per_class_scores(true: np.ndarray, predicted: np.ndarray, labels: Sequence[str]) -> dict[str, dict[str, float]]:
    """`{class: {precision, recall, f1, support}}` of `(clips,)` class ids; 0 where a ratio has no denominator."""
    from sklearn.metrics import precision_recall_fscore_support

    precision, recall, f1, support = precision_recall_fscore_support(
        true, predicted, labels=np.arange(len(labels)), zero_division=0.0
    )
    return {
        name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(n)}
        for name, p, r, f, n in zip(labels, precision, recall, f1, support, strict=True)
    }


def confusion_counts(true: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """The confusion matrix `(classes, classes)` int64 of `(clips,)` class ids; rows: true, columns: predicted."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (true, predicted), 1)
    return counts


def softmax(logits: np.ndarray) -> np.ndarray:
    """`(clips, classes)` logits → probabilities, float32."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (shifted / shifted.sum(axis=-1, keepdims=True)).astype(np.float32)


def mean_over_windows(probabilities: np.ndarray, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Averages the `(windows, classes)` of each clip, as serving does; `clips` `(windows,)` is the clip of each window.

    Returns:
        the clips in ascending order `(n,)`, and their mean probabilities `(n, classes)`.
    """
    names, position = np.unique(clips, return_inverse=True)
    total = np.zeros((len(names), probabilities.shape[1]))
    np.add.at(total, position, probabilities)
    return names, (total / np.bincount(position)[:, None]).astype(np.float32)


def clip_scores(logits: Any, targets: Any) -> dict[str, np.ndarray]:
    """Combines the logits of windows to the arguments of `compute_metrics`, in the order of the clips' rows.

    Args:
        logits: `(windows, classes)`.
        targets: of each window, its class `(windows,)` and its clip's row `(windows,)`.
    """
    labels, clips = targets
    probabilities = mean_over_windows(softmax(logits), clips)[1]
    first = np.unique(clips, return_index=True)[1]
    return {"true": labels[first], "predicted": probabilities.argmax(1), "probabilities": probabilities}
