"""Comparison of two models on the same clips: differences of scores with intervals, by fold and by class."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from urbansound_hf.errors import UserError
from urbansound_hf.evaluation import confidence
from urbansound_hf.evaluation.confidence import known
from urbansound_hf.evaluation.metrics import metrics_of, right
from urbansound_hf.evaluation.runs import Predictions, Run, find_runs, notes, pooled, run_folder, scope, scope_caution
from urbansound_hf.evaluation.summary import metric_interval
from urbansound_hf.reports import markdown
from urbansound_hf.text import in_markdown, table


def compare_runs(a: Run | str | Path, b: Run | str | Path, common: bool = False) -> str:
    """Compares two runs, or two cross-validations, paired by clip.

    The 95 % intervals of the differences come from a bootstrap over recordings, with both models resampled together.

    Args:
        a, b: runs, their folders, or the folders of cross-validations.
        common: leave out clips on which only one of them was tested, instead of raising an error.

    Returns:
        a Markdown page; every difference is B − A.

    Raises:
        UserError: they were not tested on the same clips, or have different classes.

    Examples:
        >>> a, b = ush.read_run("outputs/base/fold10"), ush.read_run("outputs/new/fold10")
        >>> ush.compare_runs(a, b).splitlines()[0]
        '# new/fold10 against base/fold10'
    """
    a, b = run_folder(a), run_folder(b)
    runs = [find_runs(folder) for folder in (a, b)]
    of_a, of_b = paired(pooled(runs[0]), pooled(runs[1]), common)
    places, scopes = [a.resolve(), b.resolve()], [scope([run.metrics for run in one]) for one in runs]
    alike = places[0].name == places[1].name  # base/fold3 and new/fold3
    names = [in_markdown(f"{place.parent.name}/" * alike + place.name) for place in places]
    note = next(filter(None, map(scope_caution, scopes)), "")
    differences = []
    for metric in metrics_of(of_a.true):
        values = [metric.function(of.true, of.predicted, of.probabilities) for of in (of_a, of_b)]
        difference = markdown.signed(values[1] - values[0], metric_interval(metric, of_a, of_b))
        differences.append((metric.title, *(f"{value:.3f}" for value in values), difference))
    parts = [
        f"# {names[1]} against {names[0]}",
        *[f"> {in_markdown(text)}" for text in notes([*runs[0], *runs[1]])],
        f"A is {names[0]} ({scopes[0]}), B is {names[1]} ({scopes[1]}); differences are B − A, over the {len(of_a):,} "
        f"clips of {len(np.unique(of_a.groups)):,} recordings on which both were tested.",
        table(("", "A", "B", "B − A"), differences, note),
        _verdict(of_a, of_b),
    ]
    if len(np.unique(of_a.folds)) > 1:
        parts += ["## Folds", _fold_table(of_a, of_b, note)]
    parts += ["## F1 of each class", table(("class", "A", "B", "B − A"), class_differences(of_a, of_b), note)]
    return "\n\n".join([*parts, "## Uncertainty", markdown.UNCERTAINTY]) + "\n"


def paired(a: Predictions, b: Predictions, common: bool = False) -> tuple[Predictions, Predictions]:
    """Selects the clips of both in the order of A, and gives B the class ids of A.

    Raises UserError if the classes, the clips (unless `common`) or their true classes differ.
    """
    if set(a.labels) != set(b.labels):
        only = [", ".join(sorted({*one.labels} - {*other.labels})) or "none" for one, other in ((a, b), (b, a))]
        what = f"two runs are compared on the same classes, and only A has {only[0]}, only B {only[1]}"
        raise UserError(what, fix="compare runs on the same data")
    paths, rows_a, rows_b = np.intersect1d(a.paths, b.paths, assume_unique=True, return_indices=True)
    if len(paths) == 0 or (not common and len(paths) < max(len(a), len(b))):
        raise UserError(
            f"two runs are compared on the same clips, and these share {len(paths):,}: A was tested on {len(a):,}, "
            f"B on {len(b):,}; {len(a) - len(paths):,} only in A, {len(b) - len(paths):,} only in B",
            fix="give --common to compare the shared ones" if len(paths) else "compare runs of the same test fold",
        )
    order = np.argsort(rows_a)
    a, b = a.select(rows_a[order]), b.select(rows_b[order])
    own = np.array([b.labels.index(label) for label in a.labels])
    new = np.argsort(own)  # class id of B → of A
    true, predicted = (each[:, own] if each.ndim == 2 else new[each] for each in (b.true, b.predicted))
    b = dataclasses.replace(b, true=true, predicted=predicted, probabilities=b.probabilities[:, own], labels=a.labels)
    if len(differ := np.flatnonzero(~right(a.true, b.true))):
        of_a, of_b = (";".join(of.names(of.true[differ[0]])) for of in (a, b))
        what = f"{len(differ):,} clips have another true class in B than in A, first {a.paths[differ[0]]}"
        raise UserError(f"{what}: {of_a} in A, {of_b} in B", fix="compare runs on the same data")
    return a, b


def class_differences(a: Predictions, b: Predictions) -> list[tuple[str, ...]]:
    """For every class the F1 of A and B, and B − A with its interval."""
    counts = np.stack(
        [confidence.count_by_recording(of.true, of.predicted, a.groups, len(a.labels)) for of in (a, b)], axis=1
    )  # (recordings, 2, 3, classes)

    def f1(sums: np.ndarray) -> np.ndarray:
        return confidence.classification_scores(sums)[..., -len(a.labels) :]  # (…, 2, classes)

    of_a, of_b = np.nan_to_num(f1(counts.sum(axis=0)))
    ends = confidence.bootstrap_interval(lambda sums: np.diff(f1(sums), axis=-2)[..., 0, :], counts).T
    return [
        (in_markdown(label), f"{of_a[i]:.3f}", f"{of_b[i]:.3f}", markdown.signed(of_b[i] - of_a[i], known(ends[i])))
        for i, label in enumerate(a.labels)
    ]


def _verdict(a: Predictions, b: Predictions) -> str:
    """One sentence on the difference in accuracy, and the counts of McNemar's test."""
    _, low, high = confidence.paired_difference(a.correct, b.correct, a.groups)
    verdict = "The test recordings do not show which is better: the interval of the difference contains 0."
    if low > 0 or high < 0:
        verdict = f"{'B' if low > 0 else 'A'} is better: the interval of the difference excludes 0."
    only_a, only_b = (a.correct & ~b.correct).sum(), (b.correct & ~a.correct).sum()
    p = confidence.mcnemar(a.correct, b.correct)
    return (
        f"**{verdict}** Only A is right on {only_a:,} clips, only B on {only_b:,}; McNemar's exact test: "
        f"p {'< 0.0001' if p < 1e-4 else f'= {p:.4f}'}. McNemar's test assumes independent clips, and slices of one "
        "recording are not independent; where it and the interval disagree, rely on the interval."
    )


def _fold_table(a: Predictions, b: Predictions, note: str) -> str:
    rows = []
    for fold in np.unique(a.folds):
        mask = a.folds == fold
        gain, *ends = confidence.paired_difference(a.correct[mask], b.correct[mask], a.groups[mask])
        values = [f"{of.correct[mask].mean():.3f}" for of in (a, b)]
        rows.append((fold, *values, markdown.signed(gain, ends), f"{mask.sum():,}"))
    return table(("fold", "A", "B", "B − A", "clips"), rows, note, texts=0)
