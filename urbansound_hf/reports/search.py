"""The report of a hyperparameter search: its trials as a table, figures, and the importance of each flag."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from urbansound_hf.data.splits import Split
from urbansound_hf.errors import UserError, write_text
from urbansound_hf.layout import REPORT
from urbansound_hf.text import table, write_csv

if TYPE_CHECKING:
    import optuna


BEST = "best.yaml"
FEWEST = 8  # trials for an estimate of importance, which fits a random forest to their scores
SHOWN = 5  # trials that the command prints
UNCERTAINTY = (
    "The best of many scores is optimistic: expect a lower one on other clips. The scores are of validation clips; the "
    "test clips were not used, so the test score of a run with the best values is unbiased."
)
IMPORTANCE = (
    "The share of the variance of all scores that a flag explains on its own (fANOVA, Hutter et al. 2014). It depends "
    f"on the searched ranges, and is estimated from {FEWEST} trials or more."
)


Values = Callable[[Any], dict[str, Any]]
"""The values of a trial by their flags."""


def finished_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The completed trials in the order of their numbers."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]


def ranked(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The completed trials, best first; of equal scores, the earlier first."""
    sign = -1 if study.direction.name == "MAXIMIZE" else 1
    return sorted(finished_trials(study), key=lambda trial: sign * float(trial.value or 0))


def flag_importance(study: optuna.Study) -> dict[str, float]:
    """The share of the scores' variance that each flag explains, in falling order; empty for few or equal scores."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    scores = [trial.value for trial in finished_trials(study)]
    if len(scores) < FEWEST or len(set(scores)) == 1:
        return {}
    return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))


def write_search_report(folder: Path, study: optuna.Study, values: Values, metric: str, split: Split) -> str:
    """Writes trials.csv, report.md and the figures of a search; returns the lines that the command prints.

    `metric` is the title of the score, such as "validation accuracy". Raises UserError if no trial was completed.
    """
    if not finished_trials(study):
        raise UserError("no trial was completed", str(folder), "the same command tries again")
    flags = list(values(ranked(study)[0]))
    rows: list[list[Any]] = [["trial", "state", metric, "seconds", *flags]]
    for trial in study.trials:
        seconds = "" if trial.duration is None else f"{trial.duration.total_seconds():.1f}"
        score = trial.value if trial.state.name == "COMPLETE" else ""
        tried = [trial.params.get(name, "") for name in flags]
        rows.append([trial.number, trial.state.name.lower(), score, seconds, *tried])
    write_csv(folder / "trials.csv", rows)
    draw_search(study, metric, folder)
    write_text(folder / REPORT, search_page(study, values, metric, split))
    best = trial_table(study, values, metric, SHOWN)
    return f"{best}\n\nreport:   {folder / REPORT}\ntrain it: urbansound-hf train {folder / BEST}"


def shown(values: Mapping[str, Any]) -> str:
    """ "learning_rate 0.00032, augment gain shift"."""
    return ", ".join(f"{name} {_text(value)}" for name, value in values.items())


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, bool):
        return str(value).lower()
    return "–" if value is None else " ".join(map(str, value)) if isinstance(value, list) else str(value)


def trial_table(study: optuna.Study, values: Values, metric: str, most: int | None = None) -> str:
    """The completed trials, best first, as a Markdown table."""
    best = ranked(study)[:most]
    rows = [[each.number, f"{each.value:.4f}", *map(_text, values(each).values())] for each in best]
    return table(["trial", metric, *values(best[0])], rows)


def search_page(study: optuna.Study, values: Values, metric: str, split: Split) -> str:
    """The content of report.md."""
    best, trials, shares = ranked(study)[0], len(finished_trials(study)), flag_importance(study)
    lost, validated = len(study.trials) - trials, split.validation_fold
    parts = [
        f"# Search: {trials} trials of {len(values(best))} flags",
        f"**Best: trial {best.number}, {metric} {best.value:.4f}** on "
        f"{f'fold {validated}' if validated else 'the validation part'}: {shown(values(best))}. "
        f"`{BEST}` is the config of a run with these values.",
        UNCERTAINTY,
        f"{lost} more {'was' if lost == 1 else 'were'} interrupted or had no score." if lost else "",
        "![history](history.png)",
        f"## Importance\n\n{IMPORTANCE}",
        table(["flag", "importance"], [[name, f"{share:.2f}"] for name, share in shares.items()]) if shares else "",
        "![importance](importance.png)",
        f"## All trials\n\n{trial_table(study, values, metric)}",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def draw_search(study: optuna.Study, metric: str, folder: Path) -> None:
    """Draws Optuna's figures: history.png, the best score so far, and importance.png, the scores over each flag."""
    from matplotlib import pyplot, rc_context
    from optuna.exceptions import ExperimentalWarning
    from optuna.visualization.matplotlib import plot_optimization_history, plot_slice

    for plot, name in ((plot_optimization_history, "history.png"), (plot_slice, "importance.png")):
        with rc_context(), warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            figure = np.ravel(np.asarray(plot(study, target_name=metric)))[0].figure
            for axes in figure.axes[:-1]:
                axes.tick_params("x", rotation=30)
            figure.savefig(folder / name, dpi=140, bbox_inches="tight")
            pyplot.close(figure)
