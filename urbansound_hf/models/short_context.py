"""Short clips pay for short clips.

Whisper insists on 30 s and AST on 10 s: their position tables are that long, and their feature extractors pad to it.
Cutting both to the length of the clips saves nine tenths of the work on 4-s clips. The new lengths are ordinary values
of the saved configs (`max_source_positions` and `chunk_length`; `max_length`), so stock classes open the checkpoint.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from urbansound_hf.errors import UserError

FRAMES_PER_SECOND = 100  # both families: a 10-ms hop


def fit_extractor(feature_extractor: Any, clip_seconds: float) -> None:
    """Brings the extractor of a fixed-length family to clips of `clip_seconds`, in place; others are left alone.

    Raises:
        UserError: the clips are longer than the extractor's own length.
    """
    if hasattr(feature_extractor, "chunk_length") and hasattr(feature_extractor, "nb_max_frames"):
        seconds = math.ceil(clip_seconds)  # the extractor counts in whole seconds
        _check(seconds, 1, feature_extractor.chunk_length)
        feature_extractor.__init__(**{**feature_extractor.to_dict(), "chunk_length": seconds})
    elif hasattr(feature_extractor, "max_length") and not hasattr(feature_extractor, "nb_max_samples"):
        _check(clip_seconds, 0, feature_extractor.max_length / FRAMES_PER_SECOND)
        feature_extractor.max_length = round(clip_seconds * FRAMES_PER_SECOND)
    elif hasattr(feature_extractor, "n_samples"):  # CLAP: repeats what is shorter, and its 10 s are not cut
        _check(clip_seconds, 0, feature_extractor.n_samples / feature_extractor.sampling_rate)
    elif hasattr(feature_extractor, "num_frames"):  # ours: a spectrogram of the clip, and no position table
        feature_extractor.num_frames = round(
            clip_seconds * feature_extractor.sampling_rate / feature_extractor.hop_length
        )


def fit_model(model: PreTrainedModel, clip_seconds: float) -> None:
    """Cuts, in place, the position table of a fixed-length family to `clip_seconds`; other families are left alone.

    Raises:
        UserError: the clips are longer than the table, or too short for a single patch of AST.
    """
    if model.config.model_type == "whisper":
        _cut_whisper(model, clip_seconds)
    elif model.config.model_type == "audio-spectrogram-transformer":
        _cut_ast(model, clip_seconds)


def _cut_whisper(model: Any, clip_seconds: float) -> None:
    seconds = math.ceil(clip_seconds)
    positions = seconds * FRAMES_PER_SECOND // 2  # the second convolution has stride 2
    _check(seconds, 1, model.config.max_source_positions * 2 / FRAMES_PER_SECOND)
    table = model.encoder.embed_positions
    shorter = nn.Embedding(positions, table.embedding_dim).to(table.weight.device)
    shorter.weight = nn.Parameter(table.weight[:positions].detach().clone(), requires_grad=table.weight.requires_grad)
    model.encoder.embed_positions = shorter
    model.encoder.max_source_positions = model.config.max_source_positions = positions


def _cut_ast(model: Any, clip_seconds: float) -> None:
    config, frames = model.config, round(clip_seconds * FRAMES_PER_SECOND)
    _check(clip_seconds, config.patch_size / FRAMES_PER_SECOND, config.max_length / FRAMES_PER_SECOND)
    bands = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
    columns, kept = ((length - config.patch_size) // config.time_stride + 1 for length in (config.max_length, frames))
    embeddings = model.audio_spectrogram_transformer.embeddings
    table = embeddings.position_embeddings.detach()  # (1, 2 + bands * columns, hidden)
    patches = table[:, 2:].unflatten(1, (bands, columns))
    first = (columns - kept) // 2  # the middle of the table, as the authors do for shorter sounds
    shorter = torch.cat([table[:, :2], patches[:, :, first : first + kept].flatten(1, 2)], dim=1)
    embeddings.position_embeddings = nn.Parameter(shorter.clone())
    config.max_length = frames


def _check(clip_seconds: float, shortest: float, longest: float) -> None:
    if not shortest <= clip_seconds <= longest:
        lengths = f"{shortest:g} to {longest:g} s" if shortest else f"at most {longest:g} s"
        what = f"this model takes clips of {lengths}, found {clip_seconds:g}"
        raise UserError(what, "--clip_seconds", f"give at most {longest:g}; longer clips are cut into windows of it")
