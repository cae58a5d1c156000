"""A learned weighted sum of all layers under the head: speech models keep what a task needs in different depths.

Introduced by ELMo (arXiv:1802.05365); SUPERB's protocol (arXiv:2105.01051) is this with a frozen backbone. Most speech
families of Transformers bring it, as `use_weighted_layer_sum` of their config and `layer_weights` of their model.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING, PreTrainedConfig, PreTrainedModel

from urbansound_hf.errors import UserError

SWITCH = "use_weighted_layer_sum"
LAYER_DROPS = ("layerdrop", "encoder_layerdrop")


def configure(config: PreTrainedConfig, wanted: bool) -> None:
    """Asks for the sum, in place; and where there is one, for every layer at every step: a dropped one has no output.

    Raises:
        UserError: it is wanted from a family that has none.
    """
    if wanted and not hasattr(config, SWITCH):
        able = sorted(kind.model_type for kind in MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING if hasattr(kind, SWITCH))
        what = f"{config.model_type} models have no weighted sum of layers"
        raise UserError(what, "--weighted_layer_sum", f"leave it out; the families that have: {', '.join(able)}")
    if wanted:
        setattr(config, SWITCH, True)
    if getattr(config, SWITCH, False):
        for name in LAYER_DROPS:
            if hasattr(config, name):
                setattr(config, name, 0.0)


def start_evenly(model: PreTrainedModel, stored: PreTrainedConfig) -> None:
    """Gives each layer the same weight, in place, unless the checkpoint of config `stored` brought weights.

    Most families of Transformers 5.23 leave them as they find the memory when a checkpoint lacks them.
    """
    weights: Any = getattr(model, "layer_weights", None)
    if weights is not None and not getattr(stored, SWITCH, False):
        nn.init.constant_(weights, 1 / len(weights))
