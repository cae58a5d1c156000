"""The table of model families, read from families.yaml, and their registration with the Auto classes."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import yaml
from transformers import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING

from urbansound_hf.features.extract import Spectrogram
from urbansound_hf.models import lengths
from urbansound_hf.models.family import Conversion, Family


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
