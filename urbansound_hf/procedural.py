"""Ten sounds made of formulas, one for each class of UrbanSound8K, for the synthetic data set."""

from __future__ import annotations

import difflib
from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from urbansound_hf.errors import UserError
from urbansound_hf.labels import CLASSES

Response = Callable[[np.ndarray], np.ndarray]  # frequencies in Hz → gains


# ---- what the sounds are made of; time is (samples,) float64 in seconds, rate in Hz


def _tone(hertz: np.ndarray, partials: np.ndarray, rate: int) -> np.ndarray:
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


def _resonances(centres: np.ndarray, bandwidth: float) -> Response:
    """Peaks at `centres` Hz, each half as high as the one before: the formants of a throat or of a horn."""
    return lambda hertz: sum(0.5**k / (1 + ((hertz - c) / bandwidth) ** 2) for k, c in enumerate(centres))


def lowpass(hertz: float) -> Response:
    return lambda frequency: 1 / (1 + (frequency / hertz) ** 2)


def _highpass(hertz: float) -> Response:
    return lambda frequency: 1 - 1 / (1 + (frequency / hertz) ** 2)


def _since(draw: Generator, time: np.ndarray, shortest: float, longest: float) -> tuple[np.ndarray, np.ndarray]:
    """Seconds since the latest of some events, and its number: one at 0, the others `shortest` to `longest` s apart."""
    onsets = np.cumsum(draw.uniform(shortest, longest, int(time[-1] / shortest) + 1))
    event = np.searchsorted(onsets, time, side="right")
    return time - np.concatenate([[0.0], onsets])[event], event


def _gate(since: np.ndarray, duration: float | np.ndarray, edge: float = 0.02) -> np.ndarray:
    """1 from an event until `duration` seconds after it, with soft edges; else 0."""
    return np.clip(since / edge, 0, 1) * np.clip((duration - since) / edge, 0, 1)


# ---- the ten classes: (draw, time, rate) → (samples,) at any level


def air_conditioner(draw: Generator, time: np.ndarray, rate: int) -> np.ndarray:
    """A broad rush of air over a hum at twice the mains frequency."""
    mains = draw.choice([100.0, 120.0]) * draw.uniform(0.97, 1.0)
    hum = _tone(np.full_like(time, mains), draw.uniform(0.3, 1, 8) / np.arange(1, 9), rate)
    rush = noise(draw, len(time), rate, lowpass(draw.uniform(500, 1200)))
    blades = 1 + 0.1 * np.sin(2 * np.pi * draw.uniform(2, 6) * time)
    return rush * blades + draw.uniform(0.3, 0.8) * hum


def car_horn(draw: Generator, time: np.ndarray, rate: int) -> np.ndarray:
    """Two bright notes about a third apart, pressed again and again."""
    since, press = _since(draw, time, 0.6, 1.6)
    low = np.full_like(time, draw.uniform(330, 460))
    partials = np.arange(1, 17) ** -0.4
    notes = _tone(low, partials, rate) + _tone(low * draw.uniform(1.2, 1.27), partials, rate)
    horn = filtered(notes, rate, _resonances(draw.uniform([1800, 2800], [2600, 3800]), 900))
    return horn * _gate(since, draw.uniform(0.25, 1.2, press[-1] + 1)[press])


def children_playing(draw: Generator, time: np.ndarray, rate: int) -> np.ndarray:
    """Four high voices, each with its own vowel, calling in gliding syllables."""
    scene = np.zeros_like(time)
    for distance in (1.0, 0.8, 0.6, 0.5):
        since, syllable = _since(draw, time, 0.2, 0.7)
        pitch = draw.uniform(300, 520, syllable[-1] + 1)[syllable]
        glide = draw.uniform(-1.2, 1.2, syllable[-1] + 1)[syllable]  # octaves a second
        hertz = pitch * 2 ** (glide * np.minimum(since, 0.5)) * (1 + 0.02 * np.sin(2 * np.pi * 5.5 * time))
        voice = _tone(hertz, 1 / np.arange(1, 13), rate) * _gate(since, draw.uniform(0.12, 0.5), edge=0.04)
        vowel = draw.uniform([500, 1100, 2900], [1000, 2300, 3600])
        scene += distance * filtered(voice, rate, _resonances(vowel, 180))
    return scene


def dog_bark(draw: Generator, time: np.ndarray, rate: int) -> np.ndarray:
    """Short hoarse barks: the pitch leaps up and falls, two formants, breath in the voice, silence between."""
    since, bark = _since(draw, time, 0.35, 1.1)
    duration = draw.uniform(0.13, 0.25)
    arch = np.sin(np.pi * np.clip(since / duration, 0, 1))
    hertz = draw.uniform(280, 520) * draw.uniform(0.9, 1.1, bark[-1] + 1)[bark] * (0.7 + 0.6 * arch)
    throat = _tone(hertz, np.arange(1, 17) ** -0.7, rate) + noise(draw, len(time), rate, _highpass(300))
    formants = draw.uniform([600, 1300], [950, 1900])
    return filtered(throat * np.sqrt(arch), rate, _resonances(formants, 250))


