"""Intervals, calibration and paired tests against other ways to compute them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.metrics import precision_recall_fscore_support

from urbansound_hf.evaluation.confidence import (
    bootstrap_interval,
    calibration,
    classification_scores,
    count_by_recording,
    mcnemar,
    mean_interval,
    paired_difference,
    resampled_interval,
)
from urbansound_hf.evaluation.metrics import accuracy, macro_f1, per_class_scores


@pytest.fixture
def clips():
    """600 clips of 60 recordings and 4 classes; a recording is easy or hard as a whole."""
    draw = np.random.default_rng(3)
    groups = draw.integers(0, 60, 600)
    true = (groups % 4).astype(np.int64)
    right = draw.random(600) < draw.beta(1, 0.6, 60)[groups]
    return {"true": true, "predicted": np.where(right, true, draw.integers(0, 4, 600)), "groups": groups}


def scores_of(true, predicted, classes):
    counts = count_by_recording(true, predicted, np.zeros(len(true)), classes)
    return classification_scores(counts.sum(axis=0))


def test_the_scores_are_those_of_the_metric(clips):
    labels = ["a", "b", "c", "d", "never"]  # the last neither occurs nor is predicted
    scores = scores_of(clips["true"], clips["predicted"], len(labels))
    of_clips = (clips["true"], clips["predicted"])
    assert scores[:2] == pytest.approx([accuracy(*of_clips, None), macro_f1(*of_clips, None)])
    expected = per_class_scores(*of_clips, labels)
    for i, name in enumerate(labels):
        row = expected[name]
        of_class = np.nan_to_num(scores[[2 + i, 7 + i, 12 + i]])
        assert of_class == pytest.approx([row["precision"], row["recall"], row["f1"]])
    assert np.isnan(scores[[6, 11, 16]]).all()  # nothing can be said of "never"


def test_counts_add_up_recording_by_recording(clips):
    counts = count_by_recording(**clips, classes=4)
    assert counts.shape == (60, 3, 4)
    of_seventh = clips["groups"] == 7
    assert counts[7, 1].tolist() == np.bincount(clips["true"][of_seventh], minlength=4).tolist()
    assert counts[7, 2].tolist() == np.bincount(clips["predicted"][of_seventh], minlength=4).tolist()
    assert counts[:, 0].sum() == (clips["true"] == clips["predicted"]).sum()


def test_the_bootstrap_is_the_plain_one_only_faster(clips):
    """Drawing kinds of recordings by multinomial counts must agree with drawing recordings one by one."""
    draw = np.random.default_rng(0)
    rows = [np.flatnonzero(clips["groups"] == group) for group in range(60)]
    plain = []
    for _ in range(500):
        sample = np.concatenate([rows[group] for group in draw.integers(0, 60, 60)])
        plain.append(
            [
                (clips["true"] == clips["predicted"])[sample].mean(),
                *precision_recall_fscore_support(
                    clips["true"][sample], clips["predicted"][sample], labels=range(4), zero_division=np.nan
                )[2],
            ]
        )
    counts = count_by_recording(**clips, classes=4)
    fast = bootstrap_interval(classification_scores, counts)
    wanted = [0, *range(10, 14)]  # accuracy, and the F1 of each class
    assert fast[:, wanted] == pytest.approx(np.quantile(plain, [0.025, 0.975], axis=0), abs=0.03)


def test_intervals_hold_the_score_and_come_out_alike_in_any_order(clips):
    correct = clips["true"] == clips["predicted"]
    low, high = mean_interval(correct, clips["groups"])
    assert low < correct.mean() < high
    order = np.random.default_rng(1).permutation(600)
    assert mean_interval(correct[order], clips["groups"][order]) == pytest.approx((low, high))


def test_the_interval_of_any_score_agrees_with_that_of_a_mean(clips):
    correct, groups = clips["true"] == clips["predicted"], clips["groups"]
    slow = resampled_interval(lambda rows: correct[rows].mean(), groups)
    assert slow == pytest.approx(mean_interval(correct, groups), abs=0.01)
    median = resampled_interval(lambda rows: float(np.median(rows)), groups)  # no mean, and no sum over recordings
    assert 0 < median[0] < 300 < median[1] < 600


def test_clips_that_fall_together_make_the_interval_wider(clips):
    correct = clips["true"] == clips["predicted"]
    by_recording = np.ptp(mean_interval(correct, clips["groups"]))
    by_clip = np.ptp(mean_interval(correct, np.arange(600)))
    assert by_recording > 1.5 * by_clip


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """200 tests of a model that is right on 70 % of 80 recordings of 5 equal slices."""
    draw, groups = np.random.default_rng(0), np.repeat(np.arange(80), 5)
    covered = 0
    for _ in range(200):
        low, high = mean_interval((draw.random(80) < 0.7)[groups], groups)
        covered += low <= 0.7 <= high
    assert 180 <= covered <= 199  # 95 % of 200 is 190


def test_a_score_that_is_never_defined_has_no_interval():
    zeros = np.zeros(6, dtype=np.int64)
    counts = count_by_recording(zeros, zeros, np.arange(6), classes=2)
    ends = bootstrap_interval(classification_scores, counts)
    assert ends[:, 0].tolist() == [1.0, 1.0]
    assert np.isnan(ends[:, 3]).all()  # the precision of class 1


def test_calibration_by_hand():
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.05, 0.95], [0.5, 0.5]])
    found = calibration(probabilities, np.array([0, 1, 1, 0]), bins=10)
    diagram = found["reliability"]
    assert diagram["counts"] == [0, 0, 0, 0, 1, 0, 0, 0, 0, 3]  # 0.5 belongs to (0.4, 0.5]
    assert [diagram["confidence"][i] for i in (4, 9)] == pytest.approx([0.5, 0.95])
    assert [diagram["accuracy"][i] for i in (4, 9)] == pytest.approx([1.0, 2 / 3]) and diagram["accuracy"][0] is None
    assert found["ece"] == pytest.approx(0.25 * 0.5 + 0.75 * (0.95 - 2 / 3))


def test_calibration_error_is_small_only_when_scores_mean_what_they_say():
    draw = np.random.default_rng(0)
    confidence = draw.uniform(0.5, 1, 20_000)
    honest = (draw.random(20_000) > confidence).astype(np.int64)  # class 0 as often as its score says
    probabilities = np.column_stack([confidence, 1 - confidence])
    assert calibration(probabilities, honest)["ece"] < 0.02
    assert calibration(probabilities, 1 - honest)["ece"] > 0.4


def test_certainty_falls_into_the_last_bin():
    found = calibration(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 1]))
    assert found["reliability"]["counts"][-1] == 2 and found["ece"] == 0


def test_paired_difference_is_b_minus_a_and_cancels_what_is_hard_for_both(clips):
    a = clips["true"] == clips["predicted"]
    b = a | (np.random.default_rng(0).random(600) < 0.1)
    gain, low, high = paired_difference(a, b, clips["groups"])
    assert gain == pytest.approx(b.mean() - a.mean())
    assert 0 < low < gain < high
    assert high - low < np.ptp(mean_interval(a, clips["groups"]))
    back = paired_difference(b, a, clips["groups"])
    assert back == pytest.approx((-gain, -high, -low), abs=0.01)
    assert paired_difference(a, a, clips["groups"]) == (0, 0, 0)


@pytest.mark.parametrize(("only_a", "only_b"), [(3, 11), (11, 3), (0, 5), (1, 1), (40, 60)])
def test_mcnemar_is_twice_the_smaller_tail(only_a, only_b):
    a = np.array([True] * only_a + [False] * only_b + [True] * 20 + [False] * 7)
    b = np.array([False] * only_a + [True] * only_b + [True] * 20 + [False] * 7)
    tail = binom.cdf(min(only_a, only_b), only_a + only_b, 0.5)
    assert mcnemar(a, b) == pytest.approx(min(1, 2 * tail))


def test_mcnemar_of_models_that_never_disagree():
    same = np.array([True, False, True])
    assert mcnemar(same, same) == 1
