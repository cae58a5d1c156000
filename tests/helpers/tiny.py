"""Checkpoints of a few thousand random weights, saved as training saves real ones."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForAudioClassification,
)

from urbansound_hf.data.urbansound8k import CLASSES
from urbansound_hf.models.yamnet.modeling_yamnet import (
    YamnetConfig,
    YamnetFeatureExtractor,
    YamnetForAudioClassification,
)

NAMES = {"id2label": dict(enumerate(CLASSES)), "label2id": {label: i for i, label in enumerate(CLASSES)}}
WAV2VEC2 = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
            "conv_dim": [32] * 7, "num_conv_pos_embeddings": 16, "classifier_proj_size": 32}  # fmt: skip
WHISPER = {"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_layers": 1,
           "decoder_attention_heads": 2, "vocab_size": 64, "max_source_positions": 100, "classifier_proj_size": 32,
           "init_std": 0.1, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
           "decoder_start_token_id": 0}  # fmt: skip
AST = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "max_length": 128}
YAMNET = {"channels": [8, 8, 16, 16], "strides": [2, 1, 2, 2]}

FAMILIES = ("wav2vec2", "wav2vec2_layer_norm", "whisper", "ast", "yamnet")


def save(family: str, folder: Path, **extra: object) -> Path:
    """Saves a random model of `family`; `extra` goes into its config, as `clip_seconds` does."""
    torch.manual_seed(0)
    options = {**NAMES, **extra}
    model, extractor = {
        "wav2vec2": lambda: (
            Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**{**WAV2VEC2, **options})),
            Wav2Vec2FeatureExtractor(return_attention_mask=False),
        ),
        "wav2vec2_layer_norm": lambda: (
            Wav2Vec2ForSequenceClassification(
                Wav2Vec2Config(**{**WAV2VEC2, **options}, feat_extract_norm="layer", do_stable_layer_norm=True)
            ),
            Wav2Vec2FeatureExtractor(return_attention_mask=True),
        ),
        "whisper": lambda: (
            WhisperForAudioClassification(WhisperConfig(**{**WHISPER, **options})),
            WhisperFeatureExtractor(chunk_length=2),
        ),
        "ast": lambda: (
            ASTForAudioClassification(ASTConfig(**{**AST, **options})),
            ASTFeatureExtractor(max_length=128),
        ),
        "yamnet": lambda: (
            YamnetForAudioClassification(YamnetConfig(**{**YAMNET, **options})),
            YamnetFeatureExtractor(),
        ),
    }[family]()
    head = model.classifier.dense if family == "ast" else model.classifier
    with torch.no_grad():
        head.weight.mul_(100)  # a fresh head gives every class 0.1, and every comparison of scores would pass
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder
