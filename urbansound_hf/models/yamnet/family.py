"""The record of the YAMNet family."""

from urbansound_hf.features.extract import Spectrogram
from urbansound_hf.models.family import Conversion, Family, Lengths

FAMILY = Family(
    "yamnet",
    start_from="qualcomm/YamNet",
    licence="Apache-2.0",
    pretraining="AudioSet",
    environmental="right domain, no figure",
    input="log-mel",
    spectrogram=Spectrogram("input_features", frequency_axis=1, time_axis=0),
    lengths=Lengths(),
    linear_layers=("classifier",),
    modeling="urbansound_hf.models.yamnet.modeling_yamnet",
    conversion=Conversion(
        "yamnet", "urbansound_hf.models.yamnet.convert", "MODEL.onnx", out_dir="outputs/yamnet_audioset"
    ),
)
