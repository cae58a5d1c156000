"""The report of a search: importance of flags, figures and the ranked table."""

from __future__ import annotations

import numpy as np
import pytest

from urbansound_hf.config import search_space
from urbansound_hf.config.parse import flag_parser
from urbansound_hf.config.search_space import Choices, Range
from urbansound_hf.reports.search import FEWEST, draw_history, draw_importance, flag_importance, trial_table
from urbansound_hf.training.search import searched_flags

optuna = pytest.importorskip("optuna")

SPACE = ["learning_rate=1e-4..1e-1 log", "mixup_alpha=0|0.2", "augment=|gain|polarity gain"]


def parsed(*lines: str) -> list[Range | Choices]:
    return search_space.parse_search_space(lines, flag_parser())


@pytest.fixture(scope="module")
def study():
    """Forty trials of a formula that only `learning_rate` matters to."""
    made = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    space = parsed(*SPACE)
    made.optimize(lambda trial: -abs(np.log10(search_space.suggest(space, trial)["learning_rate"]) + 3), n_trials=40)
    return made


def test_flag_importance(study):
    shares = flag_importance(study)
    assert next(iter(shares)) == "learning_rate" and shares["learning_rate"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)


def test_few_trials_or_equal_scores_have_no_importance(study):
    for value, count in ((None, FEWEST - 1), (0.5, 12)):
        few = optuna.create_study()
        for trial in study.trials[:count]:
            values = {"params": trial.params, "distributions": trial.distributions}
            few.add_trial(optuna.create_trial(**values, value=trial.value if value is None else value))
        assert flag_importance(few) == {}


def test_the_figures(study):
    space = searched_flags(parsed(*SPACE))
    shares = flag_importance(study)
    panels = draw_importance(study, space, shares, "validation accuracy").axes
    assert panels[0].get_title(loc="left").startswith("learning_rate: ") and panels[0].get_xscale() == "log"
    assert sorted(axes.get_title(loc="left").split(":")[0] for axes in panels) == sorted(line.name for line in space)
    (axes,) = draw_history(study, "validation accuracy").axes
    best = axes.lines[0].get_ydata()
    assert (np.diff(best) >= 0).all() and best[-1] == study.best_value


def test_the_table_is_ranked(study):
    lines = trial_table(study, searched_flags(parsed(*SPACE)), "validation accuracy", 5).splitlines()
    scores = [float(line.split("|")[2]) for line in lines[2:]]
    assert scores == sorted(scores, reverse=True) and len(scores) == 5
    assert int(lines[2].split("|")[1]) == study.best_trial.number
