"""Loads the model and the feature extractor of a run's config."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import FeatureExtractionMixin, PreTrainedModel

from urbansound_hf.config.arguments import RunConfig
from urbansound_hf.config.parse import key_values
from urbansound_hf.models.loading import load_feature_extractor, load_model


def configured_extractor(config: RunConfig) -> FeatureExtractionMixin:
    """The feature extractor for clips of `clip_seconds`. Raises UserError as `load_feature_extractor` does."""
    model = config.model
    return load_feature_extractor(
        model.model_name_or_path,
        clip_seconds=config.data.clip_seconds,
        revision=model.model_revision,
        trust_remote_code=model.trust_remote_code,
        overrides=key_values(model.feature_extractor_config or (), "--feature_extractor_config"),
    )


def configured_model(config: RunConfig, labels: Sequence[str]) -> PreTrainedModel:
    """The model with a head for `labels`, before anything is frozen. Raises UserError as `load_model` does."""
    model = config.model
    return load_model(
        model.model_name_or_path,
        labels,
        clip_seconds=config.data.clip_seconds,
        revision=model.model_revision,
        trust_remote_code=model.trust_remote_code,
        overrides=key_values(model.model_config or (), "--model_config"),
        weighted_layer_sum=model.weighted_layer_sum,
        head_from=key_values(model.head_from or (), "--head_from"),
    )
