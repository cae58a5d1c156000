"""Which rows train, validate and test.

UrbanSound8K's ten folds keep the slices of one recording together. Reshuffling them puts near-copies of the training
clips into the test set and inflates the score by ten points and more; so `official` is the default, and the other
splits say what they are wherever their numbers stand.

    python -m urbansound_hf.folds CSV [--json]          the leak report of a table of clips
"""

from __future__ import annotations

import argparse
import csv
import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from urbansound_hf.errors import UserError, UserErrors, exit_code


@dataclass(frozen=True)
class Split:
    """Row numbers of the three parts, and how they came about.

    `name` becomes the run's folder; `warning` ("" if none) stands beside every number of such a split.
    """

    name: str
    train: np.ndarray
    validation: np.ndarray  # empty with --validation none
    test: np.ndarray
    test_fold: int | None = None
    validation_fold: int | None = None
    train_folds: list[int] = field(default_factory=list)
    warning: str = ""


def official(folds: Sequence[int], test_fold: int, validation: str = "next_fold") -> Split:
    """Tests on one fold, validates on the next that is present (cyclically), trains on the others.

    Args:
        folds: the fold of every row.
        test_fold: the fold to test on.
        validation: "next_fold", or "none" to train on all the others.

    Raises:
        UserError: the fold is absent, or too few folds are left to train on.
    """
    of_row = np.asarray(folds)
    present = sorted(int(fold) for fold in np.unique(of_row))
    if test_fold not in present:
        raise UserError(f"fold {test_fold} has no clips", "--test_fold", f"choose one of {_listed(present)}, or all")
    others = [fold for fold in present if fold > test_fold] + [fold for fold in present if fold < test_fold]
    needed = 2 if validation == "next_fold" else 1
    if len(others) < needed:
        raise UserError(
            f"testing on fold {test_fold} with --validation {validation} needs {needed + 1} folds, "
            f"there {'are' if len(present) > 1 else 'is'} {len(present)} ({_listed(present)})",
            "--validation",
            "use --validation none" if others else "bring more folds, or use --split random",
        )
    validation_fold = others[0] if validation == "next_fold" else None
    train_folds = sorted(fold for fold in others if fold != validation_fold)
    return Split(
        name=f"fold{test_fold}",
        train=np.flatnonzero(np.isin(of_row, train_folds)),
        validation=np.flatnonzero(of_row == validation_fold) if validation == "next_fold" else np.array([], np.int64),
        test=np.flatnonzero(of_row == test_fold),
        test_fold=test_fold,
        validation_fold=validation_fold,
        train_folds=train_folds,
    )


def grouped(labels: Sequence[int], groups: Sequence[str], seed: int = 0) -> Split:
    """About 80/10/10 by recording, classes kept in proportion: no recording is in two parts."""
    if len(set(groups)) < 10:
        raise UserError(
            f"--split grouped needs at least 10 recordings to make ten parts, found {len(set(groups))}",
            "--split",
            "use --split random and read its warning, or give the data a fold column",
        )
    if (most := np.bincount(labels).max()) < 10:
        found = f"--split grouped needs a class of 10 clips to make ten parts, the largest has {most}"
        raise UserError(found, "--split", "bring more clips, or give the data a fold column")
    # A clip of which the recording is not known is one of its own.
    groups = [f"of clip {row}" if group in ("", None) else str(group) for row, group in enumerate(groups)]
    parts = StratifiedGroupKFold(n_splits=10, shuffle=True, random_state=seed).split(labels, labels, groups)
    (_, test), (_, validation), *_ = parts
    train = np.setdiff1d(np.arange(len(labels)), np.concatenate([test, validation]))
    return Split("grouped", train, np.sort(validation), np.sort(test))


def random(labels: Sequence[int], seed: int = 0) -> Split:
    """80/10/10 stratified by class with no regard to recordings, as tutorials do it: leaky, and it says so."""
    rows, by_class = np.arange(len(labels)), np.asarray(labels)
    rare = int(np.bincount(by_class)[np.unique(by_class)].min())
    if rare < 10:
        raise UserError(
            f"--split random needs 10 clips a class for its 80/10/10 parts, one class has {rare}",
            "--split",
            "bring more clips, or give the data a fold column",
        )
    train, rest = train_test_split(rows, test_size=0.2, stratify=by_class, random_state=seed)
    validation, test = train_test_split(rest, test_size=0.5, stratify=by_class[rest], random_state=seed)
    warning = "random split: slices of one recording lie on both sides, the score is not an honest one"
    return Split("random", np.sort(train), np.sort(validation), np.sort(test), warning=warning)


def predefined(splits: Sequence[str], labels: Sequence[int], seed: int = 0) -> Split:
    """The data set's own train, validation and test parts; without a validation part, a tenth of train serves."""
    part_of = np.asarray(splits)
    parts = {part: np.flatnonzero(part_of == part) for part in ("train", "validation", "test")}
    missing = [part for part in ("train", "test") if not len(parts[part])]
    if missing:
        raise UserError(
            f"the data set has no {' and no '.join(missing)} part, found {_listed(sorted(set(splits)))}",
            "--dataset",
            "use --split grouped or --split random to make the parts",
        )
    if not len(parts["validation"]):
        by_class = np.asarray(labels)[parts["train"]]
        counts = np.bincount(by_class)[np.unique(by_class)]
        if counts.min() < 2 or 0.1 * len(by_class) < len(counts):
            found = f"found {len(by_class)} clips of {len(counts)} classes, {counts.min()} of the rarest"
            rule = f"a tenth of the train part must serve as validation and hold a clip of every class, {found}"
            raise UserError(rule, "--dataset", "give the data set a validation part, or use --split grouped")
        parts["train"], parts["validation"] = train_test_split(
            parts["train"], test_size=0.1, stratify=by_class, random_state=seed
        )
    return Split("split", np.sort(parts["train"]), np.sort(parts["validation"]), parts["test"])


