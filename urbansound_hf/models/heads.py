"""Heads of pretrained models: weights assigned to classes by name, and a weighted sum of layers below the head."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn
from transformers import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING, PreTrainedConfig, PreTrainedModel

from urbansound_hf.errors import UserError


@torch.no_grad()
def rows_by_name(model: PreTrainedModel, before: Mapping[int, str], labels: Sequence[str]) -> None:
    """Puts each row of a loaded head under its own name, in place; `before` is the `id2label` of the checkpoint.

    Transformers loads the rows in their order: that of `siren` would become `dog_bark`. The same names in another order
    are moved; with other names the last layer is initialised; for another number of them Transformers has done so.
    """
    known = [before[number] for number in sorted(before)]
    if len(known) != len(labels) or known == list(labels):
        return
    same = sorted(known) == sorted(labels)
    for values in _last_layer(model).parameters():
        if same:
            values.copy_(values[[known.index(label) for label in labels]])
        else:
            nn.init.xavier_uniform_(values) if values.ndim > 1 else nn.init.zeros_(values)


@torch.no_grad()
def rows_from(model: PreTrainedModel, known: PreTrainedModel, pairs: Mapping[str, str]) -> None:
    """Gives new classes the weights of published ones, by `pairs` of names, in place; UserError for unknown names."""
    new, old = ({str(name): int(row) for row, name in (each.config.id2label or {}).items()} for each in (model, known))
    for names, labels, whose in ((pairs, new, "the new head"), (pairs.values(), old, "the checkpoint's head")):
        for label in (name for name in names if name not in labels):
            near = get_close_matches(label, labels, n=3, cutoff=0.4) or list(labels)[:3]
            raise UserError(f"{whose} has no class {label!r}", "--head_from", f"nearest: {', '.join(map(repr, near))}")
    for target, values in zip(_last_layer(model).parameters(), _last_layer(known).parameters(), strict=True):
        for label, source in pairs.items():
            target[new[label]] = values[old[source]]


def _last_layer(model: PreTrainedModel) -> nn.Module:
    """The last layer whose weight is a matrix of one row a class."""
    for layer in reversed(list(model.modules())):
        weight = getattr(layer, "weight", None)
        if isinstance(weight, torch.Tensor) and weight.ndim == 2 and len(weight) == model.config.num_labels:
            return layer
    what = f"the head of {model.config.model_type} models has no layer with a row for each of its classes"
    fix = "give the labels in the order of the checkpoint, or another model"
    raise UserError(what, "--model_name_or_path", fix)


SWITCH = "use_weighted_layer_sum"
LAYER_DROPS = ("layerdrop", "encoder_layerdrop")


def configure_layer_sum(config: PreTrainedConfig, wanted: bool) -> None:
    """Turns on the weighted sum of layers, in place, and layer drop off; UserError from a family that has none."""
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


@torch.no_grad()
def choose_head_inputs(model: PreTrainedModel, pooling: Sequence[str] = (), layers: Sequence[int] = ()) -> None:
    """Chooses what the head sees, in place: how frames are pooled, and which layers; () leaves it as it is.

    Where a family can save it in its own head (YAMNet), the chosen layers stand side by side. Under a weighted sum of
    layers, the chosen ones share the weight and the others start with none. Layers count from 1, input side first; 0 is
    what comes before the first layer of a sum. UserError if the family cannot save this, or has no such layer.
    """
    weights: Any = getattr(model, "layer_weights", None)
    if layers and weights is not None and not pooling:
        if not {*layers} <= {*range(len(weights))}:
            what = f"this model has the layers 0 to {len(weights) - 1}, found {[*layers]}"
            raise UserError(what, "--probe_layers", "give some of them")
        weights.fill_(-10.0)  # under the softmax 1 / 20,000 of a chosen layer, and still learnable
        weights[[*layers]] = 0.0
    elif pooling or layers:
        flag, own = "--probe_pooling" if pooling else "--probe_layers", getattr(model, "choose_embedding", None)
        if own is None:
            what = f"{model.config.model_type} models cannot save this in their head"
            fix = "leave it out; YAMNet takes both flags, --probe_layers goes with --weighted_layer_sum too"
            raise UserError(what, flag, fix)
        try:
            own(pooling, layers)
        except ValueError as error:
            raise UserError(str(error), flag, "leave it out for the default") from error
