"""The masking of hidden states that wav2vec2-style models apply in training."""

import sys
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from urbansound_hf.features.extract import Features


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
    layers = zip(getattr(config, "conv_kernel", ()), getattr(config, "conv_stride", ()), strict=True)
    for kernel, stride in layers if clip.ndim == 1 else ():
        frames = (frames - kernel) // stride + 1
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
