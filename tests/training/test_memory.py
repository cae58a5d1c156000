"""The batch that fits into memory: which sizes are tried, and that a probe leaves no trace."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForAudioClassification

from tests.helpers.tiny import save
from tests.training.test_run import small_split
from urbansound_hf.errors import UserError
from urbansound_hf.training import trainer
from urbansound_hf.training.run import train_and_evaluate


@pytest.mark.parametrize(
    ("clips", "processes", "on_cpu", "sizes"),
    [(32, 1, False, [32, 16, 8, 4, 2, 1]), (32, 4, False, [8, 4, 2, 1]), (30, 1, False, [30, 15, 6, 3, 1])],
)
def test_the_sizes_that_are_tried(clips, processes, on_cpu, sizes):
    assert trainer.micro_batches(clips, processes, nn.Linear(2, 2), on_cpu) == sizes


def test_large_models_on_a_cpu_and_batch_norms(monkeypatch):
    monkeypatch.setattr(trainer, "LARGE", 5)
    assert trainer.micro_batches(32, 1, nn.Linear(2, 2), on_cpu=True)[0] == 8
    normed = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert trainer.micro_batches(32, 1, normed, on_cpu=True) == [32]
    with pytest.raises(UserError, match="32 clips an update cannot be shared out evenly among 3 processes"):
        trainer.micro_batches(32, 3, normed, on_cpu=False)


def test_a_probe_finds_the_largest_batch_and_leaves_no_trace(tmp_path):
    model = AutoModelForAudioClassification.from_pretrained(save("wav2vec2", tmp_path))

    def full(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if len(inputs[0]) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.wav2vec2.feature_extractor.register_forward_pre_hook(full)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    clip, fitting = torch.randn(1, 8000), []
    for number in (8, 4, 2, 1):
        autocast = torch.no_grad if number > 3 else torch.enable_grad
        if trainer.fits_memory(model, {"input_values": clip.repeat(number, 1)}, autocast):
            fitting.append(number)
    assert fitting == [2, 1]
    assert np.random.get_state()[1].tolist() == before[1]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_effective_batch_is_the_same_whatever_fits(configure, sounds, tmp_path, monkeypatch):
    logs = []
    for name, most in (("whole", 8), ("shared", 2)):
        monkeypatch.setattr(trainer, "LARGE_BATCH", most)
        monkeypatch.setattr(trainer, "LARGE", 0)
        config = configure("--per_device_train_batch_size", 8, "--gradient_accumulation_steps", 1)
        config = config.with_values({"train_batch_size": 8})
        train_and_evaluate(config, sounds, small_split(), tmp_path / name)
        logs.append(json.loads((tmp_path / name / "log_history.json").read_text(encoding="utf-8")))
        metrics = json.loads((tmp_path / name / "metrics.json").read_text(encoding="utf-8"))
        assert (metrics["micro_batch"], metrics["accumulation_steps"]) == (most, 8 // most)
    losses = [[entry["loss"] for entry in log if "loss" in entry] for log in logs]
    np.testing.assert_allclose(*losses, rtol=1e-5)
