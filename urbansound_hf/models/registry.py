"""The model families of this package and their registration with the Auto classes."""

from __future__ import annotations

import importlib

from transformers import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING

FAMILIES = ("clap.modeling_clap_audio", "cnn.modeling_cnn", "ecapa_tdnn.modeling_ecapa_tdnn", "yamnet.modeling_yamnet")
"""Our own families: one modeling module each, which registers its classes with the Auto classes on import."""

YAMNET_FOLDER = "outputs/yamnet_audioset"
"""Where configs/yamnet.yaml looks for the published weights, which are converted first."""


def register() -> None:
    """Makes our families known to the Auto classes, so that their checkpoints open without remote code."""
    for family in FAMILIES:
        importlib.import_module(f"urbansound_hf.models.{family}")


def known_types() -> list[str]:
    """The model types that can classify audio, ours included; each can be started from its config."""
    register()
    return sorted({config.model_type for config in MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING})
