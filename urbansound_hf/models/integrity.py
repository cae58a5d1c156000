"""Checks of a checkpoint before it serves: all weights are there, floating-point and finite; its config is possible.

A damaged checkpoint would answer from random weights, or with scores that are no numbers.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForAudioClassification, FeatureExtractionMixin, PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig

from urbansound_hf import progress
from urbansound_hf.errors import UserError
from urbansound_hf.layout import MODEL_CONFIG
from urbansound_hf.text import first_ten

ONLY_IN_TRAINING = "masked_spec_embed"  # missing in many checkpoints of wav2vec2-style models
PROBLEM_TYPES = (None, "regression", "single_label_classification", "multi_label_classification")
LIMITS: dict[str, tuple[Any, float, float]] = {
    "clip_seconds": ((int, float), 1e-3, 600), "test_time_shifts": (int, 0, 1000),
    "sampling_rate": (int, 1000, 1_000_000),
}  # fmt: skip
"""Type, lowest and highest value of the keys that serving itself uses."""
SIZE = re.compile(r"(size|heads|dim|channels|layers|frames|stride|hop_length)$")  # whole numbers above 0
FIX = "copy or download the checkpoint again; if it was saved like this, train it again"


def check_checkpoint(
    name: str, model: PreTrainedModel, extractor: FeatureExtractionMixin, loading: Mapping[str, Any]
) -> None:
    """Checks a loaded checkpoint.

    Args:
        name: its folder or Hub id.
        loading: the loading info of `from_pretrained`.

    Raises:
        UserError: it names the tensor, or the key of the config, that is wrong.
    """
    for problem in chain(impossible(model.config, extractor), _weights(model), _stored_types(Path(name), model)):
        raise UserError(f"the checkpoint is damaged: {problem}", name, FIX)
    missing = sorted(key for key in loading["missing_keys"] if not key.endswith(ONLY_IN_TRAINING))
    if any(not key.startswith(f"{model.base_model_prefix}.") for key in missing):
        raise UserError(
            f"the checkpoint is not a trained classifier: it holds no {first_ten(missing)}",
            name,
            "fine-tune it first (urbansound-hf train --model_name_or_path …) and give the folder of that run",
        )
    if missing:
        raise UserError(f"the checkpoint is damaged: it holds no {first_ten(missing)}", name, FIX)
    if extra := sorted(loading["unexpected_keys"]):
        what = f"the checkpoint holds weights that its model does not have: {first_ten(extra)}"
        if getattr(model.config, "clip_seconds", None):  # a run of ours, which writes none
            raise UserError(what, name, FIX)
        progress.say(f"warning: {what}")


def _weights(model: PreTrainedModel) -> Iterator[str]:
    for key, weight in model.state_dict().items():
        if weight.is_floating_point() and weight.numel() and not all(map(torch.isfinite, weight.aminmax())):
            yield f"{key} holds values that are not finite"


def _stored_types(folder: Path, model: PreTrainedModel) -> Iterator[str]:
    """Weights that a file holds as integers or complex numbers, which Transformers would convert."""
    state = model.state_dict()
    for key, entry in stored_tensors(folder).items():
        if key in state and state[key].is_floating_point() and not entry["dtype"].startswith(("F", "BF")):
            yield f"{key} is stored as {entry['dtype']}, not as floating-point numbers"


def stored_tensors(folder: Path) -> dict[str, dict[str, Any]]:
    """`dtype` and `shape` of every tensor in the safetensors files of a folder; {} for a Hub id."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        with path.open("rb") as file:
            found |= json.loads(file.read(int.from_bytes(file.read(8), "little")))
    found.pop("__metadata__", None)
    return found


def impossible(config: PreTrainedConfig, extractor: FeatureExtractionMixin | None) -> Iterator[str]:
    """What is wrong with values of a config and a feature extractor, each with its key."""
    labels = list((config.id2label or {}).values())
    if len({str(label) for label in labels}) < max(1, len(labels)):
        yield "`id2label` names a class twice, or none"
    if config.problem_type not in PROBLEM_TYPES:
        yield f"`problem_type` is {config.problem_type!r}"
    parts: list[Any] = [config, extractor] if extractor else [config]
    for part in parts:
        values, defaults = part.to_dict(), _defaults(part)
        for key, value in values.items():
            if not _possible(key, value, defaults.get(key)):
                yield f"`{key}` cannot be {value!r}"


def _possible(key: str, value: Any, default: Any) -> bool:
    """Whether a value is one that this key can have, judged by its limits or by the type and sign of its default."""
    if key in LIMITS:
        kind, low, high = LIMITS[key]
        return (value is None and key != "sampling_rate") or (
            isinstance(value, kind) and not isinstance(value, bool) and low <= value <= high
        )
    if isinstance(value, float) and not math.isfinite(value):
        return False
    if value is None or default is None or "token" in key:
        return True
    if isinstance(default, list | tuple) and all(_is_size(each) for each in default):
        return not default or (isinstance(value, list | tuple) and all(_is_size(each) for each in value))
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, int | float):
        if _is_size(default) and SIZE.search(key):
            return _is_size(value)
        return isinstance(value, int | float) and (value >= 0 or not _is_size(default))
    return True


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _defaults(part: Any) -> dict[str, Any]:
    try:
        return type(part)().to_dict()
    except Exception:  # model code from the Hub may not have any
        return {}


def explained(folder: Path, error: Exception) -> str:
    """The tensor of the wrong shape or the impossible value of a config that an error of Transformers is about.

    Where neither is found, what the error says.
    """
    said = " ".join(str(error).split())
    if isinstance(error, OSError | ImportError | SafetensorError):
        return said
    named: list[str] = []
    try:
        values = json.loads((folder / MODEL_CONFIG).read_text(encoding="utf-8"))
        if not isinstance(values.get("id2label") or {}, dict):
            return "`id2label` is no mapping of numbers to names"
        named = [key for key, value in values.items() if isinstance(value, str) and repr(value)[1:-1] in said]
        config = AutoConfig.from_pretrained(folder)
        problem = next(impossible(config, None), "") or misshaped(folder, config)
    except Exception:  # the one that is being explained
        problem = ""
    return problem or f"{said} ({', '.join([type(error).__name__, *named])})"


def misshaped(folder: Path, config: PreTrainedConfig) -> str:
    """The first tensor in a folder whose shape is not the one that the config asks for; "" if there is none."""
    with torch.device("meta"):
        model = AutoModelForAudioClassification.from_config(config)
    stored = stored_tensors(folder)
    for key, weight in model.state_dict().items():
        if key in stored and list(weight.shape) != stored[key]["shape"]:
            return f"{key} has the shape {stored[key]['shape']}, and its config asks for {list(weight.shape)}"
    return ""
