"""The folder of a run: `Run` reads its files; predictions, finding runs, pooling them, scope and notes."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from urbansound_hf import layout
from urbansound_hf.audio.io import audio_seconds
from urbansound_hf.data.urbansound8k import CLASSES, CLIPS_PER_FOLD
from urbansound_hf.errors import UserError, redacted, write_text
from urbansound_hf.evaluation.metrics import Thresholds, predicted_classes, right
from urbansound_hf.layout import METRICS, PREDICTIONS
from urbansound_hf.text import from_csv, write_csv

if TYPE_CHECKING:
    import datasets

NOT_COMPARABLE = "not comparable"
UNKNOWN_RECORDINGS = (
    "it is unknown which clips share a recording: each counts as a recording of its own, and the intervals are too "
    "narrow if some share one"
)
SEVERAL = ("true_labels", "predicted_labels")
"""The columns `true` and `predicted` of a predictions.csv of clips with several labels, which are separated by `;`."""
NEEDED: dict[str, dict[str, Any]] = {
    METRICS: {"confusion_matrix": list, "labels": list, "per_class": dict, "split": str, "test_accuracy": float,
              "test_fold": int | None},
    **{name: {"config": dict, "data": dict, "environment": dict} for name in (layout.RECEIPT, layout.BEGUN)},
}  # fmt: skip
"""By file of a run, the keys without which it is damaged, and their types."""


@dataclass(frozen=True)
class Predictions:
    """The predictions for `clips` sounds; every array has one row per clip."""

    paths: np.ndarray  # the clips' names (clips,) str
    folds: np.ndarray  # (clips,) int; 0 if the data have none
    groups: np.ndarray  # the recordings (clips,) str; a clip of unknown recording has its path here
    salience: np.ndarray  # (clips,) int; 1 foreground, 2 background, 0 unknown
    seconds: np.ndarray  # the clips' lengths (clips,) float; NaN if unknown
    true: np.ndarray  # class ids (clips,); of clips with several labels (clips, classes) of 0 and 1
    predicted: np.ndarray  # the same
    probabilities: np.ndarray  # (clips, classes)
    labels: list[str]  # in the order of their ids

    @classmethod
    def of(
        cls, clips: datasets.Dataset, probabilities: np.ndarray, labels: list[str], thresholds: Thresholds = None
    ) -> Predictions:
        """The predictions of a model for a data set, in its order.

        Args:
            clips: columns audio and label; fold, group, salience and seconds where the data have them.
            probabilities: `(clips, classes)`.
            thresholds: of clips with several labels, the score of each class from which it is predicted.
        """
        facts = ("fold", "group", "salience", "seconds")
        known = {name: clips[name][:] if name in clips.column_names else [None] * len(clips) for name in facts}
        streamed = "seconds" in clips.column_names  # their sounds are not read again
        sounds = (clips.with_format(None) if streamed else clips)["audio"]
        paths, read = zip(*((each["path"], streamed or audio_seconds(each["bytes"])) for each in sounds), strict=True)
        true = clips["label"][:]
        if thresholds is not None:
            true = [np.isin(range(len(labels)), ids).astype(int) for ids in true]
        return cls(
            paths=np.array(paths),
            folds=np.array([fold or 0 for fold in known["fold"]]),
            groups=np.array([group or path for group, path in zip(known["group"], paths, strict=True)]),
            salience=np.array([salience or 0 for salience in known["salience"]]),
            seconds=np.array(known["seconds"] if streamed else read),
            true=np.array(true),
            predicted=predicted_classes(probabilities, thresholds),
            probabilities=probabilities,
            labels=labels,
        )

    def write(self, path: Path) -> None:
        """Writes predictions.csv: a line a clip; scores with six significant digits, unknown facts empty."""
        several = self.true.ndim == 2

        def line(row: int) -> list[Any]:
            clip, group, seconds = self.paths[row], self.groups[row], self.seconds[row]
            known = [self.folds[row] or "", "" if group == clip else group, self.salience[row] or ""]
            length = "" if np.isnan(seconds) else f"{seconds:.3f}"
            ids = (np.flatnonzero(of[row]) if several else [of[row]] for of in (self.true, self.predicted))
            classes = (";".join(self.labels[each] for each in one) for one in ids)
            return [clip, *known, length, *classes, *(f"{score:.6g}" for score in self.probabilities[row])]

        header = ["path", "fold", "group", "salience", "seconds", *(SEVERAL if several else ("true", "predicted"))]
        write_csv(path, chain([[*header, *self.labels]], map(line, range(len(self)))))

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def correct(self) -> np.ndarray:
        """Whether the predicted class is the true one, or all labels are, `(clips,)` bool."""
        return right(self.true, self.predicted)

    def names(self, classes: np.ndarray) -> list[str]:
        """The class, or the labels, of a row of `true` or `predicted`; "none" without any."""
        return [self.labels[each] for each in (np.flatnonzero(classes) if classes.ndim else [classes])] or ["none"]

    @property
    def mistake_scores(self) -> np.ndarray:
        """How confident a mistake in each clip is, `(clips,)`: the highest score; of several labels, the worst miss."""
        if self.true.ndim == 1:
            return self.probabilities.max(axis=1)
        return np.where(self.true != self.predicted, np.abs(self.probabilities - self.true), 0).max(axis=1)

    @property
    def recordings_known(self) -> bool:
        """Whether the data name the recordings of their clips."""
        return bool((self.groups != self.paths).any())

    def select(self, rows: np.ndarray) -> Predictions:
        """A copy with some rows only: a mask `(clips,)` or row numbers."""
        return dataclasses.replace(self, **{name: getattr(self, name)[rows] for name in COLUMNS})


COLUMNS = [field.name for field in dataclasses.fields(Predictions) if field.name != "labels"]


@dataclass(frozen=True)
class Run:
    """The folder of one run: its results, receipt and report.

    A file is read when its attribute is first asked for.

    Args:
        folder: where training wrote the run, such as `outputs/cnn/fold1`.

    Attributes:
        metrics: the content of metrics.json.
        predictions: those for the test clips, from predictions.csv.
        report: the content of report.json.
        model_config: the model's config.json.
        history: the entries that Trainer logged; none without a log.
        report_clips: sounds and spectrograms of report.html by the paths of their clips: see `reports.html.encoded`.

    Raises:
        UserError: when an attribute is asked for whose file is missing or damaged.

    Examples:
        >>> run = ush.read_run("outputs/base/fold10")
        >>> bool(run.predictions.correct.mean() == run.metrics["test_accuracy"])
        True
    """

    folder: Path

    @property
    def finished(self) -> bool:
        """Whether training and report are complete: the receipt is written last."""
        return layout.finished(self.folder)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        return self._read(METRICS, "let the run finish: the same command continues it")

    @cached_property
    def predictions(self) -> Predictions:
        return read_predictions(self.folder / PREDICTIONS)

    @cached_property
    def report(self) -> dict[str, Any]:
        return self._read(layout.REPORT_NUMBERS, f"urbansound-hf report {self.folder}")

    @property
    def receipt(self) -> dict[str, Any] | None:
        """The receipt of a finished run, else the one that an unfinished run began with, else None."""
        return self._read(layout.RECEIPT if self.finished else layout.BEGUN, absent=None)

    model_config = property(lambda self: self._read(layout.MODEL_CONFIG))
    history = property(lambda self: self._read(layout.HISTORY, absent=[]))
    report_clips = property(lambda self: self._read(layout.REPORT_CLIPS, "train again, or remove it", {}))

    def _read(self, name: str, fix: str = "train again", absent: Any = ...) -> Any:
        missing = absent is not ... and not (self.folder / name).is_file()
        return absent if missing else read_json(self.folder / name, fix, NEEDED.get(name, {}))


def read_json(path: Path, fix: str, needed: Mapping[str, Any]) -> Any:
    """The content of a JSON file. Raises UserError if it is damaged or lacks a `needed` key of that type."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot be read: {error}", str(path), fix) from error
    for key, kind in needed.items():
        if not isinstance(found, dict) or key not in found or not isinstance(found[key], kind):
            raise UserError(f"is damaged: it has no right {key!r}", str(path), fix)
    return found


