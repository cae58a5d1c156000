"""The report of a search: importance of flags, figures and the ranked table."""

from __future__ import annotations

from functools import partial

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image

from urbansound_hf.config import search_space
from urbansound_hf.config.parse import flag_parser
from urbansound_hf.config.search_space import SearchedFlag
from urbansound_hf.reports.search import FEWEST, draw_search, flag_importance, trial_table

optuna = pytest.importorskip("optuna")

SPACE = ["learning_rate=1e-4..1e-1 log", "mixup_alpha=0|0.2", "augment=|gain|polarity gain"]


def parsed(*lines: str) -> list[SearchedFlag]:
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


def test_the_figures(study, tmp_path):
    before = dict(matplotlib.rcParams)
    draw_search(study, "validation accuracy", tmp_path)
    for name in ("history.png", "importance.png"):
        assert Image.open(tmp_path / name).size > (400, 300)
    assert dict(matplotlib.rcParams) == before and not pyplot.get_fignums()


def test_the_table_is_ranked(study):
    values = partial(search_space.suggest, parsed(*SPACE))
    lines = trial_table(study, values, "validation accuracy", 5).splitlines()
    scores = [float(line.split("|")[2]) for line in lines[2:]]
    assert scores == sorted(scores, reverse=True) and len(scores) == 5
    assert int(lines[2].split("|")[1]) == study.best_trial.number
