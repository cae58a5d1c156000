"""Real searches with a tiny model: the values that reach a trial, its score, interruption, and the files written."""

from __future__ import annotations

import ast
import csv
import dataclasses
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from filelock import FileLock
from transformers import EarlyStoppingCallback

from tests.conftest import ROOT, TINY
from tests.helpers.processes import exit_status, fork
from tests.training.test_run import small_split
from urbansound_hf.audio.io import AudioError
from urbansound_hf.config import search_space
from urbansound_hf.config.parse import parse_run_config
from urbansound_hf.errors import UserError
from urbansound_hf.evaluation.receipts import environment
from urbansound_hf.models import adapt
from urbansound_hf.reports import search as search_report
from urbansound_hf.reports.search import finished_trials
from urbansound_hf.training import search
from urbansound_hf.training.callbacks import WeightAverage
from urbansound_hf.training.cross_validation import run_experiment
from urbansound_hf.training.experiment import Experiment
from urbansound_hf.training.run import prepare_training
from urbansound_hf.training.search import Trials, open_study, run_trials

pytestmark = pytest.mark.usefixtures("plain_reports")

optuna = pytest.importorskip("optuna")

SPACE = ["learning_rate=1e-4..1e-1 log", "mixup_alpha=0|0.2", "augment=|gain|polarity gain"]


def test_optuna_waits_until_it_is_asked_for():
    for module in (search, search_report, search_space):
        at_once = [
            node
            for node in ast.parse(Path(module.__file__).read_text(encoding="utf-8")).body
            if not isinstance(node, ast.If)
        ]
        names = [
            line for node in at_once if isinstance(node, ast.Import | ast.ImportFrom) for line in [ast.unparse(node)]
        ]
        assert names and not [name for name in names if "optuna" in name]


# ---- trials


@pytest.fixture
def experiment(configure, sounds, tmp_path) -> Callable[..., Experiment]:
    """A search over some lines, of trials of two steps, on the tests' sounds."""

    def make(lines: list[str], *flags: object, data=sounds) -> Experiment:
        steps = ["--max_steps", 2, "--eval_steps", 1, "--save_steps", 1, "--output_dir", tmp_path / "out"]
        resolved = configure(*steps, "--search", 3, "--search_space", *lines, *flags)
        receipt = {"config": resolved.as_dict(), "data": {"fingerprint": "a"}, "environment": environment()}
        return Experiment(resolved, data, receipt)

    return make


class Watched(Trials):
    """Notes with what each trial begins."""

    def on_train_begin(self, args, state, control, model, optimizer, **kwargs) -> None:
        rates = {round(group["initial_lr"], 9) for group in optimizer.param_groups}
        trainer, callbacks = self.trainer, [type(each) for each in self.trainer.callback_handler.callbacks]
        SEEN.append({
            "rates": rates, "optim": type(optimizer.optimizer).__name__, "batch": trainer._train_batch_size,
            "rows": trainer.train_dataset, "average": trainer.average, "weights": trainer.class_weights,
            "callbacks": callbacks, "smoothing": args.label_smoothing_factor,
            "trained": adapt.count_parameters(model)["trained_parameters"],
            "start": model.state_dict()["classifier.weight"].clone(),
        })  # fmt: skip


SEEN: list[dict] = []


@pytest.fixture
def trials(experiment, tmp_path, monkeypatch):
    """Runs trials of exactly these values; returns the study, and what each of them began with."""
    monkeypatch.setattr(search, "Trials", Watched)
    SEEN.clear()

    def run(lines: list[str], values: list[dict], *flags: object):
        asked = experiment(lines, *flags)
        folder = asked.output_dir / "search"
        folder.parent.mkdir(exist_ok=True)
        study = open_study(asked, small_split(), folder)
        for each in values:
            study.enqueue_trial(each)
        run_trials(asked, small_split(), folder, len(values), study)
        assert not list(folder.rglob("*checkpoint*")), "a trial leaves its score and nothing else"
        assert asked.config.as_dict() == asked.receipt["config"], "nothing writes into a config"
        return study, SEEN

    return run


