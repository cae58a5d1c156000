"""Lengths of clips in each family: those it takes, and fixed-length models cut to the clips, which saves padding.

Whisper takes 30 s and AST 10 s: their position embeddings are that long, and their feature extractors pad to it.
Cutting both to the length of the clips saves nine tenths of the work on 4-s clips. The new lengths are ordinary values
of the saved configs (`max_source_positions` and `chunk_length`; `max_length`), so stock classes open the checkpoint.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from urbansound_hf.errors import UserError
from urbansound_hf.features.extract import FeatureExtractor

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
        table = model.encoder.embed_positions
        shorter = nn.Embedding(positions, table.embedding_dim).to(table.weight.device)
        first = table.weight[:positions].detach().clone()
        shorter.weight = nn.Parameter(first, requires_grad=table.weight.requires_grad)
        model.encoder.embed_positions = shorter
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
