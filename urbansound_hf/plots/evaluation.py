"""Figures of evaluation results: confusion, calibration, scores by class, fold and condition, learning, costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from urbansound_hf.evaluation.confidence import mean_interval
from urbansound_hf.evaluation.metrics import ALL_METRICS, present_metrics
from urbansound_hf.evaluation.runs import NOT_COMPARABLE, Run, pooled, scope, scope_caution
from urbansound_hf.plots import style
from urbansound_hf.text import shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def confusion_matrix(
    counts: np.ndarray, labels: Sequence[str], path: Path | None = None, note: str = "", rates: bool = False
) -> Figure:
    """Draws `(true, predicted)` counts: the colour is the share of the true class, the number the count.

    Args:
        counts: `(classes, classes)` int; rows are true, columns predicted classes.
        labels: the class names.
        path: where to save the figure: .png, .svg or .pdf.
        note: the text below the figure.
        rates: write the share instead of the count.

    Examples:
        >>> metrics = ush.read_run("outputs/base/fold10").metrics
        >>> figure = ush.plots.confusion_matrix(np.array(metrics["confusion_matrix"]), metrics["labels"])
        >>> figure.axes[0].get_xlabel()
        'predicted class'
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    cells = min(max(2.2, 0.5 * len(labels)), 14)  # inches
    names = 0.08 * max(map(len, style.readable(labels))) * (len(labels) <= style.MOST_NAMED)
    with style.drawing(path, "Confusion matrix", note, (cells + names + 1.8, cells + 0.7 * names + 1.4)) as figure:
        axes = figure.add_subplot()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.spines[:].set_visible(False)
        axes.set(xlabel="predicted class", ylabel="true class")
        if len(labels) <= style.MOST_NAMED:
            axes.set_xticks(range(len(labels)), style.readable(labels), rotation=45, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(len(labels)), style.readable(labels))
        if len(labels) <= style.MOST_COUNTED:
            for true, predicted in np.argwhere(counts):
                colour = "white" if shares[true, predicted] > 0.55 else "#333333"
                number = f"{shares[true, predicted]:.2f}" if rates else f"{counts[true, predicted]:,}"
                axes.text(predicted, true, number, ha="center", va="center", color=colour)
        figure.colorbar(image, label="share of the true class", shrink=0.8).outline.set_visible(False)
    return figure


def reliability(diagram: Mapping[str, Sequence[Any]], error: float, path: Path | None = None, note: str = "") -> Figure:
    """Draws confidence against accuracy over a histogram of the confidences.

    Args:
        diagram: `counts`, `confidence` and `accuracy` of each bin, None where a bin is empty.
        error: the expected calibration error.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.

    Examples:
        >>> numbers = ush.read_run("outputs/base/fold10").report
        >>> figure = ush.plots.reliability(numbers["reliability"], numbers["ece"])
        >>> figure.axes[0].get_ylabel()
        'accuracy'
    """
    counts, confidence, accuracy = (np.array(diagram[key], float) for key in ("counts", "confidence", "accuracy"))
    width = 1 / len(counts)
    middles = (np.arange(len(counts)) + 0.5) * width
    with style.drawing(path, f"Calibration: expected error {error:.3f}", note, (6, 6.4)) as figure:
        top, bottom = figure.subplots(2, sharex=True, height_ratios=(3, 1))
        top.plot([0, 1], [0, 1], color=style.GREY, linewidth=1, linestyle="--", label="perfect")
        top.bar(middles, accuracy, width * 0.92, color=style.LIGHT_BLUE, label="accuracy of the bin")
        top.plot(confidence, accuracy, "o", color=style.ORANGE, markersize=4.5, label="at its mean confidence")
        top.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        top.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
        bottom.bar(middles, 100 * counts / counts.sum(), width * 0.92, color=style.GREY)
        bottom.set(xlabel="confidence (the highest class score)", ylabel="clips (%)")
        for axes in (top, bottom):
            axes.grid(axis="y")
    return figure


