"""Explanation of a score by occlusion: each tile of the spectrogram is silenced in turn, and the sound scored again.

Occlusion (Zeiler and Fergus 2014, https://arxiv.org/abs/1311.2901) needs nothing of a model but its scores, so it works
for every family: a tile of the short-time Fourier transform is set to zero, and its inverse classified.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy.signal import istft, stft

from urbansound_hf.audio.dsp import from_mel, to_mel
from urbansound_hf.inference.classifier import SoundClassifier

BANDS, STEPS = 8, 16  # tiles up the frequencies and along the time
FRAME_SECONDS = 0.064  # of the transform: short enough for a shot, long enough for the partials of a siren
LITTLE = 0.1  # in log-odds: moves a score of 0.5 by 0.025
CAVEAT = (
    "Each tile is silenced alone, and the model scores the rest. Two tiles with the same information can each be "
    "silenced without effect, and a silent gap is itself a sound that the model was not trained on."
)
Track = Callable[[Iterable[int]], Iterable[int]]


@dataclass(frozen=True)
class Occlusion:
    """The effect of silencing each tile on a score.

    The evidence is by how much a tile raises the log-odds of the class against all others, since the score of a sure
    model moves only from 0.999 to 0.99 where that of a doubting one moves from 0.7 to 0.2.
    """

    label: str  # the class that is explained
    score: float  # of the whole sound, in [0, 1]
    without: np.ndarray  # (bands, steps) float32, the score that is left without each tile
    evidence: np.ndarray  # (bands, steps)
    times: np.ndarray  # (steps + 1,) edges of the tiles in seconds
    hertz: np.ndarray  # (bands + 1,) edges of the tiles, evenly spaced in mel

    def sentence(self) -> str:
        """The most important tile, in words."""
        band, step = np.unravel_index(self.evidence.argmax(), self.evidence.shape)
        if self.evidence[band, step] < LITTLE:
            return f"{self.label} {self.score:.4f}: no single tile matters; whichever is silent, the score stays."
        start, end = self.times[step : step + 2]
        low, high = self.hertz[band : band + 2]
        place = f"{start:.2f}–{end:.2f} s at {low:,.0f}–{high:,.0f} Hz"
        score, odds = self.without[band, step], np.exp(self.evidence[band, step])
        return (
            f"{self.label} {self.score:.4f}: the most important tile is {place}; "
            f"without it the score is {score:.4f} (odds {odds:,.1f} times lower)."
        )


def occlusion(classifier: SoundClassifier, waveform: np.ndarray, track: Track = iter) -> Occlusion:
    """Silences each of `BANDS` × `STEPS` tiles of a sound and scores what is left; explains the predicted class.

    Args:
        waveform: `(samples,)` float32, full scale 1.0, at the model's rate, no longer than its window.
        track: wraps the loop over the bands, as `tqdm` does, to show progress.

    Raises:
        AudioError: the sound is too short for the model.
    """
    whole = classifier.probabilities([waveform])[0]
    chosen = int(whole.argmax())
    hertz = from_mel(np.linspace(0, to_mel(classifier.sampling_rate / 2), BANDS + 1))
    silenced = _silenced(waveform, classifier.sampling_rate, hertz)
    left = np.stack([classifier.probabilities([silenced(band, step) for step in range(STEPS)])
                     for band in track(range(BANDS))])  # (bands, steps, classes)  # fmt: skip
    evidence = _log_odds(whole, chosen) - _log_odds(left, chosen)
    times = np.linspace(0, len(waveform) / classifier.sampling_rate, STEPS + 1)
    return Occlusion(classifier.labels[chosen], float(whole[chosen]), left[:, :, chosen], evidence, times, hertz)


def _silenced(waveform: np.ndarray, rate: int, hertz: np.ndarray) -> Callable[[int, int], np.ndarray]:
    """A function of band and step: the waveform without that tile."""
    length = round(FRAME_SECONDS * rate)
    frames = {"fs": rate, "nperseg": length, "noverlap": length - length // 4}
    whole = np.pad(waveform, (0, max(length - len(waveform), 0)))  # at least one frame
    frequencies, times, spectrum = stft(whole, **frames)  # spectrum: (frequencies, times)
    band_of = np.clip(np.searchsorted(hertz, frequencies, side="right") - 1, 0, BANDS - 1)
    step_of = np.clip(times * rate / len(waveform) * STEPS, 0, STEPS - 1).astype(int)

    def without(band: int, step: int) -> np.ndarray:
        tile = (band_of == band)[:, None] & (step_of == step)
        return istft(np.where(tile, 0, spectrum), **frames)[1][: len(waveform)].astype(np.float32)

    return without


def _log_odds(scores: np.ndarray, chosen: int) -> np.ndarray:
    """Of `(…, classes)` scores; the others' sum, because 1 − 0.9999999 is lost in single precision."""
    others = np.delete(scores, chosen, axis=-1).sum(axis=-1)
    return np.log(np.maximum(scores[..., chosen], 1e-30)) - np.log(np.maximum(others, 1e-30))
