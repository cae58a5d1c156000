"""The scores against numbers computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from evaluate import config

from urbansound_hf.evaluation.hf_metric import AudioClassificationMetric
from urbansound_hf.evaluation.metrics import ALL_METRICS, clip_scores, mean_over_windows, softmax

LABELS = ["bark", "horn", "rain", "silence"]
TRUE = [0, 0, 0, 1, 1, 2]
PREDICTED = [0, 0, 1, 1, 2, 2]  # nothing is silence, nothing is taken for it


def one_hot(predicted: list[int]) -> np.ndarray:
    """Probabilities that are 0.7 for the predicted class and 0.1 for the others."""
    return (0.1 + 0.6 * np.eye(len(LABELS))[predicted]).astype(np.float32)


@pytest.fixture
def scores() -> dict:
    return AudioClassificationMetric(LABELS).compute(predictions=one_hot(PREDICTED), references=TRUE)


def test_every_registered_metric_is_computed(scores):
    assert list(scores) == [*ALL_METRICS, "per_class", "confusion_matrix"]
    assert list(ALL_METRICS) == ["accuracy", "macro_f1", "loss"]
    assert [each.greater_is_better for each in ALL_METRICS.values()] == [True, True, False]
    assert scores["loss"] == pytest.approx(-(4 * np.log(0.7) + 2 * np.log(0.1)) / 6)


def test_accuracy_and_confusion(scores):
    assert scores["accuracy"] == pytest.approx(4 / 6)
    assert scores["confusion_matrix"] == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_per_class_scores(scores):
    assert list(scores["per_class"]) == LABELS
    bark = {"precision": 1.0, "recall": 2 / 3, "f1": 0.8, "support": 3}
    horn = {"precision": 1 / 2, "recall": 1 / 2, "f1": 0.5, "support": 2}
    assert scores["per_class"]["bark"] == pytest.approx(bark)
    assert scores["per_class"]["horn"] == pytest.approx(horn)
    assert scores["per_class"]["silence"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0}


def test_macro_f1_is_over_the_classes_that_occur(scores):
    assert scores["macro_f1"] == pytest.approx((0.8 + 0.5 + 2 / 3) / 3)
    predicted_only = AudioClassificationMetric(LABELS).compute(predictions=one_hot([0, 3]), references=[0, 0])
    assert predicted_only["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)


def test_one_metric_computes_again_and_beside_another_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "HF_METRICS_CACHE", tmp_path)
    one, other = AudioClassificationMetric(LABELS), AudioClassificationMetric(LABELS)
    one.add_batch(predictions=one_hot([0, 1]), references=[0, 0])
    assert other.compute(predictions=one_hot([2]), references=[2])["accuracy"] == 1
    assert one.compute()["accuracy"] == 0.5
    assert one.compute(predictions=one_hot([1]), references=[0])["accuracy"] == 0
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "processes would share them"


def test_softmax():
    expected = [[0.25, 0.75], [0.5, 0.5], [0.0, 1.0]]
    scores = softmax(np.array([[0, np.log(3)], [1000, 1000], [-1000, 1000]], np.float32))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_mean_over_windows_whatever_their_order():
    windows = np.array([[0.2, 0.8], [1.0, 0.0], [0.6, 0.4], [0.4, 0.6]], np.float32)
    clips, means = mean_over_windows(windows, np.array([7, 3, 7, 7]))
    assert clips.tolist() == [3, 7] and means.dtype == np.float32
    np.testing.assert_allclose(means, [[1.0, 0.0], [0.4, 0.6]], rtol=1e-6)


def test_clip_scores_are_in_the_order_of_the_rows():
    logits = np.log(np.array([[0.2, 0.8], [0.9, 0.1], [0.6, 0.4]], np.float32))
    clips = clip_scores(logits, (np.array([1, 0, 1]), np.array([7, 3, 7])))
    assert clips["true"].tolist() == [0, 1] and clips["predicted"].tolist() == [0, 1]
    np.testing.assert_allclose(clips["probabilities"], [[0.9, 0.1], [0.4, 0.6]], rtol=1e-6)
