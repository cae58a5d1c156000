"""What a search leaves for people: its trials as a table, figures, what mattered, and the best values as a config."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from urbansound_hf.config import search_space
from urbansound_hf.config.arguments import RunConfig
from urbansound_hf.config.parse import flag_parser
from urbansound_hf.config.search_space import Choices, Range, Space
from urbansound_hf.data.splits import Split
from urbansound_hf.errors import UserError
from urbansound_hf.plots.style import BLUE, GREY, LIGHT_BLUE, ORANGE, drawing, log_ticks
from urbansound_hf.text import table

if TYPE_CHECKING:
    import optuna
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


BEST = "best.yaml"
FEWEST = 8  # trials from which it is told what mattered: of fewer, a forest of trees learns nothing
SHOWN = 5  # trials that the command prints
HOW_SURE = (
    "The best of many scores is also the luckiest: expect less of it on other clips. The scores are of validation "
    "clips, and the test clips took no part, so that a run with the best values is still tested honestly."
)
IMPORTANCE = (
    "The share of the variance of all scores that goes with a flag, whatever the others are (fANOVA, Hutter et al. "
    f"2014); it depends on the ranges that were searched. Not told of fewer than {FEWEST} trials."
)


def finished_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials that came to their end, in the order of their numbers."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]


def ranked(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The finished trials, best first; of equals, the earlier."""
    trials, sign = finished_trials(study), -1 if study.direction.name == "MAXIMIZE" else 1
    return [trials[number] for number in np.argsort(sign * trial_scores(trials), kind="stable")]


def trial_scores(trials: Sequence[optuna.trial.FrozenTrial]) -> np.ndarray:
    """`(trials,)` of finished ones."""
    return np.array([trial.value for trial in trials], dtype=np.float64)


def flag_importance(study: optuna.Study) -> dict[str, float]:
    """How much of the scores' variance goes with each flag, most first; nothing of few trials or of equal scores."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    reached = trial_scores(finished_trials(study))
    if len(reached) < FEWEST or np.ptp(reached) == 0:
        return {}
    shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return {name: float(share) for name, share in shares.items()}


def write_search_report(folder: Path, study: optuna.Study, config: RunConfig, split: Split) -> str:
    """Writes trials.csv, report.md, the figures and best.yaml; returns what the command prints.

    Raises:
        UserError: no trial came to its end.
    """
    if not finished_trials(study):
        raise UserError("no trial came to its end", str(folder), "the same command tries again")
    space = search_space.parse_search_space(config.training.search_space or [], flag_parser())
    metric = f"validation {config.training.metric_for_best_model}"
    shares = flag_importance(study)
    write_trials(folder / "trials.csv", study, space, metric)
    draw_history(study, metric, folder / "history.png")
    what_mattered(study, space, shares, metric, folder / "importance.png")
    write_best(folder, study, space, config, split)
    (folder / "report.md").write_text(search_page(study, space, shares, metric, split), encoding="utf-8")
    best = trial_table(study, space, metric, SHOWN)
    return f"{best}\n\nreport:   {folder / 'report.md'}\ntrain it: urbansound-hf train {folder / BEST}"


def shown(values: Mapping[str, Any]) -> str:
    """ "learning_rate 0.00032, augment gain shift"."""
    return ", ".join(f"{name} {_text(value)}" for name, value in values.items())


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, bool):
        return str(value).lower()
    return "–" if value is None else " ".join(map(str, value)) if isinstance(value, list) else str(value)


def trial_table(study: optuna.Study, space: Space, metric: str, most: int | None = None) -> str:
    """The finished trials, best first, as Markdown."""
    rows = [
        [trial.number, f"{trial.value:.4f}", *map(_text, search_space.suggest(space, trial).values())]
        for trial in ranked(study)[:most]
    ]
    return table(["trial", metric, *(line.name for line in space)], rows)


def search_page(study: optuna.Study, space: Space, shares: Mapping[str, float], metric: str, split: Split) -> str:
    """report.md."""
    best, lost = ranked(study)[0], len(study.trials) - len(finished_trials(study))
    validated = f"fold {split.validation_fold}" if split.validation_fold else "the validation part"
    parts = [
        f"# Search: {len(finished_trials(study))} trials of {len(space)} flags",
        f"**Best: trial {best.number}, {metric} {best.value:.4f}** on {validated}: "
        f"{shown(search_space.suggest(space, best))}. `{BEST}` is the config of a run with these values.",
        HOW_SURE,
        f"{lost} more {'was' if lost == 1 else 'were'} interrupted or had no score." if lost else "",
        "![history](history.png)",
        f"## What mattered\n\n{IMPORTANCE}",
        table(["flag", "importance"], [[name, f"{share:.2f}"] for name, share in shares.items()]) if shares else "",
        "![importance](importance.png)",
        f"## All trials\n\n{trial_table(study, space, metric)}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def write_trials(path: Path, study: optuna.Study, space: Space, metric: str) -> None:
    """trials.csv: a line a trial, in their order, those that failed with an empty score."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "state", metric, "seconds", *(line.name for line in space)])
        for trial in study.trials:
            seconds = "" if trial.duration is None else f"{trial.duration.total_seconds():.1f}"
            score = trial.value if trial.state.name == "COMPLETE" else ""
            values = [trial.params.get(line.name, "") for line in space]
            writer.writerow([trial.number, trial.state.name.lower(), score, seconds, *values])


