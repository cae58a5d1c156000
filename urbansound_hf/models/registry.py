"""The table of model families: those of Transformers described here, our own by the record in their folder."""

from __future__ import annotations

import importlib
from typing import Any

from transformers import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING

from urbansound_hf.features.extract import Spectrogram
from urbansound_hf.models.clap.family import FAMILY as CLAP
from urbansound_hf.models.cnn.family import FAMILY as CNN
from urbansound_hf.models.ecapa_tdnn.family import FAMILY as ECAPA_TDNN
from urbansound_hf.models.family import Conversion, Family, Lengths
from urbansound_hf.models.short_context import AstLengths, WhisperLengths
from urbansound_hf.models.yamnet.family import FAMILY as YAMNET

SPEECH = "weak, expected: speech only"
LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "feat_extract_norm": "layer",
    "conv_bias": True,
}

FAMILIES = (
    CLAP,
    Family("audio-spectrogram-transformer", "MIT/ast-finetuned-audioset-10-10-0.4593", "BSD-3-Clause",
           "ImageNet, then AudioSet", "strong: 85.4 % frozen", input="log-mel",
           spectrogram=Spectrogram("input_values", frequency_axis=1, time_axis=0),
           lengths=AstLengths(), linear_layers=("classifier.dense",)),
    YAMNET,
    Family("whisper", "openai/whisper-tiny", "Apache-2.0", "speech, 680,000 h, transcribed",
           "fair: few-shot 59 (AST: 85)", input="log-mel",
           spectrogram=Spectrogram("input_features", frequency_axis=0, time_axis=1), lengths=WhisperLengths()),
    ECAPA_TDNN,
    CNN,
    Family("wav2vec2", "facebook/wav2vec2-base", "Apache-2.0", "speech, LibriSpeech",
           "weak: few-shot 42 (AST: 85)"),
    Family("hubert", "facebook/hubert-base-ls960", "Apache-2.0", "speech, LibriSpeech", SPEECH),
    Family("wavlm", "microsoft/wavlm-base-plus", "unknown", "speech, 94,000 h, with noise", SPEECH),
    Family("data2vec-audio", "facebook/data2vec-audio-base", "Apache-2.0", "speech, LibriSpeech", SPEECH),
    Family("sew", "asapp/sew-tiny-100k", "Apache-2.0", "speech, LibriSpeech", SPEECH,
           {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "num_conv_pos_embeddings": 31}),
    Family("sew-d", "asapp/sew-d-tiny-100k", "Apache-2.0", "speech, LibriSpeech", SPEECH,
           {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6, "num_conv_pos_embeddings": 31}),
    Family("unispeech", "microsoft/unispeech-large-1500h-cv", "unknown", "speech, Common Voice", SPEECH,
           LARGE | {"do_stable_layer_norm": True}),
    Family("unispeech-sat", "microsoft/unispeech-sat-base-plus", "unknown", "speech, 94,000 h", SPEECH),
    Family("wav2vec2-bert", "facebook/w2v-bert-2.0", "MIT", "speech, 4.5 million h", SPEECH, input="log-mel",
           spectrogram=Spectrogram("input_features", frequency_axis=1, time_axis=0), lengths=Lengths(),
           feature_extractor="SeamlessM4TFeatureExtractor"),  # the Auto class would choose that of waveforms
    Family("wav2vec2-conformer", "facebook/wav2vec2-conformer-rel-pos-large", "Apache-2.0", "speech, LibriSpeech",
           SPEECH, LARGE),
)  # fmt: skip
"""Those to choose first stand first."""

_families: dict[str, Family] = {family.model_type: family for family in FAMILIES}


def add_family(family: Family) -> None:
    """Adds a family, or replaces the one of the same model type; for code outside of this package."""
    _families[family.model_type] = family


def families() -> list[Family]:
    """All families, those to choose first in front."""
    return list(_families.values())


def family_of(model_type: str) -> Family:
    """The family of a `config.model_type`; for a type that is not in the table, a record without any facts."""
    for family in _families.values():
        if model_type and model_type in (family.model_type, family.takes_over):
            return family
    return Family(model_type, linear_layers=())


def conversions() -> dict[str, Conversion]:
    """The conversions of published weights, by the name that the command takes."""
    found = (family.conversion for family in _families.values())
    return {conversion.name: conversion for conversion in found if conversion}


def register() -> None:
    """Makes our families known to the Auto classes, so that their checkpoints open without remote code."""
    for family in _families.values():
        if family.modeling:
            importlib.import_module(family.modeling)


def known_types() -> list[str]:
    """The model types that can classify audio, ours included; each can be started from its config."""
    register()
    return sorted({config.model_type for config in MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING})
