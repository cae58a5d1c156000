"""Two small convolutional networks on spectrograms, trained from random weights: the tutorial's and a residual one.

A checkpoint carries a copy of this file, so it imports nothing of the rest of the package and opens anywhere with
`pipeline("audio-classification", trust_remote_code=True)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchaudio.transforms import MFCC, AmplitudeToDB, MelSpectrogram
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

CHOICES = {
    "architecture": ("tutorial", "residual"),
    "feature": ("mfcc", "log_mel"),
    "scaling": ("per_coefficient", "per_clip", "none"),
}


class CnnConfig(PreTrainedConfig):
    """The shape of the network; raises `ValueError` if there is no such architecture.

    Args:
        architecture: "tutorial" (four 2×2 convolutions; 44,602 parameters for ten classes) or "residual" (a stem and
            four blocks of 3×3 convolutions with batch norm; 309,194).
        hidden_sizes: the filters of each block, shallowest first.
        dropout: the probability, after every block ("tutorial") or before the classifier ("residual").
    """

    model_type = "cnn"

    architecture: str = "tutorial"
    hidden_sizes: list[int] | tuple[int, ...] = (16, 32, 64, 128)
    dropout: float = 0.2

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        _check_choices(architecture=self.architecture)


class CnnFeatureExtractor(FeatureExtractionMixin):
    """Turns a clip into a spectrogram `(bands, num_frames)` whose size does not depend on the clip.

    The defaults are the tutorial's MFCC of 40 × 174 for 4 s. It took windows of 2,048 and steps of 512 samples
    at 22,050 Hz, 93 and 23 ms: at 16 kHz 1,536 (a fast FFT length) and 368. Mel filters and decibels are librosa's.
    Raises `ValueError` for a feature or scaling that there is not, or for more MFCCs than mel bands.

    Args:
        feature: "mfcc" (`n_mfcc` bands) or "log_mel" (`n_mels` bands, in dB).
        sampling_rate, n_fft, hop_length: in Hz; the window and the step from frame to frame, in samples.
        n_mels, n_mfcc: mel bands, and the coefficients made from them (at most as many).
        num_frames: the width: longer clips are cut there, shorter ones padded with zeros after scaling.
        scaling: to mean 0 and deviation 1 "per_coefficient" (each row over time; hides the mean spectrum), "per_clip"
            (the whole spectrogram; hides loudness only) or "none".
    """

    model_input_names = ["input_features"]
    padding_value = 0.0  # asked for by the stock pipeline when it batches; nothing is left to pad

    def __init__(
        self,
        feature: str = "mfcc",
        sampling_rate: int = 16_000,
        n_fft: int = 1536,
        hop_length: int = 368,
        n_mels: int = 128,
        n_mfcc: int = 40,
        num_frames: int = 174,
        scaling: str = "per_coefficient",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _check_choices(feature=feature, scaling=scaling)
        if feature == "mfcc" and n_mfcc > n_mels:
            raise ValueError(f"n_mfcc must be at most n_mels; found n_mfcc={n_mfcc}, n_mels={n_mels}")
        self.feature, self.scaling = feature, scaling
        self.sampling_rate, self.n_fft, self.hop_length = sampling_rate, n_fft, hop_length
        self.n_mels, self.n_mfcc, self.num_frames = n_mels, n_mfcc, num_frames

    def __call__(
        self, raw_speech: Waveforms, sampling_rate: int | None = None, return_tensors: str | None = None, **kwargs: Any
    ) -> BatchFeature:
        """Extracts one clip or several, mono `(samples,)` in [-1, 1]; ValueError for others, or another sampling rate.

        Returns `input_features` `(batch, bands, num_frames)` float32.
        """
        if sampling_rate not in (None, self.sampling_rate):
            raise ValueError(f"the sampling rate must be {self.sampling_rate} Hz; found {sampling_rate}: resample it")
        several = isinstance(raw_speech, (list, tuple)) and len(raw_speech) > 0 and not np.isscalar(raw_speech[0])
        clips = raw_speech if several or np.ndim(raw_speech) > 1 else [raw_speech]
        spectrograms = [self._spectrogram(np.array(clip, dtype=np.float32)) for clip in clips]
        return BatchFeature({"input_features": np.stack(spectrograms)}, tensor_type=return_tensors)

    def _spectrogram(self, waveform: np.ndarray) -> np.ndarray:
        if waveform.ndim != 1 or not len(waveform):
            raise ValueError(f"a waveform must be mono and not empty, (samples,); found the shape {waveform.shape}")
        samples = torch.from_numpy(waveform[: self.num_frames * self.hop_length])
        n_mfcc = self.n_mfcc if self.feature == "mfcc" else None
        transform = _transform(self.sampling_rate, self.n_fft, self.hop_length, self.n_mels, n_mfcc)
        features = transform(samples)[:, : self.num_frames]  # (bands, frames)
        if self.scaling != "none":
            dim = 1 if self.scaling == "per_coefficient" else (0, 1)
            deviation, mean = torch.std_mean(features, dim=dim, correction=0, keepdim=True)
            features = (features - mean) / deviation.clamp(min=1e-3)  # silence, or a single frame, becomes zeros
        return F.pad(features, (0, self.num_frames - features.shape[1])).numpy()


@lru_cache(maxsize=8)  # outside the extractor, which so stays small in JSON, pickles and cache fingerprints
def _transform(sampling_rate: int, n_fft: int, hop_length: int, n_mels: int, n_mfcc: int | None) -> nn.Module:
    # Zeros, not reflections, beyond the ends: a reflection needs a clip longer than half a window.
    slaney = {"norm": "slaney", "mel_scale": "slaney", "pad_mode": "constant"}
    mel: dict[str, Any] = {"n_fft": n_fft, "hop_length": hop_length, "n_mels": n_mels, **slaney}
    if n_mfcc is not None:
        return MFCC(sampling_rate, n_mfcc, melkwargs=mel)
    return nn.Sequential(MelSpectrogram(sampling_rate, **mel), AmplitudeToDB(top_db=80.0))  # as in MFCC and librosa


class TutorialBackbone(nn.Module):
    """Four times 2×2 convolution, ReLU, 2×2 max pooling, dropout; then the mean of what is left of the spectrogram."""

    def __init__(self, config: CnnConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        for before, after in pairwise([1, *config.hidden_sizes]):
            pool = nn.MaxPool2d(2)
            self.blocks.append(nn.Sequential(nn.Conv2d(before, after, 2), nn.ReLU(), pool, nn.Dropout(config.dropout)))

    def forward(self, input_features: Tensor) -> Tensor:  # (batch, bands, frames) → (batch, hidden)
        bands, frames = input_features.shape[1:]
        smallest = 2 ** (len(self.blocks) + 1) - 1  # every unpadded convolution and pooling turns 2n + 1 into n
        if min(bands, frames) < smallest:
            fix = "take longer clips, more n_mfcc or n_mels, a smaller hop_length, or architecture=residual"
            raise ValueError(f"needs at least {smallest} bands and frames; found {bands} × {frames}: {fix}")
        hidden = input_features[:, None]
        for block in self.blocks:
            hidden = block(hidden)
        return hidden.mean(dim=(2, 3))


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with batch norm beside a shortcut that halves by averaging (ResNet-D, arXiv:1812.01187)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False), nn.BatchNorm2d(after)
        self.conv2, self.norm2 = nn.Conv2d(after, after, 3, padding=1, bias=False), nn.BatchNorm2d(after)
        # ceil_mode halves an odd side as the strided convolution does
        project = [nn.AvgPool2d(stride, ceil_mode=True), nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after)]
        self.shortcut = nn.Identity() if before == after and stride == 1 else nn.Sequential(*project)

    def forward(self, hidden: Tensor) -> Tensor:
        residual = self.norm2(self.conv2(F.gelu(self.norm1(self.conv1(hidden)))))
        return F.gelu(self.shortcut(hidden) + residual)


class ResidualBackbone(nn.Module):
    """A 5×5 stem, then one residual block a width; the mean over bands, then mean plus maximum over time.

    A second channel holds the position of each band, because a pattern means something else an octave higher and
    convolutions alone detect that only near an edge. A short event survives in the maximum (PANNs, arXiv:1912.10211).
    """

    def __init__(self, config: CnnConfig) -> None:
        super().__init__()
        first = config.hidden_sizes[0]
        self.stem = nn.Sequential(nn.Conv2d(2, first, 5, 2, padding=2, bias=False), nn.BatchNorm2d(first), nn.GELU())
        halving = (ResidualBlock(before, after, stride=2) for before, after in pairwise(config.hidden_sizes))
        self.blocks = nn.ModuleList([ResidualBlock(first, first, stride=1), *halving])
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, input_features: Tensor) -> Tensor:  # (batch, bands, frames) → (batch, hidden)
        height = torch.linspace(-1, 1, input_features.shape[1]).to(input_features)  # (bands,)
        images = torch.stack([input_features, height[:, None].expand_as(input_features)], dim=1)
        hidden = self.stem(images.contiguous(memory_format=torch.channels_last))  # trains 1.4 times as fast on a CPU
        for block in self.blocks:
            hidden = block(hidden)
        frames = hidden.mean(dim=2)  # (batch, hidden, frames / 16)
        return self.dropout(frames.mean(dim=2) + frames.amax(dim=2))


class CnnForAudioClassification(PreTrainedModel):
    """One of the two networks under a linear classifier."""

    config_class = CnnConfig
    base_model_prefix = "backbone"
    main_input_name = "input_features"

    def __init__(self, config: CnnConfig) -> None:
        super().__init__(config)
        self.backbone = {"tutorial": TutorialBackbone, "residual": ResidualBackbone}[config.architecture](config)
        self.classifier = nn.Linear(config.hidden_sizes[-1], config.num_labels or 2)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Conv2d, nn.Linear)):  # Keras's defaults, which the tutorial trained with
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    # No **kwargs: Trainer would take them for a promise to average over accumulated batches in here.
    def forward(self, input_features: Tensor, labels: Tensor | None = None) -> SequenceClassifierOutput:
        """Scores spectrograms `(batch, bands, frames)`; `labels`: numbers, or `(batch, classes)` probabilities."""
        logits = self.classifier(self.backbone(input_features))
        several = self.config.problem_type == "multi_label_classification"
        of_labels = F.binary_cross_entropy_with_logits if several else F.cross_entropy
        loss = None if labels is None else of_labels(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def _check_choices(**found: str) -> None:
    for name, value in found.items():
        if value not in CHOICES[name]:
            near = max(CHOICES[name], key=lambda choice: SequenceMatcher(None, choice, str(value)).ratio())
            raise ValueError(f"{name} must be one of {', '.join(CHOICES[name])}; found {value!r}: did you mean {near}?")


AutoConfig.register("cnn", CnnConfig, exist_ok=True)
AutoFeatureExtractor.register(CnnConfig, CnnFeatureExtractor, exist_ok=True)
AutoModelForAudioClassification.register(CnnConfig, CnnForAudioClassification, exist_ok=True)
CnnConfig.register_for_auto_class()
CnnFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
CnnForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
