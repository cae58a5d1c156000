"""CLAP's audio tower (LAION, arXiv 2211.06687) as a stock audio classifier: a Swin that learnt from captions.

    train.py --model_name_or_path laion/clap-htsat-unfused    # or the folder of any CLAP that Transformers opens

A clip becomes the 512 numbers that CLAP compares with those of a caption (tower, then projection); scaled to a length
of √512, they go through one linear layer. The published linear probe (86.9 % on the official folds of UrbanSound8K,
EVAR, arXiv 2503.22104) uses these very numbers, and captions turn into a head of the same shape (`zero_shot.py`).

CLAP takes 48 kHz, mel bands from 50 Hz to 14 kHz. So the data must come from the original files in one step: a detour
over 16 kHz would leave the bands above 8 kHz empty, which in pretraining they never were.

This file travels with every checkpoint (`trust_remote_code=True`), so it imports nothing of this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    BatchFeature,
    ClapAudioConfig,
    ClapAudioModelWithProjection,
    ClapConfig,
    ClapFeatureExtractor,
    ClapPreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

Waveforms = np.ndarray | Sequence[float] | Sequence[np.ndarray]


class ClapAudioClassificationConfig(ClapAudioConfig):
    """A `ClapAudioConfig` with labels; ValueError if the sizes of its stages do not fit together."""

    model_type = "clap-audio"

    def __post_init__(self, **kwargs: object) -> None:
        super().__post_init__(**kwargs)
        stages = len(self.depths)
        width = self.patch_embeds_hidden_size * 2 ** (stages - 1)
        if len(self.num_attention_heads) != stages or self.hidden_size != width:
            raise ValueError(
                f"{stages} stages (depths) that start {self.patch_embeds_hidden_size} wide (patch_embeds_hidden_size) "
                f"need {stages} num_attention_heads and a hidden_size of {width}; "
                f"found {list(self.num_attention_heads)} and {self.hidden_size}"
            )

    @classmethod
    def take_over(cls, config: ClapConfig) -> ClapAudioClassificationConfig:
        """Of a whole CLAP, the audio tower's part with the labels of the whole."""
        tower: Any = config.audio_config
        kept = ("id2label", "label2id", "problem_type", "dtype")
        values = {**tower.to_dict(), **{name: getattr(config, name) for name in kept}}
        return cls(**{name: value for name, value in values.items() if name != "model_type"})


class ClapAudioFeatureExtractor(ClapFeatureExtractor):
    """CLAP's log-mel spectrogram, the same at every call: of a long clip the first 10 s, not 10 s drawn at random.

    A shorter clip is repeated as often as it fits into 10 s, then padded with silence, as in pretraining. The defaults
    are those of `laion/clap-htsat-unfused`; `truncation="fusion"` belongs to models with `enable_fusion`.
    """

    def __init__(self, frequency_min: float = 50, truncation: str = "rand_trunc", **kwargs: Any) -> None:
        super().__init__(frequency_min=frequency_min, truncation=truncation, **kwargs)

    def __call__(  # type: ignore[override]  # the original's truncation and padding are not to be chosen
        self,
        raw_speech: Waveforms,
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        **kwargs: object,
    ) -> BatchFeature:
        """Extracts one clip or several, mono `(samples,)` in [-1, 1] at 48 kHz each; ValueError for others.

        Padding and truncation are fixed; whatever is asked of them changes nothing. Returns `input_features`
        `(clips, 1, 1001, 64)` float32 in dB; for fusion `(clips, 4, 1001, 64)`, and `is_longer` `(clips, 1)` bool.
        """
        several = len(raw_speech) > 0 and np.ndim(raw_speech[0]) > 0
        clips = raw_speech if several else [raw_speech]
        features = [self._one(np.asarray(clip, np.float32), sampling_rate) for clip in clips]
        names = self.model_input_names[: 2 if self.truncation == "fusion" else 1]
        return BatchFeature({name: [clip[name][0] for clip in features] for name in names}, return_tensors)

    def _one(self, waveform: np.ndarray, sampling_rate: int | None) -> BatchFeature:
        """One clip on its own: in a batch the original draws one at random to be called longer than it is."""
        if waveform.ndim != 1 or not len(waveform):
            raise ValueError(f"CLAP takes mono waveforms (samples,), found the shape {waveform.shape}")
        rate = self.sampling_rate if sampling_rate is None else sampling_rate
        return super().__call__(waveform[: self.nb_max_samples], sampling_rate=rate)


class ClapForAudioClassification(ClapPreTrainedModel):
    """CLAP's embedding of a sound with a linear layer on top.

    A checkpoint of a whole CLAP opens as well: its audio tower and projection are taken, the rest is left out.
    """

    config_class = ClapAudioClassificationConfig
    main_input_name = "input_features"
    _no_split_modules = ["ClapAudioStage"]  # what FSDP wraps
    _keys_to_ignore_on_load_unexpected = [r"^text_model\.", r"^text_projection\.", r"^logit_scale_"]

    def __init__(self, config: ClapAudioClassificationConfig | ClapConfig) -> None:
        own: Any = self.config_class.take_over(config) if isinstance(config, ClapConfig) else config
        super().__init__(own)
        self.clap = ClapAudioModelWithProjection(own)
        # To a length of √512: CLAP's own normalisation, to 1, in numbers of the size that a learning rate expects.
        self.norm = nn.RMSNorm(own.projection_dim, eps=1e-12, elementwise_affine=False)
        self.classifier = nn.Linear(own.projection_dim, own.num_labels)
        self.post_init()

    def forward(
        self, input_features: Tensor, is_longer: Tensor | None = None, labels: Tensor | None = None
    ) -> SequenceClassifierOutput:
        """`input_features` `(batch, 1, frames, 64)`, at most 1024 frames → `logits` `(batch, labels)` and `loss`.

        For fusion, `(batch, 4, frames, 64)`, `is_longer` `(batch, 1)` bool. `labels`, without which there is no loss,
        are class numbers `(batch,)` or, for several labels a clip, 0 and 1 `(batch, labels)`.
        """
        embedding = self.clap(input_features, is_longer).audio_embeds  # (batch, 512)
        logits = self.classifier(self.norm(embedding)).float()
        loss = None if labels is None else self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits)


AutoConfig.register("clap-audio", ClapAudioClassificationConfig, exist_ok=True)
AutoFeatureExtractor.register(ClapAudioClassificationConfig, ClapAudioFeatureExtractor, exist_ok=True)
AutoModelForAudioClassification.register(ClapAudioClassificationConfig, ClapForAudioClassification, exist_ok=True)
stock: Any = MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING  # which lacks a whole CLAP; `register` above wants its own config
stock.register(ClapConfig, ClapForAudioClassification, exist_ok=True)
ClapAudioClassificationConfig.register_for_auto_class()
ClapAudioFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
ClapForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
