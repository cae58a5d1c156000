"""Every model family behind one door: a name in, an `AutoModelForAudioClassification` and its extractor out."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    CONFIG_MAPPING,
    FEATURE_EXTRACTOR_MAPPING,
    MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    FeatureExtractionMixin,
    PreTrainedConfig,
    PreTrainedModel,
    SeamlessM4TFeatureExtractor,
)

from urbansound_hf.errors import UserError
from urbansound_hf.models import short_context
from urbansound_hf.models.heads import configure_layer_sum, rows_by_name, rows_from, start_evenly
from urbansound_hf.models.registry import YAMNET_FOLDER, known_types, register

if TYPE_CHECKING:
    from urbansound_hf.config.arguments import ModelArguments


Loaded = TypeVar("Loaded")


def load_feature_extractor(arguments: ModelArguments) -> FeatureExtractionMixin:
    """The feature extractor that belongs to the model; for a bare model type, a new one.

    Raises:
        UserError: there is no such model or folder, or an override that its extractor does not have.
    """
    register()
    overrides = key_values(arguments.feature_extractor_config or (), "--feature_extractor_config")
    if starts_from_config(arguments):
        config = _new_config(arguments, {})
        extractor_class: Any = FEATURE_EXTRACTOR_MAPPING[type(config)]
        if hasattr(config, "feature_projection_input_dim"):  # wav2vec2-bert: the Auto class would give raw samples
            extractor_class = SeamlessM4TFeatureExtractor
        with _refusals("--feature_extractor_config"):
            extractor = extractor_class()
    else:
        check_path(Path(arguments.model_name_or_path))
        extractor = _or_user_error(arguments, lambda: _pretrained_extractor(arguments))
        extractor_class = type(extractor)
    _check_keys(overrides, extractor.to_dict(), "--feature_extractor_config")
    with _refusals("--feature_extractor_config"):
        return extractor_class(**{**extractor.to_dict(), **overrides}) if overrides else extractor


def load_model(
    arguments: ModelArguments, labels: Sequence[str], feature_extractor: FeatureExtractionMixin, clip_seconds: float
) -> PreTrainedModel:
    """The model in float32 with a head for `labels`: pretrained, or for a bare model type with random weights.

    Its window is saved as `config.clip_seconds`; a fixed-length family is cut to it, and its extractor with it.

    Raises:
        UserError: there is no such model, it is no audio classifier, its config lacks or refuses an override, or a
            fixed-length family cannot hear clips of `clip_seconds`.
    """
    register()
    names = {"label2id": {label: i for i, label in enumerate(labels)}, "id2label": dict(enumerate(labels))}
    if starts_from_config(arguments):
        with _refusals("--model_config"):
            model = AutoModelForAudioClassification.from_config(_new_config(arguments, names))
    else:
        model = _or_user_error(arguments, lambda: _pretrained_model(arguments, names))
    short_context.fit_short_context(model, feature_extractor, clip_seconds)
    model.config.clip_seconds = clip_seconds
    return model


def check_path(path: Path) -> None:
    """Tells a mistyped, unfinished or not yet converted folder from a Hub id before anybody waits for the network."""
    if path.is_dir():
        if (path / "config.json").is_file():
            return
        inside = sorted(str(config.parent) for config in path.glob("*/config.json"))
        fix = f"give one of {', '.join(inside[:5])}" if inside else "give the folder of a finished run, or a Hub id"
        if (path / "hyperparams.yaml").is_file():
            command = f"urbansound-hf models ecapa_tdnn convert {path} OUT_DIR"
            fix = f"it is a SpeechBrain folder; convert it and give OUT_DIR: {command}"
        raise UserError("the folder holds no model: there is no config.json in it", str(path), fix)
    if path.exists():
        raise UserError("a model is a folder or a Hub id, this is a file", str(path), f"give {path.parent}")
    looks_local = path.is_absolute() or path.parts[:1] in (("..",), ("outputs",))
    if looks_local or len(path.parts) > 2 or (len(path.parts) > 1 and path.parent.is_dir()):
        siblings = [str(folder) for folder in path.parent.glob("*/")] if path.parent.is_dir() else []
        near = difflib.get_close_matches(str(path), siblings, n=1, cutoff=0.5)
        fix = f"did you mean {near[0]}?" if near else "give the folder of a finished run, or a Hub id (owner/name)"
        if path.name == Path(YAMNET_FOLDER).name:
            fix = f"convert the published weights: urbansound-hf models yamnet convert MODEL.onnx {path}"
        raise UserError("there is no such folder", str(path), fix)


def starts_from_config(arguments: ModelArguments) -> bool:
    """Whether the name is a bare model type (`wav2vec2`, `cnn`), which means random weights."""
    name = arguments.model_name_or_path
    return name in CONFIG_MAPPING and not Path(name).is_dir()


def key_values(pairs: Sequence[str], flag: str) -> dict[str, Any]:
    """`["hidden_size=32", "hidden_act=relu"]` → `{"hidden_size": 32, "hidden_act": "relu"}`."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign:
            raise UserError(f"{pair!r} is not of the form KEY=VALUE", flag, "for example hidden_size=256")
        try:
            values[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[key] = {"true": True, "false": False, "null": None}.get(text, text)
    return values


def _new_config(arguments: ModelArguments, names: dict[str, Any]) -> PreTrainedConfig:
    model_type = arguments.model_name_or_path
    if model_type not in known_types():
        what = f"{model_type} models cannot classify audio"
        raise UserError(what, "--model_name_or_path", f"the types that can: {', '.join(known_types())}")
    overrides = key_values(arguments.model_config or (), "--model_config")
    config = _taken_over(AutoConfig.for_model(model_type))
    _check_keys(overrides, config.to_dict(), "--model_config")
    with _refusals("--model_config"):
        config = type(config)(**names, **overrides)
    configure_layer_sum(config, arguments.weighted_layer_sum)
    return config


def _taken_over(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config under which a family of ours opens a stock checkpoint (the audio tower of a CLAP); else the same."""
    own: Any = getattr(MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING.get(type(config), None), "config_class", None)
    return own.take_over(config) if hasattr(own, "take_over") and not isinstance(config, own) else config


def _pretrained(auto_class: Any, arguments: ModelArguments, **kwargs: Any) -> Any:
    return auto_class.from_pretrained(
        arguments.model_name_or_path,
        revision=arguments.model_revision,
        trust_remote_code=arguments.trust_remote_code,
        **kwargs,
    )


def _pretrained_extractor(arguments: ModelArguments) -> FeatureExtractionMixin:
    """The stored extractor; a family of ours that takes over a stock checkpoint may have made its own from it."""
    extractor = _pretrained(AutoFeatureExtractor, arguments)
    own: Any = FEATURE_EXTRACTOR_MAPPING.get(type(_taken_over(_pretrained(AutoConfig, arguments))), None)
    return own(**extractor.to_dict()) if own and type(extractor) in own.__bases__ else extractor


def _pretrained_model(arguments: ModelArguments, names: dict[str, Any]) -> PreTrainedModel:
    overrides = key_values(arguments.model_config or (), "--model_config")
    config = _taken_over(_pretrained(AutoConfig, arguments, **names))
    _check_keys(overrides, config.to_dict(), "--model_config")
    config.update({**overrides, "problem_type": "single_label_classification"})
    configure_layer_sum(config, arguments.weighted_layer_sum)
    model = _pretrained(
        AutoModelForAudioClassification, arguments, config=config, dtype=torch.float32, ignore_mismatched_sizes=True
    )
    stored = _pretrained(AutoConfig, arguments)
    rows_by_name(model, stored.id2label, list(names["label2id"]))
    if arguments.head_from:
        known = _pretrained(AutoModelForAudioClassification, arguments, dtype=torch.float32)
        rows_from(model, known, key_values(arguments.head_from, "--head_from"))
    start_evenly(model, stored)
    return model


def _or_user_error(arguments: ModelArguments, load: Callable[[], Loaded]) -> Loaded:
    try:
        return load()
    except ImportError as error:
        raise UserError(str(error), "--model_name_or_path") from error
    except (OSError, ValueError) as error:
        name = arguments.model_name_or_path
        what = f"no audio model could be loaded from {name!r}: {str(error).splitlines()[0]}"
        fix = f"give a Hub id or a checkpoint folder; or, for random weights, a model type: {', '.join(known_types())}"
        if near := difflib.get_close_matches(name, known_types(), n=1):
            fix = f"did you mean {near[0]}, for random weights? Pretrained ones have a Hub id (owner/name) or a folder"
        raise UserError(what, "--model_name_or_path", fix) from error


@contextmanager
def _refusals(flag: str) -> Iterator[None]:
    """What a config refuses (a wrong type, widths that do not divide) is a mistake of the flag that overrides it."""
    try:
        yield
    except ImportError as error:  # the family's extra is not installed
        raise UserError(str(error), "--model_name_or_path") from error
    except (ValueError, StrictDataclassError) as error:
        raise UserError(" ".join(str(error).split()), flag, "leave it out for the default") from error


def _check_keys(overrides: dict[str, Any], known: dict[str, Any], flag: str) -> None:
    for key in overrides:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=3) or sorted(known)
            raise UserError(f"there is no {key!r}", flag, f"nearest: {', '.join(near)}")
