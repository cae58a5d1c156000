"""The moving average of the weights: its formula, its place in a training, and that a resume does not lose it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from urbansound_hf.training.callbacks import AVERAGE, WeightAverage


@pytest.fixture
def model() -> nn.Module:
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    return layer


@pytest.fixture
def events(model, tmp_path):
    """Calls a callback as Trainer does."""
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)

    def call(callback: WeightAverage, event: str, step: int, **changed: object) -> None:
        state = TrainerState(global_step=step, is_world_process_zero=True)
        for name, value in changed.items():
            setattr(state, name, value)
        getattr(callback, event)(arguments, state, TrainerControl(), model=model)

    return SimpleNamespace(call=call, arguments=arguments)


def step_to(model: nn.Module, value: float) -> None:
    with torch.no_grad():
        model.weight.fill_(value)


def test_the_formula(model, events):
    average = WeightAverage(decay=0.15)
    step_to(model, 1.0)
    events.call(average, "on_train_begin", 0)
    expected = 1.0
    for step, value in enumerate((2.0, 4.0, 8.0), start=1):
        step_to(model, value)
        events.call(average, "on_step_end", step)
        decay = min(0.15, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    events.call(average, "on_train_end", 3)
    torch.testing.assert_close(model.weight, torch.full((2, 2), expected))
    assert not average.running


def test_it_is_in_place_for_a_while_only(model, events):
    average = WeightAverage(decay=0.5)
    step_to(model, 1.0)
    events.call(average, "on_train_begin", 0)
    step_to(model, 3.0)
    with average.in_place(model):
        assert (model.weight == 1.0).all()
    assert (model.weight == 3.0).all()
    assert set(average.average) == {"weight"}  # the frozen bias has no average


def test_an_interrupted_training_goes_on_with_its_average(model, events, tmp_path):
    folder = tmp_path / "checkpoint-5"
    folder.mkdir()
    first = WeightAverage(decay=0.5)
    step_to(model, 1.0)
    events.call(first, "on_train_begin", 0)
    events.call(first, "on_save", 5)
    step_to(model, 9.0)
    second = WeightAverage(decay=0.5, continued=str(folder))
    events.call(second, "on_train_begin", 5)
    assert (second.average["weight"] == 1.0).all()


def test_the_average_of_the_best_checkpoint_is_taken(model, events, tmp_path):
    folder = tmp_path / "checkpoint-5"
    folder.mkdir()
    average = WeightAverage(decay=0.5)
    step_to(model, 1.0)
    events.call(average, "on_train_begin", 0)
    events.call(average, "on_save", 5)
    assert (folder / AVERAGE).is_file()
    step_to(model, 9.0)
    events.call(average, "on_step_end", 6)
    events.arguments.load_best_model_at_end = True
    events.call(average, "on_train_end", 6, best_model_checkpoint=str(folder))
    assert (model.weight == 1.0).all()
