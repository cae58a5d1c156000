"""Backends that run a model in serving: their interface, and the choice between PyTorch and ONNX Runtime."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from urbansound_hf import progress
from urbansound_hf.errors import UserError
from urbansound_hf.features.extract import FeatureExtractor, Features
from urbansound_hf.layout import ONNX_EXPORT
from urbansound_hf.models.weights import weights_fingerprint

BACKENDS = ("auto", "torch", "onnx")
DTYPES = ("float32", "bfloat16", "float16", "int8")
ACCELERATORS = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/kfd", "/dev/dxg", "/dev/accel", "/dev/dri")


@dataclass(frozen=True)
class Facts:
    """The facts of a model that a classifier needs."""

    labels: list[str]  # class names in the order of the logits
    sampling_rate: int  # of its input, in Hz
    problem_type: str | None  # of the config; decides the function from logits to scores
    clip_seconds: float | None  # length of the clips it was trained on; None where the config has none
    shifts: int  # number of circular shifts of a clip whose scores are averaged
    longest_seconds: float | None  # the length to which its feature extractor brings every clip, if it does
    shortest_samples: int  # fewest samples that it accepts
    thresholds: list[float] | None = None  # of a multi-label model, the score of each class from which a sound has it

    @classmethod
    def of(cls, config: Mapping[str, Any], rate: int, longest_seconds: float | None, shortest_samples: int) -> Facts:
        """By the values of a `config.json`."""
        names = {int(number): str(label) for number, label in (config.get("id2label") or {}).items()}
        labels = [label for _, label in sorted(names.items())]
        seconds, shifts = config.get("clip_seconds"), config.get("test_time_shifts", 0)
        kind, thresholds = config.get("problem_type"), config.get("thresholds")
        return cls(labels, rate, kind, seconds, shifts, longest_seconds, shortest_samples, thresholds)


class Backend(Protocol):
    """A loaded model."""

    facts: Facts
    feature_extractor: FeatureExtractor
    batch_size: int  # windows in one forward pass, where none was asked for
    on_accelerator: bool  # whether the CPU is free while a batch is computed

    def start(self, batch: Features, embed: bool = False) -> Callable[[], np.ndarray]:
        """Starts a forward pass; what is returned waits for its logits, `(batch, classes)` float32.

        With `embed`, the pooled output of the backbone follows: `(batch, classes + hidden)`.
        """
        ...


def chosen_backend(name: str | Path, device: str | None, backend: str, dtype: str | None) -> str:
    """`torch` or `onnx`: as asked, or UserError; "auto": an up-to-date ONNX export where a CPU computes float32."""
    if backend not in BACKENDS or dtype not in (None, *DTYPES):
        raise UserError(f"there is no backend {backend!r} with {dtype}", "", f"{', '.join(BACKENDS + DTYPES)}")
    if backend == "onnx" or dtype == "int8":
        if backend == "torch" or device not in (None, "cpu") or dtype not in (None, "float32", "int8"):
            what = f"ONNX Runtime computes float32 and int8 on the CPU, not {dtype or 'float32'} on {device or 'cpu'}"
            raise UserError(what, "--backend, --dtype, --device", "leave out --backend onnx and --dtype int8")
        return "onnx"
    exported = Path(name) / ONNX_EXPORT
    # A guess without importing torch: a device file of a GPU, or a Mac.
    accelerated = sys.platform == "darwin" or any(map(os.path.exists, ACCELERATORS))
    on_cpu = device == "cpu" or (device is None and not accelerated)
    if backend == "torch" or not on_cpu or dtype not in (None, "float32") or not exported.is_file():
        return "torch"
    if not importlib.util.find_spec("onnxruntime"):
        return "torch"
    if is_stale(Path(name)):
        progress.say(f"{name}: the weights changed after the ONNX export, which is not used; export it again")
        return "torch"
    return "onnx"


def is_stale(folder: Path) -> bool:
    """Whether the weights beside an ONNX export are others than those that were exported."""
    try:
        exported = json.loads((folder / ONNX_EXPORT).read_text(encoding="utf-8"))["weights"]
    except (ValueError, KeyError, TypeError):
        return True
    return weights_fingerprint(folder) not in ("", exported)
