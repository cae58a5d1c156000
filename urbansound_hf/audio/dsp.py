"""Noise, filters, tones and the mel scale, in numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

Response = Callable[[np.ndarray], np.ndarray]  # frequencies in Hz → gains


# ---- what the sounds are made of; time is (samples,) float64 in seconds, rate in Hz


def tone(hertz: np.ndarray, partials: np.ndarray, rate: int) -> np.ndarray:
    """A harmonic tone of gliding pitch `(samples,)`; partials above half the rate are left out, so none fold back."""
    partials = partials[: int(rate / 2 / hertz.max())]
    angle = np.linspace(0, 2 * np.pi, 4096, endpoint=False)
    period = partials @ np.sin(np.outer(np.arange(1, len(partials) + 1), angle))  # one period; then only look-ups
    return period[(np.cumsum(hertz / rate) * 4096).astype(np.int64) % 4096]


def noise(draw: Generator, samples: int, rate: int, response: Response) -> np.ndarray:
    """Noise of a given spectrum and unit power, `(samples,)`."""
    real, imaginary = draw.standard_normal((2, samples // 2 + 1), dtype=np.float32)
    noise = _from_spectrum(real + 1j * imaginary, samples, rate, response)
    return noise / (noise.std() + 1e-12)


def filtered(waveform: np.ndarray, rate: int, response: Response) -> np.ndarray:
    return _from_spectrum(np.fft.rfft(waveform.astype(np.float32)), len(waveform), rate, response)


def _from_spectrum(spectrum: np.ndarray, samples: int, rate: int, response: Response) -> np.ndarray:
    hertz = np.fft.rfftfreq(samples, 1 / rate).astype(np.float32)  # single precision: twice as fast
    return np.fft.irfft((spectrum * response(hertz)).astype(np.complex64), samples)


def resonances(centres: np.ndarray, bandwidth: float) -> Response:
    """Peaks at `centres` Hz, each half as high as the one before: the formants of a throat or of a horn."""
    return lambda hertz: sum(0.5**k / (1 + ((hertz - c) / bandwidth) ** 2) for k, c in enumerate(centres))


def lowpass(hertz: float) -> Response:
    return lambda frequency: 1 / (1 + (frequency / hertz) ** 2)


def highpass(hertz: float) -> Response:
    return lambda frequency: 1 - 1 / (1 + (frequency / hertz) ** 2)


def to_mel(hertz: np.ndarray | float) -> np.ndarray:
    """Hz → mel, as torchaudio's filters have it (HTK)."""
    return 2595 * np.log10(1 + np.asarray(hertz) / 700)


def from_mel(mels: np.ndarray | float) -> np.ndarray:
    """Mel → Hz."""
    return 700 * (10 ** (np.asarray(mels) / 2595) - 1)


def mel_filters(bins: int, n_mels: int, rate: int) -> np.ndarray:
    """Triangular mel filters `(n_mels, bins)` float32 with a peak of 1, on HTK's mel scale from 0 Hz to half the rate.

    They are those of `torchaudio.functional.melscale_fbanks(bins, 0, rate / 2, n_mels, rate)`, transposed.
    """
    hertz = np.linspace(0, rate // 2, bins)  # of each bin
    edges = from_mel(np.linspace(0, to_mel(rate / 2), n_mels + 2))
    slopes = edges[:, None] - hertz  # (n_mels + 2, bins)
    widths = np.diff(edges)[:, None]
    rising, falling = -slopes[:-2] / widths[:-1], slopes[2:] / widths[1:]
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