def write_json(path: Path, content: Any, allow_nan: bool = True) -> None:
    """Writes a JSON file completely or not at all; raises ValueError for NaN and infinity unless `allow_nan`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, redacted(json.dumps(content, indent=2, default=str, allow_nan=allow_nan)) + "\n")


def find_runs(folder: Path) -> list[Run]:
    """The run in `folder` or, if it is that of a cross-validation, those in it by test fold. Raises UserError."""
    places = [folder] if (folder / PREDICTIONS).is_file() else [path.parent for path in folder.glob(f"*/{PREDICTIONS}")]
    if not places:
        what = f"neither a run (no {PREDICTIONS}) nor a cross-validation (no run in it)"
        fix = "give the --output_dir of a training, or the folder of one test fold in it"
        raise UserError(what, str(folder), fix)
    return by_fold(read_run(place) for place in places)


def finished_folds(folder: Path) -> list[Run]:
    """The finished runs of one test fold each in the folder of a cross-validation, by test fold. Raises UserError."""
    runs = [read_run(path.parent) for path in folder.glob(f"*/{layout.RECEIPT}")]
    return by_fold(run for run in runs if run.metrics["test_fold"] is not None)


def by_fold(runs: Iterable[Run]) -> list[Run]:
    """Sorts runs by their test fold."""
    return sorted(runs, key=lambda run: (run.metrics["test_fold"] or 0, run.folder))


def read_run(folder: str | Path) -> Run:
    """Reads the results of one run.

    Raises:
        UserError: metrics.json or predictions.csv is missing or damaged, or they belong to different runs.

    Examples:
        >>> run = ush.read_run("outputs/base/fold10")
        >>> run.metrics["test_fold"], run.predictions.probabilities.shape  # (clips, classes)
        (10, (10, 10))
    """
    run = Run(Path(folder))
    expected, accuracy = run.metrics["test_accuracy"], run.predictions.correct.mean()
    if abs(accuracy - expected) > 1e-6:
        found = f"{expected:.4f} in the first, {accuracy:.4f} over the {len(run.predictions)} clips of the second"
        what = f"{METRICS} and {PREDICTIONS} are not of one run: accuracy {found}"
        raise UserError(what, str(folder), "train again, with --overwrite")
    return run


def run_folder(run: Run | str | Path) -> Path:
    """The folder of a run, or of a cross-validation, that is given as a `Run` or as its folder."""
    return run.folder if isinstance(run, Run) else Path(run)


def read_predictions(path: Path) -> Predictions:
    """Reads a predictions.csv; group, salience and seconds may be empty or absent. Raises UserError."""
    if not path.is_file():
        raise UserError(f"there is no {path.name}", str(path.parent), "give the folder of a finished run")
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = [[from_csv(cell) for cell in line] for line in csv.reader(file)] or [[]]
    several = SEVERAL[0] in header
    header = [name.removesuffix("_labels") if name in SEVERAL else name for name in header]
    missing = [name for name in ("path", "fold", "true", "predicted") if name not in header]
    if missing or not rows:
        what = f"has no column {', '.join(missing)}" if missing else "has no clips"
        raise UserError(what, str(path), "give a predictions.csv that a run of this project wrote")
    first_score = header.index("predicted") + 1
    labels = header[first_score:]
    clips = []
    for line, row in enumerate(rows, start=2):
        try:
            facts = dict(zip(header[:first_score], row[:first_score], strict=True))
            clips.append(_clip(facts, row[first_score:], labels, several))
        except ValueError as error:
            raise UserError(f"is not a line of predictions: {error}", f"{path}:{line}", "train again") from error
    columns = dict(zip(COLUMNS, map(np.array, zip(*clips, strict=True)), strict=True))
    return Predictions(**columns, labels=labels)


def _clip(facts: dict[str, str], scores: list[str], labels: list[str], several: bool) -> tuple[Any, ...]:
    """One line as a row of `COLUMNS`; raises ValueError if it is damaged."""
    if len(scores) != len(labels):
        raise ValueError(f"{len(scores)} scores for {len(labels)} classes")
    of = [list(filter(None, facts[key].split(";"))) if several else [facts[key]] for key in ("true", "predicted")]
    if unknown := {*of[0], *of[1]} - set(labels):
        raise ValueError(f"{unknown.pop()} is not one of the classes in the header ({', '.join(labels)})")
    true, predicted = ([int(label in names) for label in labels] if several else labels.index(names[0]) for names in of)
    group, seconds = facts.get("group") or facts["path"], float(facts.get("seconds") or "nan")
    known = facts["path"], int(facts["fold"] or 0), group, int(facts.get("salience") or 0), seconds
    return *known, true, predicted, [float(score) for score in scores]


def pooled(runs: Sequence[Run]) -> Predictions:
    """Joins the test clips of several runs. Raises UserError if their classes differ, or a clip was tested twice."""
    labels = runs[0].predictions.labels
    for run in runs:
        if run.predictions.labels != labels:
            found = [f"{', '.join(each.predictions.labels)} in {each.folder.name}" for each in (runs[0], run)]
            what = f"these runs have different classes: {', '.join(found)}"
            raise UserError(what, str(run.folder), "give runs of one cross-validation")
    parts = [run.predictions for run in runs]
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS}
    paths, times = np.unique(joined["paths"], return_counts=True)
    if (times > 1).any():
        what = f"{int((times > 1).sum())} clips were tested more than once, first {paths[times > 1][0]}"
        raise UserError(what, ", ".join(str(run.folder) for run in runs), "give one run for each test fold")
    return Predictions(**joined, labels=labels)


def notes(runs: Sequence[Run]) -> list[str]:
    """The notes that every number of these runs must carry, each once."""
    noted = [note for run in runs for note in run.metrics["notes"]]
    known = all(run.predictions.recordings_known for run in runs)
    return list(dict.fromkeys([*noted, *([] if known else [UNKNOWN_RECORDINGS])]))


def expected_folds(metrics: Mapping[str, Any]) -> int:
    """The number of folds in a complete cross-validation: UrbanSound8K's ten, or as many as other data have."""
    if tuple(metrics["labels"]) == CLASSES and metrics.get("split_kind", "official") == "official":
        return len(CLIPS_PER_FOLD)
    return len({metrics["test_fold"], metrics["validation_fold"], *metrics["train_folds"]} - {None})


def scope(metrics: Sequence[Mapping[str, Any]]) -> str:
    """The part of the protocol that these runs cover: "3 of 10 folds, not comparable", "10 of 10 folds", …"""
    first = metrics[0]
    if first["split"] == "split":
        return "the data's own test part"
    if first["test_fold"] is None:
        return f"{first['split']} split, {NOT_COMPARABLE}"
    tested, expected = len({run["test_fold"] for run in metrics}), expected_folds(first)
    kind = first.get("split_kind", "official")  # runs of earlier versions lack it
    made = "" if kind == "official" else f" made here ({kind})"
    official = tuple(first["labels"]) == CLASSES and made
    caution = f", {NOT_COMPARABLE}" if tested < expected or official or kind == "random" else ""
    return f"{tested} of {expected} folds{made}{caution}"


def scope_caution(scope: str) -> str:
    """The scope if it must stand beside every number; empty for a complete cross-validation."""
    return scope if NOT_COMPARABLE in scope else ""
