"""The classes of a pretrained head are known by their names; Transformers would keep its rows by their position."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from transformers import PreTrainedModel

from urbansound_hf.errors import UserError


@torch.no_grad()
def rows_by_name(model: PreTrainedModel, before: Mapping[int, str]) -> None:
    """Puts each row of a loaded head under its own name, in place.

    Transformers loads the rows of a checkpoint in their order, whatever `config.id2label` asks for: `dog_bark` would
    answer for what the checkpoint calls `siren`. The same names in another order: the rows move. Other names: those
    rows mean nothing here, and the last layer starts anew. Another number of classes: Transformers has done so.

    Args:
        model: loaded with the new `config.id2label`.
        before: the `id2label` of the checkpoint.

    Raises:
        UserError: no layer has one row a class.
    """
    known, wanted = (dict(sorted(names.items())) for names in (before, model.config.id2label))
    if len(known) != len(wanted) or known == wanted:
        return
    layer, labels = _last_layer(model), list(known.values())
    if sorted(labels) == sorted(wanted.values()):
        order = [labels.index(name) for name in wanted.values()]
        for values in layer.parameters():
            values.copy_(values[order])
    else:
        for values in layer.parameters():
            nn.init.xavier_uniform_(values) if values.ndim > 1 else nn.init.zeros_(values)


def _last_layer(model: PreTrainedModel) -> nn.Module:
    """The last layer whose weight is a matrix of one row a class."""
    for layer in reversed(list(model.modules())):
        weight = getattr(layer, "weight", None)
        if isinstance(weight, torch.Tensor) and weight.ndim == 2 and len(weight) == model.config.num_labels:
            return layer
    raise UserError(
        f"the head of a {model.config.model_type} model has no layer with a row for each of its classes",
        "--model_name_or_path",
        "give the labels in the order of the checkpoint, or another model",
    )
