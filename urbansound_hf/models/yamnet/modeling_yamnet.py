"""YAMNet: a small MobileNet that names 521 general sounds (AudioSet), as a stock audio classifier that fine-tunes.

A clip becomes log-mel patches of 0.96 s, one every 0.48 s; all patches of a batch go through the network at once, and
their logits are pooled into those of the clip. `convert.py` turns the published weights into a checkpoint folder.

This file travels with every checkpoint (`trust_remote_code=True`), so it imports nothing of this package. Source:
github.com/tensorflow/models, research/audioset/yamnet (Google, Apache-2.0); MobileNet v1: arXiv 1704.04861. The batch
norm of the published weights is folded into their convolutions, so there is none here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    BatchFeature,
    PreTrainedConfig,
    PreTrainedModel,
    SequenceFeatureExtractor,
)
from transformers.audio_utils import mel_filter_bank
from transformers.modeling_outputs import SequenceClassifierOutput

Waveforms = np.ndarray | Sequence[float] | Sequence[np.ndarray]

WINDOW, HOP, FFT = 400, 160, 512  # samples at 16 kHz: 25 ms every 10 ms
PATCH_FRAMES, PATCH_HOP_FRAMES = 96, 48  # 0.96 s every 0.48 s
LOG_OFFSET, SILENCE = 0.001, math.log(0.001)  # the offset keeps the logarithm of silence finite
CHANNELS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
STRIDES = (2, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
POOLING = ("mean", "max", "std", "rms")
CPU_PATCHES = 64  # at a time: 1.5 times the speed of 256, whose activations outgrow the caches


class YamnetConfig(PreTrainedConfig):
    """The shape of a YAMNet.

    Args:
        channels: output channels of each layer; the last is the width of the embedding.
        strides: 1 or 2 for each layer, in time and frequency alike; all together at most 32.
        patch_hop_frames: 10-ms frames from one patch to the next. 48 is the original's; 96, without overlap, halves
            the work, and the frames that fill no whole patch are left out.
        training_patch_hop_frames: the same in training (default: as otherwise).
        pooling: of the patches' embeddings, side by side: "mean", "max", "std" or "rms" (root mean square, the
            generalized mean with exponent 2: Radenović et al., arXiv 1711.02512).
        normalize_embedding: brings each pooled embedding to a mean square of 1, so that only its direction counts.
        embedding_layers: layers, from 1, whose mean outputs are the embedding of a patch (default: the last).
        mean_scores: of several labels a clip, average the scores of the patches, as the original; else their logits.
    """

    model_type = "yamnet"

    channels: list[int] | tuple[int, ...] = CHANNELS
    strides: list[int] | tuple[int, ...] = STRIDES
    patch_hop_frames: int = PATCH_HOP_FRAMES
    training_patch_hop_frames: int | None = None
    pooling: list[str] | tuple[str, ...] = ("mean",)
    normalize_embedding: bool = False
    embedding_layers: list[int] | tuple[int, ...] | None = None
    mean_scores: bool = True

    def __post_init__(self, **kwargs: object) -> None:
        super().__post_init__(**kwargs)
        if len(self.channels) != len(self.strides) or math.prod(self.strides) > 32 or not {*self.strides} <= {1, 2}:
            found = f"{len(self.channels)} channels and the strides {list(self.strides)}"
            raise ValueError(f"a YAMNet has a stride of 1 or 2 for each layer, at most five of them 2; found {found}")
        if not self.pooling or not {*self.pooling} <= {*POOLING}:
            raise ValueError(f"patches are pooled by {', '.join(POOLING)}; found {list(self.pooling)}")
        if not {*(self.embedding_layers or [1])} <= {*range(1, len(self.channels) + 1)}:
            raise ValueError(f"layers go from 1 to {len(self.channels)}; found {self.embedding_layers}")

    @property
    def head_width(self) -> int:
        """The inputs of the head: all pooled embeddings of all chosen layers."""
        return len(self.pooling) * sum(self.channels[layer - 1] for layer in self.embedding_layers or [0])


class YamnetFeatureExtractor(SequenceFeatureExtractor):
    """Waveform → log-mel spectrogram, 64 HTK mel bands from 125 to 7500 Hz, one frame every 10 ms.

    The end is padded with silence to whole patches (96 frames, then 48 more at a time), as in the original. With
    `peak_normalize` the largest sample of each clip is brought to 1 first: the offset in the logarithm is for sounds at
    full scale, and a quiet clip drowns in it; the original leaves clips as they are.
    """

    model_input_names = ["input_features", "attention_mask"]

    def __init__(
        self,
        feature_size: int = 64,
        sampling_rate: int = 16_000,
        padding_value: float = SILENCE,
        peak_normalize: bool = False,
        **kwargs: object,
    ) -> None:
        super().__init__(feature_size, sampling_rate, padding_value, **kwargs)
        if not 0 < feature_size <= FFT // 2 + 1:
            raise ValueError(f"feature_size is the number of mel bands, 1 to {FFT // 2 + 1}, found {feature_size}")
        self.peak_normalize = peak_normalize
        # TensorFlow's triangles, straight in mel, not in Hz.
        filters = mel_filter_bank(FFT // 2 + 1, feature_size, 125.0, 7500.0, sampling_rate, None, "htk", True)
        self.mel_filters = torch.from_numpy(filters).float()  # (257, 64)
        self.window = torch.hann_window(WINDOW)

    def __call__(
        self,
        raw_speech: Waveforms,
        sampling_rate: int | None = None,
        padding: bool | str = False,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Extracts one clip or several, mono `(samples,)` in [-1, 1] at 16 kHz each; ValueError for others.

        `padding` True brings clips of different lengths to the longest; their scores stay what they are. Returns
        `input_features` `(clips, frames, 64)` float32 and, where lengths differ, `attention_mask` `(clips, frames)`.
        """
        if sampling_rate not in (None, self.sampling_rate):
            raise ValueError(f"YAMNet takes {self.sampling_rate} Hz, the waveform has {sampling_rate} Hz; resample it")
        several = len(raw_speech) > 0 and np.ndim(raw_speech[0]) > 0
        features = [self._log_mel(np.asarray(clip, np.float32)) for clip in (raw_speech if several else [raw_speech])]
        kwargs.setdefault("return_attention_mask", len({len(feature) for feature in features}) > 1)
        return self.pad(BatchFeature({"input_features": features}), padding, return_tensors=return_tensors, **kwargs)

    def _log_mel(self, waveform: np.ndarray) -> np.ndarray:
        """`(samples,)` → `(frames, 64)` float32, at least 96 frames."""
        if waveform.ndim != 1:
            raise ValueError(f"YAMNet takes mono waveforms (samples,), found the shape {waveform.shape}")
        if self.peak_normalize and waveform.any():
            waveform = waveform / np.abs(waveform).max()
        patch, hop = WINDOW + (PATCH_FRAMES - 1) * HOP, PATCH_HOP_FRAMES * HOP  # in samples: 15600, 7680
        hops = math.ceil(max(len(waveform) - patch, 0) / hop)
        padded = torch.from_numpy(np.pad(waveform, (0, patch + hops * hop - len(waveform))))
        frames = padded.unfold(0, WINDOW, HOP) * self.window  # (frames, 400)
        magnitude = torch.fft.rfft(frames, n=FFT).abs()  # (frames, 257)
        return torch.log(magnitude @ self.mel_filters + LOG_OFFSET).numpy()


