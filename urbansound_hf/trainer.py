"""Trainer, taught to evaluate as serving does and to use this project's parameter groups."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Trainer

from urbansound_hf import features
from urbansound_hf.config import ModelArguments
from urbansound_hf.models import adapt


class SoundTrainer(Trainer):
    """Trainer that evaluates as serving does: clips of one shape together, nothing padded."""

    def __init__(self, adaptation: ModelArguments, **kwargs: Any) -> None:
        super().__init__(data_collator=features.collate_training, **kwargs)
        self.adaptation = adaptation
        self.label_names = ["labels", "clip"]
        # Our models' losses are means over the batch; Trainer takes a `**kwargs` in `forward` for a promise to divide
        # by the accumulated batch instead, and would then not average over gradient accumulation steps.
        self.model_accepts_loss_kwargs = False

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Trainer's choice of optimizer (`--optim`) over this project's parameter groups."""
        model = model or self.model
        groups = adapt.parameter_groups(
            model,
            self.args.learning_rate,
            self.args.weight_decay,
            self.adaptation.head_learning_rate,
            self.adaptation.layer_decay,
        )
        kind, settings = self.get_optimizer_cls_and_kwargs(self.args, model)
        self.optimizer_cls_and_kwargs = (kind, {"params": groups, **settings})  # GaLore and its kin bring their own
        return super().create_optimizer(model)

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> torch.utils.data.DataLoader:
        return self._with_evaluation_collator(super().get_eval_dataloader, *args, **kwargs)

    def get_test_dataloader(self, *args: Any, **kwargs: Any) -> torch.utils.data.DataLoader:
        return self._with_evaluation_collator(super().get_test_dataloader, *args, **kwargs)

    def _with_evaluation_collator(self, get: Any, *args: Any, **kwargs: Any) -> torch.utils.data.DataLoader:
        self.data_collator = features.collate_evaluation
        try:
            return get(*args, **kwargs)
        finally:
            self.data_collator = features.collate_training

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, Any]:
        """Logits `(batch, classes)` of clips of several shapes; the loss comes with the metrics, of whole clips."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            scored = [model(**group).logits.float() for group in self._in_step(inputs["groups"])]
        order = torch.cat(inputs["positions"]).argsort()
        logits = torch.cat(scored[: len(inputs["groups"])])[order]  # (batch, classes)
        return None, logits, (inputs["labels"], inputs["clip"])

    def _in_step(self, groups: list[dict[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
        """Under FSDP every process must call the model equally often: the first group again, its result unused."""
        if not self.is_fsdp_enabled:
            return groups
        most = self.accelerator.gather(torch.tensor([len(groups)], device=self.args.device)).max()
        return groups + groups[:1] * (int(most) - len(groups))
