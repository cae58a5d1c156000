"""Reports as Markdown that also reads well in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from urbansound_hf.evaluation.runs import scope_caution
from urbansound_hf.text import table

HOW_SURE = (
    "Intervals hold the scores of 95 % of 2,000 resamples of the test recordings (not of clips: the slices of one "
    "recording stand or fall together). They do not cover another seed of the training. An interval without width "
    "means that every recording agreed, not that there is no doubt."
)


def interval(ends: Sequence[float] | None) -> str:
    """ "[0.61, 0.73]", or "–" where there is none."""
    return "–" if ends is None else f"[{ends[0]:.2f}, {ends[1]:.2f}]"


def score(value: float, ends: Sequence[float] | None) -> str:
    """ "0.672 [0.61, 0.73]"."""
    return f"{value:.3f} {interval(ends)}"


def signed(value: float, ends: Sequence[float] | None) -> str:
    """A difference: "+0.021 [-0.008, +0.051]"; with three decimals, as all turns on which side of 0 the ends lie."""
    return f"{value:+.3f} " + ("–" if ends is None else f"[{ends[0]:+.3f}, {ends[1]:+.3f}]")


def spread(mean: float, std: float | None) -> str:
    """ "0.672 ± 0.041"; of one fold there is no standard deviation."""
    return f"{mean:.3f}" + ("" if std is None else f" ± {std:.3f}")


def scores(measured: Mapping[str, Any], prefix: str = "") -> str:
    """ "accuracy **0.672 [0.61, 0.73]**, macro-F1 0.651 [0.59, 0.71]"."""
    keys = [f"{prefix}accuracy", f"{prefix}macro_f1"]
    accuracy, macro_f1 = (score(measured[key], measured[f"{key}_interval"]) for key in keys)
    return f"accuracy **{accuracy}**, macro-F1 {macro_f1}"


def amount(measured: Mapping[str, Any]) -> str:
    """ "816 clips of 97 recordings"."""
    return f"{measured['clips']:,} clips of {measured['recordings']:,} recordings"


def protocol(metrics: Mapping[str, Any]) -> str:
    """One sentence on which rows trained, validated and tested."""
    if metrics["test_fold"] is None:
        return f"Split: {metrics['split']}."
    chosen = "the last checkpoint was taken"
    if metrics["validation_fold"] is not None and metrics.get("checkpoint", "best") == "best":
        chosen = f"the checkpoint was chosen on fold {metrics['validation_fold']}"
    trained = ", ".join(str(fold) for fold in metrics["train_folds"])
    plural = "s" * (len(metrics["train_folds"]) > 1)
    return f"Tested once on fold {metrics['test_fold']}; trained on fold{plural} {trained}; {chosen}."


def page(
    title: str,
    headline: Sequence[str],
    measured: Mapping[str, Any],
    folds: Sequence[Mapping[str, Any]] = (),
    learned: bool = False,
) -> str:
    """The report of a run or of a cross-validation.

    Args:
        headline: the lines on top, before everything else but the notes.
        measured: what `report.measure` returns, with `scope` and `notes`.
        folds: of a cross-validation, the metrics of each fold.
        learned: whether there are learning curves.
    """
    note = scope_caution(measured["scope"])
    parts = [f"# {title}", *[f"> {text}" for text in measured["notes"]], "\n".join(headline)]
    if folds:
        parts += ["## Folds", fold_table(folds, note), "![accuracy by fold](folds.png)"]
    if learned:
        parts += ["## Learning", "![learning curves](learning_curves.png)"]
    parts += ["## Classes", class_table(measured["per_class"], note), "![scores by class](per_class.png)"]
    parts += ["## Confusion", "![confusion matrix](confusion_matrix.png)"]
    parts += [
        "## Calibration",
        f"Expected calibration error **{measured['ece']:.3f}** over 15 bins{f' ({note})' * bool(note)}: how far the "
        "scores are, on average, from the share of clips that are right at that score.",
        "![reliability diagram](reliability.png)",
    ]
    conditions = {"clip length": measured["by_length"], "salience": measured["by_salience"]}
    known = {name: rows for name, rows in conditions.items() if rows}
    if known:
        parts += ["## Conditions", *(condition_table(name, rows, note) for name, rows in known.items())]
        parts += ["![accuracy by condition](conditions.png)"]
    if measured["confident_mistakes"]:
        parts += ["## Most confident mistakes", mistake_table(measured["confident_mistakes"], note)]
    return "\n\n".join([*parts, "## How sure", HOW_SURE]) + "\n"


def fold_table(folds: Sequence[Mapping[str, Any]], note: str) -> str:
    """A line a fold."""
    rows = [
        (
            fold["test_fold"],
            f"{fold['clips']['test']:,}",
            f"{fold['recordings']:,}",
            score(fold["test_accuracy"], fold["test_accuracy_interval"]),
            f"{fold['test_macro_f1']:.3f}",
            "none" if fold["validation_fold"] is None else fold["validation_fold"],
            f"{fold['train_seconds']:,.0f} s",
        )
        for fold in folds
    ]
    return table(
        ("fold", "clips", "recordings", "accuracy", "macro-F1", "checkpoint chosen on", "training"), rows, note, texts=0
    )


def class_table(per_class: Mapping[str, Mapping[str, Any]], note: str) -> str:
    """A line a class, in the order of the data set."""
    rows = [
        (
            name,
            *(score(row[key], row[f"{key}_interval"]) for key in ("precision", "recall", "f1")),
            f"{row['support']:,}",
            f"{row['recordings']:,}",
        )
        for name, row in per_class.items()
    ]
    return table(("class", "precision", "recall", "F1", "clips", "recordings"), rows, note)


def condition_table(name: str, rows: Mapping[str, Mapping[str, Any]], note: str) -> str:
    """A line a condition: clip lengths, or saliences."""
    lines = [
        (condition, score(row["accuracy"], row["accuracy_interval"]), f"{row['clips']:,}", f"{row['recordings']:,}")
        for condition, row in rows.items()
    ]
    return table((name, "accuracy", "clips", "recordings"), lines, note)


def mistake_table(mistakes: Sequence[Mapping[str, Any]], note: str) -> str:
    """A line a mistake, the most confident first."""
    rows = [(row["path"], row["true"], row["predicted"], f"{row['score']:.3f}") for row in mistakes]
    return table(("clip", "true", "predicted", "score"), rows, note, texts=3)
