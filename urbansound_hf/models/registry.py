"""The model families: a record each, read from families.yaml, their clip lengths, and their registration.

Nothing else in the package asks which family a model is of: it reads the record (`family_of`).

Whisper takes 30 s and AST 10 s: their position embeddings are that long, and their feature extractors pad to it.
Cutting both to the length of the clips saves nine tenths of the work on 4-s clips. The new lengths are ordinary values
of the saved configs (`max_source_positions` and `chunk_length`; `max_length`), so stock classes open the checkpoint.
"""

import importlib
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock
from huggingface_hub import hf_hub_download
from torch import nn
from transformers import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING, PretrainedConfig, PreTrainedModel

from urbansound_hf.errors import UserError, writing
from urbansound_hf.features.extract import Cut, FeatureExtractor, Spectrogram

FRAMES_PER_SECOND = 100  # both families: a 10-ms hop


class Lengths:
    """Clip lengths of a family whose models take clips of any length; the base class of the others."""

    def longest_seconds(self, feature_extractor: FeatureExtractor) -> float | None:
        """The length in seconds to which the extractor brings every clip; None where it follows the clip."""
        return None

    def shortest_samples(self, config: PretrainedConfig) -> int:
        """The fewest samples from which the model computes one frame."""
        return 1

    def fit_extractor(self, feature_extractor: FeatureExtractor, clip_seconds: float) -> None:
        """Brings a fixed-length extractor to clips of `clip_seconds`, in place. Raises UserError out of range."""

    def fit_model(self, model: PreTrainedModel, clip_seconds: float) -> None:
        """Cuts position embeddings of a fixed length to `clip_seconds`, in place. Raises UserError out of range."""


class ConvolutionalLengths(Lengths):
    """Any length that gives the convolutional feature encoder one frame (400 samples for wav2vec2; SEW pools two)."""

    def shortest_samples(self, config: PretrainedConfig) -> int:
        layers = zip(getattr(config, "conv_kernel", ()), getattr(config, "conv_stride", ()), strict=True)
        samples = getattr(config, "squeeze_factor", 1)
        for kernel, stride in reversed(list(layers)):
            samples = (samples - 1) * stride + kernel
        return samples


def check_length(clip_seconds: float, longest: float, shortest: float = 0.0) -> None:
    """Raises UserError where clips are longer or shorter, in seconds, than a fixed-length model supports."""
    if not shortest <= clip_seconds <= longest:
        lengths = f"{shortest:g} to {longest:g} s" if shortest else f"at most {longest:g} s"
        what = f"this model takes clips of {lengths}, found {clip_seconds:g}"
        raise UserError(what, "--clip_seconds", f"give at most {longest:g}; longer clips are cut into windows of it")


class WhisperLengths(Lengths):
    """Whole seconds, 30 in the published models."""

    def longest_seconds(self, feature_extractor: FeatureExtractor) -> float:
        return feature_extractor.n_samples / feature_extractor.sampling_rate

    def fit_extractor(self, feature_extractor: FeatureExtractor, clip_seconds: float) -> None:
        seconds = math.ceil(clip_seconds)
        check_length(seconds, feature_extractor.chunk_length, shortest=1)
        feature_extractor.__init__(**{**feature_extractor.to_dict(), "chunk_length": seconds})

    def fit_model(self, model: Any, clip_seconds: float) -> None:
        seconds = math.ceil(clip_seconds)
        positions = seconds * FRAMES_PER_SECOND // 2  # the second convolution has stride 2
        check_length(seconds, model.config.max_source_positions * 2 / FRAMES_PER_SECOND, shortest=1)
        table = model.encoder.embed_positions.weight
        first = table[:positions].detach().clone()
        model.encoder.embed_positions = nn.Embedding.from_pretrained(first, freeze=not table.requires_grad)
        model.encoder.max_source_positions = model.config.max_source_positions = positions


def frames_of(clip_seconds: float) -> int:
    """The frames of 10 ms that cover a clip; 1.1 s are 110, although 1.1 * 100 is a little more."""
    return math.ceil(round(clip_seconds * FRAMES_PER_SECOND, 6))


