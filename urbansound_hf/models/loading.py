"""Loading of a model and its feature extractor by name, for training: any family, pretrained or with random weights."""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from transformers import (
    CONFIG_MAPPING,
    FEATURE_EXTRACTOR_MAPPING,
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    FeatureExtractionMixin,
    PreTrainedConfig,
    PreTrainedModel,
)

from urbansound_hf import progress
from urbansound_hf.errors import UserError
from urbansound_hf.models.heads import SWITCH, configure_layer_sum, rows_by_name, rows_from
from urbansound_hf.models.registry import Conversion, Family, conversions, family_of, known_types, label_names, register


def load_feature_extractor(
    name: str | Path,
    *,
    clip_seconds: float | None = 4.0,
    revision: str | None = None,
    trust_remote_code: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> FeatureExtractionMixin:
    """The feature extractor that belongs to a model; for a bare model type, a new one.

    Args:
        name: Hub id, checkpoint folder, or model type.
        clip_seconds: length in seconds to which a fixed-length extractor (Whisper, AST, cnn) brings every clip; None
            keeps its own length. Give `load_model` the same value.
        revision: branch, tag or commit of a Hub id.
        trust_remote_code: run the code that comes with a Hub model.
        overrides: values that replace those of the extractor's config.

    Raises:
        UserError: there is no such model or folder, an override that the extractor does not have, or a length that
            the family does not support.

    Examples:
        >>> extractor = ush.load_feature_extractor("cnn")
        >>> inputs = extractor(ush.load_audio("clip.wav"), sampling_rate=extractor.sampling_rate, return_tensors="pt")
        >>> inputs["input_features"].shape  # (batch, coefficients, frames)
        torch.Size([1, 40, 174])
    """
    register()
    if starts_from_config(str(name)):
        _check_type(str(name))
        family = family_of(str(name))
        with _refusals("--feature_extractor_config"):
            extractor = extractor_class(family)()
    else:
        with _opening(str(name), revision, trust_remote_code) as opened:
            extractor, model_type = opened(AutoFeatureExtractor), opened(AutoConfig).model_type
            family = family_of(model_type)
            if model_type == family.takes_over:
                extractor = extractor_class(family)(**extractor.to_dict())
    _check_keys(overrides or {}, extractor.to_dict(), "--feature_extractor_config")
    with _refusals("--feature_extractor_config"):
        extractor = type(extractor)(**{**extractor.to_dict(), **overrides}) if overrides else extractor
    if clip_seconds is not None:
        family.lengths.fit_extractor(extractor, clip_seconds)
    return extractor


def load_model(
    name: str | Path,
    labels: Sequence[str],
    *,
    clip_seconds: float = 4.0,
    revision: str | None = None,
    trust_remote_code: bool = False,
    overrides: Mapping[str, Any] | None = None,
    weighted_layer_sum: bool = False,
    head_from: Mapping[str, str] | None = None,
) -> PreTrainedModel:
    """An audio classifier in float32 with a head for `labels`; of a bare model type, with random weights.

    Args:
        name: Hub id, checkpoint folder, or model type.
        labels: class names, in the order of the logits.
        clip_seconds: length of a clip in seconds; saved as `config.clip_seconds`. A fixed-length family is cut to it;
            its extractor is `load_feature_extractor(name, clip_seconds=clip_seconds)`.
        revision: branch, tag or commit of a Hub id.
        trust_remote_code: run the model code that comes with a Hub model.
        overrides: values that replace those of the model's config; `problem_type` "multi_label_classification" for
            clips with several labels.
        weighted_layer_sum: put the head on a learned sum of all layers; False: as the checkpoint has it.
        head_from: new class → class of the checkpoint whose weights in the head it starts with.

    Raises:
        UserError: there is no such model, it is no audio classifier, its config lacks or refuses an override, or a
            fixed-length family does not support clips of `clip_seconds`.

    Examples:
        >>> model = ush.load_model("cnn", labels=["dog", "siren", "street"])
        >>> extractor = ush.load_feature_extractor("cnn")
        >>> inputs = extractor(ush.load_audio("clip.wav"), sampling_rate=extractor.sampling_rate, return_tensors="pt")
        >>> model(**inputs).logits.shape, model.config.id2label[1]  # (batch, classes)
        (torch.Size([1, 3]), 'siren')
    """
    register()
    names = label_names(labels)
    if starts_from_config(str(name)):
        _check_type(str(name))
        config = _taken_over(AutoConfig.for_model(str(name)))
        _check_keys(overrides or {}, config.to_dict(), "--model_config")
        with _refusals("--model_config"):
            config = type(config)(**names, **(overrides or {}))
        configure_layer_sum(config, weighted_layer_sum)
        with _refusals("--model_config"):
            model = AutoModelForAudioClassification.from_config(config)
    else:
        with _opening(str(name), revision, trust_remote_code) as opened:
            config = _taken_over(opened(AutoConfig, **names, mean_scores=False))  # of YAMNet: logits suit a new head
            _check_keys(overrides or {}, config.to_dict(), "--model_config")
            config.update({"problem_type": "single_label_classification", **(overrides or {})})
            configure_layer_sum(config, weighted_layer_sum)
            model = _with_new_head(opened, config, head_from)
    family_of(model.config.model_type).lengths.fit_model(model, clip_seconds)
    model.config.clip_seconds = clip_seconds
    return model


def check_path(path: Path) -> None:
    """Raises UserError for a mistyped, unfinished or unconverted folder, before the Hub is asked for it."""
    if path.is_dir():
        if (path / "config.json").is_file():
            return
        inside = sorted(str(config.parent) for config in path.glob("*/config.json"))
        fix = f"give one of {', '.join(inside[:5])}" if inside else "give the folder of a finished run, or a Hub id"
        for conversion in conversions().values():
            if conversion.marker and (path / conversion.marker).is_file():
                fix = f"it holds published weights; convert them and give OUT_DIR: {conversion.command(str(path))}"
        raise UserError("the folder holds no model: there is no config.json in it", str(path), fix)
    if path.exists():
        raise UserError("a model is a folder or a Hub id, this is a file", str(path), f"give {path.parent}")
    looks_local = path.is_absolute() or path.parts[:1] in (("..",), ("outputs",))
    if looks_local or len(path.parts) > 2 or (len(path.parts) > 1 and path.parent.is_dir()):
        siblings = [str(folder) for folder in path.parent.glob("*/")] if path.parent.is_dir() else []
        near = difflib.get_close_matches(str(path), siblings, n=1, cutoff=0.5)
        fix = f"did you mean {near[0]}?" if near else "give the folder of a finished run, or a Hub id (owner/name)"
        for conversion in conversions().values():
            if conversion.out_dir and path.name == Path(conversion.out_dir).name:
                fix = f"convert the published weights: {conversion.command(out_dir=str(path))} (its --help)"
                if conversion.hub and _downloaded(conversion, path):
                    return
        raise UserError("there is no such folder", str(path), fix)


def _downloaded(conversion: Conversion, path: Path) -> bool:
    """Whether the published weights of a shipped config could be had from the Hub; they are a checkpoint then."""
    place = "{repo_id}@{revision:.7}".format(**conversion.hub)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with library_messages():
            conversion.download(path)
    except (OSError, HfHubHTTPError) as error:
        progress.say(f"the weights could not be downloaded from {place}: {str(error).splitlines()[0]}")
        return False
    progress.say(f"{path}: converted from {place}")
    return True


@contextmanager
def library_messages(errors_only: bool = True, bars: bool = False) -> Iterator[None]:
    """Transformers' messages and progress bars as given; bars only in a terminal. Restored at the end."""
    verbosity, shown = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    if errors_only:
        transformers.logging.set_verbosity_error()
    if not (bars and progress.in_terminal()):  # in a log each bar would be a hundred lines
        transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)  # Trainer sets it too
        if shown:
            transformers.logging.enable_progress_bar()


