"""The registered metrics as an `evaluate.Metric`; apart from metrics.py, as `evaluate` imports Transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from urbansound_hf.evaluation.metrics import compute_metrics, confusion_counts, per_class_scores


class AudioClassificationMetric(evaluate.Metric):
    """All metrics of single-label classification; computed offline.

    `compute(predictions=…, references=…)` takes probabilities `(clips, classes)` and class ids `(clips,)`. It returns
    the value of each registered metric by its name, `per_class` ({class: precision, recall, f1, support}) and
    `confusion_matrix` (rows: true, columns: predicted).

    Args:
        labels: the class names in the order of their ids.
    """

    def __init__(self, labels: Sequence[str], **kwargs: Any) -> None:
        self.labels = list(labels)
        super().__init__(**{"keep_in_memory": True, **kwargs})  # on disk, several processes would share one file

    def _info(self) -> evaluate.MetricInfo:
        probabilities = datasets.Sequence(datasets.Value("float32"))
        return evaluate.MetricInfo(
            description="Metrics of single-label audio classification",
            citation="",
            inputs_description="predictions: probabilities of all classes; references: class ids",
            features=datasets.Features({"predictions": probabilities, "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions: Sequence[Sequence[float]], references: Sequence[int]) -> dict[str, Any]:
        true, probabilities = np.asarray(references), np.asarray(predictions, dtype=np.float32)
        predicted = probabilities.argmax(axis=1)
        return {
            **compute_metrics(true, predicted, probabilities),
            "per_class": per_class_scores(true, predicted, self.labels),
            "confusion_matrix": confusion_counts(true, predicted, len(self.labels)).tolist(),
        }
