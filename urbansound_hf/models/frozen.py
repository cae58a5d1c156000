"""The frozen start of a model, whose output for a clip is the same in every epoch: it need run only once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from urbansound_hf.models import adapt
from urbansound_hf.models.heads import LAYER_DROPS


class FrozenPart:
    """Consecutive modules from the start of a model on; while `skipped`, they do not run.

    Args:
        modules: frozen, in the order in which they run; the first takes what comes before them.

    Attributes:
        output: what the last of them gives while they are skipped; set it by `give` before each pass.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.modules = list(modules)
        self.output: torch.Tensor | None = None

    def compute(self, model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The output of the last module, `(batch, n, …)`; what comes after it does not run.

        n is 1, or the number of patches into which the model cuts each clip of the batch.
        """
        handle = self.modules[-1].register_forward_hook(_stop)
        try:
            model(**inputs)
        except _Reached as reached:
            output, clips = reached.output, len(next(iter(inputs.values())))
            return output.unflatten(0, (clips, -1)) if isinstance(output, torch.Tensor) else output
        finally:
            handle.remove()
        raise RuntimeError("the model did not call its frozen part")

    def give(self, output: torch.Tensor) -> None:
        """Sets what `compute` gave for the clips of the next batch."""
        self.output = output.flatten(0, 1)

    def is_constant(self, model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> bool:
        """Whether a clip's output is the same in training: nothing before it learns, no dropout, no other clips."""
        device = next(model.parameters()).device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.enable_grad():
            one, other = (self.compute(model.train(), inputs) for _ in range(2))
            alone = self.compute(model, {name: values[:1] for name, values in inputs.items()})
        if not isinstance(one, torch.Tensor) or one.requires_grad or not torch.equal(one, other):
            return False
        return bool((alone[0] - one[0]).norm() <= 1e-2 * one[0].norm())  # in bfloat16 too

    @contextmanager
    def skipped(self) -> Iterator[None]:
        """The model with this part left out; its weights stay where they are, so that checkpoints are complete."""
        for module in self.modules:
            module.forward = lambda *args, **kwargs: (*args, *kwargs.values())[0]  # type: ignore[method-assign]
        self.modules[-1].forward = lambda *args, **kwargs: self.output  # type: ignore[method-assign]
        try:
            yield
        finally:
            self.output = None
            for module in self.modules:
                del module.forward


class _Reached(BaseException):
    def __init__(self, output: Any) -> None:
        self.output = output


def _stop(module: nn.Module, inputs: Any, output: Any) -> None:
    raise _Reached(output)


def frozen_parts(model: nn.Module) -> Iterator[FrozenPart]:
    """The parts that may be constant, the longest first: the frozen layers, the convolutional feature encoder.

    Not the layers where the model masks hidden states, drops whole layers, or uses the outputs of several of them.
    """
    if not isinstance(model, PreTrainedModel):
        return  # the head of a probe
    config: Any = model.config
    masks = any(hasattr(module, "_mask_hidden_states") for module in model.modules())
    masks = masks and config.apply_spec_augment and bool(config.mask_time_prob or config.mask_feature_prob)
    drops = any(getattr(config, name, 0) for name in LAYER_DROPS)
    below = list(takewhile(_is_frozen, adapt.layers(model)))
    if below and not (masks or drops or hasattr(model, "layer_weights") or getattr(config, "embedding_layers", None)):
        yield FrozenPart(below)
    front = getattr(adapt.backbone(model), "feature_extractor", None)
    if isinstance(front, nn.Module) and _is_frozen(front):
        yield FrozenPart([front])


def _is_frozen(module: nn.Module) -> bool:
    return not any(parameter.requires_grad for parameter in module.parameters())
