"""Where a classifier is not to be trusted, in sentences computed from its report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from urbansound_hf.markdown import score

MOST = 3  # classes, or confusions, that are named
FEW_RECORDINGS = 5  # of so many or fewer, a class's score says little: one more could turn it over
OFF = 0.02  # mean score less accuracy; closer is called right


def weaknesses(measured: Mapping[str, Any]) -> list[str]:
    """What a report (the content of report.json) shows to be weak, and what no report can show."""
    names = measured["labels"]
    closed = (
        f"It knows {len(names)} kinds of sound and no “none of them”: anything else gets one of these names too, "
        "sometimes with a high score."
    )
    return [closed, *_classes(measured), *_confusions(names, np.array(measured["confusion_matrix"])),
            *_conditions(measured), _calibration(measured), *_hardly_tested(measured["per_class"])]  # fmt: skip


def _classes(measured: Mapping[str, Any]) -> Iterator[str]:
    below = {name: row for name, row in measured["per_class"].items() if row["f1"] < measured["macro_f1"]}
    worst = sorted(below.items(), key=lambda item: item[1]["f1"])[:MOST]
    told = [f"{name} {score(row['f1'], row['f1_interval'])}" for name, row in worst]
    if told:
        yield f"Weakest classes, by F1: {', '.join(told)}."


def _confusions(names: Sequence[str], counts: np.ndarray) -> Iterator[str]:
    """`counts` is `(classes, classes)`, a row a true class."""
    wrong = counts - np.diag(np.diag(counts))
    pairs = [np.unravel_index(at, wrong.shape) for at in np.argsort(-wrong, axis=None, kind="stable")[:MOST]]
    told = [
        f"{names[true]} for {names[taken]} ({wrong[true, taken]} of {counts[true].sum()} clips)"
        for true, taken in pairs
        if wrong[true, taken]
    ]
    if told:
        yield f"What it takes for what: {', '.join(told)}."


def _conditions(measured: Mapping[str, Any]) -> Iterator[str]:
    """Of every kind of condition the worst, if it lies below the whole."""
    for kind, rows in (("length", measured["by_length"]), ("salience", measured["by_salience"])):
        name, row = min(rows.items(), key=lambda item: item[1]["accuracy"], default=("", None))
        if row and row["accuracy"] < measured["accuracy"]:
            found = score(row["accuracy"], row["accuracy_interval"])
            whole = score(measured["accuracy"], measured["accuracy_interval"])
            yield f"Clips of {kind} “{name}”: accuracy {found} over {row['clips']:,} of them, against {whole} over all."


def _calibration(measured: Mapping[str, Any]) -> str:
    diagram = measured["reliability"]
    bins = [pair for pair in zip(diagram["counts"], diagram["confidence"], strict=True) if pair[0]]
    confidence = sum(count * mean for count, mean in bins) / sum(count for count, _ in bins)
    off = confidence - measured["accuracy"]
    verdict = "right on average" if abs(off) < OFF else "too high" if off > 0 else "too low"
    return (
        f"Its scores are {verdict}: {confidence:.2f} in the mean, where {measured['accuracy']:.2f} of the clips are "
        f"recognised (expected calibration error {measured['ece']:.3f})."
    )


def _hardly_tested(per_class: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    few = [f"{name} ({row['recordings']})" for name, row in per_class.items() if row["recordings"] <= FEW_RECORDINGS]
    if few:
        yield f"Tested on {FEW_RECORDINGS} recordings or fewer, whatever the score: {', '.join(few)}."
