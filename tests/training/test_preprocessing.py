"""The inputs of the three parts: their clips, the cache, masking of hidden states, and clips that are too short."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from datasets.fingerprint import Hasher
from transformers import set_seed

from tests.helpers import tiny
from tests.training.test_run import small_split
from urbansound_hf.audio.io import AudioError, load_audio, to_wav, window_bounds
from urbansound_hf.data import splits
from urbansound_hf.data.builder import PreparedSounds, sound_features
from urbansound_hf.data.loading import Sounds
from urbansound_hf.data.splits import Split
from urbansound_hf.features.dataset import prepare_features
from urbansound_hf.features.extract import filling
from urbansound_hf.models import linear_probe
from urbansound_hf.models.registry import window_cut
from urbansound_hf.training.augmented_dataset import AugmentedDataset
from urbansound_hf.training.run import (
    configured_extractor,
    configured_model,
    prepare_inputs,
    prepare_training,
    select_clips,
)


def changed(folder: Path) -> dict[Path, int]:
    """The files below a folder and when they were written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_each_part_hears_its_own_rows_and_no_others(configure, sounds):
    config, split = configure(), small_split(validation=3)
    extractor = configured_extractor(config)
    model = configured_model(config, sounds.labels)
    parts, _ = prepare_inputs(config, sounds.dataset, split, extractor, model)
    assert {part: part_rows["clip"][:].tolist() for part, part_rows in parts.items()} == {
        part: getattr(split, part).tolist() for part in ("train", "validation", "test")
    }


def test_features_and_embeddings_are_computed_once_for_all_ten(configure, sounds):
    run_config = configure("--clip_seconds", 3, "--freeze", "backbone", "--preprocessing_num_workers", 1)
    extractor = configured_extractor(run_config)
    cache = Path(sounds.dataset.cache_files[0]["filename"]).parent
    made = [changed(cache)]
    for fold in range(1, 11):
        set_seed(run_config.training.seed)
        model = configured_model(run_config, sounds.labels)
        split = splits.official(sounds.dataset["fold"], fold)
        parts, _ = prepare_inputs(run_config, sounds.dataset, split, extractor, model)
        assert parts["test"].column_names == ["labels", "clip", "embedding"]
        made.append(changed(cache))
    assert len(made[1].keys() - made[0].keys()) == 4, "features and embeddings, of training and of evaluation windows"
    assert all(after == made[1] for after in made[2:])


@pytest.mark.parametrize(("family", "shifts"), [("wav2vec2", 0), ("wav2vec2", 1), ("whisper", 0)])
def test_only_filled_clips_pass_through_a_frozen_model_twice(family, shifts, configure, sounds, tmp_path, monkeypatch):
    folder = tiny.save(family, tmp_path / "model", clip_seconds=2.0)
    window = 32_000 - 8_000 * shifts  # else the cache of the case before
    words = ("--freeze", "backbone", "--clip_seconds", window / 16_000, "--test_time_shifts", shifts)
    config = configure(*words, "--model_name_or_path", folder, "--model_config", "apply_spec_augment=False")
    extractor, model = configured_extractor(config), configured_model(config, sounds.labels)
    clips, split = sounds.dataset.select(range(20)), Split("random", *np.arange(18).reshape(3, 6))
    lengths = np.array([len(load_audio(clip["bytes"])) for clip in clips["audio"]])
    rows, embed = [], linear_probe._embed_rows
    monkeypatch.setattr(linear_probe, "_embed_rows", lambda b, model: rows.append(len(b["clip"])) or embed(b, model))
    parts, _ = prepare_inputs(config, clips, split, extractor, model)
    windows = sum(len(window_bounds(length, window, window // 2)) for length in lengths)
    short = (lengths < window).sum() if family == "wav2vec2" else 0
    assert sum(rows) == windows * (shifts + 1) + short
    cut = window_cut(model, extractor, window / 16_000)._replace(filled=filling(extractor, window, "auto"))
    features = prepare_features(clips, extractor, cut)
    expected = linear_probe.embeddings(model, select_clips(features, split.train), 8)
    np.testing.assert_array_equal(parts["train"]["clip"][:], expected["clip"][:])
    np.testing.assert_allclose(parts["train"]["embedding"][:], expected["embedding"][:], atol=1e-5)


def test_a_model_that_masks_its_hidden_states_gets_unmasked_inputs(configure, sounds):
    config = configure("--spec_augment", 1.0)
    prepared = prepare_training(config, sounds, small_split())
    assert prepared.model.config.mask_time_prob == pytest.approx(0.1), "half of the maximum width of 0.2"
    assert not isinstance(prepared.train, AugmentedDataset) and config.recipe.spec_augment == 1.0


def test_a_clip_too_short_for_the_model_is_reported_before_training(configure):
    wavs = [to_wav(np.full(samples, 0.1, np.float32)) for samples in (16_000, 16_000, 399, 400)]
    rows = [{"source": wav, "path": f"{i}.wav", "label": i % 2} for i, wav in enumerate(wavs)]
    prepared = PreparedSounds(rows, sound_features(["a", "b"], {}), Hasher.hash(wavs), "short").load(num_proc=1)
    data = Sounds("short", prepared, ["a", "b"], [], "")
    parts = [np.array([row]) for row in (0, 1, 2)]
    with pytest.raises(AudioError, match="399 samples at 16000 Hz; it needs 400") as caught:
        prepare_training(configure(), data, Split("random", *parts))
    assert caught.value.where == "2.wav"
