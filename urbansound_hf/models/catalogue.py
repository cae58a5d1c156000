"""The listing of the model families: recommended checkpoint, licence, pretraining, size, input, published results.

Licences and pretraining are those that the checkpoints' cards state; parameters and input are asked of the classes.
That speech models do not carry over to other sounds: arXiv:2111.12124.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForAudioClassification

from urbansound_hf.models.loading import load_feature_extractor
from urbansound_hf.models.registry import conversions, families, register

NOTES = (
    "Parameters: in millions, of the checkpoint with a head for ten classes. Fixed lengths of AST, Whisper and cnn are "
    "cut to --clip_seconds.",
    "Percentages are published, on the ten official folds unless it says otherwise; 'expected': speech is the wrong "
    "domain, and no figure is known here.",
    "Unknown licences: the cards only point to the LICENSE of github.com/microsoft/UniSpeech. YAMNet's licence is "
    "Google's, who trained it; Qualcomm's card of the ONNX export says 'other'. Weights trained on UrbanSound8K were "
    "trained on CC BY-NC sounds, whatever their own licence.",
    "yamnet and ecapa-tdnn are converted first: "
    f"{', '.join(conversion.command() for conversion in conversions().values())}.",
)
KEYS = ("family", "start_from", "licence", "pretrained_on", "parameters", "input", "environmental_sound")
HEADER = ("family", "start from", "licence", "pretrained on", "parameters", "input", "on environmental sound")


def list_families() -> Iterator[dict[str, Any]]:
    """The model families: recommended checkpoint, licence, pretraining, size, input, results on environmental sound.

    `parameters` is a number, of the checkpoint with a head for ten classes; it and `input` are None where a family's
    extra is not installed. Licences and pretraining are those of the checkpoints' model cards.

    Examples:
        >>> {row["family"]: row["start_from"] for row in ush.list_families()}["wav2vec2"]
        'facebook/wav2vec2-base'
    """
    register()
    for family in families():
        texts = (family.model_type, family.start_from, family.licence, family.pretraining, None, None)
        row: dict[str, Any] = dict(zip(KEYS, (*texts, family.environmental), strict=True))
        with suppress(ImportError):  # ecapa-tdnn without SpeechBrain
            config = AutoConfig.for_model(family.model_type, num_labels=10, **family.sizes)
            with torch.device("meta"):
                model = AutoModelForAudioClassification.from_config(config)
            extractor: Any = load_feature_extractor(family.model_type, clip_seconds=None)
            seconds = family.lengths.longest_seconds(extractor)
            length = "any length" if seconds is None else f"fixed {round(seconds, 2):g} s"
            row["parameters"] = sum(parameter.numel() for parameter in model.parameters())
            row["input"] = f"{extractor.sampling_rate // 1000} kHz {family.input}, {length}"
        yield row


def family_cells(row: dict[str, Any]) -> list[str]:
    """A row as text, in the order of `HEADER`."""
    parameters, inputs = row["parameters"], row["input"]
    size = "–" if parameters is None else f"{parameters / 1e6:.3g}" if parameters < 1e8 else f"{parameters / 1e6:.0f}"
    return [*(row[name] for name in KEYS[:4]), size, inputs or "needs its extra", row["environmental_sound"]]
