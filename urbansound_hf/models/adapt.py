"""The parts of a pretrained model: backbone, layers, pooled output; what is frozen, runs once, or is masked; rates."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging

from urbansound_hf.features.extract import Features
from urbansound_hf.models.heads import LAYER_DROPS

logger = logging.get_logger(__name__)


def freeze(model: PreTrainedModel, what: str, unfreeze_last_n: int = 0) -> None:
    """Freezes part of a model, in place; with "backbone", the last `unfreeze_last_n` layers learn all the same.

    `what`: "none"; "feature_encoder", the convolutions before the transformer (nothing where a family has none); or
    "backbone", everything but the classification head.
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
        normed = isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
        if normed and not any(p.requires_grad for p in module.parameters()):
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


def pooled(model: PreTrainedModel, outputs: Any, inputs: dict[str, Tensor]) -> Tensor:
    """The `outputs` of the backbone, pooled as the model pools them; see `linear_probe.embed`."""
    if pool_patches := getattr(model, "pool_patches", None):
        return pool_patches(outputs, inputs.get("attention_mask"))
    layered = hasattr(model, "layer_weights")
    if layered:
        outputs = torch.stack(outputs.hidden_states, dim=1)
    elif not isinstance(outputs, Tensor):
        pooled = getattr(outputs, "pooler_output", None)
        outputs = outputs[0] if pooled is None else pooled
    if outputs.ndim != 3 + layered:
        return outputs.float()
    frames, mask = outputs.float(), inputs.get("attention_mask")  # (batch, [layers,] frames, hidden)
    frames_mask: Any = getattr(model, "_get_feature_vector_attention_mask", None)
    if mask is None or frames_mask is None:
        return frames.mean(dim=-2)
    # wav2vec2-bert's extractor fills up an odd number of frames, and the model leaves the last one out
    valid = frames_mask(frames.shape[-2], mask).unsqueeze(-1)  # (batch, frames, 1)
    if layered:
        valid = valid.unsqueeze(1)
    return (frames * valid).sum(dim=-2) / valid.sum(dim=-2)


class LogitsAndEmbedding(nn.Module):
    """A classifier whose outputs are its logits and the pooled output of its backbone."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Both outputs, (batch, classes) and (batch, hidden), in one pass."""
        seen: list[Any] = []
        watch = backbone(self.model).register_forward_hook(lambda _module, _inputs, outputs: seen.append(outputs))
        logits = self.model(**inputs).logits
        watch.remove()
        embedding = pooled(self.model, seen[0], inputs)
        weights: Any = getattr(self.model, "layer_weights", None)
        if weights is not None:
            embedding = (embedding * weights.softmax(dim=0)[:, None]).sum(dim=1)
        return logits, embedding


