"""SpecAugment (Park et al., arXiv:1904.08779): masks over bands and frames of a spectrogram, in training only.

The record of a family tells which of its inputs is a spectrogram. Models of waveforms have none; wav2vec2-style models
mask their own hidden states, as in their pretraining (`models.adapt`).
torchaudio's masks draw from torch's global state, so that a clip would depend on the process; these take a generator.
"""

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator


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

    Examples:
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
