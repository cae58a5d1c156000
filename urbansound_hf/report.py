"""What runs leave for people: numbers with their intervals, figures, and pages that say what the numbers mean.

    python -m urbansound_hf.report RUN                a run or a cross-validation: writes its report and prints it
    python -m urbansound_hf.report A B [--common]     compares two of them, clip by clip
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from urbansound_hf import figures, markdown, statistics
from urbansound_hf.comparison import compare
from urbansound_hf.errors import UserError, exit_code
from urbansound_hf.runs import METRICS, Predictions, Run, find_runs, notes, pooled, read_run, scope

LENGTHS = {"< 1 s": 0.0, "1–2 s": 1.0, "2–4 s": 2.0, "≥ 4 s": 3.99}  # from so many seconds; whole slices are 3.99… s
SALIENCES = {"foreground": 1, "background": 2}
MISTAKES = 10


def measure(predictions: Predictions) -> dict[str, Any]:
    """All that can be said of a table of predictions, ready for JSON; an interval that does not exist is None."""
    true, predicted, groups = predictions.true, predictions.predicted, predictions.groups
    counts = statistics.count_by_recording(true, predicted, groups, len(predictions.labels))
    values = np.nan_to_num(statistics.classification_scores(counts.sum(axis=0)))
    intervals = [_plain(ends) for ends in statistics.bootstrap_interval(statistics.classification_scores, counts).T]
    confusion = np.zeros((len(predictions.labels),) * 2, dtype=np.int64)
    np.add.at(confusion, (true, predicted), 1)
    diagram = statistics.reliability(predictions.probabilities, true)
    seconds, salience = predictions.seconds, predictions.salience
    length = np.digitize(seconds, list(LENGTHS.values())) - 1
    return {
        "clips": len(predictions),
        "recordings": len(counts),
        "accuracy": float(values[0]),
        "accuracy_interval": intervals[0],
        "macro_f1": float(values[1]),
        "macro_f1_interval": intervals[1],
        "per_class": _per_class(predictions.labels, counts, values[2:], intervals[2:]),
        "confusion_matrix": confusion.tolist(),
        "labels": predictions.labels,
        "ece": diagram.error,
        "reliability": {key: _gaps(getattr(diagram, key)) for key in ("counts", "confidence", "accuracy")},
        "by_length": _by(predictions, {name: (length == i) & ~np.isnan(seconds) for i, name in enumerate(LENGTHS)}),
        "by_salience": _by(predictions, {name: salience == code for name, code in SALIENCES.items()}),
        "confident_mistakes": confident_mistakes(predictions),
    }


def _per_class(
    labels: Sequence[str], counts: np.ndarray, values: np.ndarray, intervals: Sequence[list[float] | None]
) -> dict[str, dict[str, Any]]:
    support, recordings = counts[:, 1].sum(axis=0), (counts[:, 1] > 0).sum(axis=0)
    rows: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(labels):
        row: dict[str, Any] = {"support": int(support[i]), "recordings": int(recordings[i])}
        for key, at in zip(("precision", "recall", "f1"), range(i, len(values), len(labels)), strict=True):
            row |= {key: float(values[at]), f"{key}_interval": intervals[at]}
        rows[name] = row
    return rows


def _by(predictions: Predictions, conditions: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """The accuracy of the clips under each condition that occurs."""
    rows = {}
    for name, mask in conditions.items():
        if mask.any():
            correct, groups = predictions.correct[mask], predictions.groups[mask]
            rows[name] = {
                "accuracy": float(correct.mean()),
                "accuracy_interval": list(statistics.mean_interval(correct, groups)),
                "clips": int(mask.sum()),
                "recordings": len(np.unique(groups)),
            }
    return rows


def confident_mistakes(predictions: Predictions, most: int = MISTAKES) -> list[dict[str, Any]]:
    """The wrong predictions of highest score: path, true, predicted, score."""
    wrong = predictions.select(~predictions.correct)
    scores = wrong.probabilities.max(axis=1)
    return [
        {
            "path": str(wrong.paths[i]),
            "true": wrong.labels[wrong.true[i]],
            "predicted": wrong.labels[wrong.predicted[i]],
            "score": float(scores[i]),
        }
        for i in np.argsort(-scores, kind="stable")[:most]
    ]


def gather(run_folders: Sequence[Path]) -> dict[str, Any]:
    """The metrics.json of a cross-validation.

    `std_accuracy` and `std_macro_f1` are sample standard deviations over the folds (ddof=1): the folds stand for others
    that could have been drawn. None with one fold.

    Raises:
        UserError: a run is not of one fold, or two are of the same.
    """
    runs = sorted((read_run(folder) for folder in run_folders), key=lambda run: run.metrics["test_fold"] or 0)
    tested = [run.metrics["test_fold"] for run in runs]
    if None in tested or len(set(tested)) < len(tested):
        raise UserError(
            f"a cross-validation has one run for each test fold, found {', '.join(map(str, tested))}",
            ", ".join(str(run.folder) for run in runs),
            "give runs of --split official, each of another --test_fold",
        )
    measured = measure(pooled(runs))
    overall = {f"pooled_{key}": measured.pop(key) for key in list(measured) if key.startswith(("accuracy", "macro_f1"))}
    of_runs = scope(runs)
    return {
        "scope": of_runs,
        "complete": markdown.caution(of_runs) == "",
        "notes": notes(runs),
        **_over_folds(runs, "accuracy"),
        **_over_folds(runs, "macro_f1"),
        **overall,
        **measured,
        "folds": [_fold(run) for run in runs],
    }


def _over_folds(runs: Sequence[Run], key: str) -> dict[str, float | None]:
    values = [run.metrics[f"test_{key}"] for run in runs]
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {f"mean_{key}": float(np.mean(values)), f"std_{key}": std}


def _fold(run: Run) -> dict[str, Any]:
    groups = run.predictions.groups
    ends = list(statistics.mean_interval(run.predictions.correct, groups))
    return {**run.metrics, "test_accuracy_interval": ends, "recordings": len(np.unique(groups))}


def write_cross_validation(folder: Path, run_folders: Sequence[Path]) -> dict[str, Any]:
    """Writes metrics.json, report.md and the figures of a cross-validation; returns the metrics."""
    metrics = gather(run_folders)
    of_folds = [metrics[key] for key in ("mean_accuracy", "std_accuracy")]
    note = markdown.caution(metrics["scope"])
    figures.folds(metrics["folds"], *of_folds, folder / "folds.png", note)
    draw(metrics, folder)
    headline = [
        f"**{metrics['scope']}.** Accuracy **{markdown.spread(*of_folds)}** "
        f"(mean ± sample standard deviation over folds, ddof=1), "
        f"macro-F1 {markdown.spread(metrics['mean_macro_f1'], metrics['std_macro_f1'])}.",
        f"All {metrics['clips']:,} clips of {metrics['recordings']:,} recordings pooled: accuracy "
        f"{markdown.score(metrics['pooled_accuracy'], metrics['pooled_accuracy_interval'])}, macro-F1 "
        f"{markdown.score(metrics['pooled_macro_f1'], metrics['pooled_macro_f1_interval'])}.",
    ]
    page = markdown.page(f"Cross-validation: {folder.resolve().name}", headline, metrics, metrics["folds"])
    (folder / "report.md").write_text(page, encoding="utf-8")
    _write_json(folder / METRICS, metrics)
    return metrics


def write_run(folder: Path) -> dict[str, Any]:
    """Writes report.json, report.md, the figures and the card (README.md) of a run; returns what report.json holds."""
    run = read_run(folder)
    measured = {"scope": scope([run]), "notes": notes([run]), **measure(run.predictions)}
    draw(measured, folder)
    headline = [
        f"**{measured['scope']}.** Accuracy **{markdown.score(measured['accuracy'], measured['accuracy_interval'])}**, "
        f"macro-F1 {markdown.score(measured['macro_f1'], measured['macro_f1_interval'])} on {measured['clips']:,} clips "
        f"of {measured['recordings']:,} recordings.",
        protocol(run.metrics),
    ]
    page = markdown.page(f"Run: {folder.resolve().name}", headline, measured)
    (folder / "report.md").write_text(page, encoding="utf-8")
    (folder / "README.md").write_text(card(folder, run.metrics, measured), encoding="utf-8")
    _write_json(folder / "report.json", measured)
    return measured


def draw(measured: Mapping[str, Any], folder: Path) -> None:
    """The figures that a run and a cross-validation share."""
    note = markdown.caution(measured["scope"])
    counts = np.array(measured["confusion_matrix"])
    figures.confusion_matrix(counts, measured["labels"], folder / "confusion_matrix.png", note)
    figures.reliability(measured["reliability"], measured["ece"], folder / "reliability.png", note)
    figures.per_class(measured["per_class"], folder / "per_class.png", note)
    known = {"clip length": measured["by_length"], "salience": measured["by_salience"]}
    known = {name: rows for name, rows in known.items() if rows}
    if known:
        figures.conditions(known, folder / "conditions.png", note)
