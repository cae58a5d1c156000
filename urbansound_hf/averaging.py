"""The moving average of the weights (Polyak and Juditsky 1992): evaluated and kept instead of the last ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

FILE = "average.safetensors"  # in each of Trainer's checkpoints


class WeightAverage(TrainerCallback):
    """Follows the trained weights: after each update, `average = decay * average + (1 - decay) * weights`.

    The first updates count more, `decay` being at most (1 + n) / (10 + n) after n of them, so that a short training
    does not keep its beginning (as in TensorFlow's ExponentialMovingAverage). Batch-norm statistics are averages
    already and stay as they are.

    Args:
        decay: of each update, 0 to 1.
        continued: the checkpoint that an interrupted training goes on from.

    Attributes:
        running: whether there is an average beside the model's own weights now.
    """

    def __init__(self, decay: float, continued: str | None = None) -> None:
        self.decay, self.continued, self.running = decay, continued, False
        self.average: dict[str, torch.Tensor] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.average = {name: weight.detach().clone() for name, weight in trained(kwargs["model"]).items()}
        if self.continued and (Path(self.continued) / FILE).is_file():
            self.average = stored(Path(self.continued), args.device)
        self.running = True

    @torch.no_grad()
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        weights = trained(kwargs["model"])
        torch._foreach_lerp_([self.average[name] for name in weights], list(weights.values()), 1 - decay)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            save_file({name: weight.contiguous() for name, weight in self.average.items()}, folder / FILE)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Puts the average into the model: that of the best checkpoint where Trainer has just loaded one."""
        if args.load_best_model_at_end and state.best_model_checkpoint:
            self.average = stored(Path(state.best_model_checkpoint), args.device)
        self._exchange(kwargs["model"])
        self.running = False

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """The model with the averaged weights, and with its own again afterwards."""
        self._exchange(model)
        try:
            yield
        finally:
            self._exchange(model)

    @torch.no_grad()
    def _exchange(self, model: nn.Module) -> None:
        for name, weight in trained(model).items():
            own = weight.clone()
            weight.copy_(self.average[name])
            self.average[name] = own


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that learn, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def stored(checkpoint: Path, device: torch.device) -> dict[str, torch.Tensor]:
    """The average beside a checkpoint."""
    return {name: weight.to(device) for name, weight in load_file(checkpoint / FILE).items()}
