"""Figures of runs: how they learned, how their models compare, and the ones that every report shows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from urbansound_hf import figures, markdown, statistics
from urbansound_hf.figures import MARKERS, TEN, drawing, log_ticks, shortened, whiskers
from urbansound_hf.runs import NOT_COMPARABLE, Run, pooled, scope

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HISTORY, CURVES = "log_history.json", "learning_curves"
MOST_RUNS = 30  # that a legend has room to name
History = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Score:
    """What a run, or a cross-validation, scored and cost; of several folds the means, and the largest memory."""

    name: str
    accuracy: float
    interval: tuple[float, float]  # 95 %
    parameters: float
    train_seconds: float
    memory_gib: float


def shared(measured: Mapping[str, Any]) -> dict[str, Callable[..., Figure]]:
    """The figures that a run and a cross-validation share: what each is called, and what draws it to a `path`.

    Args:
        measured: what `measure` says of their clips, with their `scope`.
    """
    note, counts = markdown.caution(measured["scope"]), np.array(measured["confusion_matrix"])
    drawn: dict[str, Callable[..., Figure]] = {
        "confusion_matrix": partial(figures.confusion_matrix, counts, measured["labels"], note=note),
        "reliability": partial(figures.reliability, measured["reliability"], measured["ece"], note=note),
        "per_class": partial(figures.per_class, measured["per_class"], note=note),
    }
    known = {"clip length": measured["by_length"], "salience": measured["by_salience"]}
    if known := {name: rows for name, rows in known.items() if rows}:
        drawn["conditions"] = partial(figures.conditions, known, note=note)
    return drawn


def history(folder: Path) -> History:
    """What a run logged while it learned; nothing where it left no log, or a log of a single point."""
    path = folder / HISTORY
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return rows if max(len(curve(rows, key)[0]) for key in ("loss", "eval_accuracy")) > 1 else []


def curve(rows: History, key: str) -> tuple[list[float], list[float]]:
    """The epochs at which `key` was logged, and its values."""
    told = [(row["epoch"], row[key]) for row in rows if key in row and "epoch" in row]
    return [epoch for epoch, _ in told], [value for _, value in told]


def learning_curves(histories: Mapping[str, History], path: Path | None = None, note: str = "") -> Figure:
    """Draws the training loss over the epochs (validation loss dashed), and below it the validation accuracy.

    Args:
        histories: what each run logged, by its name; one run needs none.
    """
    validated = any(curve(rows, "eval_accuracy")[0] for rows in histories.values())
    with drawing(path, "Learning curves", note, (8, 5.6 if validated else 3.8)) as figure:
        panels = figure.subplots(1 + validated, 1, sharex=True, squeeze=False)[:, 0]
        for number, (name, rows) in enumerate(histories.items()):
            colour = figures.BLUE if len(histories) == 1 else TEN[number % 10]
            style: dict[str, Any] = {"color": colour, "linewidth": 1.4, "markersize": 3.5}
            panels[0].plot(*curve(rows, "loss"), **style, label=shortened(name, 40) or "training")
            panels[0].plot(*curve(rows, "eval_loss"), **style, linestyle="--", marker="o")
            if validated:
                panels[1].plot(*curve(rows, "eval_accuracy"), **style, marker=MARKERS[number % len(MARKERS)])
        dashed = any(curve(rows, "eval_loss")[0] for rows in histories.values())
        panels[0].set(ylabel="loss (dashed: validation)" if dashed else "training loss", ylim=(0, None))
        if validated:
            panels[1].set_ylabel("validation accuracy")
        panels[-1].set_xlabel("epoch")
        panels[-1].xaxis.get_major_locator().set_params(integer=True)
        for axes in panels:
            axes.grid(axis="y")
        if 1 < len(histories) <= MOST_RUNS:
            figure.legend(loc="outside lower left", ncols=2)
    return figure


def score(name: str, runs: Sequence[Run]) -> Score:
    """The score of the runs of one model: of a run alone, or of a cross-validation's folds pooled."""
    told = pooled(runs)
    numbers = {
        key: [float(run.metrics.get(key, np.nan)) for run in runs]
        for key in ("parameters", "train_seconds", "train_peak_memory_gib", "train_peak_gpu_memory_gib")
    }
    gpu = max(numbers["train_peak_gpu_memory_gib"])
    return Score(
        name,
        float(told.correct.mean()),
        statistics.mean_interval(told.correct, told.groups),
        float(np.mean(numbers["parameters"])),
        float(np.mean(numbers["train_seconds"])),
        max(numbers["train_peak_memory_gib"]) if np.isnan(gpu) else gpu,
    )


def model_comparison(scores: Sequence[Score], path: Path | None = None, note: str = "") -> Figure:
    """Draws the accuracy of several models, with its interval, against their size, training time and memory."""
    columns = min(3, 1 + 90 // max(len(one.name) + 8 for one in scores))
    named = len(scores) <= MOST_RUNS
    height = 3.8 + 0.22 * -(-len(scores) // columns) * named
    costs = [
        ("parameters", "parameters (million)", 1e-6),
        ("train_seconds", "training of one fold (s)", 1.0),
        ("memory_gib", "peak memory in training (GiB)", 1.0),
    ]
    with drawing(path, "Accuracy against cost", note, (11, height)) as figure:
        panels = figure.subplots(1, 3, sharey=True)
        for axes, (key, label, unit) in zip(panels, costs, strict=True):
            for number, one in enumerate(scores):
                _point(axes, number, one, unit * getattr(one, key))
            axes.set_xlabel(label)
            log_ticks(axes, "x")
            axes.grid()
        panels[0].set_ylabel("accuracy, 95 % interval")
        if named:
            handles, names = panels[0].get_legend_handles_labels()
            figure.legend(handles, names, loc="outside lower left", ncols=columns)
    return figure


def comparison(named: Mapping[str, Sequence[Run]], path: Path | None = None) -> Figure:
    """`model_comparison` of runs by name; says so where they were not tested on the same clips."""
    clips = {name: frozenset(pooled(runs).paths) for name, runs in named.items()}
    same = len(set(clips.values())) == 1
    note = next((text for runs in named.values() if (text := caution(runs))), "")
    return model_comparison(
        [score(name, runs) for name, runs in named.items()],
        path,
        note if same else f"not tested on the same clips: {NOT_COMPARABLE} with each other",
    )


def caution(runs: Sequence[Run]) -> str:
    """What must stand below every figure of these runs."""
    return markdown.caution(scope([run.metrics for run in runs]))


def _point(axes: Axes, number: int, one: Score, cost: float) -> None:
    ends = whiskers([one.accuracy], [one.interval])
    look: dict[str, Any] = {"fmt": MARKERS[number % len(MARKERS)], "color": TEN[number % len(TEN)]}
    axes.errorbar([cost], [one.accuracy], yerr=ends, capsize=2, label=shortened(one.name, 60), **look)
