"""The record that describes a model family to the rest of the package.

Nothing else in the package asks which family a model is of: it reads the record (`registry.family_of`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from urbansound_hf.features.extract import Spectrogram
from urbansound_hf.models.lengths import ConvolutionalLengths, Lengths


@dataclass(frozen=True)
class Conversion:
    """The command that makes a checkpoint folder of published weights in another format.

    Args:
        name: `urbansound-hf models NAME convert SOURCE OUT_DIR`.
        module: the module whose `convert(source, out_dir)` does it.
        source: what the command reads, as its help calls it.
        marker: a file by which a folder of unconverted weights is recognised; "" if there is none.
        out_dir: where the family's shipped config expects the converted checkpoint; "" if there is none.
    """

    name: str
    module: str
    source: str
    marker: str = ""
    out_dir: str = ""

    def command(self, source: str = "", out_dir: str = "OUT_DIR") -> str:
        """The command line that converts `source`."""
        return f"urbansound-hf models {self.name} convert {source or self.source} {out_dir}"


@dataclass(frozen=True)
class Family:
    """What is known of a model family before anything is loaded.

    Args:
        model_type: its name in Transformers, which `--model_name_or_path` takes for random weights.
        start_from: the recommended checkpoint, a Hub id; the model type where there is nothing pretrained.
        licence: of the weights; "unknown" where their card names none.
        pretraining: data on which the weights were trained.
        environmental: published results on environmental sound.
        sizes: values of the checkpoint's config that differ from the family's defaults and change its size.
        input: kind of input that the feature extractor computes.
        spectrogram: the input that is a spectrogram, and its axes; None for a model of waveforms.
        lengths: clip lengths that the family supports.
        linear_layers: names of the consecutive linear layers at the end of the head; () for a head of another kind.
        feature_extractor: name of its class in Transformers, where the Auto class would choose another.
        modeling: the module that registers a family of ours with the Auto classes.
        takes_over: model type of stock checkpoints that open as this family, by `take_over` of its config class.
        extra: the optional dependencies that it needs (`pip install 'urbansound-hf[EXTRA]'`).
        conversion: how its published weights become a checkpoint folder.
    """

    model_type: str
    start_from: str = ""
    licence: str = ""
    pretraining: str = ""
    environmental: str = ""
    sizes: Mapping[str, Any] = field(default_factory=dict)
    input: str = "waveform"
    spectrogram: Spectrogram | None = None
    lengths: Lengths = field(default_factory=ConvolutionalLengths)
    linear_layers: tuple[str, ...] = ("projector", "classifier")
    feature_extractor: str = ""
    modeling: str = ""
    takes_over: str = ""
    extra: str = ""
    conversion: Conversion | None = None