class SameConv2d(nn.Conv2d):
    """A 3 × 3 convolution with TensorFlow's "same" padding: at stride 2 on even sizes, after the last row and column.

    In training, a depthwise one of stride 2 is computed at stride 1 and every second output kept: the same numbers, and
    in bfloat16 on a CPU, where the strided backward pass is slow, the network trains 1.6 times as fast.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int, groups: int = 1) -> None:
        super().__init__(channels_in, channels_out, 3, stride, padding=1, groups=groups)

    def forward(self, hidden: Tensor) -> Tensor:
        if self.stride == (1, 1):
            return super().forward(hidden)
        if self.groups == 1 or not self.training:
            padded = nn.functional.pad(hidden, (0, 1, 0, 1))
            return nn.functional.conv2d(padded, self.weight, self.bias, stride=2, groups=self.groups)
        dense = nn.functional.conv2d(hidden, self.weight, self.bias, padding=1, groups=self.groups)
        return dense[..., 1::2, 1::2]  # centred on 1, 3, 5…: reads rows 0-2, 2-4, 4-6…


class YamnetLayer(nn.Sequential):
    """Depthwise 3 × 3 convolution, ReLU, pointwise convolution, ReLU (MobileNet v1); the first layer is a plain one."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        if channels_in == 1:
            super().__init__(SameConv2d(1, channels_out, stride), nn.ReLU(inplace=True))
        else:
            depthwise = SameConv2d(channels_in, channels_in, stride, groups=channels_in)
            pointwise = nn.Conv2d(channels_in, channels_out, kernel_size=1)
            super().__init__(depthwise, nn.ReLU(inplace=True), pointwise, nn.ReLU(inplace=True))


