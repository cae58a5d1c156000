"""The flag: what its words mean and how wrong ones are answered; the chain: probability, order, level, determinism."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest
import soundfile

from urbansound_hf.augment.chain import Effect, apply_effects, parse_effects
from urbansound_hf.augment.effects import EFFECTS, EffectKind
from urbansound_hf.data import synthetic
from urbansound_hf.errors import UserErrors

RATE = 16_000


@pytest.fixture
def folder(tmp_path):
    """Two sounds, one of them in a sub-folder, beside what is no sound."""
    (tmp_path / "a").mkdir()
    for number, path in enumerate((tmp_path / "one.wav", tmp_path / "a/two.flac")):
        soundfile.write(path, np.random.default_rng(number).uniform(-0.5, 0.5, 3000), 8000)
    (tmp_path / "notes.txt").write_text("no sound", encoding="utf-8")
    (tmp_path / "._one.wav").write_text("macOS leaves this", encoding="utf-8")
    return tmp_path


def clip(seconds: float = 1.0) -> np.ndarray:
    """Street music: it is never silent."""
    return synthetic.waveform("street_music", np.random.default_rng(1), seconds, RATE)


def every(folder) -> list[str]:
    """A word for each effect, at probability 1."""
    return [f"{name}:1{f':{folder}' * kind.needs_folder}" for name, kind in EFFECTS.items()]


def run(specs: list[str], seed: int = 0, waveform: np.ndarray | None = None) -> np.ndarray:
    sound = clip() if waveform is None else waveform
    return apply_effects(parse_effects(specs), sound, RATE, np.random.default_rng(seed))


def test_words_of_the_flag(folder):
    sounds = (folder / "a/two.flac", folder / "one.wav")
    inner = (folder / "a/two.flac",)
    expected = {
        "gain": Effect("gain", 0.5, -12, 6),
        "gain:0.8": Effect("gain", 0.8, -12, 6),
        "gain:0": Effect("gain", 0, -12, 6),
        "gain:0.8:-3..2.5": Effect("gain", 0.8, -3, 2.5),
        "gain:-3..-3": Effect("gain", 0.5, -3, -3),
        "polarity:1": Effect("polarity", 1, 0, 0),
        f"noise_folder:{folder}": Effect("noise_folder", 0.5, 5, 20, sounds),
        f"noise_folder:.25:0..9:{folder}": Effect("noise_folder", 0.25, 0, 9, sounds),
        f"room_folder:0.1:{folder}/a": Effect("room_folder", 0.1, 0, 0, inner),
    }  # fmt: skip
    assert parse_effects(list(expected)) == list(expected.values()), "in the order given"
    assert parse_effects([]) == []


@pytest.mark.parametrize(
    ("spec", "what", "fix"),
    [
        ("gian", "there is no effect 'gian'", "did you mean gain?"),
        ("zzz", "there is no effect 'zzz'", "there are white_noise, pink_noise"),
        ("gain:1.5", "the probability of gain must lie in 0..1, found 'gain:1.5'", "for example gain:0.5:-12..6"),
        ("gain:-0.5", "the probability of gain must lie in 0..1", "gain:0.5"),
        ("gain:often", "gain takes [:PROBABILITY][:LOW..HIGH], found 'gain:often'", "gain:0.5"),
        ("gain:nan", "gain takes [:PROBABILITY][:LOW..HIGH]", "gain:0.5"),
        ("gain:0.5:6..-6", "the range of gain must be LOW..HIGH within -60..60 dB, found", "gain:0.5:-12..6"),
        ("speed:0.1..1", "the range of speed must be LOW..HIGH within 0.25..4 times", "speed:0.5:0.9..1.1"),
        ("gain:0.5:6", "gain takes [:PROBABILITY][:LOW..HIGH]", "gain:0.5:-12..6"),
        ("gain:0.5:1..2:x", "gain takes [:PROBABILITY][:LOW..HIGH]", "gain:0.5:-12..6"),
        ("polarity:0.5:0..1", "polarity takes no range", "polarity:0.5"),
        ("polarity:x\ny", "polarity takes [:PROBABILITY] only", "polarity:0.5"),
        ("noise_folder:0.5", "noise_folder needs a folder of sounds, found 'noise_folder:0.5'", "5..20:FOLDER"),
        ("room_folder:0..1:/tmp", "room_folder takes no range", "room_folder:0.3:FOLDER"),
        ("noise_folder:no/such", "noise_folder needs a folder of sounds; no/such is no folder", "sounds end in ."),
    ],
)
def test_wrong_words_are_told_with_the_way_out(spec, what, fix):
    with pytest.raises(UserErrors) as caught:
        parse_effects([spec])
    (problem,) = caught.value.problems
    assert what in problem.what and fix in problem.fix and problem.where == "--augment"


def test_all_wrong_words_are_told_at_once(tmp_path):
    with pytest.raises(UserErrors) as caught:
        parse_effects(["gain:2", "shift", "loud", f"room_folder:{tmp_path}"])
    assert [str(problem).split()[0] for problem in caught.value.problems] == ["the", "there", "room_folder"]
    assert f"{tmp_path} holds none" in str(caught.value)


@pytest.mark.parametrize("name", EFFECTS)
def test_each_effect_says_what_it_is_and_its_defaults_are_possible(name, folder):
    kind = EFFECTS[name]
    assert kind.help and kind.use and "\n" not in kind.help + kind.use
    (effect,) = parse_effects([kind.spec(name).replace("FOLDER", str(folder))])
    assert (effect.probability, effect.low, effect.high) == (kind.probability, *kind.default)
    assert bool(kind.unit) == (kind.limits[0] < kind.limits[1]), "a range has a unit"


@pytest.mark.parametrize("name", EFFECTS)
@pytest.mark.parametrize("seconds", [1.0, 0.0545, 1 / RATE])  # 54.5 ms is the shortest clip of UrbanSound8K
def test_each_effect_gives_a_sound_and_leaves_the_old_one(name, seconds, folder):
    before = clip(4)[: round(seconds * RATE)]
    before.flags.writeable = False
    kept = before.copy()
    spec = next(spec for spec in every(folder) if spec.startswith(f"{name}:"))
    after = run([spec], waveform=before)
    assert after.dtype == np.float32 and after.ndim == 1 and len(after) and np.isfinite(after).all()
    assert np.abs(after).max() <= 1
    np.testing.assert_array_equal(before, kept)
    assert not np.shares_memory(before, after)
    if name not in ("speed", "time_stretch", "crop"):
        assert len(after) == len(before)
    if seconds == 1:
        assert after.shape != before.shape or np.abs(after - before).max() > 1e-3, "something happened"


@pytest.mark.parametrize("name", EFFECTS)
def test_silence_stays_silent(name, folder):
    spec = next(spec for spec in every(folder) if spec.startswith(f"{name}:"))
    assert not run([spec], waveform=np.zeros(RATE, np.float32)).any()


def in_another_process(arguments) -> np.ndarray:
    specs, seed = arguments
    return run(specs, seed)


def test_the_same_generator_gives_the_same_clip_in_any_process(folder):
    specs = every(folder)
    here = [run(specs, seed) for seed in (0, 1)]
    assert here[0].shape != here[1].shape or np.abs(here[0] - here[1]).max() > 1e-3
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.map(in_another_process, [(specs, 0), (specs, 1)])
    for ours, its in zip(here, there, strict=True):
        np.testing.assert_array_equal(ours, its)


def test_nothing_is_drawn_from_elsewhere(folder):
    import random

    import torch

    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    run(every(folder))
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_the_probability_is_kept_and_values_fill_their_range():
    effects = parse_effects(["gain:0.3:-40..-20"])
    generator = np.random.default_rng(0)
    peaks = np.array([apply_effects(effects, np.ones(1, np.float32), RATE, generator)[0] for _ in range(4000)])
    changed = 20 * np.log10(peaks[peaks < 1])
    assert len(changed) / 4000 == pytest.approx(0.3, abs=0.025)
    assert changed.min() == pytest.approx(-40, abs=0.2) and changed.max() == pytest.approx(-20, abs=0.2)
    assert changed.mean() == pytest.approx(-30, abs=0.6), "evenly in dB"
    assert run(["gain:0"], waveform=np.ones(1, np.float32)) == 1
    assert run(["gain:1:-20..-20"], waveform=np.ones(1, np.float32)) == pytest.approx(0.1)


def test_factors_are_drawn_evenly_in_their_logarithm():
    effects = parse_effects(["speed:1:0.5..2"])
    generator = np.random.default_rng(0)
    lengths = [len(apply_effects(effects, np.ones(1000, np.float32), RATE, generator)) for _ in range(400)]
    assert np.median(lengths) == pytest.approx(1000, rel=0.1), "half as fast is as likely as twice"
    assert min(lengths) >= 499 and max(lengths) <= 2001


def test_the_order_is_the_one_given():
    quiet_noise, quiet_sound = "white_noise:1:0..0", "gain:1:-20..-20"
    softened = run([quiet_noise, quiet_sound], waveform=clip() / 4)
    assert np.abs(run([quiet_sound, quiet_noise], waveform=clip() / 4)).std() != pytest.approx(softened.std(), rel=1e-3)


def test_above_full_scale_the_whole_clip_is_softened_not_cut():
    sound = clip()
    np.testing.assert_allclose(run(["gain:1:12..12"]), sound / np.abs(sound).max(), atol=1e-6)
    loud = run(["gain:1:12..12", "gain:1:-12..-12"])
    np.testing.assert_allclose(loud, sound, atol=1e-6), "and only once, at the end"


def test_an_effect_is_one_entry(monkeypatch):
    """The flag, its errors, the chain and the tour's table all read the registry."""

    def halve(waveform, rate, factor, generator):
        return waveform * factor

    monkeypatch.setitem(EFFECTS, "halve", EffectKind(halve, "halves it", "never", 1.0, "times", (0.5, 0.5), (0.1, 1)))
    np.testing.assert_allclose(run(["halve"]), clip() / 2, atol=1e-6)
    with pytest.raises(UserErrors, match=r"the range of halve must be LOW..HIGH within 0.1..1 times"):
        parse_effects(["halve:1:0.5..2"])
    with pytest.raises(UserErrors, match="did you mean halve"):
        parse_effects(["halv"])
