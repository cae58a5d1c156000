"""Finished runs as their folders tell them: metrics.json, and what was predicted of every test clip."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from urbansound_hf.data.urbansound8k import CLASSES, CLIPS_PER_FOLD
from urbansound_hf.errors import UserError
from urbansound_hf.layout import METRICS, PREDICTIONS

NOT_COMPARABLE = "not comparable"
UNKNOWN_RECORDINGS = (
    "which clips share a recording is unknown: each is taken for a recording of its own, and if they do share, "
    "the intervals are too narrow"
)


@dataclass(frozen=True)
class Predictions:
    """What was predicted of `clips` sounds; every array has one row a clip.

    Args:
        paths: the clips' names `(clips,)` str.
        folds: `(clips,)` int; 0 if the data have none.
        groups: the recordings `(clips,)` str; a clip of unknown recording is one of its own.
        salience: `(clips,)` int; 1 foreground, 2 background, 0 unknown.
        seconds: the clips' lengths `(clips,)` float; NaN if unknown.
        true, predicted: class ids `(clips,)`.
        probabilities: `(clips, classes)`.
        labels: the class names in the order of their ids.
    """

    paths: np.ndarray
    folds: np.ndarray
    groups: np.ndarray
    salience: np.ndarray
    seconds: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray
    labels: list[str]

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def correct(self) -> np.ndarray:
        return self.true == self.predicted

    @property
    def recordings_known(self) -> bool:
        return bool((self.groups != self.paths).any())

    def select(self, rows: np.ndarray) -> Predictions:
        """Those rows only: a mask or row numbers."""
        return dataclasses.replace(self, **{name: getattr(self, name)[rows] for name in COLUMNS})


COLUMNS = [field.name for field in dataclasses.fields(Predictions) if field.name != "labels"]


@dataclass(frozen=True)
class Run:
    """One finished run: its folder, the content of its metrics.json, and its test clips.

    >>> run = ush.read_run("outputs/base/fold10")
    >>> bool(run.predictions.correct.mean() == run.metrics["test_accuracy"])
    True
    """

    folder: Path
    metrics: dict[str, Any]
    predictions: Predictions


def find_runs(folder: Path) -> list[Run]:
    """The run in `folder`, or, if it is the folder of a cross-validation, the runs in it, by test fold.

    Raises:
        UserError: there is none, or one of them is damaged.
    """
    places = [folder] if (folder / PREDICTIONS).is_file() else [path.parent for path in folder.glob(f"*/{PREDICTIONS}")]
    if not places:
        raise UserError(
            f"neither a run (no {PREDICTIONS}) nor a cross-validation (no run in it)",
            str(folder),
            "give the --output_dir of a training, or the folder of one test fold in it",
        )
    return sorted((read_run(place) for place in places), key=lambda run: (run.metrics["test_fold"] or 0, run.folder))


def read_run(folder: str | Path) -> Run:
    """Reads the folder of a finished run.

    Raises:
        UserError: metrics.json is missing, or tells of other clips than predictions.csv.

    >>> run = ush.read_run("outputs/base/fold10")
    >>> run.metrics["test_fold"], run.predictions.probabilities.shape  # (clips, classes)
    (10, (10, 10))
    """
    folder = Path(folder)
    try:
        metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read: {error}", str(folder / METRICS), "let the run come to its end") from error
    predictions = read_predictions(folder / PREDICTIONS)
    if abs(predictions.correct.mean() - metrics["test_accuracy"]) > 1e-6:
        raise UserError(
            f"{METRICS} and {PREDICTIONS} are not of one run: accuracy {metrics['test_accuracy']:.4f} there, "
            f"{predictions.correct.mean():.4f} over {len(predictions)} clips here",
            str(folder),
            "train again, with --overwrite",
        )
    return Run(folder, metrics, predictions)


def read_predictions(path: Path) -> Predictions:
    """Reads a predictions.csv: path, fold, group, salience, seconds, true, predicted, then every class's score.

    Group, salience and seconds may be empty or absent.

    Raises:
        UserError: the file or a column is missing, or a line is not one of predictions; it names the line.
    """
    if not path.is_file():
        raise UserError(f"there is no {path.name}", str(path.parent), "give the folder of a finished run")
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    missing = [name for name in ("path", "fold", "true", "predicted") if name not in header]
    if missing or not rows:
        what = f"has no column {', '.join(missing)}" if missing else "has no clips"
        raise UserError(what, str(path), "give a predictions.csv that a run of this project wrote")
    first_score = header.index("predicted") + 1
    labels = header[first_score:]
    clips = []
    for line, row in enumerate(rows, start=2):
        try:
            told = dict(zip(header[:first_score], row[:first_score], strict=True))
            clips.append(_clip(told, row[first_score:], labels))
        except ValueError as error:
            raise UserError(f"is not a line of predictions: {error}", f"{path}:{line}", "train again") from error
    columns = dict(zip(COLUMNS, map(np.array, zip(*clips, strict=True)), strict=True))
    return Predictions(**columns, labels=labels)


def _clip(told: dict[str, str], scores: list[str], labels: list[str]) -> tuple[Any, ...]:
    """One line as a row of `COLUMNS`; ValueError if it is none."""
    if len(scores) != len(labels):
        raise ValueError(f"{len(scores)} scores for {len(labels)} classes")
    for name in (told["true"], told["predicted"]):
        if name not in labels:
            raise ValueError(f"{name} is not one of the classes in the header ({', '.join(labels)})")
    return (
        told["path"],
        int(told["fold"] or 0),
        told.get("group") or told["path"],
        int(told.get("salience") or 0),
        float(told.get("seconds") or "nan"),
        labels.index(told["true"]),
        labels.index(told["predicted"]),
        [float(score) for score in scores],
    )


def pooled(runs: Sequence[Run]) -> Predictions:
    """The test clips of several runs as one table.

    Raises:
        UserError: they do not share their classes, or a clip was tested twice.
    """
    labels = runs[0].predictions.labels
    for run in runs:
        if run.predictions.labels != labels:
            raise UserError(
                f"these runs tell different classes apart: {', '.join(labels)} in {runs[0].folder.name}, "
                f"{', '.join(run.predictions.labels)} in {run.folder.name}",
                str(run.folder),
                "give runs of one cross-validation",
            )
    parts = [run.predictions for run in runs]
    whole = {name: np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS}
    paths, times = np.unique(whole["paths"], return_counts=True)
    if (times > 1).any():
        raise UserError(
            f"{int((times > 1).sum())} clips were tested more than once, first {paths[times > 1][0]}",
            ", ".join(str(run.folder) for run in runs),
            "give one run for each test fold",
        )
    return Predictions(**whole, labels=labels)


def notes(runs: Sequence[Run]) -> list[str]:
    """What every number from these runs must say, each note once."""
    told = [note for run in runs for note in run.metrics["notes"]]
    known = all(run.predictions.recordings_known for run in runs)
    return list(dict.fromkeys([*told, *[UNKNOWN_RECORDINGS] * (not known)]))


def expected_folds(metrics: Mapping[str, Any]) -> int:
    """How many folds make a whole cross-validation: UrbanSound8K's ten, or as many as other data have."""
    if tuple(metrics["labels"]) == CLASSES:
        return len(CLIPS_PER_FOLD)
    return len({metrics["test_fold"], metrics["validation_fold"], *metrics["train_folds"]} - {None})


def scope(metrics: Sequence[Mapping[str, Any]]) -> str:
    """What stands beside every number of these runs: "3 of 10 folds, not comparable", "10 of 10 folds", …"""
    first = metrics[0]
    if first["split"] == "split":
        return "the data's own test part"
    if first["test_fold"] is None:
        return f"{first['split']} split, {NOT_COMPARABLE}"
    tested, whole = len({run["test_fold"] for run in metrics}), expected_folds(first)
    return f"{tested} of {whole} folds" + f", {NOT_COMPARABLE}" * (tested < whole)


def scope_caution(scope: str) -> str:
    """The scope where it must stand beside every number: a whole cross-validation needs to say it only once."""
    return scope if "not comparable" in scope else ""
