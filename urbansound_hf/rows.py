"""The clips of a run as its model hears them: cached features, a probe's embeddings, or rows anew each epoch."""

from __future__ import annotations

import dataclasses
import os
from functools import partial

import datasets
import numpy as np
import torch
from transformers import PreTrainedModel

from urbansound_hf import features, masks
from urbansound_hf.augmented import AugmentedRows
from urbansound_hf.config import RunConfig
from urbansound_hf.errors import UserError
from urbansound_hf.features import FeatureExtractor
from urbansound_hf.folds import Split
from urbansound_hf.models import checkpoint, probe, probe_first
from urbansound_hf.sounds import Sounds


def prepare(
    config: RunConfig, sounds: Sounds, split: Split, extractor: FeatureExtractor, model: PreTrainedModel
) -> tuple[dict[str, datasets.Dataset], torch.nn.Module]:
    """The three parts as model inputs, and what is to learn from them: the model, or for a linear probe its head.

    All clips are extracted, or embedded by the frozen backbone, once for every split of the same data, and cached.
    Where the recipe changes waveforms, the training part holds those.
    """
    recipe = config.recipe
    probing = config.model.freeze == "backbone" and not config.model.unfreeze_last_n and not recipe.changes_rows
    heard = _hearing(config, sounds, model)
    with config.training.main_process_first(desc="feature extraction"):
        evaluated = heard(extractor, shifts=recipe.test_time_shifts)
        prepared = {part: evaluated for part in ("validation", "test") if len(getattr(split, part))}
        if recipe.changes_waveforms:
            prepared["train"] = heard(features.Waveforms(extractor.sampling_rate))
        else:
            filled = features.filling(extractor, window(config, extractor), recipe.fill)
            prepared["train"] = heard(extractor, filled=filled)
        learner: torch.nn.Module = model
        if probing and all(probe.agrees(model, rows, config.training.device) for rows in prepared.values()):
            batch_size = config.training.per_device_eval_batch_size
            prepared = {part: probe.embeddings(model, rows, batch_size) for part, rows in prepared.items()}
            learner = probe.LinearProbe(model)
    parts = {
        part: rows.select(np.flatnonzero(np.isin(rows["clip"], getattr(split, part))))
        for part, rows in prepared.items()
    }
    return parts, learner


def begin_with_probe(
    config: RunConfig, sounds: Sounds, split: Split, extractor: FeatureExtractor, model: PreTrainedModel
) -> None:
    """Fits the head, in place, to the training clips as the model hears them before anything was trained or changed.

    Raises:
        UserError: the head is no linear function of the pooled embedding, or does not end in a linear layer.
    """
    with config.training.main_process_first(desc="the probe before the training"):
        heard = _hearing(config, sounds, model)(extractor)
        heard = heard.select(np.flatnonzero(np.isin(heard["clip"], split.train)))
        if not probe.agrees(model, heard, config.training.device):
            what = f"the head of {model.config.model_type} models is not linear in what the backbone tells of a clip"
            raise UserError(what, "--probe_first", "leave it out for this family")
        probe_first.fit(model, probe.embeddings(model, heard, config.training.per_device_eval_batch_size))


def _hearing(config: RunConfig, sounds: Sounds, model: PreTrainedModel) -> partial[datasets.Dataset]:
    """`features.prepare` for all clips of a run."""
    return partial(
        features.prepare,
        sounds.dataset,
        clip_seconds=config.data.clip_seconds,
        num_proc=config.data.preprocessing_num_workers or os.cpu_count(),
        shortest_samples=checkpoint.shortest_samples(model.config),
    )


def training_rows(
    config: RunConfig, rows: datasets.Dataset, extractor: FeatureExtractor, classes: int
) -> datasets.Dataset | AugmentedRows:
    """The training part as the recipe wants it: as it was prepared, or another sound each epoch."""
    if not config.recipe.changes_rows:
        return rows
    return AugmentedRows(rows, config.recipe, extractor, window(config, extractor), classes, config.training.seed)


def with_own_masking(config: RunConfig, model: PreTrainedModel, extractor: FeatureExtractor) -> RunConfig:
    """Lets a model mask its own hidden states where it can (the wav2vec2 kind); its inputs then stay whole."""
    recipe = config.recipe
    if not recipe.spec_augment:
        return config
    clip = features.extract(extractor, np.zeros(window(config, extractor), np.float32))
    often = recipe.spec_augment / 2  # a mask of up to a share hides half of it in the mean; these hide what they say
    if not masks.model_masking(model, clip, often * recipe.frequency_mask, often * recipe.time_mask):
        return config
    return dataclasses.replace(config, recipe=dataclasses.replace(recipe, spec_augment=0.0))


def window(config: RunConfig, extractor: FeatureExtractor) -> int:
    """Samples of a training clip."""
    return round(config.data.clip_seconds * extractor.sampling_rate)
