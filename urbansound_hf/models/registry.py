"""The model families: a record each, read from families.yaml, and their registration with the Auto classes.

Nothing else in the package asks which family a model is of: it reads the record (`family_of`).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from transformers import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING

from urbansound_hf.features.extract import Spectrogram
from urbansound_hf.models import lengths
from urbansound_hf.models.lengths import ConvolutionalLengths, Lengths


@dataclass(frozen=True)
class Conversion:
    """The command that makes a checkpoint folder of published weights in another format."""

    name: str  # `urbansound-hf models NAME convert SOURCE OUT_DIR`
    module: str  # the module whose `convert(source, out_dir)` does it
    source: str  # what the command reads, as its help calls it
    marker: str = ""  # a file by which a folder of unconverted weights is recognised
    out_dir: str = ""  # where the family's shipped config expects the converted checkpoint

    def command(self, source: str = "", out_dir: str = "OUT_DIR") -> str:
        """The command line that converts `source`."""
        return f"urbansound-hf models {self.name} convert {source or self.source} {out_dir}"


@dataclass(frozen=True)
class Family:
    """What is known of a model family before anything is loaded."""

    model_type: str  # its name in Transformers, which `--model_name_or_path` takes for random weights
    start_from: str = ""  # the recommended checkpoint, a Hub id; the model type where there is nothing pretrained
    licence: str = ""  # of the weights; "unknown" where their card names none
    pretraining: str = ""  # data on which the weights were trained
    environmental: str = ""  # published results on environmental sound
    sizes: Mapping[str, Any] = field(default_factory=dict)  # of the checkpoint's config, other than the defaults
    input: str = "waveform"  # kind of input that the feature extractor computes
    spectrogram: Spectrogram | None = None  # the input that is a spectrogram, and its axes
    lengths: Lengths = field(default_factory=ConvolutionalLengths)  # of clips that the family supports
    linear_layers: tuple[str, ...] = ("projector", "classifier")  # the consecutive ones at the end of the head, if any
    feature_extractor: str = ""  # its class in Transformers, where the Auto class would choose another
    modeling: str = ""  # the module that registers a family of ours with the Auto classes
    takes_over: str = ""  # type of stock checkpoints that open as this family, by `take_over` of its config class
    extra: str = ""  # the optional dependencies that it needs (`pip install 'urbansound-hf[EXTRA]'`)
    conversion: Conversion | None = None  # how its published weights become a checkpoint folder


def _read_family(model_type: str, facts: dict[str, Any]) -> Family:
    own: dict[str, Any] = {"lengths": getattr(lengths, facts.get("lengths", "ConvolutionalLengths"))()}
    own |= {name: kind(**facts[name]) for name, kind in PARTS.items() if name in facts}
    own |= {"linear_layers": tuple(facts["linear_layers"])} if "linear_layers" in facts else {}
    return Family(model_type, **{**facts, **own})


PARTS = {"spectrogram": Spectrogram, "conversion": Conversion}
_records = yaml.safe_load(Path(__file__).with_name("families.yaml").read_text(encoding="utf-8"))
_families: dict[str, Family] = {name: _read_family(name, facts) for name, facts in _records.items()}


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


def register(model_type: str | None = None) -> None:
    """Makes our families known to the Auto classes, so that their checkpoints open without remote code.

    Args:
        model_type: only the family that opens it; imports of the others take a fifth of a second.
    """
    for family in _families.values():
        if family.modeling and (model_type is None or model_type in (family.model_type, family.takes_over)):
            importlib.import_module(family.modeling)


def known_types() -> list[str]:
    """The model types that can classify audio, ours included; each can be started from its config."""
    register()
    return sorted({config.model_type for config in MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING})
