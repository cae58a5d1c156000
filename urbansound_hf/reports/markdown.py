"""Markdown of reports: numbers with their intervals, tables, and the page of a run or a cross-validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from urbansound_hf.data.splits import KINDS
from urbansound_hf.evaluation.metrics import present_metrics
from urbansound_hf.evaluation.runs import scope_caution
from urbansound_hf.text import in_markdown, listed, table

FIGURES = {
    "folds.png": "accuracy by fold", "learning_curves.png": "learning curves", "per_class.png": "scores by class",
    "confusion_matrix.png": "confusion matrix", "reliability.png": "reliability diagram",
    "conditions.png": "accuracy by condition",
}  # fmt: skip
"""The figures of a report and what they show: report.html embeds these files of its folder and no others."""
MISTAKES = "Most confident mistakes"
"""The section in whose place report.html has the sounds."""
LISTED = 10
"""Of them, those in report.md."""
UNCERTAINTY = (
    "Intervals are 95 % bootstrap intervals over 2,000 resamples of the test recordings (not of clips: the errors of "
    "slices of one recording are correlated). They do not cover the random seed of the training. An interval of width "
    "0 means that all recordings agree, not that the score is certain."
)

SEVERAL_LABELS = (
    "Clips have several labels. A row counts the clips of a true label: on the diagonal those where it is predicted, "
    "elsewhere those where it is missed and another label is wrongly predicted. Accuracy is the share of clips with "
    "all labels right, by the thresholds in the checkpoint's config.json."
)


def figure(name: str) -> str:
    """The paragraph that shows a figure of `FIGURES`."""
    return f"![{FIGURES[name]}]({name})"


def interval(ends: Sequence[float] | None) -> str:
    """ "[0.61, 0.73]", or "–" where there is none."""
    return "–" if ends is None else f"[{ends[0]:.2f}, {ends[1]:.2f}]"


def score(value: float, ends: Sequence[float] | None) -> str:
    """ "0.672 [0.61, 0.73]"."""
    return f"{value:.3f} {interval(ends)}"


def signed(value: float, ends: Sequence[float] | None) -> str:
    """A difference: "+0.021 [-0.008, +0.051]"; with three decimals, as the signs of the ends matter."""
    return f"{value:+.3f} " + ("–" if ends is None else f"[{ends[0]:+.3f}, {ends[1]:+.3f}]")


def spread(mean: float, std: float | None) -> str:
    """ "0.672 ± 0.041"; of one fold there is no standard deviation."""
    return f"{mean:.3f}" + ("" if std is None else f" ± {std:.3f}")


def scores(measured: Mapping[str, Any], prefix: str = "") -> str:
    """ "accuracy **0.672 [0.61, 0.73]**, macro-F1 0.651 [0.59, 0.71], …": every metric that `measured` has."""
    names = {each.title: f"{prefix}{each.name}" for each in present_metrics(measured, prefix)}
    return _in_words({title: score(measured[name], measured.get(f"{name}_interval")) for title, name in names.items()})


def spreads(metrics: Mapping[str, Any]) -> str:
    """ "accuracy **0.672 ± 0.041**, macro-F1 0.651 ± 0.037, …" of a cross-validation."""
    names = {each.title: each.name for each in present_metrics(metrics, "mean_")}
    return _in_words({title: spread(metrics[f"mean_{name}"], metrics[f"std_{name}"]) for title, name in names.items()})


def _in_words(shown: Mapping[str, str]) -> str:
    (title, value), *others = shown.items()
    return ", ".join([f"{title} **{value}**", *(f"{title} {value}" for title, value in others)])


def amount(measured: Mapping[str, Any]) -> str:
    """ "816 clips of 97 recordings"."""
    return f"{measured['clips']:,} clips of {measured['recordings']:,} recordings"


def selected_on(metrics: Mapping[str, Any]) -> str:
    """The data that selected the checkpoint, "fold 3" or "80 clips"; empty if it is the last one."""
    clips, fold = metrics["clips"]["validation"], metrics["validation_fold"]
    selected = clips and metrics.get("checkpoint", "best") == "best"
    return (f"{clips:,} clips" if fold is None else f"fold {fold}") if selected else ""


def protocol(metrics: Mapping[str, Any]) -> str:
    """One sentence on the parts of the data for training, validation and test."""
    ensemble, part = metrics.get("checkpoint") == "ensemble", selected_on(metrics)
    chosen = "the scores of its members were combined" if ensemble else "the last checkpoint was used"
    chosen = f"the checkpoint was selected on {part}" if part else chosen
    if metrics["test_fold"] is None:
        parts = f"tested once on {metrics['clips']['test']:,} clips; trained on {metrics['clips']['train']:,} clips"
        return f"Split: {KINDS.get(metrics['split'], metrics['split'])}; {parts}; {chosen}."
    plural = "s" if len(metrics["train_folds"]) > 1 else ""
    trained = f"trained on fold{plural} {listed(metrics['train_folds'])}"
    return f"Tested once on fold {metrics['test_fold']}; {trained}; {chosen}."


def page(
    title: str,
    headline: Sequence[str],
    measured: Mapping[str, Any],
    folds: Sequence[Mapping[str, Any]] = (),
    learned: bool = False,
) -> str:
    """The report of a run or of a cross-validation from the result of `summary.measure`, with `scope` and `notes`.

    `headline` has the lines after the notes, `folds` the metrics of each fold of a cross-validation.
    """
    note = scope_caution(measured["scope"])
    parts = [f"# {in_markdown(title)}", *[f"> {in_markdown(text)}" for text in measured["notes"]], "\n".join(headline)]
    if folds:
        parts += ["## Folds", fold_table(folds, note), *([figure("folds.png")] if len(folds) > 1 else [])]
    if learned:
        parts += ["## Learning", figure("learning_curves.png")]
    parts += ["## Classes", class_table(measured["per_class"], note), figure("per_class.png")]
    several = any("average_precision" in row for row in measured["per_class"].values())
    parts += ["## Confusion", *[SEVERAL_LABELS] * several, figure("confusion_matrix.png")]
    gap = "confidence (the highest class score) and accuracy"
    gap = "the score of a label and the share of clips that have it" if several else gap
    parts += [
        "## Calibration",
        f"Expected calibration error **{measured['ece']:.3f}** over 15 bins{f' ({note})' if note else ''}: the "
        f"mean gap between {gap}.",
        figure("reliability.png"),
    ]
    conditions = {"clip length": measured["by_length"], "salience": measured["by_salience"]}
    known = {name: rows for name, rows in conditions.items() if len(rows) > 1}
    if known:
        parts += ["## Conditions", *(condition_table(name, rows, note) for name, rows in known.items())]
        parts += [figure("conditions.png")]
    if mistakes := measured["confident_mistakes"][:LISTED]:
        named = ([in_markdown(row[name]) for name in ("path", "true", "predicted")] for row in mistakes)
        lines = [(*names, f"{row['score']:.3f}") for names, row in zip(named, mistakes, strict=True)]
        parts += [f"## {MISTAKES}", table(("clip", "true", "predicted", "score"), lines, note, texts=3)]
    return "\n\n".join([*parts, "## Uncertainty", UNCERTAINTY]) + "\n"


def fold_table(folds: Sequence[Mapping[str, Any]], note: str) -> str:
    """A line per fold, with a column for every metric that all folds have."""
    metrics = [each for each in present_metrics(folds[0], "test_") if all(f"test_{each.name}" in row for row in folds)]
    rows = []
    for fold in folds:
        amounts = (f"{fold['clips']['test']:,}", f"{fold['recordings']:,}")
        values = {key: f"{fold[key]:.3f}" for key in (f"test_{each.name}" for each in metrics)}
        values |= {key: score(fold[key], fold[f"{key}_interval"]) for key in values if f"{key}_interval" in fold}
        validated = "none" if fold["validation_fold"] is None else fold["validation_fold"]
        rows.append((fold["test_fold"], *amounts, *values.values(), validated, f"{fold['train_seconds']:,.0f} s"))
    titles = [each.title for each in metrics]
    return table(("fold", "clips", "recordings", *titles, "checkpoint selected on", "training"), rows, note, texts=0)


def class_table(per_class: Mapping[str, Mapping[str, Any]], note: str) -> str:
    """A line per class, in the order of the data set."""
    titles = {"average_precision": "AP", "precision": "precision", "recall": "recall", "f1": "F1"}
    keys = [key for key in titles if all(key in row for row in per_class.values())]
    rows = []
    for name, row in per_class.items():
        shown = (score(row[key], row[f"{key}_interval"]) for key in keys)
        rows.append((in_markdown(name), *shown, f"{row['support']:,}", f"{row['recordings']:,}"))
    return table(("class", *(titles[key] for key in keys), "clips", "recordings"), rows, note)


def condition_table(name: str, rows: Mapping[str, Mapping[str, Any]], note: str) -> str:
    """A line per condition: clip lengths, or saliences."""
    lines = [
        (condition, score(row["accuracy"], row["accuracy_interval"]), f"{row['clips']:,}", f"{row['recordings']:,}")
        for condition, row in rows.items()
    ]
    return table((name, "accuracy", "clips", "recordings"), lines, note)