def starts_from_config(name: str) -> bool:
    """Whether the name is a bare model type (`wav2vec2`, `cnn`), which means random weights."""
    return name in CONFIG_MAPPING and not Path(name).is_dir()


def _check_type(model_type: str) -> None:
    if model_type not in known_types():
        fix = f"the types that can: {', '.join(known_types())}"
        raise UserError(f"{model_type} models cannot classify audio", "--model_name_or_path", fix)


def _taken_over(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config of the family of ours that opens this stock checkpoint (the audio tower of a CLAP); else the same."""
    family = family_of(config.model_type)
    own: Any = CONFIG_MAPPING[family.model_type] if config.model_type == family.takes_over else None
    return own.take_over(config) if own else config


def extractor_class(family: Family) -> Any:
    """The class of a family's feature extractor; None where neither its record nor Transformers names one."""
    if family.feature_extractor:
        return getattr(transformers, family.feature_extractor)
    known = family.model_type in CONFIG_MAPPING
    return FEATURE_EXTRACTOR_MAPPING.get(CONFIG_MAPPING[family.model_type], None) if known else None


def _with_new_head(
    opened: Callable[..., Any], config: PreTrainedConfig, head_from: Mapping[str, str] | None
) -> PreTrainedModel:
    """The pretrained model under a head for the labels of `config`; says which weights are new."""
    auto_class, options = AutoModelForAudioClassification, {"ignore_mismatched_sizes": True, "dtype": torch.float32}
    with library_messages(bars=True):  # without the table of keys
        model, report = opened(auto_class, config=config, output_loading_info=True, **options)
    mismatched = [key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]]
    drawn = {*report["missing_keys"], *mismatched}
    if inside := sorted(key for key in drawn if key.startswith(f"{model.base_model_prefix}.")):
        others = f" and {len(inside) - 3} more" if len(inside) > 3 else ""
        progress.say(f"not in the checkpoint, drawn at random: {', '.join(inside[:3])}{others}")
    if len(inside) < len(drawn):
        progress.say(f"new head for {model.config.num_labels} classes")
    stored = opened(AutoConfig)
    rows_by_name(model, stored.id2label, list(model.config.label2id))
    if head_from:
        rows_from(model, opened(auto_class, dtype=torch.float32), head_from)
    weights = getattr(model, "layer_weights", None)
    if weights is not None and not getattr(stored, SWITCH, False):  # Transformers 5.23 leaves them as the memory was
        torch.nn.init.constant_(weights, 1 / len(weights))
    return model


