"""PyTorch as a backend: any checkpoint, on any device."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from transformers import FeatureExtractionMixin, PreTrainedModel

from urbansound_hf import progress
from urbansound_hf.errors import UserError
from urbansound_hf.features.extract import Features, as_tensors
from urbansound_hf.models.adapt import LogitsAndEmbedding
from urbansound_hf.models.registry import family_of


class TorchBackend:
    """A model on a device (see `choose_device`), in the precision of that name or as it is; a `backend.Backend`."""

    def __init__(
        self,
        model: PreTrainedModel,
        feature_extractor: FeatureExtractionMixin,
        device: str | None = None,
        dtype: str | None = None,
    ) -> None:
        self.device, self.feature_extractor = choose_device(device), feature_extractor
        self.dtype: torch.dtype = getattr(torch, dtype) if dtype else model.dtype
        if self.device.type == "cpu" and dtype == "bfloat16" and not torch.cpu._is_amx_tile_supported():
            progress.say("this processor has no AMX: bfloat16 is slower than float32 here")
        self.model: Any = model.eval().to(self.device, self.dtype)
        self.config: Mapping[str, Any] = vars(model.config) | {"id2label": model.config.id2label}
        lengths = family_of(model.config.model_type).lengths
        self.longest_seconds = lengths.longest_seconds(feature_extractor)
        self.shortest_samples = lengths.shortest_samples(model.config)
        self.on_accelerator = self.device.type != "cpu"
        self.batch_size = 64 if self.on_accelerator else 8

    @torch.inference_mode()
    def start(self, batch: Features, embed: bool = False) -> Callable[[], np.ndarray]:
        """Starts a forward pass; see `backend.Backend`."""
        inputs = {}
        for name, values in as_tensors(batch).items():
            moved = values.pin_memory() if self.device.type == "cuda" else values
            dtype = self.dtype if values.is_floating_point() else values.dtype
            inputs[name] = moved.to(self.device, non_blocking=self.device.type == "cuda").to(dtype)
        if embed:
            found = torch.cat([each.float() for each in LogitsAndEmbedding(self.model)(**inputs)], dim=1)
        else:
            found = self.model(**inputs).logits
        if self.device.type != "cuda":
            return lambda: found.float().cpu().numpy()
        copied = torch.empty(found.shape, dtype=torch.float32, pin_memory=True)
        copied.copy_(found, non_blocking=True)
        finished = torch.cuda.Event()
        finished.record()

        def wait() -> np.ndarray:  # for this batch, not for those that were started after it
            finished.synchronize()
            return copied.numpy()

        return wait


def choose_device(name: str | None = None) -> torch.device:
    """The device of a name, which this machine must have, else its accelerator (CUDA, mps, xpu …), else the CPU."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    kind, count = (accelerator.type, torch.accelerator.device_count()) if accelerator else ("cpu", 1)
    if name is None and accelerator and "LOCAL_RANK" in os.environ:  # one process of `accelerate launch` a device
        return torch.device(kind, int(os.environ["LOCAL_RANK"]) % count)
    if name is None:
        return accelerator or torch.device("cpu")
    fix = f"cpu, {kind} or {kind}:{count - 1}" if accelerator else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"there is no device called {name!r}", "--device", fix) from None
    if device.type != "cpu" and (device.type != kind or (device.index or 0) >= count):
        found = f"{count} of type {kind}" if accelerator else "no accelerator"
        raise UserError(f"{name} is not there: this machine has {found}", "--device", fix)
    return device
