"""The record of the ECAPA-TDNN family."""

from urbansound_hf.features.extract import Spectrogram
from urbansound_hf.models.family import Conversion, Family, Lengths

FAMILY = Family(
    "ecapa-tdnn",
    start_from="speechbrain/urbansound8k_ecapa",
    licence="Apache-2.0",
    pretraining="UrbanSound8K, folds 1 to 8",
    environmental="75.5 %, fold 10 only",
    input="log-mel",
    spectrogram=Spectrogram("input_features", frequency_axis=1, time_axis=0),
    lengths=Lengths(),
    linear_layers=(),  # cosines
    modeling="urbansound_hf.models.ecapa_tdnn.modeling_ecapa_tdnn",
    extra="speechbrain",
    conversion=Conversion("ecapa_tdnn", "urbansound_hf.models.ecapa_tdnn.convert", "FOLDER", marker="hyperparams.yaml"),
)
