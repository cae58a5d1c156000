"""Model and data of a run before training: adapted weights; features, waveforms or embeddings of the clips, cached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from transformers import FeatureExtractionMixin, PreTrainedModel

from urbansound_hf.audio.io import Limits, audio_seconds
from urbansound_hf.config.arguments import DataArguments, ModelArguments, RecipeArguments, RunConfig
from urbansound_hf.config.parse import key_values
from urbansound_hf.data.loading import Sounds
from urbansound_hf.data.splits import Split
from urbansound_hf.errors import UserError
from urbansound_hf.features.dataset import prepare_features, readable
from urbansound_hf.features.extract import FeatureExtractor, Waveforms, extract, filling
from urbansound_hf.features.streaming import Cut, StreamedClips
from urbansound_hf.models import adapt, masking
from urbansound_hf.models.heads import choose_head_inputs
from urbansound_hf.models.linear_probe import LinearProbe, agrees, embeddings, fit_head
from urbansound_hf.models.loading import load_feature_extractor, load_model
from urbansound_hf.models.registry import family_of
from urbansound_hf.profiling import stage
from urbansound_hf.training.augmented_dataset import AugmentedDataset


class Prepared(NamedTuple):
    """The model and the data with which a training starts."""

    model: PreTrainedModel  # with a head for the labels; frozen and adapted as the config says
    extractor: FeatureExtractionMixin
    learner: torch.nn.Module  # what Trainer trains: `model` or, for a linear probe, its head
    train: datasets.Dataset | AugmentedDataset  # model inputs of one shape; augmented where epochs differ
    train_labels: np.ndarray  # (len(train),) class ids
    validation: datasets.Dataset | None  # model inputs of the clips as serving computes them; None without clips
    test: datasets.Dataset | None
    probe: dict[str, Any]


def prepare_training(config: RunConfig, sounds: Sounds, split: Split) -> Prepared:
    """Loads and adapts the model, and computes the inputs of the three parts. Raises UserError."""
    extractor = configured_extractor(config)
    model = configured_model(config, sounds.labels, sounds.multi_label)
    probe = {}
    if config.model.probe_first:
        probe = start_from_probe(config, sounds.dataset, split.train, extractor, model)
    if config.recipe.spec_augment and mask_hidden_states(model, extractor, config.recipe, config.data.clip_seconds):
        config = config.with_values({"spec_augment": 0.0})  # the model masks hidden states, its inputs stay unmasked
    adapt_model(model, config.model, config.recipe.test_time_shifts)
    with stage("extract"):
        compute = streamed_inputs if config.data.streaming else prepare_inputs
        parts, learner = compute(config, sounds.dataset, split, extractor, model)
    train: Any = parts["train"]
    if config.recipe.changes_inputs:  # augmented anew in each epoch
        window, classes = window_samples(config.data.clip_seconds, extractor), model.config.num_labels or 0
        spectrogram = family_of(model.config.model_type).spectrogram
        recipe, seed = config.recipe, config.training.seed
        train = AugmentedDataset(train, recipe, extractor, window, classes, seed, spectrogram)
    labels = np.array(readable(parts["train"]).kept["labels"])
    return Prepared(model, extractor, learner, train, labels, parts.get("validation"), parts.get("test"), probe)


def configured_extractor(config: RunConfig) -> FeatureExtractionMixin:
    """The feature extractor for clips of `clip_seconds`. Raises UserError as `load_feature_extractor` does."""
    overrides = key_values(config.model.feature_extractor_config or (), "--feature_extractor_config")
    return load_feature_extractor(config.model.model_name_or_path, overrides=overrides, **_source(config))


def configured_model(config: RunConfig, labels: Sequence[str], multi_label: bool = False) -> PreTrainedModel:
    """The model with a head for `labels`, before anything is frozen. Raises UserError as `load_model` does."""
    model, kind = config.model, "multi_label_classification" if multi_label else "single_label_classification"
    overrides = key_values(model.model_config or (), "--model_config") | {"problem_type": kind}
    head: dict[str, Any] = {"head_from": key_values(model.head_from or (), "--head_from")}
    head["weighted_layer_sum"] = model.weighted_layer_sum
    loaded = load_model(model.model_name_or_path, labels, overrides=overrides, **head, **_source(config))
    choose_head_inputs(loaded, model.probe_pooling or (), model.probe_layers or ())
    return loaded


def _source(config: RunConfig) -> dict[str, Any]:
    revision, trusted = config.model.model_revision, config.model.trust_remote_code
    return {"clip_seconds": config.data.clip_seconds, "revision": revision, "trust_remote_code": trusted}


def adapt_model(model: PreTrainedModel, arguments: ModelArguments, test_time_shifts: int) -> None:
    """Freezes the model, adds LoRA, and stores in its config what serving must know; all in place."""
    if test_time_shifts:
        model.config.test_time_shifts = test_time_shifts
    masking.mask_without_waiting(model)
    adapt.freeze(model, arguments.freeze, arguments.unfreeze_last_n)
    if arguments.lora_rank:
        from urbansound_hf.models import lora  # needs peft, an extra, installed where it is asked for

        lora.apply_lora(model, arguments.lora_rank)


def mask_hidden_states(
    model: PreTrainedModel, extractor: FeatureExtractor, recipe: RecipeArguments, clip_seconds: float
) -> bool:
    """Turns on a model's own masking of hidden states (wav2vec2-style models), in place; returns whether it has one."""
    clip = extract(extractor, np.zeros(window_samples(clip_seconds, extractor), np.float32))
    # A mask of random width hides half of the maximum on average; the model's own masks hide exactly their share.
    probability = recipe.spec_augment / 2
    return masking.model_masking(model, clip, probability * recipe.frequency_mask, probability * recipe.time_mask)


