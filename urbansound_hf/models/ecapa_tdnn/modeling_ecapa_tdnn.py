"""ECAPA-TDNN: SpeechBrain's own network on SpeechBrain's own features, as a stock audio classifier.

`convert.py` turns a SpeechBrain checkpoint folder (such as `speechbrain/urbansound8k_ecapa`) into one of ours. Needs
SpeechBrain (`pip install speechbrain`), which is imported when the first model or feature extractor is built.

This file travels with every checkpoint (`trust_remote_code=True`), so it imports nothing of this package. The defaults
are those of SpeechBrain's recipe for UrbanSound8K (Apache-2.0); ECAPA-TDNN: arXiv:2005.07143.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    BatchFeature,
    FeatureExtractionMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

Waveforms = np.ndarray | Sequence[float] | Sequence[np.ndarray]

SPEECHBRAIN_SIZES = (
    "input_size", "lin_neurons", "attention_channels", "res2net_scale", "se_channels", "global_context", "dropout",
)  # fmt: skip


class EcapaTdnnConfig(PreTrainedConfig):
    """The shape of the network, by SpeechBrain's names; raises `ValueError` if its layers do not fit together.

    Args:
        input_size: mel bands of a frame, the feature extractor's `n_mels`.
        channels, kernel_sizes, dilations, groups: of each layer: a plain convolution, SE-Res2Net blocks of equal width,
            and the convolution that joins them.
        attention_channels, global_context: of the attentive pooling over time.
        res2net_scale, se_channels: of the blocks; the scale divides their width.
        lin_neurons: the width of the embedding.
        dropout: of whole channels, after every convolution.
        scale: turns the cosines of the classifier, in [-1, 1], into logits.
        margin: in radians, added in training to the angle between an embedding and its class (arXiv:1801.07698); 0 is
            plain cross entropy.
    """

    model_type = "ecapa-tdnn"

    input_size: int = 80
    channels: list[int] | tuple[int, ...] = (1024, 1024, 1024, 1024, 3072)
    kernel_sizes: list[int] | tuple[int, ...] = (5, 3, 3, 3, 1)
    dilations: list[int] | tuple[int, ...] = (1, 2, 3, 4, 1)
    groups: list[int] | tuple[int, ...] = (1, 1, 1, 1, 1)
    attention_channels: int = 128
    res2net_scale: int = 8
    se_channels: int = 128
    global_context: bool = True
    lin_neurons: int = 192
    dropout: float = 0.0
    scale: float = 30.0
    margin: float = 0.2

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        layers = {len(self.channels), len(self.kernel_sizes), len(self.dilations), len(self.groups)}
        blocks = {*self.channels[1:-1]}
        if len(layers) > 1 or len(blocks) != 1 or any(width % self.res2net_scale for width in blocks):
            rule = f"one width for all but the first and last layer, divisible by res2net_scale={self.res2net_scale}"
            names = ("channels", "kernel_sizes", "dilations", "groups")
            found = ", ".join(f"{name}={list(getattr(self, name))}" for name in names)
            raise ValueError(f"ECAPA-TDNN needs lists of equal length, and {rule}; found {found}")

    @property
    def shortest_frames(self) -> int:
        """Frames that a convolution needs to reflect the ends of a clip over half its width."""
        reaches = ((size - 1) // 2 * step for size, step in zip(self.kernel_sizes, self.dilations, strict=True))
        return max(reaches) + 1


class EcapaTdnnFeatureExtractor(FeatureExtractionMixin):
    """SpeechBrain's `Fbank` (log-mel in dB, 25 ms every 10 ms), each band brought to mean 0 over the clip.

    With `std_norm`, also to deviation 1. A clip of fewer than `shortest_frames` is refused. Raises `ImportError` where
    SpeechBrain is not installed.
    """

    model_input_names = ["input_features"]
    padding_value = 0.0  # asked for by the stock pipeline when it batches

    def __init__(
        self,
        sampling_rate: int = 16_000,
        n_mels: int = 80,
        std_norm: bool = False,
        shortest_frames: int = 5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sampling_rate, self.n_mels, self.std_norm = sampling_rate, n_mels, std_norm
        self.shortest_frames = shortest_frames
        _front_end(sampling_rate, n_mels, std_norm)  # without SpeechBrain: an error now, not at the first clip

    def __call__(
        self, raw_speech: Waveforms, sampling_rate: int | None = None, return_tensors: str | None = None, **kwargs: Any
    ) -> BatchFeature:
        """Extracts `input_features` `(clips, frames, n_mels)` float32 of mono clips `(samples,)` in [-1, 1].

        The network has no mask for padding: several clips must be of one length. Raises ValueError for others, another
        sampling rate, or too few frames.
        """
        if sampling_rate not in (None, self.sampling_rate):
            raise ValueError(f"the sampling rate must be {self.sampling_rate} Hz; found {sampling_rate}: resample it")
        several = isinstance(raw_speech, (list, tuple)) and len(raw_speech) > 0 and not np.isscalar(raw_speech[0])
        clips = [np.asarray(clip, np.float32) for clip in (raw_speech if several else np.atleast_2d(raw_speech))]
        shapes = sorted({clip.shape for clip in clips})
        if len(shapes) > 1 or len(shapes[0]) != 1:
            raise ValueError(f"clips must be mono and of one length, (samples,) each; found the shapes {shapes}")
        shortest = max((self.shortest_frames - 1) * self.sampling_rate // 100, 1)  # frames are centred on 0, 10 ms, …
        if shapes[0][0] < shortest:
            rule = f"ECAPA-TDNN needs {self.shortest_frames} frames, {shortest} samples"
            raise ValueError(f"{rule}; found {shapes[0][0]}: repeat the clip, or leave it out")
        fbank, norm = _front_end(self.sampling_rate, self.n_mels, self.std_norm)
        with torch.no_grad():
            features = norm(fbank(torch.from_numpy(np.stack(clips))), torch.ones(len(clips)))
        return BatchFeature({"input_features": features.numpy()}, tensor_type=return_tensors)


@lru_cache(maxsize=8)  # outside the extractor, which so stays small in JSON, pickles and cache fingerprints
def _front_end(sampling_rate: int, n_mels: int, std_norm: bool) -> tuple[nn.Module, nn.Module]:
    fbank = _speechbrain("lobes.features").Fbank(sample_rate=sampling_rate, n_mels=n_mels)
    return fbank, _speechbrain("processing.features").InputNormalization(norm_type="sentence", std_norm=std_norm)


class EcapaTdnnBackbone(nn.Module):
    """SpeechBrain's `ECAPA_TDNN`: frames → one embedding a clip."""

    def __init__(self, config: EcapaTdnnConfig) -> None:
        super().__init__()
        sizes = {name: getattr(config, name) for name in SPEECHBRAIN_SIZES}
        lists = {name: list(getattr(config, name)) for name in ("channels", "kernel_sizes", "dilations", "groups")}
        self.network = _speechbrain("lobes.models.ECAPA_TDNN").ECAPA_TDNN(**sizes, **lists)

    def forward(self, input_features: Tensor) -> Tensor:  # (batch, frames, n_mels) → (batch, lin_neurons)
        if self.training:  # one value a channel and clip has no deviation: a batch of one takes the running statistics
            self.network.asp_bn.train(len(input_features) > 1)
        return self.network(input_features).squeeze(1)


