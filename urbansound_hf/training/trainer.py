"""`SoundTrainer`: Trainer with this project's loss, parameter groups and evaluation, which equals that of serving."""

from __future__ import annotations

from collections.abc import Sized
from contextlib import nullcontext
from typing import Any, cast

import numpy as np
import torch
from transformers import PrinterCallback, Trainer
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_utils import TrainOutput

from urbansound_hf.config.arguments import RecipeArguments
from urbansound_hf.errors import UserError
from urbansound_hf.features.dataset import collate_evaluation, collate_training
from urbansound_hf.models import adapt
from urbansound_hf.training.augmented_dataset import AugmentedDataset
from urbansound_hf.training.callbacks import SetEpoch, TrainingBar, WeightAverage
from urbansound_hf.training.finite import FiniteGuard, check_scores
from urbansound_hf.training.losses import BalancedSampler, class_weights, classification_loss


class SoundTrainer(Trainer):
    """Trainer that evaluates as serving does: batches of clips of one shape, without padding.

    Args:
        recipe: loss, sampling and weight averaging.
        labels: `(examples,)` class ids of `train_dataset`.
        classes: the number of classes.
        head_learning_rate: of the head; None: `learning_rate`.
        layer_decay: factor of the learning rate from each layer to the one below it.
        continued: the checkpoint that an interrupted training continues from.
        kwargs: of Trainer.
    """

    def __init__(
        self,
        recipe: RecipeArguments,
        labels: np.ndarray,
        classes: int,
        head_learning_rate: float | None = None,
        layer_decay: float = 1.0,
        continued: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(data_collator=collate_training, **kwargs)
        self.classes, self.continued = classes, continued
        self.label_names = ["labels", "clip"]
        self.remove_callback(PrinterCallback if self.args.disable_tqdm else DEFAULT_PROGRESS_CALLBACK)
        self.add_callback(TrainingBar())
        self.guard = FiniteGuard(self.accelerator.gather, lambda: self.accelerator.optimizer_step_was_skipped)
        self.add_callback(self.guard)
        self.follow(recipe, labels, head_learning_rate, layer_decay)
        # The loss is a mean over the batch. If `forward` takes `**kwargs`, Trainer expects a loss that is divided by
        # the accumulated batch, and would not average over gradient accumulation steps.
        self.model_accepts_loss_kwargs = self.loss_is_scaled_for_ga = False

    def follow(
        self, recipe: RecipeArguments, labels: np.ndarray, head_learning_rate: float | None, layer_decay: float
    ) -> None:
        """Replaces the recipe and the learning rates, and adapts to the present `train_dataset`; see the class."""
        self.recipe, self.labels = recipe, labels
        self.head_learning_rate, self.layer_decay = head_learning_rate, layer_decay
        weights = class_weights(labels, self.classes) if recipe.class_weights else None
        self.class_weights = None if weights is None else weights.to(self.args.device)
        self.average = WeightAverage(recipe.ema_decay, self.continued) if recipe.ema_decay else None
        self.remove_callback(WeightAverage)
        self.remove_callback(SetEpoch)
        if self.average:
            self.add_callback(self.average)
        if isinstance(self.train_dataset, AugmentedDataset):
            self.add_callback(SetEpoch(self.train_dataset))

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Trains; raises NotFiniteError if a loss or a weight is not finite, see `FiniteGuard`."""
        clips, batch = len(cast(Sized, self.train_dataset)), self.args.train_batch_size * self.args.world_size
        if self.args.dataloader_drop_last and clips < batch:
            what = f"`dataloader_drop_last` leaves no batch: {clips} windows, batches of {batch}"
            raise UserError(what, "--dataloader_drop_last", "leave it out, or lower --per_device_train_batch_size")
        self.guard.reset()
        outcome = super().train(*args, **kwargs)
        self.guard.finish(cast(torch.nn.Module, self.model), self.args, self.state)
        return outcome

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self.guard.add(super().training_step(*args, **kwargs), self.state.global_step + 1)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            self._check_finite()
        super().log(logs, *args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self._check_finite()
        super()._save_checkpoint(*args, **kwargs)

    def _check_finite(self) -> None:
        self.guard.check(cast(torch.nn.Module, self.model), self.args, self.state)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The model's own loss (ECAPA-TDNN's has a margin), or a cross entropy with soft labels, weights or gamma."""
        labels, smoothing, gamma = inputs["labels"], self.args.label_smoothing_factor, self.recipe.focal_gamma
        if labels.ndim == 1 and self.class_weights is None and not smoothing and not gamma:
            outputs = model(**inputs)
            loss = outputs.loss
        else:
            outputs = model(**{name: values for name, values in inputs.items() if name != "labels"})
            loss = classification_loss(outputs.logits, labels, self.class_weights, smoothing, gamma)
        return (loss, outputs) if return_outputs else loss

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler | None:
        if self.recipe.balanced_sampling:
            return BalancedSampler(self.labels, self.args.seed)
        return super()._get_train_sampler(train_dataset)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluates the weights that will be saved: their moving average with `ema_decay`."""
        self._check_finite()
        unwrapped: Any = self.model
        with self.average.in_place(unwrapped) if self.average and self.average.running else nullcontext():
            result = super().evaluation_loop(*args, **kwargs)
        check_scores(result.predictions, self.args, self.state)
        return result

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Trainer's choice of optimizer (`--optim`) over this project's parameter groups."""
        model = model or self.model
        groups = adapt.parameter_groups(
            model,
            self.args.learning_rate,
            self.args.weight_decay,
            self.head_learning_rate,
            self.layer_decay,
        )
        kind, settings = self.get_optimizer_cls_and_kwargs(self.args, model)
        self.optimizer_cls_and_kwargs = (kind, {"params": groups, **settings})  # such as GaLore's
        return super().create_optimizer(model)

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> torch.utils.data.DataLoader:
        return self._with_evaluation_collator(super().get_eval_dataloader, *args, **kwargs)

    def get_test_dataloader(self, *args: Any, **kwargs: Any) -> torch.utils.data.DataLoader:
        return self._with_evaluation_collator(super().get_test_dataloader, *args, **kwargs)

    def _with_evaluation_collator(self, get: Any, *args: Any, **kwargs: Any) -> torch.utils.data.DataLoader:
        self.data_collator, drop_last = collate_evaluation, self.args.dataloader_drop_last
        self.args.dataloader_drop_last = False  # of training batches only: every clip is evaluated
        try:
            return get(*args, **kwargs)
        finally:
            self.data_collator, self.args.dataloader_drop_last = collate_training, drop_last

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, Any]:
        """Logits `(batch, classes)` of clips of several shapes; the loss is computed with the metrics, over clips."""
        inputs = self._prepare_inputs(inputs)
        groups = self._in_step(inputs["groups"])
        if (self.args.bf16_full_eval or self.args.fp16_full_eval) and not self.is_in_train:
            dtype = next(model.parameters()).dtype  # Trainer has converted the model
            groups = [
                {name: x.to(dtype) if x.is_floating_point() else x for name, x in group.items()} for group in groups
            ]
        with torch.no_grad():
            scored = [model(**group).logits.float() for group in groups]
        order = torch.cat(inputs["positions"]).argsort()
        logits = torch.cat(scored[: len(inputs["groups"])])[order]  # (batch, classes)
        return None, logits, (inputs["labels"], inputs["clip"])

    def _in_step(self, groups: list[dict[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
        """Under FSDP all processes must call the model equally often: repeats the first group, its result is unused."""
        if not self.is_fsdp_enabled:
            return groups
        most = self.accelerator.gather(torch.tensor([len(groups)], device=self.args.device)).max()
        return groups + groups[:1] * (int(most) - len(groups))


def as_dtype(inputs: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The inputs with their floating-point tensors converted."""
    return {name: values.to(dtype) if values.is_floating_point() else values for name, values in inputs.items()}
