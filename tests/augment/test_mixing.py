"""Mixtures: the labels say what is in them."""

from __future__ import annotations

import numpy as np
import pytest

from urbansound_hf.augment.mixing import mix

DOG, HORN = np.eye(3, dtype=np.float32)[:2]


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def tone(hertz: float, amplitude: float) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(16_000) / 16_000)).astype(np.float32)


def amplitudes(mixed: np.ndarray, *tones: np.ndarray) -> list[float]:
    """How much of each of some tones, which have nothing in common, is in a mixture (root mean square)."""
    return [abs(float(mixed @ tone)) / float(np.linalg.norm(tone)) for tone in tones]


@pytest.mark.parametrize("how", ["mixup", "cutmix"])
@pytest.mark.parametrize("shape", [(800,), (40, 100), (1, 100, 64)])
def test_labels_sum_to_one_and_nothing_is_changed_in_place(how, shape):
    one, other = (generator(seed).normal(size=shape).astype(np.float32) for seed in (1, 2))
    kept = one.copy(), other.copy()
    soft = np.array([0.2, 0.3, 0.5], np.float32)
    for seed in range(50):
        mixed, target = mix(one, other, soft, HORN, 0.4, how, len(shape) // 2, generator(seed))
        assert target.sum() == pytest.approx(1, abs=1e-6) and (target >= 0).all()
        assert mixed.shape == shape and mixed.dtype == target.dtype == np.float32
    np.testing.assert_array_equal((one, other), kept)


@pytest.mark.parametrize(("loud", "soft"), [(0.5, 0.5), (0.9, 0.001)])
def test_a_mixup_of_waveforms_has_the_amplitudes_that_its_label_says(loud, soft):
    one, other = tone(440, loud), tone(1000, soft)
    for seed in range(20):
        mixed, target = mix(one, other, DOG, HORN, 1.0, "mixup", 0, generator(seed))
        found = amplitudes(mixed, one, other)
        assert found[0] / sum(found) == pytest.approx(target[0], abs=1e-4)
        assert np.abs(mixed).max() <= max(loud, soft) * 2**0.5


def test_a_mixup_of_equally_loud_waveforms_is_as_loud():
    mixed, _ = mix(tone(440, 0.5), tone(1000, 0.5), DOG, HORN, 8.0, "mixup", 0, generator())
    assert np.sqrt(np.mean(mixed**2)) == pytest.approx(0.5 / 2**0.5, rel=1e-3)


def test_silence_in_a_mixup_does_not_silence_the_other():
    for clips in ((tone(440, 0), tone(1000, 0.5)), (tone(440, 0.5), tone(1000, 0))):
        mixed, target = mix(*clips, DOG, HORN, 8.0, "mixup", 0, generator())
        assert np.isfinite(mixed).all() and np.abs(mixed).max() > 0.1 and 0.2 < target[0] < 0.8
    assert not mix(tone(1, 0), tone(1, 0), DOG, HORN, 1.0, "mixup", 0, generator())[0].any()


def test_a_mixup_of_pictures_is_their_weighted_mean():
    one, other = np.full((4, 5), 1.0, np.float32), np.full((4, 5), -3.0, np.float32)
    mixed, target = mix(one, other, DOG, HORN, 1.0, "mixup", 1, generator())
    np.testing.assert_allclose(mixed, target[0] * one + target[1] * other, rtol=1e-6)


@pytest.mark.parametrize(("shape", "axis"), [((1000,), 0), ((40, 100), 1), ((100, 64), 0), ((1, 100, 64), 1)])
def test_cutmix_replaces_one_stretch_of_time_and_the_label_counts_its_frames(shape, axis):
    one, other = np.zeros(shape, np.float32), np.ones(shape, np.float32)
    starts = set()
    for seed in range(30):
        mixed, target = mix(one, other, DOG, HORN, 1.0, "cutmix", axis, generator(seed))
        columns = np.moveaxis(mixed, axis, 0).reshape(shape[axis], -1)
        assert (columns.min(axis=1) == columns.max(axis=1)).all(), "whole frames"
        assert np.abs(np.diff(columns[:, 0])).sum() <= 2, "one stretch"
        assert target[1] == pytest.approx(mixed.mean(), abs=1e-6), "to the frame"
        starts.add(int(columns[:, 0].argmax()))
    assert len(starts) > 15


@pytest.mark.parametrize(("alpha", "deviation"), [(0.2, 0.42), (1.0, 0.29), (8.0, 0.12)])
def test_the_shares_are_of_a_beta_distribution(alpha, deviation):
    draw, clip = generator(), np.zeros((2, 2), np.float32)
    shares = [mix(clip, clip, DOG, HORN, alpha, "mixup", 1, draw)[1][0] for _ in range(3000)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert np.std(shares) == pytest.approx(deviation, abs=0.015), "1 / (2 √(2 alpha + 1))"


def test_the_same_generator_gives_the_same_mixture():
    for how in ("mixup", "cutmix"):
        one, same, other = (
            mix(tone(440, 0.5), tone(1000, 0.5), DOG, HORN, 1.0, how, 0, generator(seed))[0] for seed in (1, 1, 2)
        )
        assert (one == same).all() and (one != other).any()


def test_clips_of_several_lengths_cannot_be_mixed():
    with pytest.raises(ValueError, match=r"same shape, found \(3,\) and \(1,\)"):
        mix(np.zeros(3, np.float32), np.zeros(1, np.float32), DOG, HORN, 1.0, "mixup", 0, generator())