def write_best(folder: Path, study: optuna.Study, space: Space, config: RunConfig, split: Split) -> None:
    """The config of the same run with the best values, which says where they come from."""
    best = ranked(study)[0]
    values = search_space.suggest(space, best)
    settings = config.with_values({**values, "output_dir": str(folder / "best")}).as_dict()
    own = {name: value for name, value in settings.items() if name not in ("search", "search_space", "overwrite")}
    trained = f", trained on folds {', '.join(map(str, split.train_folds))}" if split.train_folds else ""
    validated = f"fold {split.validation_fold}{trained}" if split.validation_fold else "the validation part"
    held_out = f"fold {split.test_fold}" if split.test_fold else "the test part"
    header = [
        f"The best of {len(finished_trials(study))} trials of a search ({folder}, trial {best.number}).",
        f"Score    {config.training.metric_for_best_model} {best.value:.4f} on {validated}.",
        f"Test     on {held_out}, which took no part; other folds had a say in these values, and would flatter them.",
        f"Command  urbansound-hf train {folder / BEST}",
        f"Found    {shown(values)}",
    ]
    text = yaml.safe_dump(own, sort_keys=False, allow_unicode=True)
    (folder / BEST).write_text("".join(f"# {line}\n" for line in header) + text, encoding="utf-8")


def draw_history(study: optuna.Study, metric: str, path: Path | None = None) -> Figure:
    """Draws the score of each finished trial, and the best until then."""
    from matplotlib.ticker import MaxNLocator

    trials = finished_trials(study)
    numbers, reached = [trial.number for trial in trials], trial_scores(trials)
    best = (np.maximum if study.direction.name == "MAXIMIZE" else np.minimum).accumulate(reached)
    with drawing(path, f"Search: best {metric} {best[-1]:.4f}", "", (7.5, 4)) as figure:
        axes = figure.add_subplot()
        axes.step(numbers, best, where="post", color=ORANGE, linewidth=1.4, label="best so far")
        axes.plot(numbers, reached, "o", color=BLUE, markersize=4.5, label="trial")
        axes.set(xlabel="trial", ylabel=metric)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return figure


def what_mattered(
    study: optuna.Study, space: Space, shares: Mapping[str, float], metric: str, path: Path | None = None
) -> Figure:
    """Draws the score over the values of each flag, a panel a flag, the most important first."""
    order = sorted(space, key=lambda line: -shares.get(line.name, 0))
    columns = min(3, len(order))
    lines = math.ceil(len(order) / columns)
    title = "What mattered" + " (share of the scores' variance)" * bool(shares)
    with drawing(path, title, "orange: the best trial", (1.2 + 3.2 * columns, 0.8 + 2.8 * lines)) as figure:
        panels = figure.subplots(lines, columns, sharey=True, squeeze=False)
        for axes in panels.flat[len(order) :]:
            axes.set_visible(False)
        for axes, line in zip(panels.flat, order, strict=False):
            share = f": {100 * shares[line.name]:.0f} %" if shares else ""
            axes.set_title(f"{line.name}{share}", fontsize=10)
            _values(axes, line, ranked(study))
        for axes in panels[:, 0]:
            axes.set_ylabel(metric)
    return figure


def _values(axes: Axes, line: Range | Choices, trials: Sequence[optuna.trial.FrozenTrial]) -> None:
    """The score over the values of one flag; the best trial stands out."""
    values, reached = [trial.params[line.name] for trial in trials], trial_scores(trials)
    if isinstance(line, Choices):
        names = list(line.values)
        values = [names.index(value) for value in values]
        axes.set_xticks(range(len(names)), [name or "–" for name in names])
        axes.set_xlim(-0.5, len(names) - 0.5)
    axes.plot(values, reached, "o", color=LIGHT_BLUE, markersize=4.5)
    axes.plot(values[0], reached[0], "o", color=ORANGE, markersize=6)
    if isinstance(line, Range) and line.log:
        log_ticks(axes, "x")
        axes.tick_params("x", rotation=30)
    axes.grid(axis="y", color=GREY, alpha=0.2)
