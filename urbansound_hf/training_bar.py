"""Trainer's progress as one bar of ours, in place of its own, which fill a log with lines nobody reads."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from urbansound_hf.progress import Bar


class TrainingBar(TrainerCallback):
    """A bar over the training steps, the last loss and validation score beside it, and one over each evaluation.

    `--disable_tqdm` switches it off; of several processes, the first has it.
    """

    def __init__(self) -> None:
        self.training: Bar | None = None
        self.scoring: Bar | None = None
        self.scores: dict[str, str] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.training = self._bar(args, state, "Training", state.max_steps, unit="steps", initial=state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.training is not None:
            self.training.update(state.global_step - self.training.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.training is not None:
            score = f"eval_{args.metric_for_best_model}"
            told = [("loss", "loss"), (score, f"validation {args.metric_for_best_model}")]
            self.scores |= {name: f"{logs[key]:.3f}" for key, name in told if logs and key in logs}
            self.training.set_postfix_str(", ".join(f"{name} {value}" for name, value in self.scores.items()))

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        if self.scoring is None:
            self.scoring = self._bar(args, state, "Scoring", len(eval_dataloader), unit="batches", leave=False)
        self.scoring.update()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._scored()

    def on_predict(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any, **kwargs: Any
    ) -> None:
        self._scored()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.training is not None:
            self.training.close()

    def _bar(self, args: TrainingArguments, state: TrainerState, desc: str, total: int, **kwargs: Any) -> Bar:
        return Bar(desc=desc, total=total, disable=args.disable_tqdm or not state.is_world_process_zero, **kwargs)

    def _scored(self) -> None:
        if self.scoring is not None:
            self.scoring.close()
        self.scoring = None
