"""SpecAugment (Park et al., arXiv:1904.08779): bands and stretches of time hidden from a model while it learns.

Models that hear a spectrogram get it masked; the wav2vec2 kind hears samples, and masks its own hidden states, as in
its pretraining. Which of both a model is, its feature extractor and its modules tell, not the name of its family.
torchaudio's masks draw from torch's global state, so that a clip would depend on the process; these take a generator.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from urbansound_hf.features.extract import FeatureExtractor, Features, extract

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
    name, *axes_of = picture
    widths, counts = (frequency_width, time_width), (frequency_masks, time_masks)
    return {**features, name: mask_spectrogram(features[name], generator, widths, counts, axes_of)}


def mask_spectrogram(
    spectrogram: np.ndarray,
    generator: Generator,
    widths: Sequence[float] = (0.2, 0.2),
    counts: Sequence[int] = (1, 1),
    axes: Sequence[int] = (0, 1),
) -> np.ndarray:
    """SpecAugment of one spectrogram: bands and stretches of time are set to its mean (arXiv:1904.08779).

    Args:
        spectrogram: `(bands, frames)`, or any array with these two axes; it is not changed.
        generator: the source of the widths, uniform from 0 to the widest, and of the positions.
        widths: the widest mask over frequency and over time, as fractions of all bands and of all frames, 0 to 1.
        counts: the number of masks over frequency and over time; they may overlap.
        axes: the frequency axis and the time axis.

    Returns:
        a masked copy, of the same shape and dtype.

    >>> levels = ush.mel_spectrogram(ush.load_audio("clip.wav"), 16_000).levels
    >>> masked = ush.augment.mask_spectrogram(levels, np.random.default_rng(4), widths=(0.3, 0.3))
    >>> masked.shape == levels.shape, bool((masked != levels).any())
    (True, True)
    """
    masked = spectrogram.copy()
    mean = masked.mean()
    for axis, width, count in zip(axes, widths, counts, strict=True):
        lines = np.moveaxis(masked, axis, 0)  # a view
        for _ in range(count):
            hidden = generator.integers(round(width * len(lines)) + 1)
            start = generator.integers(len(lines) - hidden + 1)
            lines[start : start + hidden] = mean
    return masked