def _listed(values: Sequence[object]) -> str:
    return ", ".join(str(value) for value in values)


COLUMNS = {
    "label": ("class", "label", "classID"), "fold": ("fold",), "group": ("fsID", "group", "recording"),
    "start": ("start",), "end": ("end",),
}  # fmt: skip
"""What a table of clips may call them: UrbanSound8K's names first; the times may be absent."""


def read_table(path: Path) -> dict[str, np.ndarray]:
    """Reads label, fold, group and, where they are there, start and end (seconds) of every clip from a CSV.

    Raises:
        UserError: it cannot be read, is empty, lacks a column, or a fold or time in it is no number.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"not a readable CSV ({error})", str(path)) from None
    if not rows:
        raise UserError("the table holds no clips", str(path))
    present = [str(name) for name in rows[0] if name]
    found = {name: next((call for call in calls if call in present), "") for name, calls in COLUMNS.items()}
    missing = [name for name in ("label", "fold", "group") if not found[name]]
    if missing:
        raise UserErrors([_missing(name, present, path) for name in missing])
    if not (found["start"] and found["end"]):
        del found["start"], found["end"]
    return {name: _column(rows, column, name, path) for name, column in found.items()}


def _missing(name: str, present: list[str], path: Path) -> UserError:
    near = [other for call in COLUMNS[name] for other in difflib.get_close_matches(call, present, 1)]
    fix = "; did you mean ".join([f"name it {' or '.join(COLUMNS[name])}", *(f"{other}?" for other in near[:1])])
    return UserError(f"a table of clips needs a {name} column, found {_listed(present)}", str(path), fix)


def _column(rows: list[dict[str, Any]], column: str, name: str, path: Path) -> np.ndarray:
    values = [row[column] or "" for row in rows]
    if name in ("label", "group"):
        return np.array(values)
    kind = int if name == "fold" else float
    for line, value in enumerate(values, start=2):
        try:
            kind(value)
        except ValueError:
            expected = "a whole number" if kind is int else "a time in seconds"
            raise UserError(f"{column} must be {expected}, found {value!r}", f"{path}, line {line}") from None
    return np.array(values).astype(kind)


def table_report(columns: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """What the folds of a table leak, and as `random_80_20` what a random split of it would (None: too few clips)."""
    from urbansound_hf import leaks

    found = leaks.across_folds(columns)
    try:
        drawn = random(np.unique(columns["label"], return_inverse=True)[1].tolist(), seed)
    except UserError:
        return found | {"random_80_20": None}
    test = np.concatenate([drawn.validation, drawn.test])
    known = {"starts": columns.get("start"), "ends": columns.get("end"), "labels": columns["label"]}
    compared = leaks.metadata_leaks(columns["group"], drawn.train, test, **known)
    return found | {"random_80_20": {name: value for name, value in compared.items() if not isinstance(value, list)}}


def describe_table(found: dict[str, Any]) -> str:
    """A `table_report` in a few lines for the terminal."""
    lines = [f"{found['clips']:,} clips of {found['recordings']:,} recordings in {len(found['clips_per_fold'])} folds"]
    lines.append(f"Each fold against the others:{_shares(found, found['clips'])}")
    for shared in found["shared_recordings"]:
        sides = "; ".join(f"{_listed(labels)} in fold {fold}" for fold, labels in shared["labels_by_fold"].items())
        verdict = "a leak" if shared["recording"] in found["leaking_recordings"] else "UrbanSound8K's own"
        lines.append(f"  {shared['recording']}: {shared['clips']} clips, {sides} ({verdict})")
    if compared := found["random_80_20"]:
        lines.append(f"A random 80/20 split instead:{_shares(compared, compared['test_clips'])}")
    return "\n".join(lines)


def _shares(found: dict[str, Any], total: int) -> str:
    counts = []
    for name in ("shared_recording", "shared_same_class", "time_overlap", "time_overlap_same_class"):
        count = found[f"{name}_clips"]
        counts.append("not known" if count is None else f"{count:,} ({count / total:.1%})")
    shared, same, overlap, same_overlap = counts
    return (
        f"\n  clips whose recording is on the other side: {shared}, under the same class: {same}"
        f"\n  clips overlapping one there in time: {overlap}, of the same class: {same_overlap}"
    )


def main() -> int:
    """Prints the leak report of a table; 1 where it shows more than UrbanSound8K's five known recordings."""
    parser = argparse.ArgumentParser(prog="python -m urbansound_hf.folds", description="The leak report of a table.")
    parser.add_argument(
        "table", type=Path, metavar="CSV", help="UrbanSound8K.csv, or: label, fold, group[, start, end]"
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.add_argument("--seed", type=int, default=0, help="of the random split to compare with (default %(default)s)")
    options = parser.parse_args()
    found = table_report(read_table(options.table), options.seed)
    print(json.dumps(found, indent=2) if options.json else describe_table(found))
    return int(bool(found["leaking_recordings"]))


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