class YamnetBackbone(nn.Module):
    """Log-mel spectrogram → one embedding a patch, 1024 wide in the published size."""

    def __init__(self, config: YamnetConfig) -> None:
        super().__init__()
        self.patch_hop_frames = config.patch_hop_frames
        self.training_patch_hop_frames = config.training_patch_hop_frames or config.patch_hop_frames
        self.embedding_layers = {*(config.embedding_layers or [len(config.channels)])}
        shapes = zip((1, *config.channels), config.channels, config.strides, strict=False)
        self.layers = nn.ModuleList(YamnetLayer(*shape) for shape in shapes)

    @property
    def hop_frames(self) -> int:
        """From one patch to the next, in evaluation or in training."""
        return self.training_patch_hop_frames if self.training else self.patch_hop_frames

    def forward(self, input_features: Tensor) -> Tensor:
        """`(batch, frames, 64)`, at least 96 frames → `(batch, patches, channels[-1])`."""
        patches = input_features.unfold(1, PATCH_FRAMES, self.hop_frames)  # (batch, patches, 64, 96)
        images = patches.transpose(2, 3).flatten(0, 1).unsqueeze(1)  # (batch · patches, 1, 96, 64)
        in_parts = images.is_cpu and not torch.compiler.is_compiling()
        embeddings = torch.cat([self._embed(part) for part in (images.split(CPU_PATCHES) if in_parts else [images])])
        return embeddings.unflatten(0, patches.shape[:2])

    def _embed(self, hidden: Tensor) -> Tensor:
        embeddings = []
        for number, layer in enumerate(self.layers, start=1):
            hidden = layer(hidden)
            if number == 1 and (hidden.is_cpu or self.training):
                # 1.4 times the default's speed on a CPU; on a GPU a new shape costs 2 s
                hidden = hidden.contiguous(memory_format=torch.channels_last)
            if number in self.embedding_layers:
                embeddings.append(hidden.mean(dim=(2, 3)))
        return torch.cat(embeddings, dim=1)


