"""Training rows that change: what they are drawn from, and what they become."""

from __future__ import annotations

import dataclasses

import datasets
import numpy as np
import pytest
import torch
from transformers import ASTFeatureExtractor, Wav2Vec2FeatureExtractor

from urbansound_hf.config.arguments import RecipeArguments
from urbansound_hf.features.dataset import collate_training
from urbansound_hf.features.extract import WAVEFORM, extract
from urbansound_hf.models.registry import family_of
from urbansound_hf.models.yamnet.modeling_yamnet import YamnetFeatureExtractor
from urbansound_hf.training.augmented_dataset import AugmentedDataset

RATE, WINDOW, CLASSES = 16_000, 16_000, 4
YAMNET, WAV2VEC2 = YamnetFeatureExtractor(), Wav2Vec2FeatureExtractor(do_normalize=False)


def waveform(number: int) -> np.ndarray:
    return np.random.default_rng(number).uniform(-0.5, 0.5, WINDOW).astype(np.float32)


def cached(extractor) -> datasets.Dataset:
    rows = [{**extract(extractor, waveform(number)), "labels": number % CLASSES, "clip": number}
            for number in range(8)]  # fmt: skip
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return datasets.Dataset.from_dict(columns).with_format("numpy")


def heard(samples: int = WINDOW) -> datasets.Dataset:
    columns = {"labels": [n % CLASSES for n in range(8)], "clip": list(range(8)),
               WAVEFORM: [np.resize(waveform(n), samples) for n in range(8)]}  # fmt: skip
    return datasets.Dataset.from_dict(columns).with_format("numpy")


def augmented(rows: datasets.Dataset, extractor=YAMNET, seed: int = 0, **recipe: object) -> AugmentedDataset:
    spectrogram = family_of("yamnet").spectrogram if extractor is YAMNET else None
    return AugmentedDataset(rows, RecipeArguments(**recipe), extractor, WINDOW, CLASSES, seed, spectrogram)


EVERYTHING = {"augment": ["gain:1", "shift:1", "white_noise:1"], "mixup_alpha": 0.4, "spec_augment": 1.0}


def test_a_row_is_drawn_from_seed_epoch_and_row_alone():
    rows = augmented(heard(), **EVERYTHING)
    first = rows[3]["input_features"]
    rows[5]
    np.testing.assert_array_equal(first, rows[3]["input_features"])
    np.testing.assert_array_equal(first, augmented(heard(), **EVERYTHING)[3]["input_features"])
    assert np.abs(first - augmented(heard(), seed=1, **EVERYTHING)[3]["input_features"]).max() > 0.1
    rows.epoch.fill_(1)
    assert np.abs(first - rows[3]["input_features"]).max() > 0.1


def test_workers_hear_of_the_epoch_and_draw_the_same():
    rows = augmented(heard(), **EVERYTHING)
    loader = torch.utils.data.DataLoader(
        rows, batch_size=4, num_workers=2, persistent_workers=True, collate_fn=collate_training
    )
    for epoch in (0, 1):
        rows.epoch.fill_(epoch)
        for number, batch in enumerate(loader):
            alone = collate_training([rows[4 * number + place] for place in range(4)])
            for name in ("input_features", "labels"):
                torch.testing.assert_close(batch[name], alone[name], rtol=0, atol=0)


@pytest.mark.parametrize("extractor", [YAMNET, WAV2VEC2, ASTFeatureExtractor(max_length=100)])
def test_effects_that_never_happen_leave_the_cached_features(extractor):
    rows = augmented(heard(), extractor, augment=["gain:0"])
    for number, expected in enumerate(cached(extractor)):
        found = rows[number]
        assert found["labels"] == expected["labels"]
        for name in found.keys() - {"labels"}:
            np.testing.assert_allclose(found[name], expected[name], atol=1e-5)


@pytest.mark.parametrize("rows", [cached(YAMNET), heard()], ids=["features", "waveforms"])
@pytest.mark.parametrize("alphas", [{"mixup_alpha": 1.0}, {"cutmix_alpha": 1.0}])
def test_mixed_rows_have_the_shares_of_their_labels(rows, alphas):
    mixed = augmented(rows, augment=["gain:0"] if WAVEFORM in rows.column_names else None, **alphas)
    for row in range(8):
        target = mixed[row]["labels"]
        assert target.shape == (CLASSES,) and target.dtype == np.float32
        assert target.sum() == pytest.approx(1)
        assert np.count_nonzero(target) <= 2


def test_mixing_has_a_probability():
    rows = augmented(cached(YAMNET), mixup_alpha=1.0, mix_probability=0.5)
    drawn = []
    for epoch in range(40):
        rows.epoch.fill_(epoch)
        drawn += [float(rows[row]["labels"].max()) == 1.0 for row in range(8)]  # a partner of the same class, too
    assert 0.5 < np.mean(drawn) < 0.8


def test_masks_hide_bands_and_frames():
    whole = cached(YAMNET)
    rows = augmented(whole, spec_augment=1.0, frequency_mask=0.5, time_mask=0.5)
    hidden = np.array([rows[row]["input_features"] != whole[row]["input_features"] for row in range(8)])
    assert hidden.any(axis=(1, 2)).sum() >= 7  # a width of 0 may be drawn
    assert not hidden.all(axis=(1, 2)).any()


def test_a_longer_waveform_is_cut_anywhere_and_a_shorter_one_filled():
    long = augmented(heard(3 * WINDOW), WAV2VEC2, augment=["gain:0"])
    starts = set()
    for epoch in range(10):
        long.epoch.fill_(epoch)
        found = long[0]["input_values"]
        assert found.shape == (WINDOW,)
        starts.add(float(found[0]))
    assert len(starts) > 5
    short = augmented(heard(WINDOW // 4), WAV2VEC2, augment=["gain:0"], fill="zeros")[0]["input_values"]
    assert short.shape == (WINDOW,) and not short[WINDOW // 4 :].any() and short[: WINDOW // 4].any()


def test_no_recipe_changes_no_rows():
    assert not RecipeArguments().changes_inputs
    asks = ({"augment": ["gain"]}, {"spec_augment": 0.5}, {"mixup_alpha": 0.2}, {"cutmix_alpha": 1.0})
    assert all(dataclasses.replace(RecipeArguments(), **ask).changes_inputs for ask in asks)
    assert not RecipeArguments(mixup_alpha=0.2, mix_probability=0.0).changes_inputs
