"""The figures of a report, in one quiet style: colours that colour-blind people tell apart, axes with their units.

Every figure is returned, and saved where a path is given: as PNG, SVG or PDF, by its suffix. Figures are made without
pyplot, so that drawing touches neither the screen nor the figures of a notebook.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

BLUE, LIGHT_BLUE, ORANGE, GREY = "#0072B2", "#4C9CCB", "#D55E00", "#6b6b6b"  # Okabe and Ito's blue and vermilion
TEN = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")
"""Ten colours that colour-blind people tell apart (Petroff, arXiv:2107.02270)."""
MARKERS = "osD^vPX"  # with the ten colours, 70 pairs before one comes twice
FORMATS = ("png", "svg", "pdf")
STYLE: dict[RcKeyType, Any] = {
    "font.size": 10,
    "text.parse_math": False,  # a file or a class may be called $5
    "svg.hashsalt": "urbansound-hf",  # the same figure, the same bytes
    "legend.frameon": False,
    "legend.fontsize": 9,
    "axes.edgecolor": "#b0b0b0",
    "axes.labelcolor": "#333333",
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "xtick.major.size": 0,
    "xtick.major.pad": 7,  # clear of the 0 beside the corner
    "ytick.major.size": 0,
    "figure.dpi": 140,
    "figure.constrained_layout.w_pad": 0.08,
}
MOST_NAMED = 60  # classes that a figure has room to name
MOST_COUNTED = 20  # classes whose counts can be read in the cells of a matrix


@contextmanager
def drawing(path: Path | None, title: str, note: str, size: tuple[float, float]) -> Iterator[Figure]:
    """A figure of `size` inches under a title, with what its numbers are worth below it.

    At the end it is saved to `path`, or only laid out, so that it looks the same wherever it is shown later.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(shortened(title, round(9 * size[0])), x=0.01, ha="left", fontsize=13)
        if note:
            figure.supxlabel(note, x=0.99, ha="right", fontsize=9, color=GREY)
        yield figure
        if path is None:
            figure.draw_without_rendering()
        else:
            figure.savefig(path)


def confusion_matrix(
    counts: np.ndarray, labels: Sequence[str], path: Path | None = None, note: str = "", rates: bool = False
) -> Figure:
    """Draws `(true, predicted)` counts: the colour is the share of the true class, the number the count.

    Args:
        rates: write the share instead of the count.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    cells = min(max(2.2, 0.5 * len(labels)), 14)  # inches
    names = 0.08 * max(map(len, readable(labels))) * (len(labels) <= MOST_NAMED)
    with drawing(path, "Confusion matrix", note, (cells + names + 1.8, cells + 0.7 * names + 1.4)) as figure:
        axes = figure.add_subplot()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.spines[:].set_visible(False)
        axes.set(xlabel="predicted class", ylabel="true class")
        if len(labels) <= MOST_NAMED:
            axes.set_xticks(range(len(labels)), readable(labels), rotation=45, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(len(labels)), readable(labels))
        if len(labels) <= MOST_COUNTED:
            for true, predicted in np.argwhere(counts):
                colour = "white" if shares[true, predicted] > 0.55 else "#333333"
                number = f"{shares[true, predicted]:.2f}" if rates else f"{counts[true, predicted]:,}"
                axes.text(predicted, true, number, ha="center", va="center", color=colour)
        bar = figure.colorbar(image, label="share of the true class", shrink=0.8)
        bar.outline.set_visible(False)
    return figure


def reliability(diagram: Mapping[str, Sequence[Any]], error: float, path: Path | None = None, note: str = "") -> Figure:
    """Draws confidence against accuracy over a histogram of the confidences.

    Args:
        diagram: `counts`, `confidence` and `accuracy` of each bin, None where a bin is empty.
        error: the expected calibration error.
    """
    counts, confidence, accuracy = (
        np.array(diagram[key], dtype=np.float64) for key in ("counts", "confidence", "accuracy")
    )
    width = 1 / len(counts)
    middles = (np.arange(len(counts)) + 0.5) * width
    with drawing(path, f"Calibration: expected error {error:.3f}", note, (6, 6.4)) as figure:
        top, bottom = figure.subplots(2, sharex=True, height_ratios=(3, 1))
        top.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="perfect")
        top.bar(middles, accuracy, width * 0.92, color=LIGHT_BLUE, label="accuracy of the bin")
        top.plot(confidence, accuracy, "o", color=ORANGE, markersize=4.5, label="at its mean confidence")
        top.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
        top.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
        bottom.bar(middles, 100 * counts / counts.sum(), width * 0.92, color=GREY)
        bottom.set(xlabel="confidence (the highest class score)", ylabel="clips (%)")
        for axes in (top, bottom):
            axes.grid(axis="y")
    return figure


def per_class(scores: Mapping[str, Mapping[str, Any]], path: Path | None = None, note: str = "") -> Figure:
    """Draws precision, recall and F1 of each class with their intervals, the hardest class at the top."""
    ranked = sorted(scores.items(), key=lambda item: item[1]["f1"])[:MOST_NAMED]
    hidden = f" ({len(ranked)} hardest of {len(scores)} classes)" * (len(ranked) < len(scores))
    names = [f"{name} ({row['support']:,})" for name, row in zip(readable(scores), scores.values(), strict=True)]
    name_of = dict(zip(scores, names, strict=True))
    with drawing(path, f"Scores by class{hidden}", note, (9.5, 1.6 + 0.36 * len(ranked))) as figure:
        panels = figure.subplots(1, 3, sharey=True)
        for axes, key, title in zip(panels, ("f1", "precision", "recall"), ("F1", "precision", "recall"), strict=True):
            values = [row[key] for _, row in ranked]
            ends = whiskers(values, [row[f"{key}_interval"] for _, row in ranked])
            axes.barh(range(len(ranked)), values, height=0.68, color=LIGHT_BLUE)
            axes.errorbar(values, range(len(ranked)), xerr=ends, fmt="none", ecolor="#222222", elinewidth=1, capsize=2)
            axes.set(xlabel=f"{title}, 95 % interval", xlim=(0, 1.02), ylim=(len(ranked) - 0.5, -0.5))
            axes.set_xticks((0, 0.25, 0.5, 0.75, 1), ("0", "", "0.5", "", "1"))
            axes.grid(axis="x")
        panels[0].set_yticks(range(len(ranked)), [name_of[name] for name, _ in ranked])
        panels[0].set_ylabel("class (clips)")
    return figure


def folds(
    scores: Sequence[Mapping[str, Any]], mean: float, std: float | None, path: Path | None = None, note: str = ""
) -> Figure:
    """Draws each fold's accuracy with its interval, over the mean ± standard deviation of the folds."""
    numbers = [str(row["test_fold"]) for row in scores]
    values = [row["test_accuracy"] for row in scores]
    ends = whiskers(values, [row["test_accuracy_interval"] for row in scores])
    title = f"Accuracy by test fold: mean {mean:.3f}" + ("" if std is None else f" ± {std:.3f}")
    with drawing(path, title, note, (max(6.4, 2.6 + 0.5 * len(scores)), 4)) as figure:
        axes = figure.add_subplot()
        axes.axhline(mean, color=ORANGE, linewidth=1.4, label="mean over folds")
        if std is not None:
            axes.axhspan(mean - std, mean + std, color=ORANGE, alpha=0.13, linewidth=0, label="± standard deviation")
        places = range(len(scores))
        axes.errorbar(places, values, yerr=ends, fmt="o", color=BLUE, capsize=3, label="fold, 95 % interval")
        axes.set_xticks(places, numbers)
        axes.set(xlabel="test fold", ylabel="accuracy", xlim=(-0.6, len(scores) - 0.4))
        axes.grid(axis="y")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    return figure


