"""Each effect keeps its promise, measured on the sound that comes out."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import soundfile

from urbansound_hf.augment import effects
from urbansound_hf.augment.effects import (
    band_pass,
    crop,
    equalizer,
    noise_folder,
    pitch_shift,
    polarity,
    room,
    room_folder,
    shift,
    silence,
    speed,
    time_stretch,
)
from urbansound_hf.data import synthetic

RATE = 16_000
white_noise, pink_noise, brown_noise = (effects.EFFECTS[f"{name}_noise"].run for name in ("white", "pink", "brown"))
low_pass, high_pass = (effects.EFFECTS[f"{name}_pass"].run for name in ("low", "high"))


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def sine(hertz: float, seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate).astype(np.float32) / 2


def white(seconds: float = 2.0) -> np.ndarray:
    return generator(9).uniform(-0.5, 0.5, round(seconds * RATE)).astype(np.float32)


def bark(seconds: float = 2.0) -> np.ndarray:
    return synthetic.waveform("dog_bark", generator(1), seconds, RATE) / 2


def decibels(waveform: np.ndarray) -> float:
    return 10 * float(np.log10(np.mean(np.square(waveform, dtype=np.float64))))


def pitch(waveform: np.ndarray, rate: int = RATE) -> float:
    """The strongest frequency of the middle half, in Hz, to a fraction of a bin."""
    middle = waveform[len(waveform) // 4 : -len(waveform) // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 8 * len(middle)))
    return float(spectrum.argmax()) * rate / (8 * len(middle))


def band(waveform: np.ndarray, low: float, high: float) -> float:
    """The level between two frequencies in dB."""
    hertz = np.fft.rfftfreq(len(waveform), 1 / RATE)
    power = np.abs(np.fft.rfft(waveform)) ** 2
    return 10 * float(np.log10(power[(hertz >= low) & (hertz < high)].mean()))


@pytest.fixture
def noises(tmp_path):
    """Noise of 3 s and a tone of 0.1 s, as files of another rate."""
    soundfile.write(tmp_path / "noise.wav", generator(2).uniform(-0.3, 0.3, 66_150), 22_050)
    soundfile.write(tmp_path / "tone.flac", sine(440, 0.1, 22_050), 22_050)
    return tuple(sorted(tmp_path.iterdir()))


# Noise


@pytest.mark.parametrize("snr", [-5.0, 0.0, 12.0, 40.0])
def test_the_snr_is_what_was_asked_for(snr, noises):
    sound = bark()
    for add in (white_noise, pink_noise, brown_noise):
        noise = add(sound, RATE, snr, generator()) - sound
        assert decibels(sound) - decibels(noise) == pytest.approx(snr, abs=0.1)
    for seed in range(4):  # both files
        noise = noise_folder(sound, RATE, snr, generator(seed), noises) - sound
        assert decibels(sound) - decibels(noise) == pytest.approx(snr, abs=0.1)


@pytest.mark.parametrize(("add", "slope"), [(white_noise, 0), (pink_noise, -3.01), (brown_noise, -6.02)])
def test_the_colour_of_noise_is_its_slope(add, slope):
    sound = np.full(20 * RATE, 0.1, np.float32)
    noise = add(sound, RATE, 0.0, generator()) - sound
    octaves = [band(noise, low, 2 * low) for low in (125, 250, 500, 1000, 2000, 4000)]
    assert np.diff(octaves) == pytest.approx([slope] * 5, abs=0.5), "dB an octave"


def test_noise_from_a_folder_is_taken_from_all_over_and_a_short_one_is_repeated(noises):
    sound = sine(1000)
    only_noise = [noise_folder(sound, RATE, 0.0, generator(seed), noises[:1]) - sound for seed in range(3)]
    assert np.abs(only_noise[0] - only_noise[1]).max() > 0.1, "another stretch of 1 of the 3 s"
    tone = noise_folder(sound, RATE, 0.0, generator(), noises[1:]) - sound
    assert pitch(tone) == pytest.approx(440, abs=1) and decibels(tone[-RATE // 10 :]) == pytest.approx(-9, abs=1)


def test_noise_without_power_leaves_the_clip_alone(tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(100), RATE)
    np.testing.assert_array_equal(noise_folder(bark(), RATE, 5.0, generator(), (tmp_path / "silent.wav",)), bark())


# Time and level


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_silence_is_one_stretch_of_its_share(share):
    sound = np.ones(RATE, np.float32)
    quiet = silence(sound, RATE, share, generator())
    assert (quiet == 0).sum() == share * RATE and np.abs(np.diff(quiet)).sum() <= 2, "one stretch"
    starts = {int(silence(sound, RATE, 0.25, generator(seed)).argmin()) for seed in range(9)}
    assert len(starts) == 9


def test_shift_keeps_every_sample_and_moves_it_later():
    sound = bark()
    moved = shift(sound, RATE, 0.25, generator())
    np.testing.assert_array_equal(moved[len(sound) // 4 :], sound[: -len(sound) // 4])
    np.testing.assert_array_equal(np.sort(moved), np.sort(sound))


def test_crop_keeps_a_stretch_of_its_share():
    sound = np.arange(1000, dtype=np.float32)
    kept = [crop(sound, RATE, 0.3, generator(seed)) for seed in range(50)]
    assert {len(stretch) for stretch in kept} == {300}
    assert all((np.diff(stretch) == 1).all() for stretch in kept)
    assert min(stretch[0] for stretch in kept) < 100 and max(stretch[-1] for stretch in kept) > 900


def test_gain_and_polarity():
    sound = bark()
    assert decibels(effects.gain(sound, RATE, -7.5, generator())) - decibels(sound) == pytest.approx(-7.5, abs=1e-3)
    turned = polarity(sound, RATE, 0.0, generator())
    assert decibels(turned) == decibels(sound)
    np.testing.assert_array_equal(turned + sound, np.zeros_like(sound))


# Speed and pitch


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0837, 2.0])
@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_speed_changes_pitch_and_length_and_stretch_only_the_length(factor, rate):
    sound = sine(440, 2.0, rate)
    tape = speed(sound, rate, factor, generator())
    assert pitch(tape, rate) == pytest.approx(440 * factor, rel=2e-3)
    stretched = time_stretch(sound, rate, factor, generator())
    assert pitch(stretched, rate) == pytest.approx(440, rel=2e-3)
    assert len(tape) == pytest.approx(2 * rate / factor, rel=2e-3) and len(stretched) == round(2 * rate / factor)


@pytest.mark.parametrize("semitones", [-12, -1.5, 0.37, 7])
def test_pitch_shift_changes_the_pitch_only(semitones):
    sound = sine(440, 2.0)
    shifted = pitch_shift(sound, RATE, semitones, generator())
    assert pitch(shifted) == pytest.approx(440 * 2 ** (semitones / 12), rel=2e-3)
    assert len(shifted) == len(sound)
    middle = slice(RATE // 2, -RATE // 2)
    assert decibels(shifted[middle]) == pytest.approx(decibels(sound[middle]), abs=1.3), "a vocoder loses a little"


def test_pitch_shift_keeps_the_time():
    sound = np.concatenate([np.zeros(RATE, np.float32), sine(440, 0.5), np.zeros(RATE, np.float32)])
    shifted = np.abs(pitch_shift(sound, RATE, 4, generator())) > 0.1
    assert shifted.argmax() == pytest.approx(RATE, abs=RATE // 20), "the onset, within a frame"


# Filters


@pytest.mark.parametrize("hertz", [300.0, 1000.0, 3000.0])
def test_filters_let_pass_what_they_say(hertz):
    sound = white(4.0)
    low = low_pass(sound, RATE, hertz, generator())
    high = high_pass(sound, RATE, hertz, generator())

    def change(after, octave):  # the band around the cut-off times 2^octave
        edges = hertz * 2 ** (octave - 0.1), hertz * 2 ** (octave + 0.1)
        return band(after, *edges) - band(sound, *edges)

    assert [change(low, 0), change(high, 0)] == pytest.approx([-3, -3], abs=0.3)
    assert change(low, -1) == pytest.approx(0, abs=0.3) and change(high, 1) == pytest.approx(0, abs=0.3)
    assert change(low, 1) < -22 and change(high, -1) < -22, "24 dB an octave"
    both = band_pass(sound, RATE, hertz, generator())
    assert change(both, 0) == pytest.approx(0, abs=0.5)
    assert change(both, -2) < -22 and (hertz > 2000 or change(both, 2) < -22)


def test_a_cut_off_above_half_the_rate_is_no_error():
    sound = white()
    kept = low_pass(sound, RATE, 20_000, generator())
    assert band(kept, 100, 7000) == pytest.approx(band(sound, 100, 7000), abs=0.2)
    assert decibels(high_pass(sound, RATE, 20_000, generator())) < decibels(sound) - 15


@pytest.mark.parametrize("gain", [-12.0, 12.0])
def test_the_equalizer_lifts_one_band_by_what_was_asked(gain):
    sound = white(8.0)
    centres = set()
    for seed in range(5):
        after = equalizer(sound, RATE, gain, generator(seed))
        edges = np.geomspace(60, 7900, 40)
        change = np.array([band(after, *pair) - band(sound, *pair) for pair in pairwise(edges)])
        peak = np.abs(change).argmax()
        assert change[peak] == pytest.approx(gain, abs=0.6) and 90 < edges[peak] < 4100
        assert abs(change[0]) < 5 and abs(change[-1]) < 5, "the rest stays"
        centres.add(int(peak))
    assert len(centres) == 5


# Rooms


@pytest.mark.parametrize("rt60", [0.2, 0.5, 1.0])
def test_the_room_decays_by_60_db_in_its_time(rt60):
    click = np.zeros(2 * RATE, np.float32)
    click[0] = 1.0
    response = room(click, RATE, rt60, generator())
    left = 10 * np.log10(np.cumsum(response[:0:-1].astype(np.float64) ** 2)[::-1])  # Schroeder
    start, end = (int((left < left[0] - fall).argmax()) for fall in (5, 35))
    assert 2 * (end - start) / RATE == pytest.approx(rt60, rel=0.1), "T30"
    direct = 10 * np.log10(response[0] ** 2) - left[0]
    assert -0.1 < direct < 12.1, "the direct sound is above the reverberation"


def test_a_room_keeps_the_loudness_and_the_time():
    sound = bark()
    wet = room(sound, RATE, 0.4, generator())
    assert decibels(wet) == pytest.approx(decibels(sound), abs=0.01)
    lags = np.correlate(np.abs(wet), np.abs(sound[500:-500]), "valid")
    assert lags.argmax() == pytest.approx(500, abs=400)


def test_rooms_of_a_folder_are_heard_from_their_direct_sound_on(tmp_path):
    response = np.zeros(2000)
    response[[700, 1100]] = 0.8, 0.4  # the sound takes 700 samples to the microphone, an echo 400 more
    soundfile.write(tmp_path / "hall.wav", response, RATE)
    click = np.zeros(RATE, np.float32)
    click[100] = 0.5
    heard = room_folder(click, RATE, 0.0, generator(), (tmp_path / "hall.wav",))
    assert np.flatnonzero(np.abs(heard) > 1e-3).tolist() == [100, 500]
    assert heard[500] / heard[100] == pytest.approx(0.5, abs=1e-3)
    assert decibels(heard) == pytest.approx(decibels(click), abs=1e-3)