def parameter_groups(
    model: PreTrainedModel,
    learning_rate: float,
    weight_decay: float,
    head_learning_rate: float | None = None,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """The trainable parameters in the optimizer's groups, `[{"params": […], "lr": …, "weight_decay": …}, …]`.

    Args:
        learning_rate: that of the last layer of the backbone.
        weight_decay: for matrices and kernels only; biases and norms do not decay.
        head_learning_rate: that of what lies outside the backbone (default: `learning_rate`).
        layer_decay: factor from each layer to the one before it (BEiT, arXiv:2106.08254: 0.75).
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
        in_layers = learning_rate * layer_decay ** (len(stack) - 1 - at)
        rate = in_layers if id(parameter) in inside else head_learning_rate or learning_rate
        groups.setdefault((rate, weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    return [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()]


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Parameters in all, and those that are trained."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"parameters": sum(p.numel() for p in model.parameters()), "trained_parameters": trained}


class FrozenPart:
    """Consecutive frozen modules from the start of a model on, in order; while `skipped`, they do not run."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.modules = list(modules)
        self.output: Tensor | None = None  # what the last of them gives while they are skipped, `(batch * n, …)`

    def compute(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """The output of the last module, `(batch, n, …)`, n being 1 or the patches of a clip; the rest does not run."""

        def stop(module: nn.Module, inputs: Any, output: Any) -> None:
            raise _Reached(output)

        handle = self.modules[-1].register_forward_hook(stop)
        try:
            model(**inputs)
        except _Reached as reached:
            (output,), clips = reached.args, len(next(iter(inputs.values())))
            return output.unflatten(0, (clips, -1)) if isinstance(output, Tensor) else output
        finally:
            handle.remove()
        raise RuntimeError("the model did not call its frozen part")

    def is_constant(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> bool:
        """Whether a clip's output is the same in training: nothing before it learns, no dropout, no other clips."""
        device = next(model.parameters()).device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.enable_grad():
            one, other = (self.compute(model.train(), inputs) for _ in range(2))
            alone = self.compute(model, {name: values[:1] for name, values in inputs.items()})
        if not isinstance(one, Tensor) or one.requires_grad or not torch.equal(one, other):
            return False
        return bool((alone[0] - one[0]).norm() <= 1e-2 * one[0].norm())  # in bfloat16 too

    @contextmanager
    def skipped(self) -> Iterator[None]:
        """The model with this part left out; its weights stay where they are, so that checkpoints are complete."""
        for module in self.modules:
            module.forward = lambda *args, **kwargs: (*args, *kwargs.values())[0]  # type: ignore[method-assign]
        self.modules[-1].forward = lambda *args, **kwargs: self.output  # type: ignore[method-assign]
        try:
            yield
        finally:
            self.output = None
            for module in self.modules:
                del module.forward


class _Reached(BaseException):
    """The output of a module, after which the model need not go on."""


def frozen_parts(model: nn.Module) -> Iterator[FrozenPart]:
    """The parts that may be constant, the longest first: the frozen layers, the convolutional feature encoder.

    Not the layers where the model masks hidden states, drops whole layers, or uses the outputs of several of them.
    """
    if not isinstance(model, PreTrainedModel):
        return  # the head of a probe
    config: Any = model.config
    masks = any(hasattr(module, "_mask_hidden_states") for module in model.modules())
    masks = masks and config.apply_spec_augment and bool(config.mask_time_prob or config.mask_feature_prob)
    drops = any(getattr(config, name, 0) for name in LAYER_DROPS)
    below = list(takewhile(_is_frozen, layers(model)))
    if below and not (masks or drops or hasattr(model, "layer_weights") or getattr(config, "embedding_layers", None)):
        yield FrozenPart(below)
    front = getattr(backbone(model), "feature_extractor", None)
    if isinstance(front, nn.Module) and _is_frozen(front):
        yield FrozenPart([front])


def _is_frozen(module: nn.Module) -> bool:
    return not any(parameter.requires_grad for parameter in module.parameters())


def model_masking(model: PreTrainedModel, features: Features, frequency_share: float, time_share: float) -> bool:
    """Turns on a model's own masking of its hidden states in training, in place; returns whether it has one.

    The modules decide, not the config: Whisper's has the same values, which its audio classifier never reads. Of a
    model that was built without masking, the vector that stands for what is masked is made here, before the optimizer.

    Args:
        features: one training clip's, without a batch axis: no mask is longer than its hidden states.
        frequency_share, time_share: fractions of the hidden dimensions to set to zero and of the hidden frames to
            replace, 0 to 1. Masks may overlap, so both are upper bounds.
    """
    masking: Any = next((module for module in model.modules() if hasattr(module, "_mask_hidden_states")), None)
    if masking is None:
        return False
    config: Any = model.config
    config.apply_spec_augment = True
    config.mask_time_prob, config.mask_feature_prob = time_share, frequency_share
    config.mask_time_min_masks = config.mask_feature_min_masks = 0  # the shares decide; WavLM's config lacks the second
    clip = next(iter(features.values()))
    frames = len(clip)  # of a spectrogram, one hidden state each; of samples, what the convolutions leave
    if clip.ndim == 1:
        frames = int(masking._get_feat_extract_output_lengths(torch.tensor(frames)))
    config.mask_time_length = min(config.mask_time_length, frames)
    config.mask_feature_length = min(config.mask_feature_length, config.hidden_size)
    if not hasattr(masking, "masked_spec_embed"):
        vector = next(model.parameters()).new_empty(config.hidden_size).uniform_()
        masking.masked_spec_embed = torch.nn.Parameter(vector)
    return True


def mask_without_waiting(model: PreTrainedModel) -> None:
    """Lets a wav2vec2-style model mask its hidden states as before, but without a wait for the device, in place.

    Transformers sends each mask with a copy that waits, and indexes by it, which waits again.
    """
    for module in model.modules():
        if hasattr(module, "_mask_hidden_states"):
            module._mask_hidden_states = partial(_mask_hidden_states, module)  # type: ignore[assignment]


def _mask_hidden_states(
    module: Any, hidden_states: Tensor, mask_time_indices: Tensor | None = None, attention_mask: Tensor | None = None
) -> Tensor:
    config, (clips, frames, width) = module.config, hidden_states.shape
    if not (getattr(config, "apply_spec_augment", True) and module.training):
        return hidden_states
    draw = sys.modules[type(module).__module__]._compute_mask_indices  # each family has its own copy
    if config.mask_time_prob > 0:
        options = {"attention_mask": attention_mask, "min_masks": config.mask_time_min_masks}
        mask = draw((clips, frames), config.mask_time_prob, config.mask_time_length, **options)
        vector = module.masked_spec_embed.to(hidden_states.dtype)
        hidden_states = torch.where(_sent(mask, hidden_states)[..., None], vector, hidden_states)
    if config.mask_feature_prob > 0:
        least = getattr(config, "mask_feature_min_masks", 0)
        mask = draw((clips, width), config.mask_feature_prob, config.mask_feature_length, min_masks=least)
        hidden_states = hidden_states.masked_fill(_sent(mask, hidden_states)[:, None], 0)
    return hidden_states


def _sent(mask: np.ndarray, to: Tensor) -> Tensor:
    """A mask as bool on the device of `to`; a GPU is not waited for."""
    values = torch.from_numpy(mask.astype(bool))
    return values.pin_memory().to(to.device, non_blocking=True) if to.device.type == "cuda" else values.to(to.device)