class CosineClassifier(nn.Module):
    """SpeechBrain's `Classifier`, the cosine between an embedding and each class, times a scale; and its loss."""

    def __init__(self, config: EcapaTdnnConfig) -> None:
        super().__init__()
        classifier = _speechbrain("lobes.models.ECAPA_TDNN").Classifier
        self.cosine = classifier(config.lin_neurons, out_neurons=config.num_labels)
        self.margin = _speechbrain("nnet.losses").AdditiveAngularMargin(config.margin, config.scale)

    def forward(self, embedding: Tensor) -> Tensor:  # (batch, lin_neurons) → (batch, classes)
        return self.margin.scale * self.cosine(embedding).squeeze(1)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy; in training with the margin. `labels` are numbers or `(batch, classes)` probabilities."""
        targets = (F.one_hot(labels, logits.shape[1]) if labels.ndim == 1 else labels).float()
        logits = self.margin(logits.float() / self.margin.scale, targets) if self.training else logits
        return F.cross_entropy(logits.float(), targets)


class EcapaTdnnForAudioClassification(PreTrainedModel):
    """ECAPA-TDNN under its cosine classifier."""

    config_class = EcapaTdnnConfig
    base_model_prefix = "ecapa"
    main_input_name = "input_features"
    _no_split_modules = ["SERes2NetBlock"]  # what FSDP wraps

    def __init__(self, config: EcapaTdnnConfig) -> None:
        super().__init__(config)
        self.ecapa = EcapaTdnnBackbone(config)
        self.classifier = CosineClassifier(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if module is self.classifier.cosine:  # as SpeechBrain draws them, not as Transformers would
            nn.init.xavier_uniform_(module.weight)
        elif isinstance(module, nn.Conv1d):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    # No **kwargs: Trainer would take them for a promise to average over accumulated batches in here.
    def forward(self, input_features: Tensor, labels: Tensor | None = None) -> SequenceClassifierOutput:
        """Scores clips `(batch, frames, n_mels)`; `labels` are class numbers, or `(batch, classes)` probabilities."""
        logits = self.classifier(self.ecapa(input_features))
        loss = None if labels is None else self.classifier.loss(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def _speechbrain(module: str) -> Any:
    """A module of SpeechBrain; raises `ImportError` with the way to install it."""
    # On import, SpeechBrain would switch on TF32 (10 bits of mantissa on a GPU) for every model of the process.
    os.environ.setdefault("SB_DISABLE_QUIRKS", "allow_tf32,disable_jit_profiling")
    try:
        return import_module(f"speechbrain.{module}")
    except ImportError as error:
        fix = "pip install 'urbansound-hf[speechbrain]', or pip install speechbrain"
        raise ImportError(f"ecapa-tdnn needs SpeechBrain ({error}): {fix}") from error


AutoConfig.register("ecapa-tdnn", EcapaTdnnConfig, exist_ok=True)
AutoFeatureExtractor.register(EcapaTdnnConfig, EcapaTdnnFeatureExtractor, exist_ok=True)
AutoModelForAudioClassification.register(EcapaTdnnConfig, EcapaTdnnForAudioClassification, exist_ok=True)
EcapaTdnnConfig.register_for_auto_class()
EcapaTdnnFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
EcapaTdnnForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
