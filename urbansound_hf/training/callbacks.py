"""Trainer callbacks: progress bars, the moving average of the weights, the epoch of the augmented data set."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from urbansound_hf.errors import Signals, Terminated
from urbansound_hf.profiling import stage
from urbansound_hf.progress import Bar
from urbansound_hf.training.augmented_dataset import AugmentedDataset


class TrainingBar(ProgressCallback):
    """Progress bars of the training steps, with the last loss and validation score, and of each evaluation.

    `--disable_tqdm` turns them off; of several processes, only the first shows them.
    """

    training_bar: Any
    prediction_bar: Any

    def __init__(self) -> None:
        super().__init__()
        self.scores: dict[str, str] = {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.current_step = state.global_step
        self.training_bar = self._bar(args, state, "Training", state.max_steps, unit="steps", initial=self.current_step)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        if self.training_bar is not None:
            score = f"eval_{args.metric_for_best_model}"
            shown = [("loss", "loss"), (score, f"validation {args.metric_for_best_model}")]
            self.scores |= {name: f"{logs[key]:.3f}" for key, name in shown if logs and key in logs}
            self.training_bar.set_postfix_str(", ".join(f"{name} {value}" for name, value in self.scores.items()))

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: Any = None,
        **_: Any,
    ) -> None:
        if self.prediction_bar is None:
            self.prediction_bar = self._bar(args, state, "Scoring", len(eval_dataloader), unit="batches", leave=False)
        self.prediction_bar.update()

    def _bar(self, args: TrainingArguments, state: TrainerState, desc: str, total: int, **kwargs: Any) -> Bar:
        return Bar(desc=desc, total=total, disable=args.disable_tqdm or not state.is_world_process_zero, **kwargs)


AVERAGE = "average.safetensors"  # in each of Trainer's checkpoints


class WeightAverage(TrainerCallback):
    """Exponential moving average of the trained weights: `average = decay * average + (1 - decay) * weights`.

    After n updates `decay` is at most (1 + n) / (10 + n), so that a short training forgets its first weights (as in
    TensorFlow's ExponentialMovingAverage). Batch-norm statistics are averages already and are not averaged again.

    Args:
        decay: per update, 0 to 1.
        continued: the checkpoint that an interrupted training continues from.

    Attributes:
        running: whether training is under way, with an average beside the model's own weights.
    """

    def __init__(self, decay: float, continued: str | None = None) -> None:
        self.decay, self.continued, self.running = decay, continued, False
        self.average: dict[str, torch.Tensor] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.average = {name: weight.detach().clone() for name, weight in trainable_weights(kwargs["model"]).items()}
        if self.continued and (Path(self.continued) / AVERAGE).is_file():
            self._load(self.continued, args)
        self.running = True

    @torch.no_grad()
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        weights = trainable_weights(kwargs["model"])
        torch._foreach_lerp_([self.average[name] for name in weights], list(weights.values()), 1 - decay)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            save_file({name: weight.contiguous() for name, weight in self.average.items()}, folder / AVERAGE)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
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
    """For `--profile`: counts the optimiser's time, and writes a trace of a few steps, which chrome://tracing opens.

    Args:
        trace: the file.
    """

    def __init__(self, trace: Path) -> None:
        self.trace, self.optimiser = trace, ExitStack()
        self.tracer = torch.profiler.profile(
            schedule=torch.profiler.schedule(wait=3, warmup=2, active=3, repeat=1),
            on_trace_ready=lambda tracer: tracer.export_chrome_trace(str(self.trace)),
        )

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.tracer.start()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.optimiser.enter_context(stage("optimiser"))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.optimiser.close()
        self.tracer.step()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.tracer.stop()


class SetEpoch(TrainerCallback):
    """Sets the epoch of the augmented training set before the first batch of the epoch is loaded."""

    def __init__(self, dataset: AugmentedDataset) -> None:
        self.dataset = dataset

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.dataset.epoch.fill_(int(state.epoch or 0))


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

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        Signals.saving = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._agree(args)
        if self.stopping == signal.SIGINT:  # raised in a place that swallowed it
            raise KeyboardInterrupt
        if self.stopping:
            control.should_save, control.should_evaluate = True, False

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.stopping:
            if args.world_size > 1:  # a launcher ends all processes with the first: not before the files are written
                torch.distributed.barrier()
            raise Terminated

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        Signals.saving = False
        self._agree(args)
        self.on_save(args, state, control)
