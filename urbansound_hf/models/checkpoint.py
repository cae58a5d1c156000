"""Opening of trained checkpoints for serving, with checks: all weights are there and finite, the config is possible.

A damaged checkpoint would answer from random weights, or with scores that are no numbers.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    FeatureExtractionMixin,
    PreTrainedModel,
)
from transformers.configuration_utils import PreTrainedConfig

from urbansound_hf import progress
from urbansound_hf.errors import UserError
from urbansound_hf.layout import MODEL_CONFIG
from urbansound_hf.models.loading import check_path, extractor_class, library_messages
from urbansound_hf.models.registry import family_of, register
from urbansound_hf.text import first_ten

ONLY_IN_TRAINING = "masked_spec_embed"  # missing in many checkpoints of wav2vec2-style models
PROBLEM_TYPES = (None, "regression", "single_label_classification", "multi_label_classification")
LIMITS: dict[str, tuple[Any, float, float]] = {
    "clip_seconds": ((int, float), 1e-3, 600), "test_time_shifts": (int, 0, 1000),
    "sampling_rate": (int, 1000, 1_000_000), "feature_size": (int, 1, 10_000),
}  # fmt: skip
"""Type, lowest and highest value of the keys that serving itself uses."""
SIZE = re.compile(r"(size|heads|dim|channels|layers|frames|stride|hop_length)$")  # whole numbers above 0
FIX = "copy or download the checkpoint again; if it was saved like this, train it again"


def load_checkpoint(
    name_or_path: str | Path, revision: str | None = None, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, FeatureExtractionMixin]:
    """Opens a finished classifier, in the precision it was saved in, as the stock pipeline does.

    `name_or_path` is the folder of a run, or a Hub id; families of ours need no `trust_remote_code`. Raises UserError
    if it is not there, cannot be reached, or holds no trained audio classifier.
    """
    folder = Path(name_or_path)
    check_path(folder)
    try:
        model_type = json.loads((folder / MODEL_CONFIG).read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError, RecursionError):  # a Hub id, or a config that does not say
        model_type = None
    register(model_type)
    options = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
    try:
        with library_messages(bars=not folder.is_dir()):
            auto_class: Any = AutoModelForAudioClassification
            model, loading = auto_class.from_pretrained(name_or_path, output_loading_info=True, **options)
            feature_extractor = AutoFeatureExtractor.from_pretrained(name_or_path, **options)
    except Exception as error:  # of any kind: a config with impossible values stops anywhere in a model's constructor
        raise unopened(str(name_or_path), explained(folder, error)) from error
    check_checkpoint(str(name_or_path), model, feature_extractor, loading)
    return model, feature_extractor


def unopened(name: str, reason: str) -> UserError:
    reason = reason.strip() or "no reason given"
    if "trust_remote_code" in reason:
        what, fix = "the checkpoint brings model code of its own", "read it, then allow it with --trust_remote_code"
    elif "couldn't connect" in reason or "offline" in reason:
        what = "the Hub cannot be reached, and the model is neither a folder here nor in the cache"
        fix = "check the name and the connection (or HF_HUB_OFFLINE), or give the folder of a run"
    elif "Unrecognized configuration class" in reason:
        what = "the model is no audio classifier"
        fix = "choose one from https://huggingface.co/models?filter=audio-classification"
    else:
        what = f"no audio classifier could be opened ({reason.splitlines()[0]})"
        fix = "give the folder of a finished run, or a Hub id; a private one needs `hf auth login`"
    return UserError(what, name, fix)


def check_checkpoint(
    name: str, model: PreTrainedModel, extractor: FeatureExtractionMixin, loading: Mapping[str, Any]
) -> None:
    """Raises UserError for a wrong tensor or config key; `loading` is the loading info of `from_pretrained`."""
    for problem in impossible(model.config, extractor):
        raise UserError(f"the checkpoint is damaged: {problem}", name, FIX)
    stored = stored_tensors(Path(name))
    for key, weight in ((key, weight) for key, weight in model.state_dict().items() if weight.is_floating_point()):
        kind = stored.get(key, {}).get("dtype", "F")
        if not kind.startswith(("F", "BF")):  # integers or complex numbers, which Transformers converts
            problem = f"{key} is stored as {kind}, not as floating-point numbers"
            raise UserError(f"the checkpoint is damaged: {problem}", name, FIX)
        if weight.numel() and not all(map(torch.isfinite, weight.aminmax())):
            raise UserError(f"the checkpoint is damaged: {key} holds values that are not finite", name, FIX)
    if missing := sorted(key for key in loading["missing_keys"] if not key.endswith(ONLY_IN_TRAINING)):
        if all(key.startswith(f"{model.base_model_prefix}.") for key in missing):
            raise UserError(f"the checkpoint is damaged: it holds no {first_ten(missing)}", name, FIX)
        what = f"the checkpoint is not a trained classifier: it holds no {first_ten(missing)}"
        fix = "fine-tune it first (urbansound-hf train --model_name_or_path …) and give the folder of that run"
        raise UserError(what, name, fix)
    if extra := sorted(loading["unexpected_keys"]):
        what = f"the checkpoint holds weights that its model does not have: {first_ten(extra)}"
        if getattr(model.config, "clip_seconds", None):  # a run of ours, which writes none
            raise UserError(what, name, FIX)
        progress.say(f"warning: {what}")


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
    expected = extractor_class(family_of(config.model_type))
    if extractor and expected and not (isinstance(extractor, expected) or issubclass(expected, type(extractor))):
        yield f"`feature_extractor_type` is {type(extractor).__name__}, its model needs {expected.__name__}"
    parts: list[Any] = [config, extractor] if extractor else [config]
    for part in parts:
        try:
            defaults = type(part)().to_dict()
        except Exception:  # model code from the Hub may not have any
            defaults = {}
        for key, value in part.to_dict().items():
            if not _possible(key, value, defaults.get(key)):
                yield f"`{key}` cannot be {value!r}"


def _possible(key: str, value: Any, default: Any) -> bool:
    """Whether a value is one that this key can have, judged by its limits or by the type and sign of its default."""
    if key in LIMITS:
        kind, low, high = LIMITS[key]
        number = isinstance(value, kind) and not isinstance(value, bool)
        return low <= value <= high if number else value is None and key != "sampling_rate"
    if isinstance(value, float) and not math.isfinite(value):
        return False
    if value is None or default is None or "token" in key:
        return True
    if isinstance(default, list | tuple) and all(map(_is_size, default)):
        return not default or (isinstance(value, list | tuple) and all(map(_is_size, value)))
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, int | float):
        if _is_size(default) and SIZE.search(key):
            return _is_size(value)
        return isinstance(value, int | float) and (value >= 0 or not _is_size(default))
    return True


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def explained(folder: Path, error: Exception) -> str:
    """The tensor of the wrong shape or impossible value of a config behind an error of Transformers; else its text."""
    said = " ".join(str(error).split())
    if isinstance(error, OSError | ImportError | SafetensorError):
        return said
    named: list[str] = []
    try:
        values = json.loads((folder / MODEL_CONFIG).read_text(encoding="utf-8"))
        if not isinstance(values.get("id2label") or {}, dict):
            return "`id2label` is no mapping of numbers to names"
        named = [key for key, value in values.items() if isinstance(value, str) and repr(value)[1:-1] in said]
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)  # else it asks
        if problem := next(impossible(config, None), ""):
            return problem
        with torch.device("meta"):
            model = AutoModelForAudioClassification.from_config(config)
        stored = stored_tensors(folder)
        for key, weight in model.state_dict().items():
            if key in stored and list(weight.shape) != (shape := stored[key]["shape"]):
                return f"{key} has the shape {shape}, and its config asks for {list(weight.shape)}"
    except Exception:  # the one that is being explained
        pass
    return f"{said} ({', '.join([type(error).__name__, *named])})"
