"""The record of the CNN family."""

import math

from urbansound_hf.features.extract import FeatureExtractor, Spectrogram
from urbansound_hf.models.family import Family, Lengths


class CnnLengths(Lengths):
    """A spectrogram of `num_frames`, which follows the clips: the networks have no position embeddings."""

    def longest_seconds(self, feature_extractor: FeatureExtractor) -> float:
        return feature_extractor.num_frames * feature_extractor.hop_length / feature_extractor.sampling_rate

    def fit_extractor(self, feature_extractor: FeatureExtractor, clip_seconds: float) -> None:
        samples = round(clip_seconds * feature_extractor.sampling_rate)
        feature_extractor.num_frames = math.ceil(samples / feature_extractor.hop_length)  # all of them


FAMILY = Family(
    "cnn",
    start_from="cnn",
    licence="none needed",
    pretraining="nothing: random weights",
    environmental="not pretrained",
    input="MFCC/log-mel",
    spectrogram=Spectrogram("input_features", frequency_axis=0, time_axis=1),
    lengths=CnnLengths(),
    linear_layers=("classifier",),
    modeling="urbansound_hf.models.cnn.modeling_cnn",
)
