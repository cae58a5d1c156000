"""ONNX Runtime as a backend: a model exported by `urbansound-hf export`, without torch and Transformers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from urbansound_hf import progress
from urbansound_hf.errors import UserError
from urbansound_hf.features.extract import Features
from urbansound_hf.features.numpy_extractors import NumpyExtractor
from urbansound_hf.inference.backend import Facts, is_stale
from urbansound_hf.layout import EXTRACTOR_CONFIG, MODEL_CONFIG, ONNX_EXPORT, ONNX_INT8, ONNX_MODEL

TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}


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
            fix = "pip install 'urbansound-hf[onnx]'"
            raise UserError("ONNX Runtime is not installed", "--backend onnx", fix) from error
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
            raise UserError("there is no ONNX export", str(model), fix)
        if is_stale(folder):
            what = "the weights changed after the ONNX export"
            raise UserError(what, str(model), f"urbansound-hf export {name_or_path}, or --backend torch")
        try:
            config, extractor, exported = (
                json.loads((folder / each).read_text(encoding="utf-8"))
                for each in (MODEL_CONFIG, EXTRACTOR_CONFIG, ONNX_EXPORT)
            )
            self.feature_extractor = NumpyExtractor(extractor)
            lengths = exported["longest_seconds"], exported["shortest_samples"]
            self.facts = Facts.of(config, self.feature_extractor.sampling_rate, *lengths)
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
        """Computes a forward pass at once; see `backend.Backend`."""
        inputs = {name: np.ascontiguousarray(batch[name], kind) for name, kind in self.types.items()}
        found = self.session.run(["logits", "embedding"] if embed else ["logits"], inputs)
        return lambda: np.concatenate(found, axis=1) if embed else found[0]
