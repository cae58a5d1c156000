"""The record of the CLAP family."""

from urbansound_hf.features.extract import FeatureExtractor, Spectrogram
from urbansound_hf.models.family import Family, Lengths, check_length


class ClapLengths(Lengths):
    """Every clip is repeated and padded to the extractor's own length, 10 s, which is not cut."""

    def longest_seconds(self, feature_extractor: FeatureExtractor) -> float:
        return feature_extractor.nb_max_samples / feature_extractor.sampling_rate

    def fit_extractor(self, feature_extractor: FeatureExtractor, clip_seconds: float) -> None:
        check_length(clip_seconds, self.longest_seconds(feature_extractor))


FAMILY = Family(
    "clap-audio",
    start_from="laion/clap-htsat-unfused",
    licence="Apache-2.0",
    pretraining="sounds and their captions",
    environmental="strong: 86.9 % frozen",
    input="log-mel",
    spectrogram=Spectrogram("input_features", frequency_axis=2, time_axis=1),  # (1 or 4, frames, bands)
    lengths=ClapLengths(),
    linear_layers=("classifier",),
    modeling="urbansound_hf.models.clap.modeling_clap_audio",
    takes_over="clap",
)