def conditions(
    tables: Mapping[str, Mapping[str, Mapping[str, Any]]], path: Path | None = None, note: str = ""
) -> Figure:
    """Draws the accuracy under each condition, a panel a table: {"clip length": {"< 1 s": {accuracy, …}, …}, …}."""
    sizes = [len(table) for table in tables.values()]
    with drawing(path, "Accuracy by condition", note, (1.6 + 1.15 * sum(sizes), 4)) as figure:
        panels = figure.subplots(1, len(tables), sharey=True, width_ratios=sizes, squeeze=False)[0]
        for axes, (title, table) in zip(panels, tables.items(), strict=True):
            _condition(axes, title, table)
        panels[0].set(ylabel="accuracy, 95 % interval", ylim=(0, 1.02))
    return figure


def _condition(axes: Axes, title: str, table: Mapping[str, Mapping[str, Any]]) -> None:
    values = [row["accuracy"] for row in table.values()]
    ends = whiskers(values, [row["accuracy_interval"] for row in table.values()])
    axes.bar(range(len(table)), values, width=0.6, color=LIGHT_BLUE)
    axes.errorbar(range(len(table)), values, yerr=ends, fmt="none", ecolor="#222222", elinewidth=1, capsize=3)
    axes.set_xticks(range(len(table)), [f"{name}\n{row['clips']:,} clips" for name, row in table.items()])
    axes.set_xlabel(title)
    axes.grid(axis="y")


def log_ticks(axes: Axes, direction: str) -> None:
    """Makes the "x" or "y" axis logarithmic, with plain numbers, as many as its range asks for."""
    from matplotlib.ticker import MaxNLocator, NullLocator

    axis: Axis = getattr(axes, f"{direction}axis")
    axes.set(**{f"{direction}scale": "log"})
    low, high = axis.get_view_interval()
    powers = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    choices = powers, np.outer(powers, (1, 2, 5)).ravel(), np.asarray(MaxNLocator(4).tick_values(low, high))
    inside = [choice[(choice >= low) & (choice <= high)] for choice in choices]
    axis.set_ticks(next((ticks for ticks in inside if len(ticks) > 2), inside[-1]))
    axis.set_major_formatter(lambda value, _: f"{value:,.3g}" if value < 1000 else f"{value:,.0f}")
    axis.set_minor_locator(NullLocator())


def whiskers(values: Sequence[float], intervals: Sequence[Sequence[float] | None]) -> np.ndarray:
    """`(2, n)` lengths below and above each value, as matplotlib wants them; none where there is no interval."""
    ends = [interval or (value, value) for value, interval in zip(values, intervals, strict=True)]
    low, high = np.transpose(ends)
    return np.maximum([values - low, high - values], 0)


def readable(labels: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """Class names for people: `car_horn` → "car horn"; a long one is shortened."""
    return [shortened(label.replace("_", " "), 30) for label in labels]


def shortened(text: str, most: int) -> str:
    """At most so many characters, the rest of the middle left out: what tells names apart is often at their ends."""
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"