class YamnetForAudioClassification(PreTrainedModel):
    """YAMNet with a linear layer on top of each patch, pooled over the patches of a clip, or on the pooled patches.

    The logits of the patches are averaged (the same as a classifier of the mean embedding). With `mean_scores` and
    several labels a clip (as published), the *scores* are, as in the original; the logit of that mean is returned, so
    that a sigmoid gives it back.
    """

    config_class = YamnetConfig
    base_model_prefix = "yamnet"
    main_input_name = "input_features"
    _no_split_modules = ["YamnetLayer"]  # what FSDP wraps

    def __init__(self, config: YamnetConfig) -> None:
        super().__init__(config)
        self.yamnet = YamnetBackbone(config)
        self.classifier = nn.Linear(config.head_width, config.num_labels or 0)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d):  # without batch norm, 27 layers need this to keep the variance
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(
        self, input_features: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> SequenceClassifierOutput:
        """`input_features` `(batch, frames, 64)`, at least 96 frames → `logits` `(batch, labels)` and `loss`.

        `attention_mask` `(batch, frames)` is 0 for padding at the end; `labels` are class numbers `(batch,)` or, for
        several labels a clip, `(batch, labels)` of 0 and 1.
        """
        patches = self.yamnet(input_features)  # (batch, patches, width)
        if tuple(self.config.pooling) == ("mean",) and not self.config.normalize_embedding:
            pooled = self._pool(self.classifier(patches).float(), self._weights(patches, attention_mask))
        else:
            pooled = self.classifier(self.pool_patches(patches, attention_mask).to(patches.dtype)).float()
        if labels is None:
            return SequenceClassifierOutput(logits=pooled)
        if labels.ndim == 1 and self.config.problem_type == "multi_label_classification":
            fix = 'to teach it one label a clip, load it with problem_type="single_label_classification"'
            raise ValueError(f"class numbers {tuple(labels.shape)} for a model of several labels a clip; {fix}")
        loss = self.loss_function(labels=labels, pooled_logits=pooled, config=self.config)
        return SequenceClassifierOutput(loss=loss, logits=pooled)

    def _weights(self, patches: Tensor, attention_mask: Tensor | None) -> Tensor:
        """`(batch, patches, 1)`, 1 in sum: a patch counts where its last frame is one of the clip."""
        if attention_mask is None:
            return torch.full_like(patches[..., :1], 1 / patches.shape[1], dtype=torch.float32)
        valid = attention_mask[:, PATCH_FRAMES - 1 :: self.yamnet.hop_frames, None].float()
        return valid / valid.sum(1, keepdim=True)

    def pool_patches(self, patches: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """`(batch, patches, width)` → `(batch, poolings · width)`, the embedding of a clip that the head sees."""
        weights, patches = self._weights(patches, attention_mask), patches.float()
        pooled = []
        for name in self.config.pooling:
            if name == "max":
                pooled.append(patches.masked_fill(weights == 0, -torch.inf).amax(1))
                continue
            mean = (patches * weights).sum(1)
            offset = mean[:, None] if name == "std" else 0.0
            square = ((patches - offset).square() * weights).sum(1)
            root = square.clamp(min=1e-12).sqrt() * (square > 0)  # 0 stays 0; its gradient would be infinite
            pooled.append(mean if name == "mean" else root)
        if self.config.normalize_embedding:
            pooled = [nn.functional.normalize(each, dim=1) * each.shape[1] ** 0.5 for each in pooled]
        return torch.cat(pooled, dim=1)

    def choose_embedding(self, pooling: Sequence[str] = (), layers: Sequence[int] = ()) -> None:
        """Changes what the head sees, in place; a head of another width starts anew. Raises ValueError."""
        changed = {"pooling": [*pooling] or self.config.pooling}
        changed["embedding_layers"] = [*layers] or self.config.embedding_layers
        type(self.config)(**{**self.config.to_dict(), **changed})  # refuses what is impossible
        self.config.update(changed)
        self.yamnet.embedding_layers = {*(self.config.embedding_layers or [len(self.config.channels)])}
        if self.classifier.in_features != self.config.head_width:
            self.classifier = nn.Linear(self.config.head_width, self.classifier.out_features)

    def _pool(self, logits: Tensor, weights: Tensor) -> Tensor:
        """`(batch, patches, labels)` → `(batch, labels)`: the mean logit, or the logit of the mean score."""
        if self.config.problem_type != "multi_label_classification" or not self.config.mean_scores:
            return (logits * weights).sum(1)
        score = (nn.functional.logsigmoid(logits) + weights.log()).logsumexp(1)
        rest = (nn.functional.logsigmoid(-logits) + weights.log()).logsumexp(1)
        return score - rest  # log(p / (1 - p)), without ever rounding p to 0 or 1


AutoConfig.register("yamnet", YamnetConfig, exist_ok=True)
AutoFeatureExtractor.register(YamnetConfig, YamnetFeatureExtractor, exist_ok=True)
AutoModelForAudioClassification.register(YamnetConfig, YamnetForAudioClassification, exist_ok=True)
YamnetConfig.register_for_auto_class()
YamnetFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
YamnetForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
