"""Noise, filters, tones and the mel scale, in numpy."""

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


def mel_edges(n_mels: int, low: float, high: float, scale: str = "htk") -> np.ndarray:
    """The `(n_mels + 2,)` corners in Hz of triangles evenly spaced in mel between two frequencies in Hz.

    Args:
        scale: "htk", or "slaney" (low and high must be at most and at least 1000 Hz).
    """
    if scale == "htk":
        return from_mel(np.linspace(to_mel(low), to_mel(high), n_mels + 2))
    # Slaney's mel: linear up to 1000 Hz (mel 15), then 27 mels to a factor of 6.4.
    mels = np.linspace(low * 3 / 200, 15 + 27 * np.log(high / 1000) / np.log(6.4), n_mels + 2)
    return np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * np.log(6.4) / 27))


def mel_filters(bins: int, edges: np.ndarray, rate: int, in_mel: bool = False, area: bool = False) -> np.ndarray:
    """Triangular filters `(n_mels, bins)` float32 with a peak of 1.

    With the edges of HTK's scale from 0 Hz to half the rate they are those of
    `torchaudio.functional.melscale_fbanks(bins, 0, rate / 2, n_mels, rate)`, transposed.

    Args:
        bins: of the spectrum, from 0 Hz to half the rate.
        edges: `(n_mels + 2,)` in Hz, as of `mel_edges`.
        in_mel: the sides are straight in mel, not in Hz (Kaldi, TensorFlow).
        area: scale each filter to an area of 1 Hz (Slaney) instead.
    """
    scale: Callable[[np.ndarray], np.ndarray] = to_mel if in_mel else np.asarray
    points, corners = scale(np.linspace(0, rate // 2, bins)), scale(edges)
    slopes = corners[:, None] - points  # (n_mels + 2, bins)
    widths = np.diff(corners)[:, None]
    rising, falling = -slopes[:-2] / widths[:-1], slopes[2:] / widths[1:]
    filters = np.maximum(0, np.minimum(rising, falling))
    return (filters * (2 / (edges[2:] - edges[:-2]))[:, None] if area else filters).astype(np.float32)
