"""Opening of trained checkpoints for serving, with checks: all weights are there and finite, the config is possible.

A damaged checkpoint would answer from random weights, or with scores that are no numbers.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
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
from transformers.utils import logging

from urbansound_hf import progress
from urbansound_hf.errors import UserError
from urbansound_hf.layout import MODEL_CONFIG
from urbansound_hf.models.loading import check_path
from urbansound_hf.models.registry import register
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


def load_checkpoint(
    name_or_path: str | Path, revision: str | None = None, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, FeatureExtractionMixin]:
    """Opens a finished classifier, in the precision it was saved in, as the stock pipeline does.

    Args:
        name_or_path: the folder of a run, or a Hub id.
        revision: branch, tag or commit of a Hub id.
        trust_remote_code: run the model code that comes with the checkpoint; families of ours need none.

    Raises:
        UserError: it is not there, cannot be reached, or holds no trained audio classifier.
    """
    check_path(Path(name_or_path))
    register(_model_type(Path(name_or_path)))
    options = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
    auto_model, auto_extractor = AutoModelForAudioClassification, AutoFeatureExtractor
    try:
        with quietly(local=Path(name_or_path).is_dir()):
            model, loading = auto_model.from_pretrained(name_or_path, output_loading_info=True, **options)
            feature_extractor = auto_extractor.from_pretrained(name_or_path, **options)
    except Exception as error:  # of any kind: a config with impossible values stops anywhere in a model's constructor
        raise unopened(str(name_or_path), explained(Path(name_or_path), error)) from error
    check_checkpoint(str(name_or_path), model, feature_extractor, loading)
    return model, feature_extractor


def _model_type(folder: Path) -> str | None:
    """That of a checkpoint folder; None for a Hub id, or where the config does not say."""
    try:
        return json.loads((folder / MODEL_CONFIG).read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None


@contextmanager
def quietly(local: bool) -> Iterator[None]:
    """Suppresses the load report of Transformers, and progress bars except of a download in a terminal."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if local or not progress.in_terminal():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


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
    """Checks a loaded checkpoint; `loading` is the loading info of `from_pretrained`.

    Raises:
        UserError: it names the tensor, or the key of the config, that is wrong.
    """
    for problem in chain(impossible(model.config, extractor), _damaged_weights(Path(name), model)):
        raise UserError(f"the checkpoint is damaged: {problem}", name, FIX)
    missing = sorted(key for key in loading["missing_keys"] if not key.endswith(ONLY_IN_TRAINING))
    if any(not key.startswith(f"{model.base_model_prefix}.") for key in missing):
        what = f"the checkpoint is not a trained classifier: it holds no {first_ten(missing)}"
        fix = "fine-tune it first (urbansound-hf train --model_name_or_path …) and give the folder of that run"
        raise UserError(what, name, fix)
    if missing:
        raise UserError(f"the checkpoint is damaged: it holds no {first_ten(missing)}", name, FIX)
    if extra := sorted(loading["unexpected_keys"]):
        what = f"the checkpoint holds weights that its model does not have: {first_ten(extra)}"
        if getattr(model.config, "clip_seconds", None):  # a run of ours, which writes none
            raise UserError(what, name, FIX)
        progress.say(f"warning: {what}")


def _damaged_weights(folder: Path, model: PreTrainedModel) -> Iterator[str]:
    """Also those that a file holds as integers or complex numbers, which Transformers would convert."""
    stored = stored_tensors(folder)
    for key, weight in ((key, weight) for key, weight in model.state_dict().items() if weight.is_floating_point()):
        kind = stored.get(key, {}).get("dtype", "F")
        if not kind.startswith(("F", "BF")):
            yield f"{key} is stored as {kind}, not as floating-point numbers"
        if weight.numel() and not all(map(torch.isfinite, weight.aminmax())):
            yield f"{key} holds values that are not finite"


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
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)  # else it asks
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