def test_values_reach_the_optimizer_the_recipe_and_the_model(trials):
    lines = ["learning_rate=1e-4..1e-1 log", "optim=adamw_torch|sgd", "per_device_train_batch_size=4..8",
             "layer_decay=0.1..1.0", "head_learning_rate=|0.5", "freeze=none|backbone", "mixup_alpha=0|0.3",
             "augment=|gain", "ema_decay=0|0.9", "class_weights=false|true",
             "label_smoothing_factor=0.0..0.2"]  # fmt: skip
    plain = {"learning_rate": 1e-3, "optim": "adamw_torch", "per_device_train_batch_size": 8, "layer_decay": 1.0,
             "head_learning_rate": "", "freeze": "none", "mixup_alpha": "0", "augment": "", "ema_decay": "0",
             "class_weights": "false", "label_smoothing_factor": 0.0}  # fmt: skip
    rich = {"learning_rate": 1e-2, "optim": "sgd", "per_device_train_batch_size": 5, "layer_decay": 0.1,
            "head_learning_rate": "0.5", "freeze": "none", "mixup_alpha": "0.3", "augment": "gain", "ema_decay": "0.9",
            "class_weights": "true", "label_smoothing_factor": 0.2}  # fmt: skip
    frozen = {**plain, "freeze": "backbone", "augment": "gain"}
    flags = ["--metric_for_best_model", "loss"]
    study, (first, second, third, last) = trials(lines, [plain, rich, frozen, plain], *flags)
    assert (first["rates"], first["optim"], first["batch"]) == ({1e-3}, "AdamW", 8)
    assert (second["rates"], second["optim"], second["batch"]) == ({0.5, 1e-2, 1e-3, 1e-4}, "SGD", 5)
    assert second["rows"].recipe.mixup_alpha == 0.3 and second["rows"].recipe.augment == ["gain"]
    assert (
        second["rows"].from_waveforms
        and second["average"].decay == 0.9
        and second["callbacks"].count(WeightAverage) == 1
    )
    assert second["weights"] is not None and second["smoothing"] == 0.2
    head = 16 * 8 + 8 + 8 * 10 + 10
    assert third["trained"] == head < first["trained"]
    for plain_again in (first, last):
        assert (
            plain_again["average"] is plain_again["weights"] is None and WeightAverage not in plain_again["callbacks"]
        )
        assert plain_again["rows"].column_names[:2] == ["labels", "clip"], "cached features: nothing changes them"
    torch.testing.assert_close(first["start"], last["start"], rtol=0, atol=0)
    scores = [trial.value for trial in study.trials]
    assert len(set(scores)) == 3 and scores[0] == scores[3], "nothing is left of the trials in between"


WILD = {"learning_rate": 10.0}  # the first step of it is the best, and a tiny one: the warm-up


@pytest.mark.parametrize(("keep_best", "score"), [("true", min), ("false", lambda losses: losses[-1])])
def test_a_score_is_that_of_the_checkpoint_which_a_run_keeps(trials, keep_best, score):
    flags = ["--metric_for_best_model", "loss", "--max_steps", 3, "--load_best_model_at_end", keep_best]
    study, _ = trials(["learning_rate=1e-4..10.0"], [WILD], *flags)
    (trial,) = study.trials
    told = list(trial.intermediate_values.values())
    assert study.direction.name == "MINIMIZE" and len(told) == 3
    assert trial.value == score(told)
    assert (told[-1] > told[0]) == (keep_best == "false"), "what is reported is the best until then, or each"


def test_early_stopping_counts_anew_in_each_trial(trials):
    flags = ["--early_stopping_patience", 1, "--max_steps", 4]
    study, seen = trials(["learning_rate=1e-9..1e-3"], [{"learning_rate": 1e-9}] * 2, *flags)
    assert [len(trial.intermediate_values) for trial in study.trials] == [2, 2]
    assert [each["callbacks"].count(EarlyStoppingCallback) for each in seen] == [1, 1]


def test_the_test_clips_are_never_heard(experiment, sounds, tmp_path):
    split = small_split()

    def silence(row: dict, number: int) -> dict:
        return {"audio": {**row["audio"], "bytes": b"no sound"}} if number in split.test else row

    broken = dataclasses.replace(sounds, dataset=sounds.dataset.map(silence, with_indices=True))
    asked = experiment(["mixup_alpha=0|0.2"], data=broken)
    with pytest.raises(AudioError, match=r"audio/fold10/\S+\.wav"):
        prepare_training(asked.config, broken, split)
    asked.output_dir.mkdir()
    study = open_study(asked, split, asked.output_dir / "search")
    run_trials(asked, split, asked.output_dir / "search", 1, study)
    assert len(finished_trials(study)) == 1