def drilling(draw: Generator, time: np.ndarray, rate: int) -> np.ndarray:
    """A motor's bright buzz that yields and rises with the load, and the hiss of the bit."""
    load = np.mean([np.sin(2 * np.pi * (draw.uniform(0.3, 1.5) * time + draw.random())) for _ in range(3)], axis=0)
    buzz = _tone(draw.uniform(170, 300) * (1 - 0.06 * load), np.arange(1, 41) ** -0.2, rate)
    whine = filtered(buzz, rate, _resonances(draw.uniform([3000, 4500], [4200, 6500]), 1200))
    return whine / whine.std() + (0.6 + 0.2 * load) * noise(draw, len(time), rate, _highpass(4000))


def engine_idling(draw: Generator, time: np.ndarray, rate: int) -> np.ndarray:
    """Low, uneven strokes: each a damped thump of the exhaust; one cylinder of the four is weaker."""
    pace = draw.uniform(15, 28)  # strokes a second
    since, stroke = _since(draw, time, 0.95 / pace, 1.05 / pace)
    thump = np.sin(2 * np.pi * draw.uniform(60, 130) * since) * np.exp(-since * pace)
    exhaust = noise(draw, len(time), rate, lowpass(250)) * np.exp(-since * pace * 1.5)
    return (thump + 0.4 * exhaust) * draw.uniform(0.6, 1, 4)[stroke % 4]


def gun_shot(draw: Generator, time: np.ndarray, rate: int) -> np.ndarray:
    """A crack, a boom, and the long decay of the street; then silence until the next one."""
    since, shot = _since(draw, time, 1.2, 3.0)
    crack = noise(draw, len(time), rate, _highpass(200)) * np.exp(-since / draw.uniform(0.01, 0.03))
    boom = np.sin(2 * np.pi * draw.uniform(50, 90) * since) * np.exp(-since / 0.08)
    street = noise(draw, len(time), rate, lowpass(1500)) * np.exp(-since / draw.uniform(0.15, 0.35))
    return (crack + 0.6 * boom + 0.3 * street) * draw.uniform(0.7, 1, shot[-1] + 1)[shot]


def jackhammer(draw: Generator, time: np.ndarray, rate: int) -> np.ndarray:
    """10 to 22 hard impacts a second; the chisel rings, the stone cracks."""
    pace = draw.uniform(10, 22)
    since, impact = _since(draw, time, 0.97 / pace, 1.03 / pace)
    modes = draw.uniform([900, 1700, 2600], [1500, 2400, 3600])
    ring = np.sin(2 * np.pi * np.outer(modes, since)).sum(axis=0) * np.exp(-since / draw.uniform(0.008, 0.016))
    stone = noise(draw, len(time), rate, _highpass(800)) * np.exp(-since / draw.uniform(0.006, 0.015))
    return (ring + stone) * draw.uniform(0.7, 1, impact[-1] + 1)[impact]


def siren(draw: Generator, time: np.ndarray, rate: int) -> np.ndarray:
    """One nearly pure note that sweeps up and down: a slow wail or a fast yelp."""
    low, high = draw.uniform([500, 1100], [750, 1600])
    sweep = 0.5 - 0.5 * np.cos(2 * np.pi * (draw.uniform(0.3, 3.0) * time + draw.random()))
    return _tone(low * (high / low) ** sweep, np.array([1, 0.35, 0.2, 0.08]), rate)


def street_music(draw: Generator, time: np.ndarray, rate: int) -> np.ndarray:
    """Plucked triads I–V–vi–IV over a bass, a drum on the beat and a shaker between."""
    beat_seconds = 60 / draw.uniform(90, 140)
    since, beat = _since(draw, time, beat_seconds, beat_seconds)
    tonic = draw.uniform(220, 340)
    chords = np.array([[0, 4, 7], [-5, -1, 2], [-3, 0, 4], [-7, -3, 0]])  # semitones from the tonic
    pluck, partials = np.exp(-since / 0.5), np.arange(1, 13) ** -0.5
    notes = [*chords[beat // 2 % 4].T, chords[beat // 2 % 4, 0] - 12]
    harmony = sum(_tone(tonic * 2 ** (note / 12), partials, rate) for note in notes) * pluck
    drum = np.sin(2 * np.pi * 60 * since) * np.exp(-since / 0.08)
    shaker = noise(draw, len(time), rate, _highpass(5000)) * np.exp(-np.abs(since - beat_seconds / 2) / 0.015)
    return harmony + 1.5 * drum + 0.8 * shaker


SOUNDS = {sound.__name__: sound for sound in (
    air_conditioner, car_horn, children_playing, dog_bark, drilling,
    engine_idling, gun_shot, jackhammer, siren, street_music,
)}  # fmt: skip


def waveform(class_name: str, generator: Generator, seconds: float, sampling_rate: int) -> np.ndarray:
    """A clean sound of a class, with parameters drawn from `generator`.

    Returns:
        `(samples,)` float32 with a peak of 1.

    Raises:
        UserError: there is no such class.
    """
    if class_name not in SOUNDS:
        near = difflib.get_close_matches(class_name, CLASSES, n=1) or CLASSES
        raise UserError(f"no sound is called {class_name!r}", fix=f"use {' or '.join(near)}")
    time = np.arange(round(seconds * sampling_rate)) / sampling_rate
    sound = SOUNDS[class_name](generator, time, sampling_rate)
    return (sound / np.abs(sound).max()).astype(np.float32)
