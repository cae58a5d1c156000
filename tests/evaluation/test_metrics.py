"""The scores against numbers computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from evaluate import config

from urbansound_hf.evaluation.metrics import AudioClassificationMetric, mean_over_windows, softmax

LABELS = ["bark", "horn", "rain", "silence"]
TRUE = [0, 0, 0, 1, 1, 2]
PREDICTED = [0, 0, 1, 1, 2, 2]  # nothing is silence, nothing is taken for it


@pytest.fixture
def scores() -> dict:
    return AudioClassificationMetric(LABELS).compute(predictions=PREDICTED, references=TRUE)


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
    predicted_only = AudioClassificationMetric(LABELS).compute(predictions=[0, 3], references=[0, 0])
    assert predicted_only["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)


def test_one_metric_computes_again_and_beside_another_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "HF_METRICS_CACHE", tmp_path)
    one, other = AudioClassificationMetric(LABELS), AudioClassificationMetric(LABELS)
    one.add_batch(predictions=[0, 1], references=[0, 0])
    assert other.compute(predictions=[2], references=[2])["accuracy"] == 1
    assert one.compute()["accuracy"] == 0.5
    assert one.compute(predictions=[1], references=[0])["accuracy"] == 0
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
