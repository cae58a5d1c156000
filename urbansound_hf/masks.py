"""SpecAugment (Park et al., arXiv:1904.08779): bands and stretches of time hidden from a model while it learns.

Models that hear a spectrogram get it masked; the wav2vec2 kind hears samples, and masks its own hidden states, as in
its pretraining. Which of both a model is, its feature extractor and its modules tell, not the name of its family.
torchaudio's masks draw from torch's global state, so that a clip would depend on the process; these take a generator.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from transformers import PreTrainedModel

from urbansound_hf.features import FeatureExtractor, Features, extract

BAND_SETTINGS = ("num_mel_bins", "n_mfcc", "n_mels", "feature_size")
"""What feature extractors call their number of bands; not every one that has a setting listens to it."""


def axes(feature_extractor: FeatureExtractor, features: Features) -> tuple[str, int, int] | None:
    """Which of a model's inputs is a spectrogram, and how it lies.

    Shapes alone do not tell: with 128 bands and 128 frames, both axes are equally long. So the extractor is asked for
    one band more, and the axis that grows is that of frequency. (wav2vec2-bert lays two frames side by side, so a mask
    over its bands hides them in one frame of two; its own masking serves it better.)

    Args:
        features: one clip's, without a batch axis.

    Returns:
        the entry's name, its frequency axis and its time axis; None where the model hears samples.
    """
    settings = feature_extractor.to_dict()
    pictures = [name for name, values in features.items() if values.ndim > 1]
    clip = np.zeros(feature_extractor.sampling_rate, np.float32)
    for setting in (setting for setting in BAND_SETTINGS if pictures and setting in settings):
        more = type(feature_extractor)(**{**settings, setting: settings[setting] + 1})
        before, after = extract(feature_extractor, clip), extract(more, clip)
        for name in pictures:
            grown = np.flatnonzero(np.subtract(after[name].shape, before[name].shape))
            if len(grown):
                frequency = int(grown[0])
                others = [axis for axis in range(features[name].ndim) if axis != frequency]
                return name, frequency, max(others, key=lambda axis: features[name].shape[axis])
    return None


def spec_augment(
    features: Features,
    picture: tuple[str, int, int],
    generator: Generator,
    frequency_width: float,
    time_width: float,
    frequency_masks: int = 1,
    time_masks: int = 1,
) -> Features:
    """Sets bands and stretches of time of a spectrogram to its mean.

    Args:
        features: one clip's; they stay as they are.
        picture: what `axes` returns.
        generator: the source of the widths, evenly from nothing to the widest, and of the places.
        frequency_width, time_width: the widest mask, as shares of all bands and of all frames, 0 to 1.
        frequency_masks, time_masks: how many of each; they may overlap.

    Returns:
        the features, with another array under the spectrogram's name.
    """
    name, frequency, time = picture
    masked = features[name].copy()
    mean = masked.mean()
    for axis, width, count in ((frequency, frequency_width, frequency_masks), (time, time_width, time_masks)):
        lines = np.moveaxis(masked, axis, 0)  # a view
        for _ in range(count):
            hidden = generator.integers(round(width * len(lines)) + 1)
            start = generator.integers(len(lines) - hidden + 1)
            lines[start : start + hidden] = mean
    return {**features, name: masked}


def model_masking(model: PreTrainedModel, features: Features, frequency_share: float, time_share: float) -> bool:
    """Turns on a model's own masking of its hidden states in training, where it has one (the wav2vec2 kind).

    The model itself is asked, as the config does not tell: Whisper's has the same values, which its audio classifier
    never reads. Of a model that was built without masking (`mask_time_prob: 0`), the vector that stands for what is
    masked is made here, so call this before the optimizer is made.

    Args:
        model: its `config` and, where needed, its mask vector are changed in place.
        features: one training clip's, without a batch axis: no mask is longer than its hidden states.
        frequency_share: the share of the hidden dimensions to set to zero, 0 to 1.
        time_share: the share of the hidden frames to replace, 0 to 1. Masks may overlap, so both are upper bounds.

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