# ---- a command


@pytest.fixture(scope="module")
def command(synthetic_root, tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("search")
    (folder / "tiny.yaml").write_text(
        f"{TINY}search_space:\n" + "".join(f"  - {line}\n" for line in SPACE), encoding="utf-8"
    )
    data = [
        "--data_dir",
        str(synthetic_root),
        "--preprocessing_num_workers",
        "1",
        "--max_steps",
        "2",
        "--metric_for_best_model",
        "loss",
    ]
    return [str(folder / "tiny.yaml"), *data, "--output_dir", str(folder / "out")]


def run(command: list[str], *more: object) -> int:
    return run_experiment(parse_run_config([*command, *map(str, more)], ROOT / "absent.yaml"))


@pytest.fixture(scope="module")
def searched(command) -> Path:
    """The folder of a search of three trials that was killed in its second one, and continued."""

    def die(trials, args, state, control, **kwargs):
        if trials.trial.number == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trials, "on_step_end", die, raising=False)
        assert exit_status(fork(lambda: run(command, "--search", 3))) == -signal.SIGKILL
    assert run(command, "--search", 3) == 0
    return Path(command[-1]) / "search"


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def best_of(folder: Path) -> dict[str, str]:
    return min(rows_of(folder), key=lambda row: float(row["validation loss"] or "inf"))


def test_a_killed_search_goes_on_to_its_number_of_trials(searched):
    rows = rows_of(searched)
    assert [row["state"] for row in rows] == ["complete", "fail", "complete", "complete"]
    assert [row["validation loss"] == "" for row in rows] == [False, True, False, False]
    assert rows[1]["learning_rate"] == rows[2]["learning_rate"], "the killed trial is repeated"
    assert len({row["learning_rate"] for row in rows}) == 3
    assert "1 more was interrupted" in (searched / "report.md").read_text(encoding="utf-8")


def test_what_is_left_of_a_search(searched):
    assert {path.name for path in searched.iterdir()} == {
        "study.db", "trials.csv", "report.md", "history.png", "importance.png", "best.yaml"
    }  # fmt: skip
    assert not list(searched.parent.glob("fold*")), "no test fold is trained, or looked at, by the same command"
    best = best_of(searched)
    text = (searched / "report.md").read_text(encoding="utf-8")
    assert f"Best: trial {best['trial']}, validation loss {float(best['validation loss']):.4f}** on fold 1" in text


def test_the_same_command_again_only_tells(searched, command, capsys):
    before = (searched / "study.db").read_bytes()
    assert run(command, "--search", 3) == 0
    out = capsys.readouterr().out
    assert f"train it: urbansound-hf train {searched / 'best.yaml'}" in out and out.count("\n| ") == 4
    assert (searched / "study.db").read_bytes() == before


def test_the_best_config_gives_the_score_of_its_trial(searched):
    text = (searched / "best.yaml").read_text(encoding="utf-8")
    best = best_of(searched)
    assert f"trial {best['trial']})" in text.splitlines()[0] and "loss" in text.splitlines()[1]
    settings = yaml.safe_load(text)
    assert settings["learning_rate"] == float(best["learning_rate"])
    assert not {"search", "search_space", "overwrite"} & set(settings)
    assert run_experiment(parse_run_config([str(searched / "best.yaml")], ROOT / "absent.yaml")) == 0
    metrics = json.loads((searched / "best" / "fold10" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["best_validation_loss"] == pytest.approx(float(best["validation loss"]), rel=1e-6)
    assert (metrics["test_fold"], metrics["validation_fold"]) == (10, 1)


@pytest.mark.parametrize(
    ("flags", "differs"),
    [
        (["--weight_decay", 0.5], "weight_decay is 0.0 in the search and 0.5 in this command"),
        (["--test_fold", 3], "held-out fold is fold10 in the search and fold3 in this command"),
        (["--search_space", "learning_rate=1e-4..1e-2"], "search_space is"),
    ],
)
def test_another_search_is_not_mixed_in(searched, command, flags, differs):
    with pytest.raises(UserError, match="the folder holds a search of another experiment") as caught:
        run(command, "--search", 9, *flags)
    assert differs in caught.value.what and "--resume_from_checkpoint false" in caught.value.fix


def test_one_command_at_a_time(searched, command):
    with FileLock(searched.with_name(".search.lock")), pytest.raises(UserError, match="another command is searching"):
        run(command, "--search", 9)
