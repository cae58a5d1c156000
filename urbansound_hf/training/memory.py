"""Caches in memory (outputs of frozen layers, clips on the device), and the largest batch that fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import psutil
import torch
from torch import nn

from urbansound_hf import progress
from urbansound_hf.errors import UserError
from urbansound_hf.features.dataset import PreparedClips, WithFrozen, collate_evaluation
from urbansound_hf.models.frozen import FrozenPart, frozen_parts

DEVICE_SHARE, MEMORY_SHARE = 0.25, 0.5  # at most these parts of what is free are filled
LARGE = 20_000_000  # parameters from which on a CPU gains nothing from more than `LARGE_BATCH` clips at once
LARGE_BATCH = 8

Context = Callable[[], AbstractContextManager[Any]]


def free_bytes(device: torch.device) -> float:
    """The memory of a device that may be filled with clips or their outputs."""
    if device.type == "cuda":
        return DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]
    return MEMORY_SHARE * psutil.virtual_memory().available if device.type == "cpu" else 0


class FrozenOutputs:
    """Finds the frozen part of a model, on its device and in its mixed precision, and computes its output for clips."""

    def __init__(self, model: nn.Module, device: torch.device, autocast: Context) -> None:
        self.model, self.device, self.autocast = model, device, autocast

    def find(self, clips: PreparedClips) -> FrozenPart | None:
        """The longest part whose output does not change; `clips` are those of training."""
        inputs = self._inputs([clips[0], clips[len(clips) - 1]])[0][1]
        with self.autocast():
            return next((part for part in frozen_parts(self.model) if part.is_constant(self.model, inputs)), None)

    def nbytes(self, part: FrozenPart, clips: PreparedClips) -> int:
        """The memory that the outputs for the clips take; shorter ones take less."""
        longest = clips.by_size()[0]
        return self._outputs(part, clips, [longest])[0][1].nbytes * len(clips)

    def compute(self, part: FrozenPart, clips: PreparedClips, batch_size: int, store: torch.device) -> WithFrozen:
        """The clips with their outputs, which are kept on `store`."""
        order = clips.by_size()
        outputs: dict[int, torch.Tensor] = {}
        with progress.Bar(desc="Computing the frozen part", total=len(order), unit="clips", leave=False) as bar:
            for first in range(0, len(order), batch_size):
                indices = order[first : first + batch_size]
                outputs |= {i: output.to(store) for i, output in self._outputs(part, clips, indices)}
                bar.update(len(indices))
        return WithFrozen(clips, [outputs[index] for index in range(len(clips))])

    @torch.no_grad()
    def _outputs(self, part: FrozenPart, clips: PreparedClips, indices: list[int]) -> list[tuple[int, torch.Tensor]]:
        self.model.eval()
        found = []
        for positions, inputs in self._inputs([clips[index] for index in indices]):
            with self.autocast():
                found += list(zip((indices[i] for i in positions), part.compute(self.model, inputs), strict=True))
        return found

    def _inputs(self, rows: list[dict[str, Any]]) -> list[tuple[list[int], dict[str, torch.Tensor]]]:
        batch = collate_evaluation(rows)
        groups = [{name: x.to(self.device) for name, x in group.items()} for group in batch["groups"]]
        return list(zip([positions.tolist() for positions in batch["positions"]], groups, strict=True))


def micro_batches(clips: int, processes: int, model: nn.Module, on_cpu: bool) -> list[int]:
    """The batch sizes a process may take at once so that all of them together make an update of `clips` clips.

    Returns:
        the divisors of a process's share, the largest first. With trained batch norms only the whole share, as their
        statistics are those of the batch; for a large model on a CPU only small ones.

    Raises:
        UserError: the processes cannot share the clips evenly.
    """
    share, rest = divmod(clips, processes)
    if rest or not share:
        what = f"{clips} clips an update cannot be shared out evenly among {processes} processes"
        raise UserError(what, "--train_batch_size", f"give a multiple of {processes}")
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) and any(p.requires_grad for p in m.parameters())
           for m in model.modules()):  # fmt: skip
        return [share]
    most = LARGE_BATCH if on_cpu and sum(p.numel() for p in model.parameters()) > LARGE else share
    return [size for size in range(min(share, most), 0, -1) if share % size == 0]


def halved(sizes: list[int]) -> Iterator[int]:
    """The sizes to try one after another: each at most half of the one before."""
    last = 2 * sizes[0]
    for size in sizes:
        if size <= last / 2:
            yield size
            last = size


def fits(model: nn.Module, inputs: dict[str, torch.Tensor], autocast: Context) -> bool:
    """Whether a training step of a batch fits into the memory of the device; leaves model and random numbers as is."""
    device, numpy_state = next(model.parameters()).device, np.random.get_state()
    try:
        weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
        moments = [torch.empty_like(weight) for weight in weights for _ in range(2)]  # which AdamW will keep
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            with autocast():
                loss = model.train()(**inputs).logits.float().sum()
            loss.backward()
        del moments
        return True
    except torch.OutOfMemoryError:
        return False
    finally:
        np.random.set_state(numpy_state)
        model.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()
