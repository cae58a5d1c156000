"""The numbers of a report, computed from predictions, as plain values for JSON."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from urbansound_hf.evaluation import confidence, metrics
from urbansound_hf.evaluation.confidence import known
from urbansound_hf.evaluation.runs import Predictions, Run

LENGTHS = {"< 1 s": 0.0, "1–2 s": 1.0, "2–4 s": 2.0, "≥ 4 s": 3.99}  # lower ends in seconds; full slices have 3.99… s
SALIENCES = {"foreground": 1, "background": 2}
MAX_MISTAKES = 30  # of a report; on its page each takes 20 kB of MP3 and 15 kB of PNG
MAX_OF_ONE_RECORDING = 2  # of them, as slices of one recording sound alike
RESAMPLES_AT_ONCE = 250  # of which the clips of a class are ranked together: 20 MB for 10,000 clips


def measure(predictions: Predictions) -> dict[str, Any]:
    """Computes the numbers of a report, ready for JSON; an undefined interval is None.

    Returns:
        every registered metric by its name, with `<name>_interval`; `clips`, `recordings`, `per_class`,
        `confusion_matrix`, `labels`, `ece`, `reliability`, `by_length`, `by_salience`, `wrong`, `confident_mistakes`.
    """
    true, predicted, groups = predictions.true, predictions.predicted, predictions.groups
    counts = confidence.count_by_recording(true, predicted, groups, len(predictions.labels))
    intervals = [known(ends) for ends in confidence.bootstrap_interval(confidence.classification_scores, counts).T]
    scores = metrics.all_scores(true, predicted, predictions.probabilities, predictions.labels)
    per_class: dict[str, dict[str, Any]] = scores["per_class"]
    for i, row in enumerate(per_class.values()):
        of_class = zip(("precision", "recall", "f1"), intervals[2 + i :: len(per_class)], strict=True)
        row |= {"recordings": int((counts[:, 1, i] > 0).sum()), **{f"{key}_interval": ends for key, ends in of_class}}
    ranked = _rankings(predictions, per_class) if true.ndim == 2 else {"accuracy": intervals[0]}
    of_metrics = {**ranked, "macro_f1": intervals[1]}
    others = [each for each in metrics.metrics_of(true) if each.name not in of_metrics]
    of_metrics |= {each.name: metric_interval(each, predictions) for each in others}
    seconds, salience = predictions.seconds, predictions.salience
    length = np.digitize(seconds, list(LENGTHS.values())) - 1
    return {
        "clips": len(predictions),
        "recordings": len(counts),
        **scores,
        **{f"{name}_interval": ends for name, ends in of_metrics.items()},
        "per_class": per_class if len(per_class) > 1 else {},  # one alone says what all clips say
        "labels": predictions.labels,
        **confidence.calibration(predictions.probabilities, true),
        "by_length": _by(predictions, {name: (length == i) & ~np.isnan(seconds) for i, name in enumerate(LENGTHS)}),
        "by_salience": _by(predictions, {name: salience == code for name, code in SALIENCES.items()}),
        "wrong": int((~predictions.correct).sum()),
        "confident_mistakes": [mistake(predictions, row) for row in select_mistakes(predictions)],
    }


def _rankings(predictions: Predictions, per_class: Mapping[str, dict[str, Any]]) -> dict[str, list[float] | None]:
    """Adds the average precision of each class to `per_class`; returns the intervals of its mean and of the AUC."""
    true, scores = predictions.true, predictions.probabilities
    drawn = confidence.clip_draws(predictions.groups)
    parts = np.array_split(drawn, len(drawn) // RESAMPLES_AT_ONCE)
    sampled = np.concatenate([metrics.ranking_scores(true, scores, times) for times in parts], axis=2)
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # of a class that no clip has
        means, of_class = (
            np.nanquantile(each, confidence.ENDS, axis=-1) for each in (np.nanmean(sampled, axis=1), sampled[0])
        )
    values = np.nan_to_num(metrics.ranking_scores(true, scores)[0])
    for row, value, interval in zip(per_class.values(), values, of_class.T, strict=True):
        row |= {"average_precision": float(value), "average_precision_interval": known(interval)}
    return {"mean_average_precision": known(means[:, 0]), "roc_auc": known(means[:, 1])}


def fold_summary(run: Run) -> dict[str, Any]:
    """The metrics of one fold of a cross-validation, with the intervals of its accuracy and mAP, and its recordings."""
    groups, name = run.predictions.groups, "mean_average_precision"
    ends = {"test_accuracy_interval": list(confidence.mean_interval(run.predictions.correct, groups))}
    if f"test_{name}" in run.metrics:
        ends[f"test_{name}_interval"] = run.report[f"{name}_interval"]
    return {**run.metrics, **ends, "recordings": len(np.unique(groups))}


def metric_interval(metric: metrics.Metric, *of: Predictions) -> list[float]:
    """The 95 % interval of a metric or, of two with the same clips, of the second's value less the first's."""

    def value(rows: np.ndarray) -> float:
        parts = [metric.function(one.true[rows], one.predicted[rows], one.probabilities[rows]) for one in of]
        return parts[-1] - parts[0] if len(parts) > 1 else parts[0]

    return list(confidence.resampled_interval(value, of[0].groups))


def _by(predictions: Predictions, conditions: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """The accuracy of the clips under each condition that occurs."""
    return {
        name: {
            "accuracy": float(some.correct.mean()),
            "accuracy_interval": list(confidence.mean_interval(some.correct, some.groups)),
            "clips": len(some),
            "recordings": len(np.unique(some.groups)),
        }
        for name, mask in conditions.items()
        if len(some := predictions.select(mask))
    }


def select_mistakes(predictions: Predictions) -> list[int]:
    """Row numbers of the wrong predictions with the highest scores, `MAX_OF_ONE_RECORDING` at most of a recording."""
    wrong = np.flatnonzero(~predictions.correct)
    counts: Counter[str] = Counter()
    selected: list[int] = []
    for row in wrong[np.argsort(-predictions.mistake_scores[wrong], kind="stable")]:
        counts[predictions.groups[row]] += 1
        if counts[predictions.groups[row]] <= MAX_OF_ONE_RECORDING:
            selected.append(int(row))
    return selected[:MAX_MISTAKES]


def mistake(predictions: Predictions, row: int) -> dict[str, Any]:
    """What a report says of a wrong prediction; several labels are separated by `;`."""
    true, scores, seconds = predictions.true[row], predictions.probabilities[row], predictions.seconds[row]
    of_true = scores[true.astype(bool) if true.ndim else [true]]
    return {
        "path": str(predictions.paths[row]),
        "fold": int(predictions.folds[row]),
        "seconds": None if np.isnan(seconds) else float(seconds),
        "true": ";".join(predictions.names(true)),
        "predicted": ";".join(predictions.names(predictions.predicted[row])),
        "score": float(predictions.mistake_scores[row]),
        "score_of_true": float(of_true.min(initial=1.0)),
    }