def per_class(scores: Mapping[str, Mapping[str, Any]], path: Path | None = None, note: str = "") -> Figure:
    """Draws (average precision,) F1, precision and recall by class with their intervals, the hardest class at the top.

    Args:
        scores: by class, `f1`, `precision`, `recall` with their `…_interval`, and `support`; as in report.json.

    Examples:
        >>> figure = ush.plots.per_class(ush.read_run("outputs/base/fold10").report["per_class"])
        >>> [axes.get_xlabel().partition(",")[0] for axes in figure.axes]
        ['F1', 'precision', 'recall']
    """
    titles = {"average_precision": "average precision", "f1": "F1", "precision": "precision", "recall": "recall"}
    keys = [key for key in titles if all(key in row for row in scores.values())]
    ranked = sorted(scores.items(), key=lambda item: item[1][keys[0]])[: style.MOST_NAMED]
    hidden = f" ({len(ranked)} hardest of {len(scores)} classes)" if len(ranked) < len(scores) else ""
    with style.drawing(path, f"Scores by class{hidden}", note, (9.5, 1.6 + 0.36 * len(ranked))) as figure:
        panels = figure.subplots(1, len(keys), sharey=True)
        for axes, key in zip(panels, keys, strict=True):
            values = [row[key] for _, row in ranked]
            ends = style.whiskers(values, [row[f"{key}_interval"] for _, row in ranked])
            axes.barh(range(len(ranked)), values, height=0.68, color=style.LIGHT_BLUE)
            axes.errorbar(values, range(len(ranked)), xerr=ends, fmt="none", ecolor="#222222", elinewidth=1, capsize=2)
            axes.set(xlabel=f"{titles[key]}, 95 % interval", xlim=(0, 1), ylim=(len(ranked) - 0.5, -0.5))
            axes.set_xticks((0, 0.25, 0.5, 0.75, 1), ("0", "", "0.5", "", "1"))
            axes.grid(axis="x")
        names = [f"{style.readable([name])[0]} ({row['support']:,})" for name, row in ranked]
        panels[0].set_yticks(range(len(ranked)), names)
        panels[0].set_ylabel("class (clips)")
    return figure


def folds(scores: Sequence[Mapping[str, Any]], path: Path | None = None, note: str = "") -> Figure:
    """Draws the first metric of each fold with its interval, over the mean ± standard deviation of the folds."""
    metric = present_metrics(scores[0], "test_")[0]
    values = [row[f"test_{metric.name}"] for row in scores]
    mean, std = float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
    ends = style.whiskers(values, [row[f"test_{metric.name}_interval"] for row in scores])
    name = metric.title[0].upper() + metric.title[1:]
    title = f"{name} by test fold: mean {mean:.3f}" + ("" if std is None else f" ± {std:.3f}")
    with style.drawing(path, title, note, (max(6.4, 2.6 + 0.5 * len(scores)), 4)) as figure:
        axes = figure.add_subplot()
        axes.axhline(mean, color=style.ORANGE, linewidth=1.4, label="mean over folds")
        if std is not None:
            axes.axhspan(
                mean - std, mean + std, color=style.ORANGE, alpha=0.13, linewidth=0, label="± standard deviation"
            )
        places = range(len(scores))
        axes.errorbar(places, values, yerr=ends, fmt="o", color=style.BLUE, capsize=3, label="fold, 95 % interval")
        axes.set_xticks(places, [str(row["test_fold"]) for row in scores])
        axes.set(xlabel="test fold", ylabel=metric.title, xlim=(-0.6, len(scores) - 0.4))
        axes.grid(axis="y")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    return figure


def conditions(
    tables: Mapping[str, Mapping[str, Mapping[str, Any]]], path: Path | None = None, note: str = ""
) -> Figure:
    """Draws the accuracy under each condition, a panel a table: {"clip length": {"< 1 s": {accuracy, …}, …}, …}."""
    sizes = [len(table) for table in tables.values()]
    with style.drawing(path, "Accuracy by condition", note, (1.6 + 1.15 * sum(sizes), 4)) as figure:
        panels = figure.subplots(1, len(tables), sharey=True, width_ratios=sizes, squeeze=False)[0]
        for axes, (title, table) in zip(panels, tables.items(), strict=True):
            values, places = [row["accuracy"] for row in table.values()], range(len(table))
            ends = style.whiskers(values, [row["accuracy_interval"] for row in table.values()])
            axes.bar(places, values, width=0.6, color=style.LIGHT_BLUE)
            axes.errorbar(places, values, yerr=ends, fmt="none", ecolor="#222222", elinewidth=1, capsize=3)
            axes.set_xticks(places, [f"{name}\n{row['clips']:,} clips" for name, row in table.items()])
            axes.set_xlabel(title)
            axes.grid(axis="y")
        panels[0].set(ylabel="accuracy, 95 % interval", ylim=(0, 1))
    return figure


MOST_RUNS = 30  # that fit into a legend
History = Sequence[Mapping[str, float]]


def shared(measured: Mapping[str, Any]) -> dict[str, Callable[..., Figure]]:
    """The figures of a run or cross-validation by name, from `summary.measure` with `scope`: each draws to a `path`."""
    note, counts = scope_caution(measured["scope"]), np.array(measured["confusion_matrix"])
    known = {"clip length": measured["by_length"], "salience": measured["by_salience"]}
    known = {name: rows for name, rows in known.items() if len(rows) > 1}
    return {
        "confusion_matrix": partial(confusion_matrix, counts, measured["labels"], note=note),
        "reliability": partial(reliability, measured["reliability"], measured["ece"], note=note),
        "per_class": partial(per_class, measured["per_class"], note=note),
        **({"conditions": partial(conditions, known, note=note)} if known else {}),
    }


def plotted_history(run: Run) -> History:
    """The log of a run if it has the two points that a curve needs; else empty."""
    history = run.history
    return history if max(len(curve(history, key)[0]) for key in ("loss", validation_key([history]))) > 1 else []


