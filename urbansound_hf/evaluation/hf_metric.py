"""The registered metrics as an `evaluate.Metric`; apart from metrics.py, as `evaluate` imports Transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from urbansound_hf.evaluation import metrics


class AudioClassificationMetric(evaluate.Metric):
    """All metrics of classification; computed offline.

    `compute(predictions=…, references=…)` takes probabilities `(clips, classes)` and class ids `(clips,)`, or several
    labels `(clips, classes)`. It returns the value of each registered metric by its name, `per_class` ({class:
    precision, recall, f1, support}) and `confusion_matrix` (rows: true, columns: predicted).

    Args:
        labels: the class names in the order of their ids.
    """

    def __init__(self, labels: Sequence[str], thresholds: metrics.Thresholds = None, **kwargs: Any) -> None:
        self.labels, self.thresholds = list(labels), thresholds
        super().__init__(**{"keep_in_memory": True, **kwargs})  # on disk, several processes would share one file

    def _info(self) -> evaluate.MetricInfo:
        probabilities = datasets.Sequence(datasets.Value("float32"))
        references = datasets.Value("int64") if self.thresholds is None else datasets.Sequence(datasets.Value("int64"))
        return evaluate.MetricInfo(
            description="Metrics of audio classification",
            citation="",
            inputs_description="predictions: probabilities of all classes; references: class ids",
            features=datasets.Features({"predictions": probabilities, "references": references}),
        )

    def _compute(self, predictions: Sequence[Sequence[float]], references: Sequence[int]) -> dict[str, Any]:
        true, probabilities = np.asarray(references), np.asarray(predictions, dtype=np.float32)
        predicted = metrics.predicted_classes(probabilities, self.thresholds)
        return metrics.all_scores(true, predicted, probabilities, self.labels)
