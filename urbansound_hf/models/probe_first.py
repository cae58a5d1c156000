"""A head that begins as the linear probe: what the frozen backbone already tells is not to be learnt by bending it.

A new head starts with random numbers, and until it has found its way, its gradients spoil what the backbone knows. So
the probe comes first, then everything may move: LP-FT (Kumar et al. 2022, arXiv:2202.10054).
"""

from __future__ import annotations

import datasets
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn
from transformers import PreTrainedModel

from urbansound_hf.errors import UserError
from urbansound_hf.models.probe import LinearProbe

PENALTY = 0.1  # on half the squared weights, beside the mean loss of a clip; 0.03 to 0.3 score alike on 450 clips


@torch.no_grad()
def fit(model: PreTrainedModel, embedded: datasets.Dataset) -> None:
    """Puts a logistic regression on the embeddings into the model's head, in place.

    Args:
        model: its head is one linear layer, or several in a row, after anything that is not to be learnt (a norm).
        embedded: what `probe.embeddings` returns for the training clips: `embedding` (hidden,) or (layers, hidden), and
            `labels`, a row a clip.

    Raises:
        UserError: as `linear_layers` does.
    """
    layers = linear_layers(model)
    seen: list[torch.Tensor] = []
    watch = layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float().cpu()))
    LinearProbe(model).eval()(torch.tensor(embedded["embedding"][:], device=model.device))
    watch.remove()
    weight, bias = regression(seen[0].numpy(), np.asarray(embedded["labels"][:]), layers[-1].out_features)
    put(layers, torch.from_numpy(weight).float(), torch.from_numpy(bias).float())


def linear_layers(model: PreTrainedModel) -> list[nn.Linear]:
    """The linear layers at the end of the head, in their order.

    Raises:
        UserError: the head is of another kind (the cosines of ECAPA-TDNN).
    """
    parts = [part for part in LinearProbe(model).head.modules() if not list(part.children())]
    layers: list[nn.Linear] = []
    while parts and isinstance(last := parts.pop(), nn.Linear):
        layers.insert(0, last)
    if not layers:
        what = f"the head of {model.config.model_type} models does not end in a linear layer"
        raise UserError(what, "--probe_first", "leave it out for this family")
    return layers


def regression(inputs: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression on standardised inputs, for inputs as they are.

    Args:
        inputs: `(clips, width)`.
        labels: `(clips,)` class numbers.
        classes: the number of them; one without a clip gets the lowest bias and no weights.

    Returns:
        `(classes, width)` weights and `(classes,)` biases.
    """
    scaler = StandardScaler().fit(inputs)
    found = LogisticRegression(C=1 / (PENALTY * len(labels)), max_iter=1000).fit(scaler.transform(inputs), labels)
    rows, shifts = found.coef_, found.intercept_
    if len(rows) == 1:  # of two classes it gives the second's odds
        rows, shifts = np.concatenate([-rows, rows]) / 2, np.concatenate([-shifts, shifts]) / 2
    weight, bias = np.zeros((classes, inputs.shape[1])), np.full(classes, shifts.min())
    weight[found.classes_] = rows / scaler.scale_
    bias[found.classes_] = shifts - weight[found.classes_] @ scaler.mean_
    return weight, bias


def put(layers: list[nn.Linear], weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Makes linear layers in a row compute `inputs @ weight.T + bias`, in place.

    The product is shared out by its singular values. What a layer holds beyond them stays as it was drawn, and is
    multiplied by zero in the next one, so that it can still be learnt.

    Args:
        layers: from `width` inputs to `classes` outputs, each taking what the one before it gives.
        weight, bias: `(classes, width)` and `(classes,)`.
    """
    for layer in layers[:-1]:
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        rank = min(len(values), layer.out_features)
        layer.weight[:rank] = values[:rank, None].sqrt() * right[:rank]
        nn.init.zeros_(layer.bias)
        rest = weight.new_zeros(len(weight), layer.out_features)
        rest[:, :rank] = left[:, :rank] * values[:rank].sqrt()
        weight = rest
    layers[-1].weight.copy_(weight)
    layers[-1].bias.copy_(bias)
