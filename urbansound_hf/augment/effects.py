"""Waveform effects that keep the class of a sound: noise, gaps, level, speed, pitch, filters, rooms.

Every effect takes a `(samples,)` float32 waveform, its sampling rate in Hz, a value in the effect's own unit, and the
generator for all else that it draws; it returns a new `(samples,)` float32 waveform, of the same length unless it says
otherwise. Nothing here is cut at full scale: several effects in a row would cut several times.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator

from urbansound_hf.audio import dsp
from urbansound_hf.audio.io import load_audio
from urbansound_hf.audio.resampling import resample

FLAG = "--augment"
Sounds = Sequence[Path]  # those of a folder of the user's


class EffectKind(NamedTuple):
    """The registry entry of an effect."""

    run: Callable[..., np.ndarray]  # (waveform, sampling_rate, value, generator) → waveform; of a folder also `sounds`
    help: str  # what it does, in a line
    use: str  # when it helps, in a line
    probability: float = 0.5  # the default
    unit: str = ""
    default: tuple[float, float] = (0.0, 0.0)  # range of its value in `unit`; an effect without a unit takes none
    limits: tuple[float, float] = (0.0, 0.0)  # the values that are possible
    needs_folder: bool = False  # whether it takes sounds of the user's

    def spec(self, name: str) -> str:
        """How it is written out: `gain:0.5:-12..6`."""
        value = ":{:g}..{:g}".format(*self.default) if self.unit else ""
        return f"{name}:{self.probability:g}{value}{':FOLDER' if self.needs_folder else ''}"


SNR, SHARE, HERTZ = "dB SNR", "of the clip", "Hz"
LEVELS, SHARES, AUDIBLE = (-30, 100), (0, 1), (20, 20_000)

EFFECTS: dict[str, EffectKind] = {}
"""The effects by name, in the order of the documentation."""


def effect(*facts: Any, **options: Any) -> Callable[[Callable[..., np.ndarray]], Callable[..., np.ndarray]]:
    """Registers a function as the effect of its name; the arguments are those of `EffectKind` after `run`."""

    def register(run: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        EFFECTS[run.__name__] = EffectKind(run, *facts, **options)  # type: ignore[attr-defined]
        return run

    return register


# ---- noise; `snr` in dB, of the mean powers over the whole clip


def coloured_noise(waveform: np.ndarray, rate: int, snr: float, generator: Generator, exponent: float) -> np.ndarray:
    """Adds noise whose power falls with frequency as 1 / f^exponent above 20 Hz: 0 white, 1 pink, 2 brown."""
    noise = dsp.noise(generator, len(waveform), rate, lambda hertz: np.maximum(hertz, 20) ** (-exponent / 2))
    return _add(waveform, noise, snr)


for colour, exponent, what, when in (
    ("white", 0, "adds noise, equally strong at all frequencies", "hissing recorders, small data"),
    ("pink", 1, "adds noise that falls by 3 dB an octave", "rain, crowds, far traffic behind the sound"),
    ("brown", 2, "adds noise that falls by 6 dB an octave", "wind in the microphone, near traffic"),
):
    noise_of = partial(coloured_noise, exponent=exponent)
    EFFECTS[f"{colour}_noise"] = EffectKind(noise_of, what, when, 0.5, SNR, (10, 30), LEVELS)


@effect("adds a stretch of a sound from the folder", "the place of use can be recorded without the classes",
        0.5, SNR, (5, 20), LEVELS, True)  # fmt: skip
def noise_folder(waveform: np.ndarray, rate: int, snr: float, generator: Generator, sounds: Sounds) -> np.ndarray:
    """Adds a stretch of one of `sounds`, from a random place; one shorter than the clip is repeated."""
    noise = _load(sounds[int(generator.integers(len(sounds)))], rate)
    return _add(waveform, np.resize(_stretch(noise, len(waveform), generator), len(waveform)), snr)


@effect("sets a stretch to zero", "no single event of a clip shall decide", 0.3, SHARE, (0.05, 0.25), SHARES)
def silence(waveform: np.ndarray, rate: int, share: float, generator: Generator) -> np.ndarray:
    gap = round(share * len(waveform))
    start = generator.integers(len(waveform) - gap + 1)
    return np.concatenate([waveform[:start], np.zeros(gap, np.float32), waveform[start + gap :]])


@effect("moves the sound later, in a circle", "events sit at the same place in all training clips",
        0.5, SHARE, (0, 1), SHARES)  # fmt: skip
def shift(waveform: np.ndarray, rate: int, share: float, generator: Generator) -> np.ndarray:
    """What leaves at the end comes in at the beginning."""
    return np.roll(waveform, round(share * len(waveform)))


@effect(
    "keeps a stretch from a random place", "short or cut-off clips are to be recognised", 0.5, SHARE, (0.7, 1), SHARES
)
def crop(waveform: np.ndarray, rate: int, share: float, generator: Generator) -> np.ndarray:
    return _stretch(waveform, max(1, round(share * len(waveform))), generator)


@effect("makes it louder or softer", "distances differ; models that scale their input don't notice",
        0.5, "dB", (-12, 6), (-60, 60))  # fmt: skip
def gain(waveform: np.ndarray, rate: int, decibels: float, generator: Generator) -> np.ndarray:
    return waveform * 10 ** (decibels / 20)


@effect("turns the waveform upside down", "costs nothing; only models of raw waveforms notice")
def polarity(waveform: np.ndarray, rate: int, value: float, generator: Generator) -> np.ndarray:
    return -waveform


SPEED_DENOMINATOR = 256  # factors become fractions, 0.2 % off at most: computing the filter of 17237/16000 takes 0.15 s


@effect("changes pitch and tempo together", "machines at other speeds, animals of other sizes",
        0.5, "times", (0.9, 1.1), (0.25, 4))  # fmt: skip
def speed(waveform: np.ndarray, rate: int, factor: float, generator: Generator) -> np.ndarray:
    """Plays the sound `factor` times as fast, as a tape does: pitch and tempo rise together, the length shrinks."""
    ratio = Fraction(factor).limit_denominator(SPEED_DENOMINATOR)
    return resample(waveform, ratio.numerator, ratio.denominator)


@effect(
    "changes the tempo, not the pitch", "rhythms differ: barks, hammers, music", 0.3, "times", (0.8, 1.25), (0.25, 4)
)
def time_stretch(waveform: np.ndarray, rate: int, factor: float, generator: Generator) -> np.ndarray:
    """Makes the sound `factor` times as fast at the same pitch; the length shrinks. The phase vocoder blurs clicks."""
    import torch
    from torchaudio.functional import phase_vocoder

    n_fft = 2 ** round(np.log2(0.064 * rate))
    window, hop = torch.hann_window(n_fft), n_fft // 4
    frames = torch.stft(torch.tensor(waveform), n_fft, hop, window=window, pad_mode="constant", return_complex=True)
    advance = torch.linspace(0, torch.pi * hop, n_fft // 2 + 1)[:, None]  # of the phase, a hop at each bin's frequency
    samples = max(1, round(len(waveform) / factor))
    return torch.istft(phase_vocoder(frames, factor, advance), n_fft, hop, window=window, length=samples).numpy()


@effect(
    "changes the pitch, not the tempo", "horns, sirens, voices of other pitch", 0.3, "semitones", (-2, 2), (-24, 24)
)
def pitch_shift(waveform: np.ndarray, rate: int, semitones: float, generator: Generator) -> np.ndarray:
    """Raises the pitch by `semitones` at the same tempo: a time stretch, then a change of speed that undoes it.

    torchaudio's own takes seconds a clip at ratios that aren't small fractions, because of its resampling kernel.
    """
    factor = float(Fraction(2 ** (semitones / 12)).limit_denominator(SPEED_DENOMINATOR))
    shifted = speed(time_stretch(waveform, rate, 1 / factor, generator), rate, factor, generator)
    return np.pad(shifted[: len(waveform)], (0, max(0, len(waveform) - len(shifted))))


# ---- filters; 24 dB an octave beyond the cut-off (Butterworth), which is kept below half the sampling rate


def butterworth(
    waveform: np.ndarray, rate: int, hertz: float, generator: Generator | None = None, kind: str = "lowpass"
) -> np.ndarray:
    from scipy import signal

    sections = signal.butter(4, min(hertz, 0.49 * rate), kind, fs=rate, output="sos")
    return signal.sosfilt(sections, waveform).astype(np.float32)


EFFECTS["low_pass"] = EffectKind(
    partial(butterworth, kind="lowpass"), "takes away what is above",
    "far or muffled sounds, cheap microphones, strong compression", 0.3, HERTZ, (2000, 7000), AUDIBLE,
)  # fmt: skip
EFFECTS["high_pass"] = EffectKind(
    partial(butterworth, kind="highpass"), "takes away what is below", "small microphones, rumble filters",
    0.3, HERTZ, (50, 500), AUDIBLE,
)  # fmt: skip


@effect("keeps two octaves around it", "telephones and loudspeakers", 0.2, HERTZ, (500, 2000), AUDIBLE)
def band_pass(waveform: np.ndarray, rate: int, hertz: float, generator: Generator) -> np.ndarray:
    return butterworth(butterworth(waveform, rate, hertz / 2, kind="highpass"), rate, 2 * hertz, kind="lowpass")


@effect("lifts or lowers an octave at a random frequency", "microphones and rooms colour the sound",
        0.5, "dB", (-12, 12), (-40, 40))  # fmt: skip
def equalizer(waveform: np.ndarray, rate: int, decibels: float, generator: Generator) -> np.ndarray:
    """Lifts (or lowers) an octave or so around a random frequency, 100 Hz to a quarter of the rate, by `decibels`.

    The peaking filter of Bristow-Johnson's Audio EQ Cookbook, with Q = 1. torchaudio has it too, but cuts its output at
    full scale.
    """
    from scipy import signal  # a second, for which checking `--augment` does not wait

    angle = 2 * np.pi * np.exp(generator.uniform(np.log(100), np.log(rate / 4))) / rate
    amplitude, alpha, cosine = 10 ** (decibels / 40), np.sin(angle) / 2, np.cos(angle)
    above = [1 + alpha * amplitude, -2 * cosine, 1 - alpha * amplitude]
    below = [1 + alpha / amplitude, -2 * cosine, 1 - alpha / amplitude]
    return signal.lfilter(above, below, waveform).astype(np.float32)


# ---- rooms; the loudness (mean power) stays


@effect("puts it into a simulated room with this RT60", "indoors and between houses, after dry training",
        0.3, "s", (0.1, 0.8), (0.02, 10))  # fmt: skip
def room(waveform: np.ndarray, rate: int, rt60: float, generator: Generator) -> np.ndarray:
    """Reverberation that decays by 60 dB in `rt60` seconds.

    The room is Polack's statistical one (La transmission de l'énergie sonore dans les salles, 1988): the direct sound,
    then Gaussian noise under an exponential decay, with 0 to 12 dB less energy than the direct sound.
    """
    time = np.arange(1, max(2, round(rt60 * rate)), dtype=np.float32) / rate
    tail = generator.standard_normal(len(time), np.float32) * 10 ** (-3 * time / rt60)
    tail *= 10 ** (-generator.uniform(0, 12) / 20) / float(np.linalg.norm(tail))
    return _reverberate(waveform, np.concatenate([np.ones(1, np.float32), tail]))


@effect(
    "puts it into a room whose impulse response is in the folder", "the place of use is known", 0.3, needs_folder=True
)
def room_folder(waveform: np.ndarray, rate: int, value: float, generator: Generator, sounds: Sounds) -> np.ndarray:
    """The reverberation of one of `sounds`, impulse responses of real rooms; `value` is not used."""
    return _reverberate(waveform, _load(sounds[int(generator.integers(len(sounds)))], rate))


def _reverberate(waveform: np.ndarray, response: np.ndarray) -> np.ndarray:
    """The sound in the room of an impulse response, whose strongest sample is taken as t = 0: it keeps its time."""
    from scipy import signal

    wet = signal.oaconvolve(waveform, response[np.abs(response).argmax() :])[: len(waveform)]
    return wet * (_level(waveform) / _level(wet)) if wet.any() else waveform


@lru_cache(maxsize=64)  # decoding costs more than most effects; a minute at 16 kHz takes 4 MB
def _load(path: Path, rate: int) -> np.ndarray:
    return load_audio(path, rate)


def _level(waveform: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))


def _add(waveform: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray:
    """Noise of no power leaves the clip alone, and beside a silent clip all noise is too loud."""
    level = _level(noise)
    return waveform + noise * (_level(waveform) / level * 10 ** (-snr / 20)) if level else waveform


def _stretch(waveform: np.ndarray, samples: int, generator: Generator) -> np.ndarray:
    """`samples` samples from a random place; a shorter waveform is returned unchanged."""
    start = generator.integers(max(0, len(waveform) - samples) + 1)
    return waveform[start : start + samples]
