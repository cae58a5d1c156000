"""Uncertainty of scores: bootstrap intervals over recordings, calibration, and paired comparison of two models.

The errors on slices of one recording are correlated: resampling clips would give intervals that are too narrow, so
recordings are resampled. The intervals do not cover the random seed, which only repeated trainings can measure.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

Interval = tuple[float, float]
RESAMPLES = 2000
COVERAGE = 0.95
ENDS = ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2)  # quantiles of the resamples


def bootstrap_interval(metric: Callable[[np.ndarray], np.ndarray], per_recording: np.ndarray) -> np.ndarray:
    """Percentile-bootstrap intervals (Efron 1979) of scores that are functions of sums over recordings.

    Args:
        metric: `(…, *quantities)` sums over a sample of recordings → `(…, scores)`; NaN where a score is undefined.
        per_recording: `(recordings, *quantities)`, the summands of each recording.

    Returns:
        `(2, scores)` lower and upper ends at 95 %, over the resamples in which a score is defined; NaN if it never is.
    """
    recordings, *shape = per_recording.shape
    # Recordings with equal summands are interchangeable, so it suffices to draw how often each kind occurs.
    kinds, occurs = np.unique(per_recording.reshape(recordings, -1), axis=0, return_counts=True)
    drawn = np.random.default_rng(0).multinomial(recordings, occurs / recordings, size=RESAMPLES)
    sums = (drawn.astype(np.float64) @ kinds).reshape(RESAMPLES, *shape)
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # a score that is undefined in every one
        return np.nanquantile(metric(sums), ENDS, axis=0)


def resampled_interval(score: Callable[[np.ndarray], float], groups: np.ndarray) -> Interval:
    """The 95 % percentile-bootstrap interval of any score of clips; slower than `bootstrap_interval`.

    Args:
        score: row numbers `(n,)` of the clips in a resample, with repetitions → the score.
        groups: `(clips,)` the recording of each clip.
    """
    rows = np.arange(len(groups))
    low, high = np.quantile([score(np.repeat(rows, times)) for times in clip_draws(groups)], ENDS)
    return float(low), float(high)


def clip_draws(groups: np.ndarray) -> np.ndarray:
    """How often each clip is drawn with its recording, `(resamples, clips)`, by the `(clips,)` recordings."""
    names, recording = np.unique(groups, return_inverse=True)
    chances = np.full(len(names), 1 / len(names))
    drawn = np.random.default_rng(0).multinomial(len(names), chances, size=RESAMPLES)
    return drawn.astype(np.int16)[:, recording]


def count_by_recording(true: np.ndarray, predicted: np.ndarray, groups: np.ndarray, classes: int) -> np.ndarray:
    """Correct clips of each class, its clips, and clips predicted as it: `(recordings, 3, classes)` int64.

    Args:
        true, predicted: `(clips,)` class ids, or `(clips, classes)` of 0 and 1.
        groups: `(clips,)` the recording of each clip.
    """
    names, recording = np.unique(groups, return_inverse=True)
    if true.ndim == 1:
        true, predicted = (np.eye(classes, dtype=np.int64)[ids] for ids in (true, predicted))
    counts = np.zeros((len(names), 3, classes), dtype=np.int64)
    np.add.at(counts, recording, np.stack([true * predicted, true, predicted], axis=1))
    return counts


def classification_scores(counts: np.ndarray) -> np.ndarray:
    """`(…, 3, classes)` counts → `(…, 2 + 3 × classes)`: accuracy, macro-F1, each class's precision, recall, F1.

    Macro-F1 is over the classes that occur as true or predicted. A ratio of nothing to nothing is NaN.
    """
    recognised, clips, predicted = np.moveaxis(counts, -2, 0).astype(np.float64)
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning), np.errstate(invalid="ignore"):
        precision, recall, f1 = recognised / predicted, recognised / clips, 2 * recognised / (clips + predicted)
        accuracy = recognised.sum(axis=-1) / clips.sum(axis=-1)
        overall = np.stack([accuracy, np.nanmean(f1, axis=-1)], axis=-1)
    return np.concatenate([overall, precision, recall, f1], axis=-1)


def mean_interval(values: np.ndarray, groups: np.ndarray) -> Interval:
    """The ends of the 95 % interval of the mean over `(clips,)`, such as an accuracy; recordings are resampled."""
    recording = np.unique(groups, return_inverse=True)[1]
    sums = np.column_stack([np.bincount(recording, values), np.bincount(recording)])  # (recordings, 2)
    low, high = bootstrap_interval(lambda each: each[..., :1] / each[..., 1:], sums)[:, 0]
    return float(low), float(high)


def calibration(probabilities: np.ndarray, true: np.ndarray, bins: int = 15) -> dict[str, Any]:
    """Accuracy against confidence: `(clips, classes)` probabilities in bins of equal width, ready for JSON.

    A clip is binned by its highest probability; of several labels, each label by its own.

    Returns:
        `reliability`: of each bin, the `counts` of what lies in it, its mean `confidence` and its `accuracy`, None
        where it is empty; `ece`: the expected calibration error, the gaps between both weighted by the counts.

    Source: Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks, ICML 2017.
    """
    sure, correct = probabilities.ravel(), true.ravel()
    if true.ndim == 1:
        sure, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == true
    position = np.digitize(sure, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    counts, sums, hits = (np.bincount(position, weights, minlength=bins) for weights in (None, sure, correct))
    with np.errstate(invalid="ignore"):
        diagram = {"counts": counts, "confidence": sums / counts, "accuracy": hits / counts}
    error = float(np.abs(hits - sums).sum() / counts.sum())
    return {"ece": error, "reliability": {key: list(map(known, values)) for key, values in diagram.items()}}


def known(values: Any) -> Any:
    """A number or an array for JSON, which knows no NaN: None where it, or one of it, does not exist."""
    return None if np.isnan(values).any() else values.tolist()


def fit_temperature(loss: Callable[[float], float]) -> float:
    """The temperature, by which logits are divided, with the lowest loss; 1 where none is better.

    Source: Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks, ICML 2017.

    Args:
        loss: of a temperature between 0.05 and 20, on clips that the model was not trained on.
    """
    from scipy.optimize import minimize_scalar  # a tenth of a second, for who calibrates only

    fitted = minimize_scalar(lambda log: loss(float(np.exp(log))), bounds=np.log((0.05, 20.0)), method="bounded")
    return float(np.exp(fitted.x)) if fitted.fun < loss(1.0) else 1.0


def paired_difference(correct_a: np.ndarray, correct_b: np.ndarray, groups: np.ndarray) -> tuple[float, float, float]:
    """The accuracy of B minus that of A on the same `(clips,)`, and the ends of its 95 % interval.

    Both models are resampled together, so that the difficulty of a recording, common to both, cancels out.
    """
    gain = correct_b.astype(np.float64) - correct_a
    return float(gain.mean()), *mean_interval(gain, groups)


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> float:
    """McNemar's exact test: the two-sided p-value of the hypothesis that both models have the same accuracy.

    It takes clips as independent, so p is too small for many clips of one recording; `paired_difference` is not.
    """
    from scipy.stats import binomtest

    only_a, only_b = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
