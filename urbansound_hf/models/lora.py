"""LoRA (arXiv:2106.09685): a frozen backbone whose layers learn corrections of low rank, by Hugging Face's peft.

The corrections are added to the weights when training is done, so that the checkpoint is a stock one of the same size
and speed as before. Needs peft: `pip install 'urbansound-hf[lora]'`.
"""

from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners import lora
from torch import nn
from transformers import PreTrainedModel

from urbansound_hf.errors import UserError
from urbansound_hf.models import adapt

ADAPTER = "default"  # peft's name for the only one


class ReadableLinear(lora.Linear):
    """peft's adapted linear layer, its weight adapted for readers too: WavLM's attention takes it, calls no layer."""

    @property
    def weight(self) -> torch.Tensor:
        return super().weight + self.get_delta_weight(ADAPTER)


def apply_lora(model: PreTrainedModel, rank: int) -> None:
    """Freezes the backbone and gives each linear layer and convolution of its layers a correction, in place.

    All of them, not only those of the attention, and α = 2 · rank, as in "LoRA Learns Less and Forgets Less"
    (arXiv:2405.09673). The head learns fully. A correction has rank · (inputs + outputs) parameters and starts at zero.
    Raises UserError if the model has no layers that could be corrected.
    """
    adapt.freeze(model, "backbone")
    head = [parameter for parameter in model.parameters() if parameter.requires_grad]
    inside = {module for layer in adapt.layers(model) for module in layer.modules()}
    # peft can correct and merge no grouped convolution, and no subclass that computes something else.
    names = [name for name, module in model.named_modules() if module in inside and getattr(module, "groups", 1) == 1
             and type(module) in (nn.Linear, nn.Conv1d, nn.Conv2d)]  # fmt: skip
    if not names:
        what = f"LoRA corrects stacked linear layers and convolutions, this {model.config.model_type} model has none"
        raise UserError(what, "--lora_rank", "leave it out; --freeze backbone trains the head alone")
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names)
    config._register_custom_module({nn.Linear: ReadableLinear})
    inject_adapter_in_model(config, model, ADAPTER)  # freezes the head as well
    for parameter in head:
        parameter.requires_grad_(True)
    for layer in adapters(model).values():
        if hasattr(layer.base_layer, "dilation"):  # of a convolution; peft forgets it
            layer.lora_A[ADAPTER].dilation = layer.base_layer.dilation


def adapters(model: nn.Module) -> dict[str, Any]:
    """The corrected layers (peft's `LoraLayer`) by their names."""
    return {name: module for name, module in model.named_modules() if isinstance(module, lora.LoraLayer)}


def merge_lora(model: PreTrainedModel) -> None:
    """Adds the corrections to the weights and leaves no trace of peft, in place."""
    for name, layer in adapters(model).items():
        layer.merge()
        model.set_submodule(name, layer.base_layer)
    del model.peft_config
