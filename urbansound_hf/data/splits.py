"""Training, validation and test splits as plain functions of columns.

UrbanSound8K's ten folds keep the slices of one recording together. Reshuffling them puts near-copies of the training
clips into the test set and inflates the score by ten points and more; so `official` is the default, and the results of
the other splits name their split.

    urbansound-hf leaks CSV [--json]          the leak report of a table of clips
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from urbansound_hf.errors import UserError
from urbansound_hf.text import counted, first_ten, listed


@dataclass(frozen=True)
class Split:
    """The clip indices of the three parts, and the folds they come from.

    `name` is the folder of the run; `warning` ("" if none) is shown beside every score of the split.
    """

    name: str
    train: np.ndarray
    validation: np.ndarray  # empty with --validation none
    test: np.ndarray
    test_fold: int | None = None
    validation_fold: int | None = None
    train_folds: list[int] = field(default_factory=list)
    warning: str = ""


def wanted_splits(
    columns: Mapping[str, Sequence], kind: str, test_fold: str, validation: str = "next_fold", seed: int = 0
) -> list[Split]:
    """The splits that `--split`, `--test_fold` and `--validation` ask for: one, or one for each test fold.

    Args:
        columns: `label` and, where the data have them, `fold`, `group` and `split`; one value per clip.
        kind: "official", "grouped" or "random".
        test_fold: "10", "1,3,5" or "all".
        validation: "next_fold" or "none"; used with folds only.
        seed: of the grouped and random splits.

    Raises:
        UserError: the data lack the columns or the folds, or are too few.
    """
    if kind == "official" and "fold" in columns:
        wanted = sorted(set(columns["fold"])) if test_fold == "all" else fold_numbers(test_fold)
        return [official(columns["fold"], fold, validation) for fold in wanted]
    if test_fold == "all" or "," in test_fold:
        fix = "leave --test_fold out" if "fold" not in columns else "leave --split out"
        what = "several test folds need data with a fold column, and --split official"
        raise UserError(what, f"--test_fold {test_fold}", fix)
    if kind == "random":
        return [random(columns["label"], seed, columns.get("group"))]
    if kind == "grouped":
        if "group" not in columns:
            what = "--split grouped needs to know which clips share a recording, and the data has no group column"
            fix = "give the metadata a group (or recording, speaker) column, or use --split random"
            raise UserError(what, "--split", fix)
        return [grouped(columns["label"], columns["group"], seed)]
    if "split" in columns:
        return [predefined(columns["split"], columns["label"], seed)]
    what = "--split official needs a fold column, or train/validation/test parts, and the data has neither"
    raise UserError(
        what, "--split", "use --split grouped" if "group" in columns else "add a fold column, or use --split random"
    )


def fold_numbers(text: str) -> list[int]:
    """`"5,1,5"` → `[1, 5]`; empty where the text is no list of whole numbers below 10⁹."""
    items = [item.strip() for item in text.split(",")]
    valid = all(item.isdecimal() and len(item) < 10 for item in items)
    return sorted({int(item) for item in items}) if valid else []


def official(folds: Sequence[int], test_fold: int, validation: str = "next_fold") -> Split:
    """Tests on one fold, validates on the next that is present (cyclically), trains on the others.

    Args:
        folds: the fold of every row.
        test_fold: the fold to test on.
        validation: "next_fold", or "none" to train on all the others.

    Raises:
        UserError: the fold is absent, or too few folds are left to train on.

    >>> split = ush.splits.official(ush.load_sounds("sounds").dataset["fold"], test_fold=3)
    >>> split.test_fold, split.validation_fold, len(split.train), len(split.validation), len(split.test)
    (3, 4, 80, 10, 10)
    """
    of_row = np.asarray(folds)
    present = sorted(int(fold) for fold in np.unique(of_row))
    if test_fold not in present:
        what = f"the data has no clip of test fold {test_fold}"
        raise UserError(what, "--test_fold", f"there are {listed(present)}; choose among them, or all")
    others = [fold for fold in present if fold > test_fold] + [fold for fold in present if fold < test_fold]
    needed = 3 if validation == "next_fold" else 2
    if len(present) < needed:
        there = f"there {'are' if len(present) > 1 else 'is'} {len(present)} ({listed(present)})"
        what = f"testing on fold {test_fold} with --validation {validation} needs {needed} folds, {there}"
        fix = "use --validation none" if others else "bring more folds, or use --split random"
        raise UserError(what, "--validation", fix)
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
    """About 80/10/10 by recording, stratified by class: no recording is in two parts.

    scikit-learn deals the recordings into ten parts, and the seed chooses which of them test and validate: the
    recordings that are hardest to place are dealt first, and all go to the first part.

    Args:
        labels: the class id of every row.
        groups: the recording of every row; a clip whose recording is unknown ("") counts as a recording of its own.
        seed: of the dealing and of the choice.

    Raises:
        UserError: there are fewer than ten recordings, or no class has ten clips.

    >>> sounds = ush.load_sounds("sounds")
    >>> groups = np.array(sounds.dataset["group"])
    >>> split = ush.splits.grouped(sounds.dataset["label"], groups)
    >>> set(groups[split.train]) & set(groups[split.test])
    set()
    """
    from sklearn.model_selection import StratifiedGroupKFold  # a second, for which checking flags does not wait

    unknown = sum(group in ("", None) for group in groups)
    recordings = [f"of clip {row}" if group in ("", None) else str(group) for row, group in enumerate(groups)]
    if (count := len(set(recordings))) < 10:
        found = f"--split grouped needs at least 10 recordings to make ten parts, found {count}"
        raise UserError(found, "--split", "use --split random and read its warning, or give the data a fold column")
    if (most := np.bincount(labels).max()) < 10:
        found = f"--split grouped needs a class of 10 clips to make ten parts, the largest has {most}"
        raise UserError(found, "--split", "bring more clips, or give the data a fold column")
    dealt = StratifiedGroupKFold(n_splits=10, shuffle=True, random_state=seed).split(labels, labels, recordings)
    parts = [part for _, part in dealt if len(part)]
    test, validation = (parts[number] for number in np.random.default_rng(seed).permutation(len(parts))[:2])
    train = np.setdiff1d(np.arange(len(labels)), np.concatenate([test, validation]))
    warning = f"{counted(unknown, 'clip')} of an unknown recording, each taken as one of its own" * bool(unknown)
    return Split("grouped", train, np.sort(validation), np.sort(test), warning=warning)


def random(labels: Sequence[int], seed: int = 0, groups: Sequence[str] | None = None) -> Split:
    """80/10/10 stratified by class, regardless of recordings, as in many tutorials.

    Args:
        labels: the class id of every row.
        seed: of the drawing.
        groups: the recording of every row, "" where it is unknown. Only `warning` depends on it, which says how many
            test clips have their recording in training, or that nobody knows.

    Raises:
        UserError: a class has fewer than ten clips.

    >>> split = ush.splits.random(ush.load_sounds("sounds").dataset["label"], seed=0)
    >>> len(split.train), len(split.validation), len(split.test), split.warning.partition(":")[0]
    (80, 10, 10, 'random split')
    """
    from sklearn.model_selection import train_test_split

    rows, by_class = np.arange(len(labels)), np.asarray(labels)
    rare = int(np.bincount(by_class)[np.unique(by_class)].min())
    if rare < 10:
        found = f"--split random needs 10 clips a class for its 80/10/10 parts, one class has {rare}"
        raise UserError(found, "--split", "bring more clips, or give the data a fold column")
    train, rest = train_test_split(rows, test_size=0.2, stratify=by_class, random_state=seed)
    validation, test = train_test_split(rest, test_size=0.5, stratify=by_class[rest], random_state=seed)
    warning = _random_warning(groups, train, test)
    return Split("random", np.sort(train), np.sort(validation), np.sort(test), warning=warning)


def _random_warning(groups: Sequence[str] | None, train: np.ndarray, test: np.ndarray) -> str:
    known = np.array(["" if group is None else str(group) for group in (() if groups is None else groups)])
    if not known.any():
        fact = "the data do not tell which clips share a recording; if some do, the score is too high"
    elif shared := int(np.isin(known[test], known[train][known[train] != ""]).sum()):
        fact = f"{shared:,} of {len(test):,} test clips have their recording in training too, the score is too high"
    else:
        fact = "drawn regardless of recordings, though no known one is in both training and test"
    return f"random split: {fact}"


def split_notes(split: Split, labels: Sequence[int], names: Sequence[str]) -> list[str]:
    """What every score of this split must say: its warning, and the classes of which a part has no clip."""
    notes = [split.warning] * bool(split.warning)
    parts = {"training": split.train, "validation": split.validation, "test": split.test}
    for part, rows in parts.items():
        absent = np.setdiff1d(np.arange(len(names)), np.asarray(labels)[rows])
        if len(rows) and len(absent):
            notes.append(f"the {part} part has no clip of {first_ten([names[number] for number in absent])}")
    return notes


def predefined(splits: Sequence[str], labels: Sequence[int], seed: int = 0) -> Split:
    """The data set's own train, validation and test parts; without a validation part, a tenth of train serves.

    >>> split = ush.splits.predefined(["train"] * 40 + ["test"] * 10, [0, 1] * 25)
    >>> len(split.train), len(split.validation), len(split.test)
    (36, 4, 10)
    """
    from sklearn.model_selection import train_test_split

    part_of = np.asarray(splits)
    parts = {part: np.flatnonzero(part_of == part) for part in ("train", "validation", "test")}
    missing = [part for part in ("train", "test") if not len(parts[part])]
    if missing:
        found = f"the data set has no {' and no '.join(missing)} part, found {listed(sorted(set(splits)))}"
        raise UserError(found, "--dataset", "use --split grouped or --split random to make the parts")
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
