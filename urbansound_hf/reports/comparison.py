"""Two models on the same clips: the difference of their scores, how sure it is, and where it comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from urbansound_hf.errors import UserError
from urbansound_hf.evaluation import confidence
from urbansound_hf.evaluation.runs import Predictions, find_runs, notes, pooled, scope, scope_caution
from urbansound_hf.evaluation.summary import known
from urbansound_hf.reports import markdown
from urbansound_hf.text import table

MCNEMAR = (
    "McNemar's test takes clips for independent, which slices of one recording are not; where it and the interval "
    "disagree, believe the interval."
)


def compare(a: Path, b: Path, common: bool = False) -> str:
    """Compares two runs, or two cross-validations, clip by clip.

    Args:
        a, b: their folders.
        common: leave out the clips that only one of them was tested on, instead of refusing.

    Returns:
        a Markdown page; every difference is B − A.

    Raises:
        UserError: they were not tested on the same clips, or do not tell the same classes apart.
    """
    runs = [find_runs(folder) for folder in (a, b)]
    of_a, of_b = paired(pooled(runs[0]), pooled(runs[1]), common)
    names, scopes = _names(a, b), [scope([run.metrics for run in one]) for one in runs]
    note = next(filter(None, map(scope_caution, scopes)), "")
    found = differences(of_a, of_b)
    parts = [
        f"# {names[1]} against {names[0]}",
        *[f"> {text}" for text in notes([*runs[0], *runs[1]])],
        f"A is {names[0]} ({scopes[0]}), B is {names[1]} ({scopes[1]}); differences are B − A, over the {len(of_a):,} "
        f"clips of {len(np.unique(of_a.groups)):,} recordings that both were tested on.",
        table(("", "A", "B", "B − A"), [found["accuracy"], found["macro-F1"]], note),
        _verdict(of_a, of_b),
    ]
    if len(np.unique(of_a.folds)) > 1:
        parts += ["## Folds", _fold_table(of_a, of_b, note)]
    classes = [found[label] for label in of_a.labels]
    parts += ["## F1 of each class", table(("class", "A", "B", "B − A"), classes, note)]
    return "\n\n".join([*parts, "## How sure", markdown.HOW_SURE]) + "\n"


def paired(a: Predictions, b: Predictions, common: bool = False) -> tuple[Predictions, Predictions]:
    """The same clips of both, in the same order, B's class ids as A's.

    Raises:
        UserError: the classes, the clips (unless `common`) or their true classes differ.
    """
    if set(a.labels) != set(b.labels):
        raise UserError(
            "two runs are compared on the same classes, and "
            f"only A knows {_listed(set(a.labels) - set(b.labels))}, only B {_listed(set(b.labels) - set(a.labels))}",
            fix="compare runs on the same data",
        )
    paths, rows_a, rows_b = np.intersect1d(a.paths, b.paths, assume_unique=True, return_indices=True)
    if len(paths) == 0 or (not common and len(paths) < max(len(a), len(b))):
        raise UserError(
            f"two runs are compared on the same clips, and these share {len(paths):,}: A was tested on {len(a):,}, "
            f"B on {len(b):,}; {len(a) - len(paths):,} only in A, {len(b) - len(paths):,} only in B",
            fix="give --common to compare those they share" if len(paths) else "compare runs of the same test fold",
        )
    a, b = a.select(rows_a), _relabelled(b.select(rows_b), a.labels)
    if (a.true != b.true).any():
        first = int(np.flatnonzero(a.true != b.true)[0])
        raise UserError(
            f"{int((a.true != b.true).sum()):,} clips have another true class in B than in A, first {a.paths[first]}: "
            f"{a.labels[a.true[first]]} in A, {a.labels[b.true[first]]} in B",
            fix="compare runs on the same data",
        )
    return a, b


def _relabelled(predictions: Predictions, labels: Sequence[str]) -> Predictions:
    """The same predictions with class ids in the order of `labels`."""
    own = np.array([predictions.labels.index(label) for label in labels])
    new = np.argsort(own)  # own id → new id
    return dataclasses.replace(
        predictions,
        true=new[predictions.true],
        predicted=new[predictions.predicted],
        probabilities=predictions.probabilities[:, own],
        labels=list(labels),
    )


def differences(a: Predictions, b: Predictions) -> dict[str, tuple[str, str, str, str]]:
    """Table rows (name, A, B, B − A with its interval) of the accuracy, the macro-F1 and each class's F1."""
    counts = np.stack(
        [confidence.count_by_recording(of.true, of.predicted, a.groups, len(a.labels)) for of in (a, b)], axis=1
    )  # (recordings, 2, 3, classes)

    def gain(sums: np.ndarray) -> np.ndarray:
        scores = confidence.classification_scores(sums)  # (…, 2, scores)
        return scores[..., 1, :] - scores[..., 0, :]

    of_a, of_b = np.nan_to_num(confidence.classification_scores(counts.sum(axis=0)))
    ends = confidence.bootstrap_interval(gain, counts).T
    wanted = {"accuracy": 0, "macro-F1": 1} | {label: i - len(a.labels) for i, label in enumerate(a.labels)}
    return {
        name: (name, f"{of_a[i]:.3f}", f"{of_b[i]:.3f}", markdown.signed(of_b[i] - of_a[i], known(ends[i])))
        for name, i in wanted.items()
    }


def _verdict(a: Predictions, b: Predictions) -> str:
    """What the difference in accuracy allows to say."""
    gain, low, high = confidence.paired_difference(a.correct, b.correct, a.groups)
    verdict = "These recordings do not tell which is better: the interval of the difference holds 0."
    if low > 0 or high < 0:
        verdict = f"{'B' if gain > 0 else 'A'} is better: the interval of the difference leaves out 0."
    only_a, only_b = (a.correct & ~b.correct).sum(), (b.correct & ~a.correct).sum()
    p = confidence.mcnemar(a.correct, b.correct)
    return (
        f"**{verdict}** Only A is right on {only_a:,} clips, only B on {only_b:,}; McNemar's exact test: "
        f"p {'< 0.0001' if p < 1e-4 else f'= {p:.4f}'}. {MCNEMAR}"
    )


def _fold_table(a: Predictions, b: Predictions, note: str) -> str:
    rows = []
    for fold in np.unique(a.folds):
        mask = a.folds == fold
        gain, *ends = confidence.paired_difference(a.correct[mask], b.correct[mask], a.groups[mask])
        values = [f"{of.correct[mask].mean():.3f}" for of in (a, b)]
        rows.append((fold, *values, markdown.signed(gain, ends), f"{mask.sum():,}"))
    return table(("fold", "A", "B", "B − A", "clips"), rows, note, texts=0)


def _names(a: Path, b: Path) -> tuple[str, str]:
    """The folders' names, with their parents' where both are called alike (as in base/fold3 and new/fold3)."""
    a, b = a.resolve(), b.resolve()
    return (a.name, b.name) if a.name != b.name else (f"{a.parent.name}/{a.name}", f"{b.parent.name}/{b.name}")


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"
