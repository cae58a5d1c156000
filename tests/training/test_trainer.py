"""`SoundTrainer`: its parameter groups, and evaluation in step under FSDP."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import set_seed

from tests.training.test_run import small_split
from urbansound_hf.config import arguments
from urbansound_hf.config.arguments import RunConfig, trains_in_tf32
from urbansound_hf.data.loading import Sounds
from urbansound_hf.features.dataset import collate_evaluation
from urbansound_hf.training.run import make_trainer, prepare_training
from urbansound_hf.training.trainer import SoundTrainer


def trainer_of(config: RunConfig, sounds: Sounds, folder: Path) -> SoundTrainer:
    set_seed(0)
    return make_trainer(config, prepare_training(config, sounds, small_split()), sounds.labels, folder)


def test_the_rates_reach_the_optimizer_that_was_asked_for(configure, sounds, tmp_path):
    flags = ["--optim", "sgd", "--head_learning_rate", 0.5, "--layer_decay", 0.1, "--weight_decay", 0.01]
    optimizer = trainer_of(configure(*flags), sounds, tmp_path).create_optimizer()
    assert type(optimizer) is torch.optim.SGD
    rates = {round(group["lr"], 9) for group in optimizer.param_groups}
    assert rates == {0.5, 1e-3, 1e-4, 1e-5}, "the head, two layers, and what stands before them"
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.01}


def test_processes_that_must_stay_in_step_score_the_same(configure, sounds, tmp_path, monkeypatch):
    trainer = trainer_of(configure(), sounds, tmp_path)
    batch = collate_evaluation([trainer.eval_dataset[i] for i in range(10)])
    calls: list[int] = []
    trainer.model.register_forward_pre_hook(lambda *_: calls.append(1))
    _, alone, _ = trainer.prediction_step(trainer.model.eval(), dict(batch), False)
    assert len(calls) == len(batch["groups"]) > 1
    monkeypatch.setattr(trainer, "is_fsdp_enabled", True)
    monkeypatch.setattr(trainer.accelerator, "gather", lambda mine: torch.cat([mine, mine + 2]))  # a second process
    _, together, _ = trainer.prediction_step(trainer.model, dict(batch), False)
    assert len(calls) == 2 * len(batch["groups"]) + 2, "as often as the process with most groups"
    torch.testing.assert_close(alone, together)


@pytest.mark.parametrize(("asked", "within"), [(None, "high"), (False, "highest")])
def test_tf32_is_for_training_alone_where_there_is_a_gpu_that_has_it(
    asked, within, configure, sounds, tmp_path, monkeypatch
):
    torch.set_float32_matmul_precision("highest")  # SpeechBrain's import changes it
    trainer = trainer_of(configure("--max_steps", 1), sounds, tmp_path)
    found: list[str] = []
    trainer.model.register_forward_pre_hook(lambda *_: found.append(torch.get_float32_matmul_precision()))
    assert not trains_in_tf32(trainer.args), "on a CPU"
    monkeypatch.setattr(arguments, "is_torch_tf32_available", lambda: True)
    trainer.args.use_cpu, trainer.args.tf32 = False, asked
    trainer.train()
    assert set(found) == {within} and torch.get_float32_matmul_precision() == "highest"
