"""The model families: what to start from, on what terms, how large it is, and what is known of its ear for the street.

Licences and pretraining are those that the checkpoints' cards state; parameters and input are asked of the classes.
That speech models do not carry over to other sounds: arXiv:2111.12124.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForAudioClassification, Wav2Vec2FeatureExtractor

from urbansound_hf.models import checkpoint
from urbansound_hf.models.loading import load_feature_extractor
from urbansound_hf.models.registry import YAMNET_FOLDER, register

SPEECH = "weak, expected: speech only"
LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "feat_extract_norm": "layer",
    "conv_bias": True,
}


@dataclass(frozen=True)
class Family:
    """What is known of a family before anything is loaded.

    Args:
        model_type: its name in Transformers, which `--model_name_or_path` takes for random weights.
        start_from: the recommended checkpoint, a Hub id; the model type where there is nothing pretrained.
        licence: of the weights; "unknown" where their card names none.
        pretraining: what the weights have heard.
        environmental: what is published about them on environmental sound.
        sizes: values of the checkpoint's config that differ from the family's defaults and change its size.
        converted: the folder that the family's own config starts from: such weights are converted first.
    """

    model_type: str
    start_from: str
    licence: str
    pretraining: str
    environmental: str
    sizes: dict[str, Any] = field(default_factory=dict)
    converted: str = ""


FAMILIES = (
    Family("clap-audio", "laion/clap-htsat-unfused", "Apache-2.0", "sounds and their captions",
           "strong: 86.9 % frozen"),
    Family("audio-spectrogram-transformer", "MIT/ast-finetuned-audioset-10-10-0.4593", "BSD-3-Clause",
           "ImageNet, then AudioSet", "strong: 85.4 % frozen"),
    Family("yamnet", "qualcomm/YamNet", "Apache-2.0", "AudioSet", "right domain, no figure",
           converted=YAMNET_FOLDER),
    Family("whisper", "openai/whisper-tiny", "Apache-2.0", "speech, 680,000 h, transcribed",
           "fair: few-shot 59 (AST: 85)"),
    Family("ecapa-tdnn", "speechbrain/urbansound8k_ecapa", "Apache-2.0", "UrbanSound8K, folds 1 to 8",
           "75.5 %, fold 10 only"),
    Family("cnn", "cnn", "none needed", "nothing: random weights", "not pretrained"),
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
    Family("wav2vec2-bert", "facebook/w2v-bert-2.0", "MIT", "speech, 4.5 million h", SPEECH),
    Family("wav2vec2-conformer", "facebook/wav2vec2-conformer-rel-pos-large", "Apache-2.0", "speech, LibriSpeech",
           SPEECH, LARGE),
)  # fmt: skip
"""Those to choose first stand first."""

NOTES = (
    "Parameters: in millions, of the checkpoint with a head for ten classes. Fixed lengths of AST, Whisper and cnn are "
    "cut to --clip_seconds.",
    "Percentages are published, on the ten official folds unless it says otherwise; 'expected': speech is the wrong "
    "domain, and no figure is known here.",
    "Unknown licences: the cards only point to the LICENSE of github.com/microsoft/UniSpeech. YAMNet's licence is "
    "Google's, who trained it; Qualcomm's card of the ONNX export says 'other'. Weights that heard UrbanSound8K heard "
    "CC BY-NC sounds, whatever their own licence.",
    "yamnet and ecapa-tdnn are converted first: urbansound-hf models yamnet convert MODEL.onnx OUT_DIR, "
    "urbansound-hf models ecapa_tdnn convert FOLDER OUT_DIR.",
)
HEADER = ("family", "start from", "licence", "pretrained on", "parameters", "input", "on environmental sound")


def list_families() -> Iterator[dict[str, Any]]:
    """What the tables show of each family; `parameters` and `input` are None where a family's extra is missing."""
    for family in FAMILIES:
        row: dict[str, Any] = {
            "family": family.model_type,
            "start_from": family.start_from,
            "licence": family.licence,
            "pretrained_on": family.pretraining,
            "parameters": None,
            "input": None,
            "environmental_sound": family.environmental,
        }
        with suppress(ImportError):  # ecapa-tdnn without SpeechBrain
            row |= {"parameters": count_parameters(family), "input": describe_input(family)}
        yield row


def count_parameters(family: Family) -> int:
    """The parameters of its checkpoint with a head for ten classes; nothing is allocated for them.

    Raises:
        ImportError: the family's extra is not installed.
    """
    register()
    config = AutoConfig.for_model(family.model_type, num_labels=10, **family.sizes)
    with torch.device("meta"):
        model = AutoModelForAudioClassification.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())


def describe_input(family: Family) -> str:
    """What its feature extractor makes of which sound: "16 kHz log-mel, fixed 30 s".

    Raises:
        UserError: the family's extra is not installed.
    """
    extractor: Any = load_feature_extractor(family.model_type, clip_seconds=None)
    kind = "waveform" if isinstance(extractor, Wav2Vec2FeatureExtractor) else "log-mel"
    kind = "MFCC/log-mel" if hasattr(extractor, "n_mfcc") else kind
    seconds = checkpoint.longest_seconds(extractor)
    length = "any length" if seconds is None else f"fixed {round(seconds, 2):g} s"
    return f"{extractor.sampling_rate // 1000} kHz {kind}, {length}"


def family_cells(row: dict[str, Any]) -> list[str]:
    """A row as text, in the order of `HEADER`."""
    parameters, heard = row["parameters"], row["input"]
    size = "–" if parameters is None else f"{parameters / 1e6:.3g}" if parameters < 1e8 else f"{parameters / 1e6:.0f}"
    texts = [row[name] for name in ("family", "start_from", "licence", "pretrained_on")]
    return [*texts, size, heard or "needs its extra", row["environmental_sound"]]
