"""A training that diverges stops with the step, the loss and what may help, and leaves nothing that is not finite."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from tests.training.test_run import small_split
from urbansound_hf.errors import NotFiniteError, UserError
from urbansound_hf.training.callbacks import MOST_SKIPPED, FiniteGuard, check_scores, finite_weights
from urbansound_hf.training.cross_validation import run_experiment
from urbansound_hf.training.run import train_and_evaluate
from urbansound_hf.training.trainer import SoundTrainer

pytestmark = pytest.mark.usefixtures("plain_reports")

DIVERGES = ["--learning_rate", "1e38", "--warmup_steps", 0, "--max_grad_norm", 0, "--optim", "sgd"]
ARGUMENTS = TrainingArguments(output_dir="unused", use_cpu=True)


@pytest.fixture
def train(configure, sounds, tmp_path) -> Callable[..., Path]:
    def run(*flags: object) -> Path:
        validation = 0 if "none" in flags else 10
        train_and_evaluate(configure(*flags), sounds, small_split(validation), tmp_path / "run")
        return tmp_path / "run"

    return run


@pytest.mark.parametrize(
    "flags",
    [[], ["--logging_strategy", "no"], ["--logging_steps", 100, "--eval_steps", 4, "--save_steps", 4],
     ["--validation", "none", "--save_strategy", "no", "--logging_strategy", "no"], ["--ema_decay", 0.9],
     ["--freeze", "backbone"], ["--save_strategy", "best", "--logging_strategy", "no"],
     ["--logging_nan_inf_filter", "true"], ["--gradient_accumulation_steps", 3, "--max_steps", 3],
     ["--label_smoothing_factor", 0.1], ["--max_steps", 1, "--eval_steps", 1, "--save_steps", 1],
     ["--max_steps", 1, "--validation", "none", "--save_strategy", "no", "--logging_strategy", "no"]],
    ids=lambda flags: " ".join(map(str, flags)),
)  # fmt: skip
def test_a_training_that_diverges_stops_and_saves_nothing_of_it(train, tmp_path, flags):
    with pytest.raises(NotFiniteError, match="the training diverged: the ") as caught:
        train(*DIVERGES, *flags)
    assert "lower --learning_rate (now 1e+38)" in caught.value.fix and "--max_grad_norm 1" in caught.value.fix
    assert " of " in caught.value.where
    run = tmp_path / "run"
    assert not (run / "metrics.json").exists()
    for path in run.rglob("*.safetensors"):
        assert all(torch.isfinite(values).all() for values in load_file(path).values()), path
    states = [path.read_text(encoding="utf-8") for path in run.rglob("trainer_state.json")]
    assert not any("NaN" in state or "Infinity" in state for state in states)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("step", [1, 3])
def test_the_first_loss_that_is_not_finite_is_named(train, monkeypatch, value, step):
    compute = SoundTrainer.compute_loss

    def broken(trainer, model, inputs, *args, **kwargs):
        loss = compute(trainer, model, inputs, *args, **kwargs)
        return loss * value if model.training and trainer.state.global_step + 1 == step else loss

    monkeypatch.setattr(SoundTrainer, "compute_loss", broken)
    with pytest.raises(NotFiniteError, match=rf"the loss of step {step} is -?(nan|inf)"):
        train("--logging_steps", 4, "--eval_steps", 4, "--save_steps", 4)


def test_a_training_that_does_not_diverge_is_left_alone(train):
    log = json.loads((train("--learning_rate", "1e-3") / "log_history.json").read_text(encoding="utf-8"))
    assert all(np.isfinite(entry["loss"]) and entry["loss"] > 0 for entry in log if "loss" in entry)


def test_scores_that_are_not_finite_are_no_validation_score(train, monkeypatch):
    step = SoundTrainer.prediction_step

    def overflown(trainer, *args, **kwargs):
        loss, logits, labels = step(trainer, *args, **kwargs)
        return loss, logits * float("inf"), labels

    monkeypatch.setattr(SoundTrainer, "prediction_step", overflown)
    with pytest.raises(NotFiniteError, match="the scores of 10 of 10 windows are not finite"):
        train()


def test_one_score_of_many():
    scores = np.ones((7, 3), np.float32)
    check_scores(scores, ARGUMENTS, TrainerState())
    scores[2, 1] = np.nan
    with pytest.raises(NotFiniteError, match="the scores of 1 of 7 windows"):
        check_scores(scores, ARGUMENTS, TrainerState())


@pytest.mark.parametrize("rates", ["1e38|1e-3", "1e38|1e37"])
def test_a_trial_that_diverges_fails_and_the_search_goes_on(configure, synthetic_root, tmp_path, rates, caplog):
    pytest.importorskip("optuna")
    data = ["--dataset", "urbansound8k", "--data_dir", synthetic_root, "--preprocessing_num_workers", 1]
    flags = [*DIVERGES, "--search", 4, "--search_space", f"learning_rate={rates}", "--output_dir", tmp_path / "out"]
    config = configure(*data, *flags, "--seed", 3)
    if rates == "1e38|1e37":
        with pytest.raises(UserError, match="no trial was completed"):
            run_experiment(config)
        lines = [record for record in caplog.records if record.name.startswith("optuna")]
        assert len(lines) == 4 and "the training diverged" in lines[0].getMessage() and not lines[0].exc_info
        return
    assert run_experiment(config) == 0
    flags[-1] = tmp_path / "resumed"
    for trials in (1, 2, 4):  # the trials of the uninterrupted search, those that diverged too
        assert run_experiment(configure(*data, *flags, "--seed", 3, "--search", trials)) == 0 or trials < 4
    texts = [(tmp_path / name / "search/trials.csv").read_text(encoding="utf-8") for name in ("out", "resumed")]
    whole, resumed = ([(row["state"], row["learning_rate"]) for row in csv.DictReader(io.StringIO(t))] for t in texts)
    assert whole == resumed and {state for state, _ in whole} == {"complete", "fail"}


# The scaler of fp16


class Training:
    """What Trainer does with the guard: losses, then an update that is skipped or not."""

    def __init__(self, processes: int = 1) -> None:
        self.skipped, self.state, self.model = False, TrainerState(max_steps=100), nn.Linear(2, 2)
        self.guard = FiniteGuard(lambda found: found.repeat(processes, 1), lambda: self.skipped)

    def update(self, loss: float, skipped: bool = False) -> float:
        self.skipped = skipped
        kept = self.guard.add(torch.tensor(loss), self.state.global_step + 1)
        self.guard.on_optimizer_step(ARGUMENTS, self.state, TrainerControl())
        self.state.global_step += 1
        return kept.item()

    def check(self, at_end: bool = False) -> None:
        self.guard.check(self.model, ARGUMENTS, self.state, at_end)


def test_an_update_that_the_scaler_skips_is_no_error():
    training = Training()
    assert training.update(float("nan"), skipped=True) == 0
    training.check()
    assert training.update(1.0) == 1
    assert training.update(float("inf"), skipped=True) == 0
    training.check()
    training.check(at_end=True)


def test_a_loss_before_a_skipped_update_is_not_forgotten():
    training = Training(processes=2)
    training.update(float("nan"))
    training.update(1.0, skipped=True)
    with pytest.raises(NotFiniteError, match="the loss of step 1 is nan"):
        training.check()


@pytest.mark.parametrize("updates", [MOST_SKIPPED, MOST_SKIPPED + 5])
def test_updates_that_are_all_skipped_are_an_error(updates):
    training = Training()
    training.update(1.0)
    for _ in range(updates):
        training.update(1.0, skipped=True)
    with pytest.raises(NotFiniteError, match=f"the last {updates} updates were skipped"):
        training.check()


def test_a_short_training_of_skipped_updates_learned_nothing():
    training = Training()
    for _ in range(3):
        training.update(1.0, skipped=True)
        training.check()
    with pytest.raises(NotFiniteError, match="the last 3 updates were skipped"):
        training.check(at_end=True)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_and_running_means(bad):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert finite_weights(model)
    model[1].running_mean[0] = float("nan")
    assert not finite_weights(model)
    model[1].running_mean[0] = 0
    model[0].weight.data[1, 1] = bad
    assert not finite_weights(model)
    assert finite_weights(nn.Identity())