class AstLengths(Lengths):
    """At least one patch of 16 frames, at most `max_length` frames of 10 ms."""

    def longest_seconds(self, feature_extractor: FeatureExtractor) -> float:
        return feature_extractor.max_length / FRAMES_PER_SECOND

    def fit_extractor(self, feature_extractor: FeatureExtractor, clip_seconds: float) -> None:
        check_length(clip_seconds, self.longest_seconds(feature_extractor))
        feature_extractor.max_length = frames_of(clip_seconds)

    def fit_model(self, model: Any, clip_seconds: float) -> None:
        config, frames = model.config, frames_of(clip_seconds)
        shortest, longest = config.patch_size / FRAMES_PER_SECOND, config.max_length / FRAMES_PER_SECOND
        check_length(clip_seconds, longest, shortest)
        bands = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
        before, after = ((each - config.patch_size) // config.time_stride + 1 for each in (config.max_length, frames))
        embeddings = model.audio_spectrogram_transformer.embeddings
        table = embeddings.position_embeddings.detach()  # (1, 2 + bands * columns, hidden)
        patches = table[:, 2:].unflatten(1, (bands, before))
        first = (before - after) // 2  # the middle of the table, as the authors do for shorter sounds
        shorter = torch.cat([table[:, :2], patches[:, :, first : first + after].flatten(1, 2)], dim=1)
        embeddings.position_embeddings = nn.Parameter(shorter.clone())
        config.max_length = frames


class ClapLengths(Lengths):
    """Every clip is repeated and padded to the extractor's own length, 10 s, which is not cut."""

    def longest_seconds(self, feature_extractor: FeatureExtractor) -> float:
        return feature_extractor.nb_max_samples / feature_extractor.sampling_rate

    def fit_extractor(self, feature_extractor: FeatureExtractor, clip_seconds: float) -> None:
        check_length(clip_seconds, self.longest_seconds(feature_extractor))


class CnnLengths(Lengths):
    """A spectrogram of `num_frames`, which follows the clips: the networks have no position embeddings."""

    def longest_seconds(self, feature_extractor: FeatureExtractor) -> float:
        return feature_extractor.num_frames * feature_extractor.hop_length / feature_extractor.sampling_rate

    def fit_extractor(self, feature_extractor: FeatureExtractor, clip_seconds: float) -> None:
        samples = round(clip_seconds * feature_extractor.sampling_rate)
        feature_extractor.num_frames = math.ceil(samples / feature_extractor.hop_length)  # all of them


@dataclass(frozen=True)
class Conversion:
    """The command that makes a checkpoint folder of published weights in another format."""

    name: str  # `urbansound-hf models NAME convert SOURCE OUT_DIR`
    module: str  # the module whose `convert(source, out_dir)` does it
    source: str  # what the command reads, as its help calls it
    marker: str = ""  # a file by which a folder of unconverted weights is recognised
    out_dir: str = ""  # where the family's shipped config expects the converted checkpoint
    hub: Mapping[str, Any] = field(default_factory=dict)  # of `hf_hub_download`: repo_id, revision, and the folder
    files: tuple[str, ...] = ()  # in that folder, the source first

    def command(self, source: str = "", out_dir: str = "OUT_DIR") -> str:
        """The command line that converts `source`."""
        return f"urbansound-hf models {self.name} convert {source or self.source} {out_dir}"

    def write(self, source: Path, out_dir: Path) -> None:
        """Converts `source`; the config, by which a checkpoint is recognised, is the last file in `out_dir`."""
        with writing(out_dir):
            out_dir.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=out_dir.parent, prefix=".") as partial:
                importlib.import_module(self.module).convert(source, Path(partial))
                out_dir.mkdir(exist_ok=True)
                for path in sorted(Path(partial).iterdir(), reverse=True):
                    path.replace(out_dir / path.name)

    def download(self, out_dir: Path) -> None:
        """Converts the files of `hub` to `out_dir`, once, whatever the number of processes. Raises OSError."""
        with FileLock(out_dir.with_name(f".{out_dir.name}.lock")):
            if (out_dir / "config.json").is_file():
                return
            with tempfile.TemporaryDirectory(dir=out_dir.parent, prefix=".") as folder:  # onnx follows no cache's link
                paths = [hf_hub_download(filename=name, local_dir=folder, **self.hub) for name in self.files]
                self.write(Path(paths[0]), out_dir)


@dataclass(frozen=True)
class Family:
    """The facts of a model family that are known before anything is loaded."""

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


_families: dict[str, Family] = {}
for _name, _facts in yaml.safe_load(Path(__file__).with_name("families.yaml").read_text(encoding="utf-8")).items():
    _facts["lengths"] = globals()[_facts.get("lengths", "ConvolutionalLengths")]()
    _facts["linear_layers"] = tuple(_facts.get("linear_layers", ("projector", "classifier")))
    for _part, _kind in {"spectrogram": Spectrogram, "conversion": Conversion}.items():
        if _part in _facts:
            _facts[_part] = _kind(**_facts[_part])
    _families[_name] = Family(_name, **_facts)


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
    """Makes our families known to the Auto classes; given a type, only its own: the others take a fifth of a second."""
    for family in _families.values():
        if family.modeling and (model_type is None or model_type in (family.model_type, family.takes_over)):
            importlib.import_module(family.modeling)


def window_cut(model: PreTrainedModel, feature_extractor: FeatureExtractor, clip_seconds: float) -> Cut:
    """How clips become windows of `clip_seconds`, none shorter than the model accepts."""
    shortest = family_of(model.config.model_type).lengths.shortest_samples(model.config)
    return Cut(round(clip_seconds * feature_extractor.sampling_rate), shortest=shortest)


def label_names(labels: Sequence[str]) -> dict[str, Any]:
    """The values of a config that name its classes, in the order of the logits."""
    return {"id2label": dict(enumerate(labels)), "label2id": {label: number for number, label in enumerate(labels)}}


def known_types() -> list[str]:
    """The model types that can classify audio, ours included; each can be started from its config."""
    register()
    return sorted({config.model_type for config in MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING})
