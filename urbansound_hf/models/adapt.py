"""How much of a pretrained model to adapt: what is frozen, and how fast what is not may learn."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging

logger = logging.get_logger(__name__)


def freeze(model: PreTrainedModel, what: str, unfreeze_last_n: int = 0) -> None:
    """Freezes part of a model, in place.

    Args:
        what: "none"; "feature_encoder", the convolutions before the transformer (nothing where a family has none); or
            "backbone", everything but the classification head.
        unfreeze_last_n: with "backbone", the number of last layers that learn all the same.
    """
    if freeze_front := getattr(model, "freeze_feature_encoder", None) if what != "none" else None:
        freeze_front()  # without it, Transformers lets gradients flow through frozen convolutions
    if what == "feature_encoder":
        if not freeze_front:
            logger.info("%s has no feature encoder to freeze: all of it is trained", model.config.model_type)
    elif what == "backbone":
        backbone(model).requires_grad_(False)
        for layer in list(layers(model))[-unfreeze_last_n:] if unfreeze_last_n else []:
            layer.requires_grad_(True)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and not any(
            p.requires_grad for p in module.parameters()
        ):
            module.register_forward_pre_hook(_use_running_statistics)


def _use_running_statistics(module: nn.Module, _: Any) -> None:
    """Before each pass of a frozen batch norm: `model.train()` would let it follow the batches all the same."""
    module.eval()


def backbone(model: PreTrainedModel) -> nn.Module:
    """The pretrained part: what the model calls its base, or its largest child where (Whisper) it calls none so."""
    if model.base_model is not model:
        return model.base_model
    return max(model.children(), key=lambda child: sum(p.numel() for p in child.parameters()))


def layers(model: PreTrainedModel) -> nn.ModuleList:
    """The backbone's stack of layers, input side first: its largest module list outside the convolutional front."""
    stacks = [
        module
        for name, module in backbone(model).named_modules()
        if isinstance(module, nn.ModuleList) and "feature_extractor" not in name and "pos_conv" not in name
    ]
    return max(stacks, key=lambda stack: sum(p.numel() for p in stack.parameters()), default=nn.ModuleList())


def parameter_groups(
    model: PreTrainedModel,
    learning_rate: float,
    weight_decay: float,
    head_learning_rate: float | None = None,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """The trainable parameters in the optimizer's groups.

    Args:
        learning_rate: that of the last layer of the backbone.
        weight_decay: for matrices and kernels only; biases and norms do not decay.
        head_learning_rate: that of what lies outside the backbone (default: `learning_rate`).
        layer_decay: factor from each layer to the one before it (BEiT, arXiv:2106.08254: 0.75).

    Returns:
        `[{"params": […], "lr": …, "weight_decay": …}, …]`.
    """
    stack = layers(model)
    depth = {id(p): i for i, layer in enumerate(stack) for p in layer.parameters()}
    inside = {id(p) for p in backbone(model).parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    at = -1  # what stands before the first layer counts as one layer more, a norm after the last belongs to that
    for parameter in model.parameters():
        at = depth.get(id(parameter), at)
        if not parameter.requires_grad:
            continue
        rate = head_learning_rate or learning_rate
        if id(parameter) in inside:
            rate = learning_rate * layer_decay ** (len(stack) - 1 - at)
        decay = weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()]


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Parameters in all, and those that are trained."""
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
