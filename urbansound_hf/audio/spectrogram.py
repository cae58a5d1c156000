"""Spectrograms in decibels, on a linear or mel frequency scale, and MFCC, with the edges of every cell."""

from typing import NamedTuple

import numpy as np

from urbansound_hf.audio.dsp import from_mel, mel_edges, mel_filters, to_mel

FRAME_SECONDS = 0.04  # long enough to resolve a voice's harmonics, short enough for a shot
MOST_COLUMNS = 1000  # more than a figure has pixels; of a longer recording, each column is the mean of its frames
FLOOR = -120.0  # dBFS; below the noise of 16-bit samples (-98)
N_MELS, N_MFCC = 64, 20


class Spectrum(NamedTuple):
    """Levels over time and frequency, with the edges of every cell, as `pcolormesh` takes them."""

    levels: np.ndarray  # (bands, columns) in dBFS (0 is a sine at full scale), or, of MFCC, in standard deviations
    times: np.ndarray  # (columns + 1,) in seconds, from 0 to the end of the sound
    bands: np.ndarray  # (bands + 1,) in Hz, or, of MFCC, the coefficients' numbers


def spectrogram(samples: np.ndarray, rate: int) -> Spectrum:
    """The short-time power spectrum in dBFS, on a linear frequency scale.

    Hann windows of 40 ms, overlapping by three quarters; a longer sound is averaged to at most 1,000 columns. A sine
    between two bins reads up to 1.4 dB low, the scalloping loss of the Hann window.

    Args:
        samples: `(samples,)` waveform in [-1, 1].
        rate: its sampling rate in Hz.

    Examples:
        >>> spectrum = ush.spectrogram(ush.load_audio("clip.wav"), 16_000)
        >>> spectrum.levels.shape, float(spectrum.bands[-1]), float(spectrum.times[-1])  # (bands, columns), Hz, s
        ((513, 401), 8000.0, 4.0)
    """
    power, times, _ = _power(samples, rate)
    bins = len(power)
    edges = (np.arange(bins + 1) - 0.5) * rate / 2 / (bins - 1)
    return Spectrum(_decibels(power), times, np.clip(edges, 0, rate / 2))


def mel_spectrogram(samples: np.ndarray, rate: int) -> Spectrum:
    """The short-time power spectrum in dBFS, in 64 bands that are equally wide on HTK's mel scale.

    Args:
        samples: `(samples,)` waveform in [-1, 1].
        rate: its sampling rate in Hz.

    Examples:
        >>> mel = ush.mel_spectrogram(ush.load_audio("clip.wav"), 16_000)
        >>> mel.levels.shape, int((mel.bands[1:] <= 1000).sum())  # a third of the bands lies below 1,000 Hz
        ((64, 401), 22)
    """
    power, times, noise_bins = _power(samples, rate)
    points = (np.arange(N_MELS + 1) + 0.5) * to_mel(rate / 2) / (N_MELS + 1)
    filters = mel_filters(len(power), mel_edges(N_MELS, 0, rate / 2), rate)
    return Spectrum(_decibels(filters @ power / noise_bins), times, from_mel(points))


def mfcc(samples: np.ndarray, rate: int) -> Spectrum:
    """Mel-frequency cepstral coefficients: the first 20 of an orthonormal DCT-II of the mel spectrogram in dB.

    Each coefficient is scaled over time to mean 0 and standard deviation 1.

    Args:
        samples: `(samples,)` waveform in [-1, 1].
        rate: its sampling rate in Hz.

    Examples:
        >>> ush.mfcc(ush.load_audio("clip.wav"), 16_000).levels.shape  # (coefficients, columns)
        (20, 401)
    """
    from scipy.fft import dct

    mel = mel_spectrogram(samples, rate)
    coefficients = dct(mel.levels, axis=0, norm="ortho")[:N_MFCC]
    centred = coefficients - coefficients.mean(axis=1, keepdims=True)
    deviation = coefficients.std(axis=1, keepdims=True)
    scaled = np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 1e-6)  # silence has none
    return Spectrum(scaled, mel.times, np.arange(N_MFCC + 1) - 0.5)


def loudness(samples: np.ndarray) -> float:
    """The root mean square of a `(samples,)` waveform in dBFS (0 is a full-scale square wave); silence is `FLOOR`."""
    power = float(samples @ samples) / max(len(samples), 1)
    return max(10 * float(np.log10(max(power, 1e-30))), FLOOR)


def _power(samples: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray, float]:
    """`(bins, columns)` power, 1 for a full-scale sine; the columns' edges in seconds; bins that white noise fills.

    The frames stay a view of the sound and are transformed a column at a time, so that an hour needs no more memory
    than its samples. A short sound gets shorter frames, so that there is something to see.
    """
    frame = max(16, round(rate * min(FRAME_SECONDS, len(samples) / rate / 8)))
    hop = max(1, min(frame // 4, len(samples) // 200))
    n_fft = max(1024, 2 ** (frame - 1).bit_length())
    window = np.hanning(frame + 2)[1:-1].astype(np.float32)
    padded = np.pad(samples, (frame // 2, frame - frame // 2))
    frames = np.lib.stride_tricks.sliding_window_view(padded, frame)[::hop]  # (frames, frame)
    each = -(-len(frames) // MOST_COLUMNS)  # frames a column
    columns = [
        (np.abs(np.fft.rfft(frames[first : first + each] * window, n_fft)) ** 2).mean(axis=0)
        for first in range(0, len(frames), each)
    ]
    times = np.minimum((np.arange(len(columns) + 1) * each - 0.5) * hop, len(samples)) / rate
    times[0], times[-1] = 0, len(samples) / rate
    noise_bins = n_fft * np.sum(window**2) / np.sum(window) ** 2
    return np.stack(columns, axis=1) / (window.sum() / 2) ** 2, times, float(noise_bins)


def _decibels(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.maximum(power, 10 ** (FLOOR / 10)))
