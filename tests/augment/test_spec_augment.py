"""Masks: every family's record names its spectrogram, masks are as wide as promised, and models mask themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForAudioClassification

from tests.models.test_loading import TINY, load, noise
from urbansound_hf.augment.spec_augment import mask_spectrogram
from urbansound_hf.features.extract import Features, as_tensors, extract
from urbansound_hf.models.adapt import model_masking
from urbansound_hf.models.loading import load_feature_extractor
from urbansound_hf.models.registry import family_of

PICTURES = {
    "audio-spectrogram-transformer": ("input_values", 1, 0),
    "clap": ("input_features", 2, 1),
    "clap-audio": ("input_features", 2, 1),
    "cnn": ("input_features", 0, 1),
    "ecapa-tdnn": ("input_features", 1, 0),
    "wav2vec2-bert": ("input_features", 1, 0),
    "whisper": ("input_features", 0, 1),
    "yamnet": ("input_features", 1, 0),
}
MASK_THEMSELVES = set(TINY) - set(PICTURES) | {"wav2vec2-bert"}


def heard(extractor, seconds: float = 1.0) -> Features:
    return extract(extractor, noise(extractor, seconds))


def grown_axis(extractor, name: str) -> int | None:
    """The axis of an input that grows when the extractor computes one band more."""
    settings = extractor.to_dict()
    for setting in ("num_mel_bins", "n_mfcc", "n_mels", "feature_size"):
        if setting in settings:
            more = type(extractor)(**{**settings, setting: settings[setting] + 1})
            grown = np.flatnonzero(np.subtract(heard(more)[name].shape, heard(extractor)[name].shape))
            if len(grown):
                return int(grown[0])
    return None


@pytest.mark.parametrize("family", TINY)
def test_the_record_of_every_family_describes_its_spectrogram(family):
    _, extractor = load(family)
    clip, found = heard(extractor), family_of(family).spectrogram
    assert found == PICTURES.get(family)
    if not found:
        assert all(values.ndim == 1 for values in clip.values()), "a waveform"
        return
    assert grown_axis(extractor, found.name) == found.frequency_axis
    others = [axis for axis in range(clip[found.name].ndim) if axis != found.frequency_axis]
    assert max(others, key=lambda axis: clip[found.name].shape[axis]) == found.time_axis


def test_the_record_of_clap_holds_for_its_fused_input():
    extractor = load_feature_extractor("clap-audio", overrides={"truncation": "fusion"})
    assert heard(extractor, 0.5)["input_features"].shape == (4, 1001, 64)
    assert grown_axis(extractor, "input_features") == family_of("clap-audio").spectrogram.frequency_axis


def picture(shape=(40, 100)) -> np.ndarray:
    return np.random.default_rng(0).normal(3, 1, shape).astype(np.float32)


def hidden(before: np.ndarray, after: np.ndarray, axis: int) -> np.ndarray:
    """Where whole lines along the other axes were changed."""
    return np.flatnonzero((before != after).all(axis=tuple(i for i in range(before.ndim) if i != axis)))


def test_masks_are_stretches_of_the_mean_no_wider_than_asked():
    before = picture()
    kept = before.copy()
    widths: dict[int, list[int]] = {0: [], 1: []}
    for seed in range(300):
        values = mask_spectrogram(before, np.random.default_rng(seed), (0.25, 0.2))
        changed = values != kept
        lines = {axis: hidden(kept, values, axis) for axis in (0, 1)}
        for axis, found in lines.items():
            assert len(found) < 2 or (np.diff(found) == 1).all(), "one stretch"
            widths[axis].append(len(found))
        expected = np.zeros_like(changed)
        expected[lines[0]] = expected[:, lines[1]] = True
        np.testing.assert_array_equal(changed, expected)
        assert not changed.any() or set(values[changed]) == {kept.mean()}
        assert values.dtype == np.float32
    assert [max(widths[axis]) for axis in (0, 1)] == [10, 20], "a quarter of 40 bands, a fifth of 100 frames"
    assert [min(widths[axis]) for axis in (0, 1)] == [0, 0]
    assert [np.mean(widths[axis]) for axis in (0, 1)] == pytest.approx([5, 10], rel=0.1)
    np.testing.assert_array_equal(before, kept)


def test_several_masks_and_none():
    before = picture((1, 200, 64))
    several = mask_spectrogram(before, np.random.default_rng(3), (0.1, 0.1), (3, 4), (2, 1))
    lines = [hidden(before, several, axis) for axis in (1, 2)]
    assert all((np.diff(found) > 1).any() for found in lines), "more than one stretch on each axis"
    for widths, counts in (((0, 0), (2, 2)), ((1, 1), (0, 0))):
        none = mask_spectrogram(before, np.random.default_rng(3), widths, counts, (2, 1))
        np.testing.assert_array_equal(none, before)


def test_the_same_generator_gives_the_same_masks():
    one, same, other = (mask_spectrogram(picture(), np.random.default_rng(seed), (0.5, 0.5)) for seed in (1, 1, 2))
    assert (one == same).all() and (one != other).any()


# Models that mask themselves


@pytest.mark.parametrize("family", TINY)
def test_the_wav2vec2_kind_masks_its_hidden_states_in_training_only(family, tmp_path):
    model, extractor = load(family)  # built with `mask_time_prob=0`, which leaves most of them without a mask vector
    before = model.config.to_dict()
    asked = model_masking(model, heard(extractor), 0.3, 0.5)
    assert asked == (family in MASK_THEMSELVES)
    if not asked:
        assert model.config.to_dict() == before
        return
    inputs = as_tensors({name: values[None] for name, values in heard(extractor).items()})
    seen = []
    masking = next(module for module in model.modules() if hasattr(module, "masked_spec_embed"))
    masking.encoder.register_forward_pre_hook(lambda _, positional: seen.append(positional[0].detach().clone()))
    model.eval()(**inputs)
    np.random.seed(0)  # transformers draws its masks from NumPy's global state
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model(**inputs)
    changed = (seen[0] != seen[1])[0]  # (frames, hidden)
    assert 0.1 < changed.all(dim=1).float().mean() <= 0.55, "frames that are the mask vector"
    assert (seen[1][0] == 0).all(dim=0).any(), "dimensions that are zero"
    model.save_pretrained(tmp_path)
    again = AutoModelForAudioClassification.from_pretrained(tmp_path)
    reopened = next(module for module in again.modules() if hasattr(module, "masked_spec_embed"))
    torch.testing.assert_close(reopened.masked_spec_embed, masking.masked_spec_embed)


@pytest.mark.parametrize("family", ["wav2vec2", "wav2vec2-bert"])
def test_a_clip_shorter_than_a_mask_trains(family):
    model, extractor = load(family)
    clip = heard(extractor, 0.1)  # 4 hidden frames, where a mask has 10
    inputs = {**as_tensors({name: values[None] for name, values in clip.items()}), "labels": torch.tensor([1])}
    model.config.mask_time_prob, model.config.apply_spec_augment = 0.5, True
    with pytest.raises(ValueError, match="`mask_length` has to be smaller than `sequence_length`"):
        model.train()(**inputs)
    model.config.mask_time_prob = 0.0
    assert model_masking(model, clip, 0.2, 0.5)
    assert torch.isfinite(model.train()(**inputs).loss)
    assert model.config.mask_time_length == 4


def test_the_mask_vector_is_learnt():
    model, extractor = load("hubert")
    model_masking(model, heard(extractor), 0.0, 0.5)
    inputs = as_tensors({name: values[None] for name, values in heard(extractor).items()})
    np.random.seed(0)
    model.train()(**inputs, labels=torch.tensor([1])).loss.backward()
    vector = dict(model.named_parameters())["hubert.masked_spec_embed"]
    assert vector.grad is not None and vector.grad.abs().sum() > 0
