"""Search spaces: parsing of their lines, mistakes, and checks of the values that a trial may have."""

from __future__ import annotations

import pytest

from tests.conftest import TINY
from urbansound_hf.config import search_space
from urbansound_hf.config.parse import flag_parser
from urbansound_hf.config.search_space import SearchedFlag
from urbansound_hf.errors import UserErrors

optuna = pytest.importorskip("optuna")

SPACE = ["learning_rate=1e-4..1e-1 log", "mixup_alpha=0|0.2", "augment=|gain|polarity gain"]


def parsed(*lines: str) -> list[SearchedFlag]:
    return search_space.parse_search_space(lines, flag_parser())


def test_what_lines_mean():
    assert parsed("learning_rate=1e-5..1e-3 log", "num_train_epochs=3..12", "layer_decay = 0.6..1.0") == [
        SearchedFlag("learning_rate", 1e-5, 1e-3, True),
        SearchedFlag("num_train_epochs", 3, 12, False),
        SearchedFlag("layer_decay", 0.6, 1.0, False),
    ]
    assert parsed("mixup_alpha=0|0.2", "augment=none|gain|gain white_noise:0.5:0..10", "class_weights=true|false") == [
        SearchedFlag("mixup_alpha", choices={"0": 0.0, "0.2": 0.2}),
        SearchedFlag(
            "augment",
            choices={"none": None, "gain": ["gain"], "gain white_noise:0.5:0..10": ["gain", "white_noise:0.5:0..10"]},
        ),
        SearchedFlag("class_weights", choices={"true": True, "false": False}),
    ]


@pytest.mark.parametrize("line", ["num_train_epochs=3..12", "unfreeze_last_n=1..4", "lora_rank=1..8 log"])
def test_ends_written_as_whole_numbers_mean_whole_numbers(line):
    (flag,) = parsed(line)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [flag.suggest(study.ask()) for _ in range(30)]
    assert all(type(value) is int for value in drawn) and {min(drawn), max(drawn)} == set(flag.extremes)


def test_every_searchable_flag_is_a_flag():
    assert set(search_space.SEARCHABLE) <= set(flag_parser().names)


@pytest.mark.parametrize(
    ("line", "what", "fix"),
    [
        ("learning_rate", "takes FLAG=LOW..HIGH, FLAG=LOW..HIGH log or FLAG=CHOICE|CHOICE", "learning_rate=1e-5..1e-3"),
        ("lerning_rate=0.1..0.2", "there is no flag `lerning_rate`", "did you mean learning_rate?"),
        ("lr=0.1..0.2", "there is no flag `lr`", "did you mean learning_rate?"),
        ("test_fold=1|2", "with the same data and initial weights; found `test_fold`", "leave it out"),
        ("seed=1|2", "with the same data and initial weights; found `seed`", "learning_rate, num_train_epochs"),
        ("layer_decay=0.5..one", "`layer_decay` must be a number, found 'one'", "default, 1.0"),
        ("unfreeze_last_n=0..1.5", "`unfreeze_last_n` must be a whole number, found '1.5'", "default, 0"),
        ("freeze=none|backbon", "must be one of none, feature_encoder, backbone, found 'backbon'", "mean backbone?"),
        (
            "freeze=none..backbone",
            "takes FLAG=CHOICE|CHOICE of a flag that is no number",
            "freeze=none|feature_encoder",
        ),
        ("mixup_alpha=0.2", "takes FLAG=LOW..HIGH", "mixup_alpha=0.1..0.4"),
        ("mixup_alpha=0|0", "has a choice twice in 'mixup_alpha=0|0'", "keep one"),
        ("mixup_alpha=0.4..0.1", "takes LOW..HIGH, found 'mixup_alpha=0.4..0.1'", "lower end comes first"),
        ("mixup_alpha=0..0.4 log", "`log` needs a range above 0", "leave log out"),
        (
            "layer_decay=0..1",
            "a range of whole numbers must hold more than its two ends",
            "0.0..1.0 for all numbers between",
        ),
    ],
)
def test_mistakes_of_a_line(line, what, fix):
    with pytest.raises(UserErrors) as caught:
        parsed(line)
    (problem,) = caught.value.problems
    assert what in problem.what and fix in problem.fix


def test_all_mistakes_come_at_once_with_their_place(configure, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        f"{TINY}search_space:\n  - lr=1..2\n  - seed=1|2\n  - freeze=none|all\n", encoding="utf-8"
    )
    with pytest.raises(UserErrors) as caught:
        configure(tmp_path / "mine.yaml", "--search", 3)
    line = TINY.count("\n") + 1
    assert [problem.where for problem in caught.value.problems] == [f"{tmp_path}/mine.yaml:{line}"] * 3


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        (["mixup_alpha=-1.0..0.5"], "`mixup_alpha` must be 0 or more, found -1.0"),
        (["ema_decay=0.5..1.0"], "`ema_decay` must be 0 to below 1, found 1.0"),
        (["augment=|gian"], "there is no effect 'gian'"),
        (["unfreeze_last_n=0..2"], "`unfreeze_last_n` needs `freeze: backbone`, found `freeze: none`"),
        (["class_weights=true|false", "layer_decay=0.5..0.9", "balanced_sampling=false|true"], "found both"),
    ],
)
def test_no_trial_may_be_what_a_run_refuses(configure, lines, what):
    with pytest.raises(UserErrors) as caught:
        configure("--search_space", *lines)
    (problem,) = caught.value.problems
    assert problem.what.startswith("`search_space` would try what a run refuses: ") and what in problem.what
    assert problem.where == "command line, --search_space"


def test_lines_are_held_against_each_other_not_against_what_they_replace(configure):
    assert configure("--freeze", "backbone", "--search_space", "unfreeze_last_n=0..2").training.search_space
    assert configure("--class_weights", "--search_space", "class_weights=false|true").training.search is None


@pytest.mark.parametrize(
    ("flags", "what", "fix"),
    [
        (["--search", 0, "--search_space", *SPACE], "`search` must be 1 or more, found 0", ""),
        (["--search", 3], "`search` needs `search_space`, found none", "--search_space 'learning_rate=1e-5..1e-3 log'"),
        (
            ["--search", 3, "--search_space", *SPACE, "--validation", "none"],
            "`search` compares scores of validation clips, found `validation: none`",
            "leave out validation",
        ),
        (["--search", 3, "--search_space", *SPACE, "--test_fold", "all"], "found `test_fold: all`", "give one"),
        (["--search", 3, "--search_space", *SPACE, "--test_fold", "1,2"], "found `test_fold: 1,2`", "give one"),
    ],
)
def test_what_a_search_needs(configure, flags, what, fix):
    with pytest.raises(UserErrors) as caught:
        configure(*flags)
    (problem,) = caught.value.problems
    assert what in problem.what and fix in problem.fix


def test_without_optuna(configure, monkeypatch):
    monkeypatch.setattr("urbansound_hf.config.checks.find_spec", lambda name: None if name == "optuna" else name)
    with pytest.raises(UserErrors, match="needs Optuna, which is not installed") as caught:
        configure("--search", 3, "--search_space", *SPACE)
    assert caught.value.problems[0].fix == "pip install 'urbansound-hf[search]', or pip install optuna"
    assert configure("--search_space", *SPACE), "a config with a space trains all the same"
