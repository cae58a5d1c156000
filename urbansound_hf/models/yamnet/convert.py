"""The published YAMNet weights (an ONNX graph) as a checkpoint folder that every Transformers command opens.

    urbansound-hf models yamnet convert MODEL.onnx OUT_DIR

The graph is Qualcomm's export (https://huggingface.co/niobures/YAMNet, folder yamnet-onnx): model.onnx, and beside it
model.data and yamnet_class_map.csv, Google's 521 class names. Where a config names outputs/yamnet_audioset and the Hub
can be reached, it is downloaded and converted without this command. Needs the `onnx` package.
"""

from __future__ import annotations

import csv
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.utils import is_onnx_available

from urbansound_hf.errors import UserError
from urbansound_hf.models.registry import label_names
from urbansound_hf.models.yamnet.modeling_yamnet import (
    PATCH_FRAMES,
    YamnetConfig,
    YamnetFeatureExtractor,
    YamnetForAudioClassification,
)
from urbansound_hf.text import rendered

if TYPE_CHECKING:
    import onnx


CLASS_MAP = "yamnet_class_map.csv"
CLASS_MAP_URL = "https://raw.githubusercontent.com/tensorflow/models/master/research/audioset/yamnet/" + CLASS_MAP
QUANTISATION = ("QuantizeLinear", "DequantizeLinear")
CLIP_SECONDS = 4.0  # the window of infer.py over longer sounds
CARD = Path(__file__).with_name("card.md.jinja")


def convert(source: Path, out_dir: Path) -> None:
    """Writes the YAMNet of an ONNX graph, with the CSV of its classes beside it, to `out_dir`; UserError."""
    labels = read_labels(source.parent / CLASS_MAP)
    config = YamnetConfig(**label_names(labels), problem_type="multi_label_classification")
    config.clip_seconds = CLIP_SECONDS
    network = YamnetForAudioClassification(config)
    load_weights(network, read_graph(source), where=str(source))
    network.save_pretrained(out_dir)
    YamnetFeatureExtractor().save_pretrained(out_dir)
    card = rendered(CARD, classes=len(labels), source=source.name)
    (out_dir / "README.md").write_text(card, encoding="utf-8")


def read_labels(path: Path) -> list[str]:
    """The class names, in the order of the network's outputs."""
    if not path.is_file():
        raise UserError("the class names are missing", str(path), f"put {CLASS_MAP_URL} there")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = [row.get("index") for row in rows if row.get("display_name")]
    if not rows or numbers != [str(number) for number in range(len(rows))]:
        what = "the class map is a CSV with the columns index (from 0, without gaps), mid and display_name; this is not"
        raise UserError(what, str(path), f"put {CLASS_MAP_URL} there")
    return [row["display_name"] for row in rows]


def read_graph(path: Path) -> onnx.ModelProto:
    """The graph with its weights, also those in a file beside it."""
    if not is_onnx_available():
        fix = "pip install 'urbansound-hf[export]'"
        raise UserError("reading an ONNX graph needs the onnx package", str(path), fix)
    import onnx
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise UserError("there is no such file", str(path), "give the path of the published model.onnx")
    try:
        return onnx.load(path)
    except DecodeError as error:
        raise UserError("this is no ONNX graph", str(path), "give the path of the published model.onnx") from error
    except (OSError, onnx.checker.ValidationError) as error:
        raise UserError(f"its weights cannot be read: {error}", str(path), "put model.data beside it") from error


def load_weights(network: YamnetForAudioClassification, model: onnx.ModelProto, where: str) -> None:
    """Copies the convolutions and the classifier of a graph into `network`, each checked against its like."""
    from onnx import numpy_helper

    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    origin: dict[str, str] = {}  # what a quantised tensor was before
    for node in model.graph.node:
        if node.op_type in QUANTISATION:
            origin[node.output[0]] = origin.get(node.input[0], node.input[0])
    layers: list[Any] = [[tensors.get(origin.get(name, name)) for name in node.input[1:3]]
              for node in model.graph.node if node.op_type in ("Conv", "Gemm")]  # fmt: skip
    modules = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    expected = [[module.weight.shape, module.weight.shape[:1]] for module in modules]
    found = [[None if each is None else each.shape for each in layer] for layer in layers]
    if found != expected:
        both = enumerate(zip_longest(found, expected), start=1)
        what = next(f"weights {number} are {have}, not {want}" for number, (have, want) in both if have != want)
        fix = f"give the published float-weight YAMNet, MobileNet v1 on (1, 1, {PATCH_FRAMES}, 64) patches"
        raise UserError(f"this graph is not YAMNet: {what}", where, fix)
    for module, (weight, bias) in zip(modules, layers, strict=True):
        module.load_state_dict({"weight": torch.from_numpy(weight.copy()), "bias": torch.from_numpy(bias.copy())})
