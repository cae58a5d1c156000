"""Trainer callbacks: the guard against values that are not finite, bars, averaged weights, profiling, SIGTERM."""

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from urbansound_hf.errors import NotFiniteError, Signals, Terminated
from urbansound_hf.profiling import stage
from urbansound_hf.progress import Bar


class TrainingBar(ProgressCallback):
    """Bars of the training steps, with the last loss and validation score, and of each evaluation."""

    training_bar: Any
    prediction_bar: Any

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        self.current_step, self.scores = state.global_step, dict[str, str]()
        self.training_bar = self._bar(args, state, "Training", state.max_steps, unit="steps", initial=self.current_step)

    def on_log(self, args: TrainingArguments, *_: Any, logs: Any = None, **__: Any) -> None:
        if self.training_bar is not None:
            score = f"eval_{args.metric_for_best_model}"
            shown = [("loss", "loss"), (score, f"validation {args.metric_for_best_model}")]
            self.scores |= {name: f"{logs[key]:.3f}" for key, name in shown if logs and key in logs}
            self.training_bar.set_postfix_str(", ".join(f"{name} {value}" for name, value in self.scores.items()))

    def on_prediction_step(self, args: TrainingArguments, state: TrainerState, *_: Any, **kwargs: Any) -> None:
        if self.prediction_bar is None:
            batches = len(kwargs["eval_dataloader"])
            self.prediction_bar = self._bar(args, state, "Scoring", batches, unit="batches", leave=False)
        self.prediction_bar.update()

    def _bar(self, args: TrainingArguments, state: TrainerState, desc: str, total: int, **kwargs: Any) -> Bar:
        return Bar(desc=desc, total=total, disable=args.disable_tqdm or not state.is_world_process_zero, **kwargs)


AVERAGE = "average.safetensors"  # in each of Trainer's checkpoints


class WeightAverage(TrainerCallback):
    """Exponential moving average of the trained weights: `average = decay * average + (1 - decay) * weights`.

    After n updates `decay` is at most (1 + n) / (10 + n), so that a short training forgets its first weights (as in
    TensorFlow's ExponentialMovingAverage). Batch-norm statistics are averages already and are not averaged again.
    `continued` is the checkpoint that an interrupted training continues from; the average exists while `running`.
    """

    def __init__(self, decay: float, continued: str | None = None) -> None:
        self.decay, self.continued, self.running = decay, continued, False
        self.average: dict[str, Tensor] = {}

    def on_train_begin(self, args: TrainingArguments, *_: Any, **kwargs: Any) -> None:
        self.average = {name: weight.detach().clone() for name, weight in trainable_weights(kwargs["model"]).items()}
        if self.continued and (Path(self.continued) / AVERAGE).is_file():
            self._load(self.continued, args)
        self.running = True

    @torch.no_grad()
    def on_step_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **kwargs: Any) -> None:
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        weights = trainable_weights(kwargs["model"])
        torch._foreach_lerp_([self.average[name] for name in weights], list(weights.values()), 1 - decay)

    def on_save(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            save_file({name: weight.contiguous() for name, weight in self.average.items()}, folder / AVERAGE)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **kwargs: Any) -> None:
        """Copies the average into the model: that of the best checkpoint if Trainer has just loaded one."""
        if args.load_best_model_at_end and state.best_model_checkpoint:
            self._load(state.best_model_checkpoint, args)
        self._exchange(kwargs["model"])
        self.running = False

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """The model with the averaged weights; its own are restored afterwards."""
        self._exchange(model)
        try:
            yield
        finally:
            self._exchange(model)

    def _load(self, checkpoint: str, args: TrainingArguments) -> None:
        self.average = {name: each.to(args.device) for name, each in load_file(Path(checkpoint) / AVERAGE).items()}

    @torch.no_grad()
    def _exchange(self, model: nn.Module) -> None:
        for name, weight in trainable_weights(model).items():
            own = weight.clone()
            weight.copy_(self.average[name])
            self.average[name] = own


def trainable_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that are not frozen, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


class StepTimes(TrainerCallback):
    """For `--profile`: counts the optimiser's time, and writes a trace of a few steps, which chrome://tracing opens."""

    def __init__(self, trace: Path) -> None:
        self.optimiser, steps = ExitStack(), torch.profiler.schedule(wait=3, warmup=2, active=3, repeat=1)
        self.tracer = torch.profiler.profile(
            schedule=steps, on_trace_ready=lambda tracer: tracer.export_chrome_trace(str(trace))
        )

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.tracer.start()

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.optimiser.enter_context(stage("optimiser"))

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.optimiser.close()
        self.tracer.step()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.tracer.stop()


class SaveOnTerm(TrainerCallback):
    """After SIGTERM, saves a checkpoint at the end of the step and raises Terminated; add it after all others.

    Of several processes, all stop after the same step, whichever of them got the signal.
    """

    stopping: int | None = None  # the signal that all processes know of

    def _agree(self, args: TrainingArguments) -> None:
        self.stopping = Signals.received
        if args.world_size > 1:
            number = torch.tensor(self.stopping or 0, device=args.device)
            torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX)
            self.stopping = int(number) or None

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        Signals.saving = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._agree(args)
        if self.stopping == signal.SIGINT:  # raised in a place that swallowed it
            raise KeyboardInterrupt
        if self.stopping:
            control.should_save, control.should_evaluate = True, False

    def on_save(self, args: TrainingArguments, *_: Any, **__: Any) -> None:
        if self.stopping:
            if args.world_size > 1:  # a launcher ends all processes with the first: not before the files are written
                torch.distributed.barrier()
            raise Terminated

    def on_train_end(self, args: TrainingArguments, *_: Any, **__: Any) -> None:
        Signals.saving = False
        self._agree(args)
        self.on_save(args)


