"""A guard that stops a training whose losses, weights or scores are no longer finite.

Losses are checked on the device, without waiting for it; the result is read at logging, evaluation and saving, so that
nothing that is not finite is logged, chosen as best, or saved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from urbansound_hf.errors import UserError

MOST_SKIPPED = 40  # updates in a row; the fp16 scaler has then gone from 2**16 to 2**-24


class NotFiniteError(UserError):
    """A loss, a weight or a score is NaN or infinite."""


class FiniteGuard(TrainerCallback):
    """Checks the losses and weights of one training.

    An update that the fp16 scaler skips because gradients overflowed is no error: the losses of its batches are
    forgotten. `MOST_SKIPPED` of them in a row, or none but such in a whole training, are one.

    Args:
        gather: collects a tensor of every process along its first axis.
        skipped: whether the last call of the optimizer was skipped.
    """

    def __init__(self, gather: Callable[[torch.Tensor], torch.Tensor], skipped: Callable[[], bool]) -> None:
        self.gather, self.skipped = gather, skipped
        self.reset()

    def reset(self) -> None:
        """Forgets a training before the next one."""
        self.step: torch.Tensor | None = None  # () float32, of the first loss that was not finite; 0: none
        self.loss: torch.Tensor | None = None  # () float32, that loss
        self.before: tuple[torch.Tensor | None, torch.Tensor | None] = None, None  # both at the last update
        self.checked = self.skipped_in_a_row = self.updates = 0

    def add(self, loss: torch.Tensor, step: int) -> torch.Tensor:
        """Takes the loss of a batch of update `step`, from 1; returns it, or zero for one that is not finite."""
        if self.step is None or self.loss is None:
            self.step = self.loss = torch.zeros((), device=loss.device)
        first = ~torch.isfinite(loss) & (self.step == 0)
        self.step = torch.where(first, float(step), self.step)
        self.loss = torch.where(first, loss.float(), self.loss)
        return torch.nan_to_num(loss, nan=0.0, posinf=0.0, neginf=0.0)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.updates += 1
        if self.skipped():
            self.skipped_in_a_row += 1
            self.step, self.loss = self.before
        else:
            self.skipped_in_a_row, self.before = 0, (self.step, self.loss)

    def check(self, model: nn.Module, args: TrainingArguments, state: TrainerState) -> None:
        """Reads what was found so far; a second call in the same step does nothing. All processes call it together.

        Raises:
            NotFiniteError: names the step, the loss and what may help.
        """
        if self.skipped_in_a_row >= MOST_SKIPPED:
            self._refuse_skipped(args, state)
        if self.checked == state.global_step > 0:
            return
        self.checked = state.global_step
        finite = finite_weights(model)
        nothing = torch.zeros((), device=finite.device)
        step, loss = (nothing if each is None else each for each in (self.step, self.loss))
        found = self.gather(torch.stack([step, loss.to(finite.device), finite.float()])[None])  # (processes, 3)
        first = min((row for row in found.tolist() if row[0] > 0), default=None)
        if first:
            raise diverged(f"the loss of step {first[0]:.0f} is {first[1]}", args, state)
        if not bool(found[:, 2].all()):
            raise diverged(f"the weights after step {state.global_step} are not finite", args, state)

    def finish(self, model: nn.Module, args: TrainingArguments, state: TrainerState) -> None:
        """The last check of a training, before its model is saved. Raises as `check` does."""
        if self.updates == self.skipped_in_a_row > 0:
            self._refuse_skipped(args, state)
        self.checked = 0  # the best checkpoint may have been loaded since
        self.check(model, args, state)

    def _refuse_skipped(self, args: TrainingArguments, state: TrainerState) -> None:
        number = self.skipped_in_a_row
        what = f"the last {number} updates were skipped, the gradients of each were not finite"
        raise diverged(what, args, state)


def finite_weights(model: nn.Module) -> torch.Tensor:
    """Whether all parameters are finite and no buffer is NaN: `()` bool, on the device."""
    with torch.no_grad():
        weights = [each for each in model.parameters() if each.numel()]
        buffers = [each for each in model.buffers() if each.is_floating_point() and each.numel()]
        # the largest magnitude in each, NaN where one is in it, in a few kernels for all of them
        largest = [torch._foreach_norm(list(each), float("inf")) if each else () for each in (weights, buffers)]
        finite = [*map(torch.isfinite, largest[0]), *(~torch.isnan(each) for each in largest[1])]
        return torch.stack(finite).all() if finite else torch.ones((), dtype=torch.bool)


def check_scores(scores: Any, args: TrainingArguments, state: TrainerState) -> None:
    """Raises NotFiniteError if a clip's scores `(clips, classes)` are not finite although the weights are."""
    bad = int((~np.isfinite(scores).all(axis=-1)).sum())
    if bad:
        raise diverged(f"the scores of {bad} of {len(scores)} windows are not finite", args, state)


def diverged(what: str, args: TrainingArguments, state: TrainerState) -> NotFiniteError:
    """The error, with the last finite loss and what may help."""
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    last = f"; the last loss in the log is {losses[-1]:.3g}" if losses else ""
    ways = [f"lower --learning_rate (now {args.learning_rate:g})"]
    ways += ["limit the gradients with --max_grad_norm 1 (now 0)"] * (not args.max_grad_norm)
    ways += ["use --bf16 or float32 in place of fp16"] * bool(args.fp16 or args.fp16_full_eval)
    fix = f"{', or '.join(ways)}; with new values, --resume_from_checkpoint false starts from the beginning"
    return NotFiniteError(f"the training diverged: {what}{last}", f"step {state.global_step} of {state.max_steps}", fix)
