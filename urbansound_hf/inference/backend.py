"""Backends that run a model in serving: their interface, the choice between them, and ONNX Runtime, without torch."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from urbansound_hf import progress
from urbansound_hf.errors import UserError
from urbansound_hf.features.extract import FeatureExtractor, Features
from urbansound_hf.features.numpy_extractors import NumpyExtractor
from urbansound_hf.layout import EXTRACTOR_CONFIG, MODEL_CONFIG, ONNX_EXPORT, ONNX_INT8, ONNX_MODEL
from urbansound_hf.models.weights import weights_fingerprint

BACKENDS = ("auto", "torch", "onnx")
DTYPES = ("float32", "bfloat16", "float16", "int8")
TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}
ACCELERATORS = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/kfd", "/dev/dxg", "/dev/accel", "/dev/dri")


class Backend(Protocol):
    """A loaded model."""

    config: Mapping[str, Any]  # the values of its config.json
    feature_extractor: FeatureExtractor
    longest_seconds: float | None  # the length to which the feature extractor brings every clip, if it does
    shortest_samples: int  # fewest samples that it accepts
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
    # A guess without importing torch: a device file of a GPU, or a Mac.
    accelerated = sys.platform == "darwin" or any(map(os.path.exists, ACCELERATORS))
    on_cpu = device == "cpu" or (device is None and not accelerated)
    exported = (Path(name) / ONNX_EXPORT).is_file() and importlib.util.find_spec("onnxruntime")
    if backend == "torch" or not on_cpu or dtype not in (None, "float32") or not exported:
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


class OnnxBackend:
    """A model in float32, or with matrices in 8 bits, on the CPU, of a folder with `onnx/` or a Hub id; a `Backend`.

    Raises:
        UserError: ONNX Runtime is not installed, there is no export, or it is older than the weights.
    """

    batch_size, on_accelerator = 8, False

    def __init__(self, name_or_path: str | Path, revision: str | None = None, int8: bool = False) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            what, fix = "ONNX Runtime is not installed", "pip install 'urbansound-hf[onnx]'"
            raise UserError(what, "--backend onnx", fix) from error
        folder = Path(name_or_path)
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            try:
                files = ["onnx/*", "*.json"]
                folder = Path(snapshot_download(str(name_or_path), revision=revision, allow_patterns=files))
            except (OSError, ValueError) as error:
                what = f"no ONNX export could be downloaded ({str(error).splitlines()[0]})"
                raise UserError(what, str(name_or_path), "check the name, or give a folder") from error
        model = folder / (ONNX_INT8 if int8 else ONNX_MODEL)
        if not model.is_file() or not (folder / ONNX_EXPORT).is_file():
            fix = f"urbansound-hf export {name_or_path}{' --int8' * int8}"
            raise UserError("there is no ONNX export" + " in 8 bits (convolutions get none)" * int8, str(model), fix)
        if is_stale(folder):
            what = "the weights changed after the ONNX export"
            raise UserError(what, str(model), f"urbansound-hf export {name_or_path}, or --backend torch")
        try:
            self.config, extractor, exported = (
                json.loads((folder / each).read_text(encoding="utf-8"))
                for each in (MODEL_CONFIG, EXTRACTOR_CONFIG, ONNX_EXPORT)
            )
            self.feature_extractor = NumpyExtractor(extractor)
            self.longest_seconds, self.shortest_samples = exported["longest_seconds"], exported["shortest_samples"]
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", progress.worker_count()))
            options.log_severity_level = 3
            self.session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except UserError:
            raise
        except Exception as error:  # ONNX Runtime has a dozen kinds, all its own
            what = f"the ONNX export cannot be opened: {(str(error).splitlines() or ['no reason given'])[0]}"
            raise UserError(what, str(model), "export it again, or --backend torch") from error
        self.types = {each.name: TYPES[each.type] for each in self.session.get_inputs()}

    def start(self, batch: Features, embed: bool = False) -> Callable[[], np.ndarray]:
        """Computes a forward pass at once; see `Backend`."""
        inputs = {name: np.ascontiguousarray(batch[name], kind) for name, kind in self.types.items()}
        found = self.session.run(["logits", "embedding"] if embed else ["logits"], inputs)
        return lambda: np.concatenate(found, axis=1) if embed else found[0]