@contextmanager
def _opening(name: str, revision: str | None, trust_remote_code: bool) -> Iterator[Callable[..., Any]]:
    """`from_pretrained` of a Hub id or folder, to be called with an Auto class; what goes wrong becomes a UserError."""
    check_path(Path(name))
    where, near = "--model_name_or_path", difflib.get_close_matches(name, known_types(), n=1)
    try:
        if not Path(name).exists():
            _check_reachable(name, revision, near)
        yield lambda auto_class, **options: auto_class.from_pretrained(
            name, revision=revision, trust_remote_code=trust_remote_code, **options
        )
    except ImportError as error:
        raise UserError(str(error), where) from error
    except (OSError, ValueError) as error:
        what = f"no audio model could be loaded from {name!r}: {str(error).splitlines()[0]}"
        fix = f"give a Hub id or a checkpoint folder; or, for random weights, a model type: {', '.join(known_types())}"
        if near:
            fix = f"did you mean {near[0]}, for random weights? Pretrained ones have a Hub id (owner/name) or a folder"
        raise UserError(what, where, fix) from error


def _check_reachable(name: str, revision: str | None, near: Sequence[str]) -> None:
    """Raises UserError for a Hub id that is not in the cache, where the Hub cannot be reached."""
    try:
        hf_hub_download(name, "config.json", revision=revision)
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError) as error:
        what = f"the Hub cannot be reached, and {name} is neither in the cache nor a folder here"
        fix = "check the name and the connection (or HF_HUB_OFFLINE), give a checkpoint folder, or train the config cnn"
        fix += f"; did you mean {near[0]}, for random weights?" if near and "/" not in name else ""
        raise UserError(what, "--model_name_or_path", fix) from error
    except (OSError, ValueError):  # no such repository, file or revision: the caller says so
        return


@contextmanager
def _refusals(flag: str) -> Iterator[None]:
    """Turns what a config refuses (a wrong type, widths that do not divide) into an error of the overriding flag."""
    try:
        yield
    except ImportError as error:  # the family's extra is not installed
        raise UserError(str(error), "--model_name_or_path") from error
    except Exception as error:  # StrictDataclassError, ValueError, ZeroDivisionError …: anywhere in a constructor
        what = " ".join(f"{error} ({type(error).__name__})".split())
        raise UserError(what, flag, "leave it out for the default") from error


def _check_keys(overrides: Mapping[str, Any], known: dict[str, Any], flag: str) -> None:
    for key in overrides:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=3) or sorted(known)
            raise UserError(f"there is no {key!r}", flag, f"nearest: {', '.join(near)}")