def validation_key(histories: Iterable[History]) -> str:
    """The validation metric in a log that is drawn: the mAP of several labels a clip, else the accuracy."""
    several = any("eval_mean_average_precision" in row for rows in histories for row in rows)
    return "eval_mean_average_precision" if several else "eval_accuracy"


def curve(rows: History, key: str) -> tuple[list[float], list[float]]:
    """The epochs at which `key` was logged, and its values."""
    logged = [row for row in rows if key in row and "epoch" in row]
    return [row["epoch"] for row in logged], [row[key] for row in logged]


def learning_curves(histories: Mapping[str, History], path: Path | None = None, note: str = "") -> Figure:
    """Draws the training loss over the epochs (validation loss dashed), and below it the validation accuracy.

    Args:
        histories: the log of each run by its name; the name of a single run may be empty.

    Examples:
        >>> figure = ush.plots.learning_curves({"": ush.read_run("outputs/base/fold10").history})
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['loss (dashed: validation)', 'validation accuracy']
    """
    key = validation_key(histories.values())
    validated = any(curve(rows, key)[0] for rows in histories.values())
    with style.drawing(path, "Learning curves", note, (8, 5.6 if validated else 3.8)) as figure:
        panels = figure.subplots(1 + validated, 1, sharex=True, squeeze=False)[:, 0]
        for number, (name, rows) in enumerate(histories.items()):
            colour = style.BLUE if len(histories) == 1 else style.TEN[number % 10]
            look: dict[str, Any] = {"color": colour, "linewidth": 1.4, "markersize": 3.5}
            panels[0].plot(*curve(rows, "loss"), **look, label=shortened(name, 40) or "training")
            panels[0].plot(*curve(rows, "eval_loss"), **look, linestyle="--", marker="o")
            if validated:
                panels[1].plot(*curve(rows, key), **look, marker=style.MARKERS[number % len(style.MARKERS)])
        dashed = any(curve(rows, "eval_loss")[0] for rows in histories.values())
        panels[0].set(ylabel="loss (dashed: validation)" if dashed else "training loss", ylim=(0, None))
        if validated:
            panels[1].set_ylabel(f"validation {ALL_METRICS[key.removeprefix('eval_')].title}")
        panels[-1].set_xlabel("epoch")
        panels[-1].xaxis.get_major_locator().set_params(integer=True)
        for axes in panels:
            axes.grid(axis="y")
        if 1 < len(histories) <= MOST_RUNS:
            figure.legend(loc="outside lower left", ncols=2)
    return figure


COSTS: dict[str, tuple[tuple[str, ...], Callable[[list[float]], Any], float]] = {
    "parameters (million)": (("parameters",), np.mean, 1e6),
    "training of one fold (s)": (("train_seconds",), np.mean, 1),
    "peak memory in training (GiB)": (("train_peak_gpu_memory_gib", "train_peak_memory_gib"), max, 1),
}
"""What the accuracy is drawn against: the metrics (the first that a run has), how folds are combined, the unit."""


def comparison(named: Mapping[str, Sequence[Run]], path: Path | None = None) -> Figure:
    """Draws the accuracy of several models, with its interval, against their `COSTS`; a note says if clips differ."""
    tested = [pooled(runs) for runs in named.values()]
    accuracies = [float(each.correct.mean()) for each in tested]
    intervals = [mean_interval(each.correct, each.groups) for each in tested]
    note = next(filter(None, map(caution, named.values())), "")
    if len({frozenset(each.paths) for each in tested}) > 1:
        note = f"not tested on the same clips: {NOT_COMPARABLE} with each other"
    columns = min(3, 1 + 90 // max(len(name) + 8 for name in named))
    height = 3.8 + 0.22 * -(-len(named) // columns) * (len(named) <= MOST_RUNS)
    with style.drawing(path, "Accuracy against cost", note, (11, height)) as figure:
        panels = figure.subplots(1, 3, sharey=True)
        for axes, (label, (keys, combine, unit)) in zip(panels, COSTS.items(), strict=True):
            for number, (name, runs) in enumerate(named.items()):
                key = next((key for key in keys if key in runs[0].metrics), keys[-1])
                cost = float(combine([float(run.metrics.get(key, np.nan)) for run in runs])) / unit  # NaN: not recorded
                ends = style.whiskers(accuracies[number : number + 1], intervals[number : number + 1])
                look: dict[str, Any] = {
                    "fmt": style.MARKERS[number % len(style.MARKERS)],
                    "color": style.TEN[number % len(style.TEN)],
                }
                axes.errorbar([cost], accuracies[number], yerr=ends, capsize=2, label=shortened(name, 60), **look)
            axes.set_xlabel(label)
            style.log_ticks(axes, "x")
            axes.grid()
        panels[0].set_ylabel("accuracy, 95 % interval")
        if len(named) <= MOST_RUNS:
            figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=columns)
    return figure


def caution(runs: Sequence[Run]) -> str:
    """The scope of these runs if it must stand below every figure of them."""
    return scope_caution(scope([run.metrics for run in runs]))
