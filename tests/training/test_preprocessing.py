"""The inputs of the three parts: their clips, the cache, masking of hidden states, and clips that are too short."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from datasets.fingerprint import Hasher
from transformers import set_seed

from tests.training.test_run import small_split
from urbansound_hf.audio.io import AudioError, to_wav
from urbansound_hf.data import splits
from urbansound_hf.data.builder import PreparedSounds, sound_features
from urbansound_hf.data.loading import Sounds
from urbansound_hf.data.splits import Split
from urbansound_hf.training.augmented_dataset import AugmentedDataset
from urbansound_hf.training.loading import configured_extractor, configured_model
from urbansound_hf.training.preprocessing import prepare_inputs, prepare_training


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