def prepare_inputs(
    config: RunConfig, clips: datasets.Dataset, split: Split, extractor: FeatureExtractor, model: PreTrainedModel
) -> tuple[dict[str, datasets.Dataset], torch.nn.Module]:
    """The model inputs of the parts that have clips, by name, and what is trained: the model, or a probe of its head.

    "train" holds waveforms where the recipe changes them.
    """
    recipe, batch_size = config.recipe, config.training.per_device_eval_batch_size
    compute = feature_step(clips, model, config.data)
    filled = filling(extractor, window_samples(config.data.clip_seconds, extractor), recipe.fill)
    learner: torch.nn.Module = model
    with config.training.main_process_first(desc="feature extraction"):
        scored = compute(extractor, shifts=recipe.test_time_shifts)
        learned = compute(Waveforms(extractor.sampling_rate) if recipe.changes_waveforms else extractor,
                          filled="none" if recipe.changes_waveforms else filled)  # fmt: skip
        kinds = {features._fingerprint: features for features in (scored, learned)}.values()
        if is_probe(config.model, recipe) and all(agrees(model, each, config.training.device) for each in kinds):
            features, scored, learner = learned, embeddings(model, scored, batch_size), LinearProbe(model)
            learned = scored.select(range(0, len(scored), recipe.test_time_shifts + 1))  # the first is not shifted
            if filled != "none":  # only the clips that were filled pass through the model again
                window = window_samples(config.data.clip_seconds, extractor)
                samples = [audio_seconds(clip["bytes"]) * extractor.sampling_rate for clip in clips["audio"]]
                short = np.isin(features["clip"][:], np.flatnonzero(np.round(samples) < window))
                if short.any():
                    again = embeddings(model, features.select(np.flatnonzero(short)), batch_size)
                    learned = datasets.concatenate_datasets([learned.select(np.flatnonzero(~short)), again])
                    learned = learned.select(np.argsort(learned["clip"][:], kind="stable"))
    inputs = {"train": learned} | {part: scored for part in ("validation", "test") if len(getattr(split, part))}
    return {part: select_clips(features, getattr(split, part)) for part, features in inputs.items()}, learner


def streamed_inputs(
    config: RunConfig, clips: datasets.Dataset, split: Split, extractor: FeatureExtractor, model: PreTrainedModel
) -> tuple[dict[str, Any], torch.nn.Module]:
    """As `prepare_inputs`, but each part reads, decodes and extracts its clips when they are asked for."""
    recipe, window = config.recipe, window_samples(config.data.clip_seconds, extractor)
    filled = "none" if recipe.changes_waveforms else filling(extractor, window, recipe.fill)
    learned = Waveforms(extractor.sampling_rate) if recipe.changes_waveforms else extractor
    shortest = family_of(model.config.model_type).lengths.shortest_samples(model.config)
    cut = Cut(window, shortest=shortest, limits=Limits(config.data.min_rate, config.data.max_seconds))
    buffer, scored = config.data.shuffle_buffer, cut._replace(shifts=recipe.test_time_shifts)
    parts = {"train": StreamedClips(clips, split.train, learned, cut._replace(filled=filled), buffer)}
    held_out = {"validation": split.validation, "test": split.test}
    parts |= {part: StreamedClips(clips, rows, extractor, scored) for part, rows in held_out.items() if len(rows)}
    return parts, model


def is_probe(arguments: ModelArguments, recipe: RecipeArguments) -> bool:
    """Whether only the head is trained, on inputs that stay the same, so that embeddings can be cached."""
    return arguments.freeze == "backbone" and not arguments.unfreeze_last_n and not recipe.changes_inputs


def start_from_probe(
    config: RunConfig, clips: datasets.Dataset, train: np.ndarray, extractor: FeatureExtractor, model: PreTrainedModel
) -> dict[str, Any]:
    """Fits the head, in place, to embeddings of the training clips; returns what `fit_head` does, or UserError."""
    with config.training.main_process_first(desc="the linear probe before training"):
        features = feature_step(clips, model, config.data)(extractor)
        if not agrees(model, features, config.training.device):
            what = f"the head of {model.config.model_type} models is no linear function of the pooled embedding"
            raise UserError(what, "--probe_first", "leave it out for this family")
        embedded = embeddings(model, features, config.training.per_device_eval_batch_size)  # for the other folds, too
        part = select_clips(embedded, train)
        groups = clips["group"][:] if "group" in clips.column_names else [None] * len(clips)
        names = [group or f"clip {number}" for number, group in enumerate(groups)]
        recordings = np.unique(names, return_inverse=True)[1]  # of every clip
        return fit_head(model, part, recordings[part["clip"][:]], config.model.probe_penalty)


def feature_step(
    clips: datasets.Dataset, model: PreTrainedModel, data: DataArguments
) -> Callable[..., datasets.Dataset]:
    """`prepare_features` of all clips; it takes the feature extractor and how clips are filled or shifted."""
    shortest = family_of(model.config.model_type).lengths.shortest_samples(model.config)
    options: dict[str, Any] = {"num_proc": data.preprocessing_num_workers, "shortest_samples": shortest}
    return partial(prepare_features, clips, clip_seconds=data.clip_seconds, **options)


def select_clips(features: datasets.Dataset, clips: np.ndarray) -> datasets.Dataset:
    """The rows of features that belong to some clips; a long clip has several."""
    return features.select(np.flatnonzero(np.isin(features["clip"][:], clips)))


def window_samples(clip_seconds: float, extractor: FeatureExtractor) -> int:
    """Samples of a training clip."""
    return round(clip_seconds * extractor.sampling_rate)
