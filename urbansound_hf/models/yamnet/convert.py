"""The published YAMNet weights (an ONNX graph) as a checkpoint folder that every Transformers command opens.

    urbansound-hf models yamnet convert MODEL.onnx OUT_DIR

`yamnet_class_map.csv`, which names the 521 classes, is read from the folder of the graph. Needs the `onnx` package.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers.utils import is_onnx_available

from urbansound_hf.errors import UserError
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
    """Writes config, labels, weights, feature extractor, code and card of a published YAMNet to `out_dir`.

    Args:
        source: the ONNX graph, with model.data and the CSV of the class names beside it.
        out_dir: the folder to write.

    Raises:
        UserError: the `onnx` package, the graph, its weights or its class names are missing, or it is no YAMNet.
    """
    labels = read_labels(source.parent / CLASS_MAP)
    config = YamnetConfig(
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
        problem_type="multi_label_classification",
    )
    config.clip_seconds = CLIP_SECONDS
    network = YamnetForAudioClassification(config)
    load_weights(network, float_graph(read_graph(source)), where=str(source))
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
        raise UserError(
            "the class map is a CSV with the columns index (from 0, without gaps), mid and display_name; this is not",
            str(path),
            f"put {CLASS_MAP_URL} there",
        )
    return [row["display_name"] for row in rows]


def read_graph(path: Path) -> onnx.ModelProto:
    """The graph with its weights, also those in a file beside it."""
    if not is_onnx_available():
        raise UserError(
            "reading an ONNX graph needs the onnx package", str(path), "pip install 'urbansound-hf[export]'"
        )
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


def float_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without the quantise/dequantise pairs: the float network, with float inputs and outputs."""
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    origin: dict[str, str] = {}  # what a quantised tensor was before
    for node in graph.node:
        if node.op_type in QUANTISATION:
            origin[node.output[0]] = origin.get(node.input[0], node.input[0])
    kept = [node for node in graph.node if node.op_type not in QUANTISATION]
    for node in kept:
        node.input[:] = [origin.get(name, name) for name in node.input]
    kept += [
        onnx.helper.make_node("Identity", [origin[output.name]], [output.name])
        for output in graph.output
        if output.name in origin
    ]
    del graph.node[:]
    graph.node.extend(kept)
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return result


def load_weights(network: YamnetForAudioClassification, model: onnx.ModelProto, where: str) -> None:
    """Copies the convolutions and the classifier of a float graph into `network`, each checked against its like."""
    from onnx import numpy_helper

    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    modules = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    expected = [_describe(module) for module in modules]
    found = [_describe_node(node, tensors) for node in nodes]
    for number, (want, have) in enumerate(zip(expected, found, strict=False), start=1):
        if want != have:
            raise _not_yamnet(f"weight layer {number} is {have} instead of {want}", where)
    if len(expected) != len(found):
        raise _not_yamnet(f"it has {len(found)} weight layers instead of {len(expected)}", where)
    for module, node in zip(modules, nodes, strict=True):
        weight, bias = (torch.from_numpy(tensors[name].copy()) for name in node.input[1:3])
        module.load_state_dict({"weight": weight, "bias": bias})


def _describe(module: nn.Conv2d | nn.Linear) -> str:
    shape = f"{tuple(module.weight.shape)}"
    if isinstance(module, nn.Linear):
        return f"Gemm {shape}"
    same = {1: [0] * 4, 3: [1] * 4 if module.stride[0] == 1 else [0, 0, 1, 1]}[module.kernel_size[0]]
    return f"Conv {shape} strides {list(module.stride)} pads {same}"


def _describe_node(node: onnx.NodeProto, tensors: dict) -> str:
    from onnx.helper import get_attribute_value

    attributes = {attribute.name: get_attribute_value(attribute) for attribute in node.attribute}
    shapes = [tuple(tensors[name].shape) if name in tensors else "unknown" for name in node.input[1:3]]
    if len(shapes) < 2 or shapes[1] != shapes[0][:1]:
        return f"{node.op_type} {shapes[0]} without its bias"
    if node.op_type == "Gemm":
        return f"Gemm {shapes[0]}" + ("" if attributes.get("transB") else " not transposed")
    return f"Conv {shapes[0]} strides {list(attributes['strides'])} pads {list(attributes['pads'])}"


def _not_yamnet(what: str, where: str) -> UserError:
    return UserError(
        f"this graph is not YAMNet: {what}",
        where,
        f"give the published float-weight YAMNet, MobileNet v1 on (1, 1, {PATCH_FRAMES}, 64) patches",
    )
