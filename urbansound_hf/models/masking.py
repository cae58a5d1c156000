"""The masking of hidden states that wav2vec2-style models apply in training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from urbansound_hf.features.extract import Features


def model_masking(model: PreTrainedModel, features: Features, frequency_share: float, time_share: float) -> bool:
    """Turns on a model's own masking of its hidden states in training, where it has one (wav2vec2-style models).

    The modules decide, not the config: Whisper's has the same values, which its audio classifier
    never reads. Of a model that was built without masking (`mask_time_prob: 0`), the vector that stands for what is
    masked is made here, so call this before the optimizer is made.

    Args:
        model: its `config` and, where needed, its mask vector are changed in place.
        features: one training clip's, without a batch axis: no mask is longer than its hidden states.
        frequency_share: fraction of the hidden dimensions to set to zero, 0 to 1.
        time_share: fraction of the hidden frames to replace, 0 to 1. Masks may overlap, so both are upper bounds.

    Returns:
        whether the model has a masking of its own.
    """
    masking: Any = next((module for module in model.modules() if hasattr(module, "_mask_hidden_states")), None)
    if masking is None:
        return False
    config: Any = model.config
    config.apply_spec_augment = True
    config.mask_time_prob, config.mask_feature_prob = time_share, frequency_share
    config.mask_time_min_masks = config.mask_feature_min_masks = 0  # the shares decide; WavLM's config lacks the second
    config.mask_time_length = min(config.mask_time_length, _hidden_frames(model, features))
    config.mask_feature_length = min(config.mask_feature_length, config.hidden_size)
    if not hasattr(masking, "masked_spec_embed"):
        vector = next(model.parameters()).new_empty(config.hidden_size).uniform_()
        masking.masked_spec_embed = torch.nn.Parameter(vector)
    return True


def _hidden_frames(model: PreTrainedModel, features: Features) -> int:
    """The hidden states of a clip: of samples, what the convolutions leave; of a spectrogram, one for each frame."""
    count = len(next(iter(features.values())))
    layers = zip(getattr(model.config, "conv_kernel", ()), getattr(model.config, "conv_stride", ()), strict=True)
    for kernel, stride in layers if np.ndim(next(iter(features.values()))) == 1 else ():
        count = (count - kernel) // stride + 1
    return count
