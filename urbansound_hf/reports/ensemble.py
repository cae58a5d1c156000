"""Ensembles of finished runs: their combined predictions, reported as a run, and compared with each member."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import softmax

from urbansound_hf.errors import UserError, write_text
from urbansound_hf.evaluation.metrics import ALL_METRICS, all_scores
from urbansound_hf.evaluation.receipts import environment
from urbansound_hf.evaluation.runs import Predictions, Run, find_runs, notes, read_predictions, write_json
from urbansound_hf.inference.classifier import combined
from urbansound_hf.layout import COMPARISON, ENSEMBLE, METRICS, MODEL_CONFIG, PREDICTIONS, RECEIPT, VALIDATION
from urbansound_hf.reports.comparison import compare_runs, paired
from urbansound_hf.reports.run_report import write_cross_validation, write_run

WEIGHTS = ("equal", "validation")
SUMS = ("parameters", "trained_parameters", "train_seconds")  # of an ensemble, over its members
SAME = ("test_fold", "validation_fold", "train_folds", "split")  # of all members


def write_ensemble(
    folders: Sequence[Path],
    output_dir: Path,
    mean: str = "geometric",
    weights: str = "equal",
    command: Sequence[str] = (),
) -> str:
    """Combines runs, or cross-validations, fold by fold; returns the comparisons with each member, and its use.

    Args:
        folders: of two or more runs, or cross-validations, on the same data and folds.
        output_dir: one folder for each fold, which `SoundClassifier.from_pretrained` opens; report and comparison.md.
        mean: as of `combined`.
        weights: "equal", or "validation": those with the lowest loss on the validation clips of each fold.
        command: the call, for the receipts.

    Raises:
        UserError: fewer than two members, or other folds, clips, labels or data; `output_dir` holds a training.
    """
    members = [find_runs(folder) for folder in folders]
    folds = {folder: [run.metrics["test_fold"] for run in runs] for folder, runs in zip(folders, members, strict=True)}
    if len(members) < 2 or len({str(each) for each in folds.values()}) > 1:
        found = "; ".join(f"{each} in {folder}" for folder, each in folds.items())
        what = f"an ensemble has two members or more, all tested on the same folds; found the test folds {found}"
        raise UserError(what, "urbansound-hf ensemble", "give runs of the same folds")
    fitted = []  # all of them before anything is written
    for runs in zip(*members, strict=True):
        _check_same(runs)
        fitted.append((runs, *_combine(runs, mean, weights), output_dir / runs[0].metrics["split"]))
    if taken := [str(folder) for *_, folder in fitted if (folder / MODEL_CONFIG).is_file()]:
        raise UserError("a trained model lies in the folder of the ensemble", taken[0], "give another --output_dir")
    for runs, predictions, choice, folder in fitted:
        _write_fold(runs, predictions, {"mean": mean, **choice}, folder, command)
    if None not in folds[folders[0]]:
        write_cross_validation(output_dir, find_runs(output_dir))
    text = "\n".join(compare_runs(folder, output_dir) for folder in folders)
    write_text(output_dir / COMPARISON, text)
    return f"{text}\ntry it: urbansound-hf infer CLIP.wav --model {fitted[-1][-1]}\n"


def _check_same(runs: Sequence[Run]) -> None:
    """Raises UserError unless the runs have one split of one data set."""
    for name in (*SAME, "data"):
        values = [(run.receipt or {})["data"]["fingerprint"] if name == "data" else run.metrics[name] for run in runs]
        if any(value != values[0] for value in values):
            found = "; ".join(f"{value} in {run.folder}" for value, run in zip(values, runs, strict=True))
            what = f"the members of an ensemble share data and split, and {name.replace('_', ' ')} differs: {found}"
            raise UserError(what, str(runs[0].folder), "train the members on the same data with the same split")


def _combine(runs: Sequence[Run], mean: str, weights: str) -> tuple[Predictions, dict[str, Any]]:
    """The predictions of an ensemble for its test clips, and its weights with the clips on which they were chosen."""
    of_test = _aligned([run.predictions for run in runs])
    choice: dict[str, Any] = {"weights": [1 / len(runs)] * len(runs)}
    if weights == "validation":
        if missing := [run.folder for run in runs if not (run.folder / VALIDATION).is_file()]:
            fix = "train with --validation next_fold, or leave out --weights validation"
            raise UserError(f"weights are fitted on validation clips: there is no {VALIDATION}", str(missing[0]), fix)
        known = _aligned([read_predictions(run.folder / VALIDATION) for run in runs])
        choice |= {"weights": fit_weights(np.stack([each.probabilities for each in known]), known[0].true, mean),
                   "chosen_on": f"the {len(known[0]):,} validation clips, no test clip"}  # fmt: skip
    scores = combined(np.stack([each.probabilities for each in of_test]), choice["weights"], mean)
    return dataclasses.replace(of_test[0], probabilities=scores, predicted=scores.argmax(axis=1)), choice


def _aligned(predictions: Sequence[Predictions]) -> list[Predictions]:
    """The same clips in the same order, with the class ids of the first. Raises UserError as `paired` does."""
    if predictions[0].true.ndim > 1:
        what, fix = "clips with several labels are not combined", "serve the models together"
        raise UserError(what, "urbansound-hf ensemble", fix)
    return [paired(predictions[0], each)[1] for each in predictions]


def fit_weights(scores: np.ndarray, true: np.ndarray, mean: str) -> list[float]:
    """The weights, 1 in sum, of `(models, clips, classes)` scores with the lowest loss for classes `(clips,)`."""

    def loss(logits: np.ndarray) -> float:
        likelihood = combined(scores, softmax(logits), mean)[np.arange(len(true)), true]
        return float(-np.log(np.maximum(likelihood, 1e-12)).mean())

    return softmax(minimize(loss, np.zeros(len(scores)), method="Nelder-Mead").x).tolist()


def _write_fold(
    runs: Sequence[Run], predictions: Predictions, choice: dict[str, Any], folder: Path, command: Sequence[str]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    predictions.write(folder / PREDICTIONS)
    first, labels = runs[0].metrics, predictions.labels
    scores = all_scores(predictions.true, predictions.predicted, predictions.probabilities, labels)
    metrics = {
        **{name: value for name, value in first.items() if name not in ("calibration", "probe")},
        **{f"test_{name}" if name in ALL_METRICS else name: value for name, value in scores.items()},
        **{name: sum(run.metrics[name] for run in runs) for name in SUMS if name in first},
        "notes": notes(runs),
        "checkpoint": "ensemble",
    }
    write_json(folder / METRICS, metrics)
    write_json(folder / ENSEMBLE, {"members": [os.path.relpath(each.folder, folder) for each in runs], **choice})
    write_run(folder)
    of_first = runs[0].receipt or {}
    receipt = {
        "command": list(command),
        "config": {"ensemble_mean": choice["mean"], "ensemble_of": [str(each.folder.parent) for each in runs]},
        "ensemble": {**choice, "members": [{"folder": str(each.folder)} for each in runs]},
        "data": of_first["data"],
        "split": of_first.get("split"),
        "environment": environment(),
        "test_accuracy": metrics["test_accuracy"],
    }
    write_json(folder / RECEIPT, receipt)