MOST_SKIPPED = 40  # updates in a row; the fp16 scaler has then gone from 2**16 to 2**-24


class FiniteGuard(TrainerCallback):
    """Checks the losses and weights of one training.

    An update that the fp16 scaler skips because gradients overflowed is no error: the losses of its batches are
    forgotten. `MOST_SKIPPED` of them in a row, or none but such in a whole training, are one. `gather` collects a
    tensor of every process along its first axis; `skipped`: whether the last call of the optimizer was skipped.
    """

    def __init__(self, gather: Callable[[Tensor], Tensor], skipped: Callable[[], bool]) -> None:
        self.gather, self.skipped = gather, skipped
        self.on_train_begin()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.first: Tensor | None = None  # (2,) float32: step (0: none) and value of the first loss not finite
        self.before: Tensor | None = None  # the same at the last update
        self.checked = self.skipped_in_a_row = self.updates = 0

    def add(self, loss: Tensor, step: int) -> Tensor:
        """Takes the loss of a batch of update `step`, from 1; returns it, or zero for one that is not finite."""
        if self.first is None:
            self.first = loss.new_zeros(2, dtype=torch.float32)
        is_first = ~torch.isfinite(loss) & (self.first[0] == 0)
        now = torch.stack([torch.full_like(loss, step, dtype=torch.float32), loss.float()])
        self.first = torch.where(is_first, now, self.first)
        return torch.nan_to_num(loss, nan=0.0, posinf=0.0, neginf=0.0)

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.updates += 1
        if self.skipped():
            self.skipped_in_a_row, self.first = self.skipped_in_a_row + 1, self.before
        else:
            self.skipped_in_a_row, self.before = 0, self.first

    def check(self, model: nn.Module, args: TrainingArguments, state: TrainerState, at_end: bool = False) -> None:
        """Reads what was recorded so far; NotFiniteError names the step and the loss. All processes call it together.

        A second call in the same step does nothing, unless `at_end`: the best checkpoint may have been loaded since.
        """
        skipped = self.skipped_in_a_row
        if skipped >= MOST_SKIPPED or (at_end and self.updates == skipped > 0):
            what = f"the last {skipped} updates were skipped, the gradients of each were not finite"
            raise diverged(what, args, state)
        if self.checked == state.global_step > 0 and not at_end:
            return
        self.checked = state.global_step
        finite = finite_weights(model)
        first = torch.zeros(2) if self.first is None else self.first
        found = self.gather(torch.cat([first.to(finite.device), finite.float()[None]])[None])  # (processes, 3)
        step, loss, _ = min((row for row in found.tolist() if row[0] > 0), default=(0, 0, 0))
        if step:
            raise diverged(f"the loss of step {step:.0f} is {loss}", args, state)
        if not bool(found[:, 2].all()):
            raise diverged(f"the weights after step {state.global_step} are not finite", args, state)


def finite_weights(model: nn.Module) -> Tensor:
    """Whether all parameters are finite and no buffer is NaN: `()` bool, on the device."""
    with torch.no_grad():
        weights = [each for each in model.parameters() if each.numel()]
        buffers = [each for each in model.buffers() if each.is_floating_point() and each.numel()]
        # the largest magnitude in each, NaN where one is in it, in a few kernels for all of them
        largest = torch._foreach_norm([*weights, *buffers], float("inf")) if weights or buffers else ()
        bad = [~torch.isfinite(each) for each in largest[: len(weights)]] + [*map(torch.isnan, largest[len(weights) :])]
        return ~torch.stack(bad).any() if bad else torch.ones((), dtype=torch.bool)


def check_scores(scores: Any, args: TrainingArguments, state: TrainerState) -> None:
    """Raises NotFiniteError if a clip's scores `(clips, classes)` are not finite although the weights are."""
    bad = int((~np.isfinite(scores).all(axis=-1)).sum())
    if bad:
        raise diverged(f"the scores of {bad} of {len(scores)} windows are not finite", args, state)


def diverged(what: str, args: TrainingArguments, state: TrainerState) -> NotFiniteError:
    """The error, with the last finite loss and what may help."""
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    last = f"; the last loss in the log is {losses[-1]:.3g}" if losses else ""
    fix = f"lower --learning_rate (now {args.learning_rate:g})"
    fix += "" if args.max_grad_norm else ", or limit the gradients with --max_grad_norm 1 (now 0)"
    fix += ", or use --bf16 or float32 in place of fp16" if args.fp16 or args.fp16_full_eval else ""
    fix += "; with new values, --resume_from_checkpoint false starts from the beginning"
    return NotFiniteError(f"the training diverged: {what}{last}", f"step {state.global_step} of {state.max_steps}", fix)
