"""Training, validation and test splits as plain functions of columns.

UrbanSound8K's ten folds keep the slices of one recording together. Reshuffling them puts near-copies of the training
clips into the test set and inflates the score by ten points and more; so the folds and parts that data have are used as
they are, and the results of all other splits name their split.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from urbansound_hf.errors import UserError
from urbansound_hf.text import counted, first_ten, listed

Labels = Sequence[Any] | np.ndarray  # the class id of every clip, or `(clips, classes)` of 0 and 1
MADE_FOLDS = 5  # where the data have none
MOST_PARTS = 10  # of a single split: about 80/10/10


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
    kind: str = "official"  # or split, grouped, stratified, random: a key of `KINDS`


KINDS = {
    "official": "the folds of the data",
    "split": "the train, validation and test parts of the data",
    "grouped": "drawn by recording, stratified by class",
    "stratified": "drawn by file, stratified by class, as the recordings of the files are not known",
    "random": "drawn regardless of recordings",
}


def wanted_splits(
    columns: Mapping[str, Any],
    kind: str = "auto",
    test_fold: str | None = None,
    validation: str = "next_fold",
    seed: int = 0,
    folds: int | None = None,
) -> list[Split]:
    """The splits that `--split`, `--test_fold` and `--validation` ask for: one, or one for each test fold.

    Args:
        columns: `label` (see `stratified_folds`) and, where the data have them, `fold`, `group` and `split`.
        kind: "auto" (see `chosen_kind`), "official", "grouped" or "random".
        test_fold: "10", "1,3,5" or "all"; None: the last fold of the data, or one split where they have none.
        validation: "next_fold" or "none"; used with folds only.
        folds: how many are made where the data have none and `test_fold` asks for some; None: five.

    Raises:
        UserError: the data lack the columns or the folds, or are too few.
    """
    labels, groups = columns["label"], columns.get("group")
    kind = chosen_kind(columns, kind, test_fold)
    if kind == "official" and folds:
        fix = "leave it out, or make other folds with --split grouped or random"
        raise UserError("the data have folds of their own", f"--folds {folds}", fix)
    if kind == "split":
        return [predefined(columns["split"], labels, seed, groups)]
    if kind != "official" and not test_fold:
        return [random(labels, seed, groups) if kind == "random" else grouped(labels, groups, seed, kind)]
    of_row = columns.get("fold", [])
    if kind != "official":
        of_row = stratified_folds(labels, groups if kind == "grouped" else None, folds or MADE_FOLDS, seed).tolist()
    present = sorted(set(of_row))
    wanted = present if test_fold == "all" else fold_numbers(test_fold) if test_fold else present[-1:]
    drawn = [official(of_row, fold, validation) for fold in wanted]
    if kind == "official":
        return drawn
    return [replace(each, kind=kind, warning=_warning(kind, groups, each.train, each.test)) for each in drawn]


def chosen_kind(columns: Mapping[str, Any], kind: str, test_fold: str | None) -> str:
    """The key of `KINDS` that `--split` leads to with these columns. Raises UserError if they lack what it needs.

    "auto" takes the most honest one: the folds of the data, their parts (unless several test folds are asked for),
    else recordings kept apart where three are known, else files.
    """
    recordings = {str(group) for group in columns.get("group", ()) if group not in ("", None)}
    if kind in ("auto", "official") and "fold" in columns:
        return "official"
    if "split" in columns and not test_fold and (kind == "official" or {"train", "test"} <= set(columns["split"])):
        kind = "split" if kind in ("auto", "official") else kind
    if kind == "official":
        what = "--split official needs a fold column, or train/validation/test parts for a single test"
        raise UserError(what, "--split", "leave --split out: the split is then chosen from the data")
    if kind == "grouped" and not recordings:
        what = "--split grouped needs to know which clips share a recording, and the data has no group column"
        fix = "give the metadata a group (or recording, speaker) column, or leave --split out"
        raise UserError(what, "--split", fix)
    return kind if kind != "auto" else "grouped" if len(recordings) > 2 else "stratified"


def stratified_folds(
    labels: Labels, groups: Sequence[str] | None = None, folds: int = MADE_FOLDS, seed: int = 0
) -> np.ndarray:
    """Deals clips into folds of equal shares of every class, the clips of a recording into one: `(clips,)` from 1.

    Iterative stratification (Sechidis, Tsoumakas, Vlahavas: On the Stratification of Multi-Label Data, ECML 2011) over
    recordings: the rarest class first, of it the largest recording, to the fold that lacks most clips of the class.

    Args:
        labels: the class id of every row, or `(clips, classes)` of 0 and 1 where clips have several.
        groups: the recording of every row; one that is not known ("") is a recording of its own, as all are with None.
        folds: how many to make.
        seed: decides between folds that lack as much.

    Raises:
        UserError: there are fewer recordings than folds.

    Examples:
        >>> folds = ush.splits.stratified_folds([0] * 10 + [1] * 20, folds=5)
        >>> np.bincount(folds).tolist()
        [0, 6, 6, 6, 6, 6]
    """
    codes = np.unique(_recordings(groups, len(labels)), return_inverse=True)[1]
    classes = np.asarray(labels)
    if classes.ndim == 1:
        classes = np.eye(int(classes.max()) + 1)[classes]
    counts = np.zeros((codes.max() + 1, classes.shape[1] + 1))  # clips of a recording by class, and all of them
    np.add.at(counts, codes, np.column_stack([classes, np.ones(len(classes))]))
    if len(counts) < folds:
        found = f"{folds} folds need as many recordings (or clips of unknown ones), found {len(counts)}"
        raise UserError(found, "--folds", "ask for fewer, or bring more clips")
    generator = np.random.default_rng(seed)
    lacking = np.tile(counts.sum(axis=0) / folds, (folds, 1))
    fold_of, left = np.zeros(len(counts), np.int64), generator.permutation(len(counts))
    while len(left):
        totals = counts[left].sum(axis=0)
        rarest = int(np.where(totals > 0, totals, np.inf).argmin())
        members = left[counts[left, rarest] > 0]
        for member in members[np.argsort(-counts[members, rarest], kind="stable")]:
            fold = np.lexsort((generator.random(folds), -lacking[:, -1], -lacking[:, rarest]))[0]
            lacking[fold] -= counts[member]
            fold_of[member] = fold + 1
        left = left[fold_of[left] == 0]
    return fold_of[codes]


def _recordings(groups: Sequence[str] | None, clips: int) -> list[str]:
    known = [""] * clips if groups is None else groups
    return [f"of clip {row}" if group in ("", None) else f"= {group}" for row, group in enumerate(known)]


def _warning(kind: str, groups: Sequence[str] | None, train: np.ndarray, test: np.ndarray) -> str:
    """The note that goes with every score of a split that was drawn."""
    known = np.array(["" if group is None else str(group) for group in (() if groups is None else groups)], str)
    if kind == "grouped":
        unknown = int((known == "").sum())
        return f"{counted(unknown, 'clip')} of an unknown recording, each taken as one of its own" if unknown else ""
    if not known.any():
        fact = "the data do not tell which clips share a recording; if some do, the score is too high"
    elif kind != "random":
        fact = "the data name fewer than three recordings, which are in training and test alike: the score is too high"
    elif shared := int(np.isin(known[test], known[train][known[train] != ""]).sum()):
        fact = f"{shared:,} of {len(test):,} test clips have their recording in training too, the score is too high"
    else:
        fact = "drawn regardless of recordings, though no known one is in both training and test"
    return f"{'random split' if kind == 'random' else 'split by file'}: {fact}"


def fold_numbers(text: str) -> list[int]:
    """`"5,1,5"` → `[1, 5]`; empty where the text is no list of whole numbers below 10⁹."""
    items = [item.strip() for item in text.split(",")]
    valid = all(item.isdecimal() and len(item) < 10 for item in items)
    return sorted({int(item) for item in items}) if valid else []


def several_folds(test_fold: str | None) -> bool:
    """Whether `--test_fold` asks for more than one run."""
    return test_fold == "all" or len(fold_numbers(test_fold or "")) > 1


def official(folds: Sequence[int], test_fold: int, validation: str = "next_fold") -> Split:
    """Tests on one fold, validates on the next that is present (cyclically), trains on the others.

    Args:
        folds: the fold of every row.
        test_fold: the fold to test on.
        validation: "next_fold", or "none" to train on all the others.

    Raises:
        UserError: the fold is absent, or too few folds are left to train on.

    Examples:
        >>> split = ush.splits.official(ush.load_sounds("sounds").dataset["fold"], test_fold=3)
        >>> split.test_fold, split.validation_fold, len(split.train), len(split.validation), len(split.test)
        (3, 4, 80, 10, 10)
    """
    of_row = np.asarray(folds)
    present = sorted(int(fold) for fold in np.unique(of_row))
    if test_fold not in present:
        what = f"the data has no clip of test fold {test_fold}"
        raise UserError(what, "--test_fold", f"there are {listed(present)}; choose among them, or all")
    others = sorted(set(present) - {test_fold}, key=lambda fold: (fold < test_fold, fold))
    needed = 3 if validation == "next_fold" else 2
    if len(present) < needed:
        there = f"there {'are' if len(present) > 1 else 'is'} {len(present)} ({listed(present)})"
        what = f"testing on fold {test_fold} with --validation {validation} needs {needed} folds, {there}"
        fix = "use --validation none" if others else "bring more folds, or use --split random"
        raise UserError(what, "--validation", fix)
    validation_folds = others[:1] if validation == "next_fold" else []
    train_folds = sorted(set(others).difference(validation_folds))
    sides = (train_folds, validation_folds, [test_fold])
    train, validates, test = (np.flatnonzero(np.isin(of_row, folds)) for folds in sides)
    return Split(f"fold{test_fold}", train, validates, test, test_fold, next(iter(validation_folds), None), train_folds)


def grouped(labels: Labels, groups: Sequence[str] | None, seed: int = 0, kind: str = "grouped") -> Split:
    """About 80/10/10 by recording, stratified by class: no recording is in two parts.

    The recordings are dealt into ten parts (as many as there are recordings, if fewer), of which the seed chooses those
    that test and validate.

    Args:
        labels: the class id of every row, or `(clips, classes)` of 0 and 1.
        groups: the recording of every row; a clip whose recording is unknown ("") counts as a recording of its own.
        seed: of the dealing and of the choice.
        kind: "grouped", or "stratified": by file, whatever the groups.

    Raises:
        UserError: there are fewer than three recordings.

    Examples:
        >>> sounds = ush.load_sounds("sounds")
        >>> groups = np.array(sounds.dataset["group"])
        >>> split = ush.splits.grouped(sounds.dataset["label"], groups)
        >>> set(groups[split.train]) & set(groups[split.test])
        set()
    """
    kept = groups if kind == "grouped" else None
    parts = min(MOST_PARTS, len(set(_recordings(kept, len(labels)))))
    if parts < 3:
        found = f"training, validation and test need a recording each, found {counted(parts, 'recording')}"
        raise UserError(found, "--split", "bring more recordings")
    dealt = stratified_folds(labels, kept, parts, seed)
    test, validation = np.random.default_rng(seed).permutation(parts)[:2] + 1
    train = np.flatnonzero((dealt != test) & (dealt != validation))
    held_out = np.flatnonzero(dealt == test)
    warning = _warning(kind, groups, train, held_out)
    return Split(kind, train, np.flatnonzero(dealt == validation), held_out, warning=warning, kind=kind)


def random(labels: Labels, seed: int = 0, groups: Sequence[str] | None = None) -> Split:
    """80/10/10 stratified by class, regardless of recordings, as in many tutorials.

    Args:
        labels: the class id of every row.
        seed: of the drawing.
        groups: the recording of every row, "" where it is unknown. Only `warning` depends on it, which says how many
            test clips have their recording in training, or that nobody knows.

    Raises:
        UserError: a class has fewer than ten clips.

    Examples:
        >>> split = ush.splits.random(ush.load_sounds("sounds").dataset["label"], seed=0)
        >>> len(split.train), len(split.validation), len(split.test), split.warning.partition(":")[0]
        (80, 10, 10, 'random split')
    """
    from sklearn.model_selection import train_test_split

    if np.ndim(labels) == 2:
        return grouped(labels, groups, seed, "random")
    rows, by_class = np.arange(len(labels)), np.asarray(labels)
    rare = int(np.bincount(by_class)[np.unique(by_class)].min())
    if rare < 10:
        found = f"--split random needs 10 clips a class for its 80/10/10 parts, one class has {rare}"
        raise UserError(found, "--split", "bring more clips, or give the data a fold column")
    train, rest = train_test_split(rows, test_size=0.2, stratify=by_class, random_state=seed)
    validation, test = train_test_split(rest, test_size=0.5, stratify=by_class[rest], random_state=seed)
    warning = _warning("random", groups, train, test)
    return Split("random", np.sort(train), np.sort(validation), np.sort(test), warning=warning, kind="random")


def split_notes(split: Split, labels: Labels, names: Sequence[str]) -> list[str]:
    """The notes that go with every score of this split: its warning, and the classes of which a part has no clip."""
    notes = [split.warning] if split.warning else []
    parts = {"training": split.train, "validation": split.validation, "test": split.test}
    for part, rows in parts.items():
        of_part = np.asarray(labels)[rows]
        present = np.flatnonzero(of_part.any(axis=0)) if of_part.ndim == 2 else of_part
        absent = np.setdiff1d(np.arange(len(names)), present)
        if len(rows) and len(absent):
            notes.append(f"the {part} part has no clip of {first_ten([names[number] for number in absent])}")
    return notes


def predefined(splits: Sequence[str], labels: Labels, seed: int = 0, groups: Sequence[str] | None = None) -> Split:
    """The data set's own train, validation and test parts; without a validation part, a tenth of train serves.

    Examples:
        >>> split = ush.splits.predefined(["train"] * 40 + ["test"] * 10, [0, 1] * 25)
        >>> len(split.train), len(split.validation), len(split.test)
        (36, 4, 10)
    """
    parts = {part: np.flatnonzero(np.asarray(splits) == part) for part in ("train", "validation", "test")}
    missing = [part for part in ("train", "test") if not len(parts[part])]
    if missing:
        found = f"the data set has no {' and no '.join(missing)} part, found {listed(sorted(set(splits)))}"
        raise UserError(found, "--dataset", "use --split grouped or --split random to make the parts")
    if not len(parts["validation"]):
        train = parts["train"]
        names = _recordings(None if groups is None else [groups[int(row)] for row in train], len(train))
        kept = names if len(set(names)) > 1 else None
        serves = stratified_folds(np.asarray(labels)[train], kept, min(MOST_PARTS, len(set(kept or train))), seed) == 1
        parts["train"], parts["validation"] = train[~serves], train[serves]
    return Split("split", parts["train"], parts["validation"], parts["test"], kind="split")
