"""Metrics of several labels a clip against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, log_loss, roc_auc_score

from urbansound_hf.evaluation.confidence import calibration
from urbansound_hf.evaluation.hf_metric import AudioClassificationMetric
from urbansound_hf.evaluation.metrics import best_thresholds, confusion_counts, predicted_classes, ranking_scores

CLASSES = ["dog", "rain", "siren"]


@pytest.fixture
def clips() -> tuple[np.ndarray, np.ndarray]:
    """True labels, and scores of one decimal, so that many are equal."""
    draw = np.random.default_rng(0)
    true = (draw.random((60, 3)) < (0.2, 0.5, 0.7)).astype(int)
    return true, np.round(np.clip(0.35 * true + draw.random((60, 3)) * 0.6, 0.05, 0.95), 1).astype(np.float32)


def test_metrics_are_those_of_scikit_learn(clips):
    true, scores = clips
    thresholds = [0.4, 0.5, 0.6]
    found = AudioClassificationMetric(CLASSES, thresholds).compute(predictions=scores, references=true)
    predicted = (scores >= np.float32(thresholds)).astype(int)
    expected = {
        "mean_average_precision": average_precision_score(true, scores, average="macro"),
        "roc_auc": roc_auc_score(true, scores, average="macro"),
        "accuracy": accuracy_score(true, predicted),
        "macro_f1": f1_score(true, predicted, average="macro"),
        "micro_f1": f1_score(true, predicted, average="micro"),
        "loss": np.mean([log_loss(true[:, i], scores[:, i].astype(float)) for i in range(3)]),
    }
    assert list(found) == [*expected, "per_class", "confusion_matrix"]
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert found["per_class"]["rain"]["f1"] == pytest.approx(f1_score(true[:, 1], predicted[:, 1]))


def test_resamples_are_ranked_as_if_their_clips_were_repeated(clips):
    true, scores = clips
    times = np.random.default_rng(1).integers(0, 3, (4, 60))
    found = ranking_scores(true, scores, times)  # (2, classes, resamples)
    for number, each in enumerate(times):
        rows = np.repeat(np.arange(60), each)
        precision = average_precision_score(true[rows], scores[rows], average=None)
        np.testing.assert_allclose(
            found[:, :, number], [precision, roc_auc_score(true[rows], scores[rows], average=None)]
        )
    never = ranking_scores(np.zeros((3, 1), int), np.ones((3, 1)))
    assert np.isnan(never).all()


def test_thresholds_have_the_highest_f1(clips):
    true, scores = clips
    chosen = best_thresholds(true, scores)
    for number, threshold in enumerate(chosen):
        best = max(f1_score(true[:, number], scores[:, number] >= level) for level in np.unique(scores[:, number]))
        assert f1_score(true[:, number], predicted_classes(scores, chosen)[:, number]) == pytest.approx(best)
        assert threshold not in scores[:, number], "halfway, so that rounding does not decide"
    assert best_thresholds(np.zeros((2, 1), int), np.ones((2, 1))) == [0.5]


def test_a_row_of_the_confusion_counts_what_was_missed_and_predicted_instead():
    true = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1]])
    predicted = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 1]])
    assert confusion_counts(true, predicted, 3).tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 1]]


def test_calibration_is_over_every_label(clips):
    true, scores = clips
    diagram = calibration(scores, true, bins=5)["reliability"]
    counts, accuracy = (np.array(diagram[key], float) for key in ("counts", "accuracy"))
    assert counts.sum() == true.size and np.nansum(accuracy * counts) == pytest.approx(true.sum())
