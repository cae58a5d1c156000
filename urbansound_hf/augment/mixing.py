"""Two clips in one, with the classes of both: mixup (arXiv:1710.09412) and CutMix along time (arXiv:1905.04899)."""

from typing import Literal

import numpy as np
from numpy.random import Generator


def mix(
    one: np.ndarray,
    other: np.ndarray,
    target_one: np.ndarray,
    target_other: np.ndarray,
    alpha: float,
    how: Literal["mixup", "cutmix"],
    time_axis: int,
    generator: Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Mixes two clips, and their labels in the shares that the clips have in the result.

    Args:
        one, other: float32 of the same shape: waveforms `(samples,)` or a spectrogram each; they stay as they are.
        target_one, target_other: `(classes,)` float32.
        alpha: the weight of `one` is drawn from Beta(alpha, alpha): below 1 mostly one clip, above 1 mostly both.
        how: "mixup" adds them up; "cutmix" replaces a stretch of `one` by the same stretch of `other`.
        time_axis: along which CutMix cuts.

    Returns:
        the mixture, of the same shape, and its `(classes,)` float32 target. A mixup of waveforms may
        exceed full scale by up to √2.

    Raises:
        ValueError: the shapes differ.

    Examples:
        >>> bark, noise = ush.load_audio("clip.wav"), np.random.default_rng(0).uniform(-1, 1, 64_000).astype(np.float32)
        >>> targets = np.eye(2, dtype=np.float32)  # the first class, the second class
        >>> mixed, target = ush.augment.mix(bark, noise, *targets, 0.4, "mixup", 0, np.random.default_rng(0))
        >>> mixed.shape, round(float(target.sum()), 6)
        ((64000,), 1.0)
    """
    if one.shape != other.shape:
        raise ValueError(f"clips to mix must have the same shape, found {one.shape} and {other.shape}")
    share = float(generator.beta(alpha, alpha))
    if how == "cutmix":
        mixed, share = _cutmix(one, other, share, time_axis, generator)
    elif one.ndim == 1:
        mixed = _between(one, other, share)
    else:
        mixed = share * one + (1 - share) * other
    return mixed, share * target_one + (1 - share) * target_other


def _cutmix(
    one: np.ndarray, other: np.ndarray, share: float, axis: int, generator: Generator
) -> tuple[np.ndarray, float]:
    """The mixture, and the share of its frames (or samples) that is really from `one`."""
    frames = one.shape[axis]
    length = round((1 - share) * frames)
    start = generator.integers(frames - length + 1)
    mixed = one.copy()
    np.moveaxis(mixed, axis, 0)[start : start + length] = np.moveaxis(other, axis, 0)[start : start + length]
    return mixed, 1 - length / frames


def _between(one: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """Two waveforms of which `share` of the amplitude (root mean square) is of `one`, however loud each was.

    Between-class learning (Tokozume et al., arXiv:1711.10282, equation 2), with the root mean square for their
    A-weighted level. The root below the fraction keeps the energy of sounds that have nothing in common. A silent clip
    has no level to be brought to: the other one is then added as it is.
    """
    levels = [float(np.sqrt(np.mean(np.square(clip, dtype=np.float64)))) for clip in (one, other)]
    weight = share
    if all(levels):
        weight = share * levels[1] / (share * levels[1] + (1 - share) * levels[0])
    return (weight * one + (1 - weight) * other) / (weight**2 + (1 - weight) ** 2) ** 0.5
