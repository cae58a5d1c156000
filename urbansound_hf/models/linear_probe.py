"""Linear probes on cached embeddings: with a frozen backbone, each clip passes through it once, not once an epoch.

In every family here the head is linear up to the pooling over time, or comes after it, so that it may as well see the
pooled embedding: `head(mean(frames)) = mean(head(frames))`. `agrees` checks that on real clips before it is relied on.
"""

from typing import Any, cast

import datasets
import numpy as np
import torch
from datasets.fingerprint import Hasher
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from urbansound_hf import progress
from urbansound_hf.errors import UserError
from urbansound_hf.evaluation.confidence import fit_temperature
from urbansound_hf.features.dataset import source_code
from urbansound_hf.features.extract import KEPT, as_tensors, equal_shapes
from urbansound_hf.models.adapt import backbone, pooled
from urbansound_hf.models.registry import family_of


class LinearProbe(nn.Module):
    """The head of a model, its sum of layers included, on pooled embeddings; the parameters are the model's."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        body = backbone(model)
        self.config, self.base_model = model.config, nn.Identity()  # nothing but head
        self.head = nn.Sequential(*(child for child in model.children() if child is not body))
        self.layer_weights: Tensor | None = getattr(model, "layer_weights", None)

    def forward(self, embedding: Tensor, labels: Tensor | None = None) -> SequenceClassifierOutput:
        """`embedding` (batch, hidden), or (batch, layers, hidden) → `logits` (batch, classes), with labels `loss`."""
        if self.layer_weights is not None:
            embedding = (embedding * self.layer_weights.softmax(dim=0)[:, None]).sum(dim=1)  # (batch, hidden)
        logits = self.head(embedding)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


@torch.no_grad()
def embed(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
    """The pooled output of the backbone, (batch, hidden) float32; under a sum of layers, (batch, layers, hidden)."""
    layered = hasattr(model, "layer_weights")
    return pooled(model, backbone(model)(**inputs, **{"output_hidden_states": True} if layered else {}), inputs)


@torch.no_grad()
def agrees(model: PreTrainedModel, dataset: datasets.Dataset, device: torch.device | str) -> bool:
    """Whether the head on pooled embeddings gives the model's own logits, to a thousandth, on eight of all clips."""
    nn.Module.to(model, device).eval()
    probe = LinearProbe(model).eval()
    for row in dataset.select(np.linspace(0, len(dataset) - 1, 8, dtype=int)):
        clip = as_tensors({name: values[None] for name, values in row.items() if name not in KEPT})
        inputs = {name: values.to(model.device) for name, values in clip.items()}
        logits = model(**inputs).logits
        if not (probe(embed(model, inputs)).logits - logits).norm() <= 1e-3 * logits.norm():  # NaN does not agree
            return False
    return True


def embeddings(model: PreTrainedModel, dataset: datasets.Dataset, batch_size: int) -> datasets.Dataset:
    """Cached rows of `embedding` (hidden,) or (layers, hidden) float32, `labels` and `clip`."""
    model.eval()
    weights = [values.detach().cpu().numpy() for values in backbone(model).state_dict().values()]
    embedded = progress.mapped(
        dataset,
        _embed_rows,
        batched=True,
        num_proc=1,  # the model is on one device
        batch_size=batch_size,
        remove_columns=[name for name in dataset.column_names if name not in KEPT],
        fn_kwargs={"model": model},
        new_fingerprint=Hasher.hash(
            [dataset._fingerprint, source_code(embed, type(model)), model.config.to_json_string(), weights]
        ),
        desc="Computing embeddings",
        unit="windows",
    )
    return embedded.with_format("numpy")


def _embed_rows(batch: dict[str, Any], model: PreTrainedModel) -> dict[str, Any]:
    inputs = {name: values for name, values in batch.items() if name not in KEPT}
    clips = [dict(zip(inputs, values, strict=True)) for values in zip(*inputs.values(), strict=True)]
    found: dict[int, np.ndarray] = {}
    for positions, group in equal_shapes(clips):
        vectors = embed(model, {name: values.to(model.device) for name, values in as_tensors(group).items()})
        found |= zip(positions, vectors.cpu().numpy(), strict=True)
    return {name: batch[name] for name in KEPT} | {"embedding": [found[i] for i in range(len(clips))]}


PENALTY = 0.1  # on half the squared weights, beside the mean loss of a clip
PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0)  # from which cross-validation chooses
PARTS = 5  # of it
LEAST_DEVIATION = 0.3  # of several labels: of an input, against the mean; rarely active ones would give huge scores


@torch.no_grad()
def fit_head(
    model: PreTrainedModel,
    embedded: datasets.Dataset,
    recordings: np.ndarray | None = None,
    penalty: float | None = None,
) -> dict[str, Any]:
    """Puts a logistic regression on the embeddings of the training clips into the model's head, in place.

    With `recordings`, those of the rows, and without a `penalty`, `choose_penalty` chooses it. Returns the penalty and
    how it was chosen, for the receipt; UserError for a head that does not end in linear layers.
    """
    layers = linear_layers(model)
    seen: list[Tensor] = []
    watch = layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float().cpu()))
    LinearProbe(model).eval()(torch.tensor(embedded["embedding"][:], device=model.device))
    watch.remove()
    inputs, labels, classes = seen[0].numpy(), np.asarray(embedded["labels"][:]), layers[-1].out_features
    chosen: dict[str, Any] = {"penalty": PENALTY if penalty is None else penalty}
    if penalty is None and recordings is not None:
        chosen = choose_penalty(inputs, labels, recordings, classes) or chosen
    weight, bias = regression(inputs, labels, classes, chosen["penalty"])
    scale = chosen.get("temperature", 1.0)
    put_head(layers, torch.from_numpy(weight / scale).float(), torch.from_numpy(bias / scale).float())
    return chosen


def choose_penalty(inputs: np.ndarray, labels: np.ndarray, recordings: np.ndarray, classes: int) -> dict[str, Any]:
    """The penalty with the best accuracy in a cross-validation of the training clips that keeps recordings together.

    A strong penalty makes scores that are too even, so the temperature with the lowest loss on the same held-out
    clips goes with it (Guo et al., 2017). `inputs` and `labels` are those of `regression`, `recordings` are `(clips,)`.
    Returns both, the `accuracies` of all candidates, and `chosen_on`, a sentence on the clips; {} for too few clips.
    """
    parts = min(PARTS, len(np.unique(recordings)))
    if labels.ndim > 1 or parts < 2:
        return {}
    splits = list(GroupKFold(parts).split(inputs, groups=recordings))
    if any(len(np.unique(labels[fitted])) < 2 for fitted, _ in splits):
        return {}
    logits = np.zeros((len(PENALTIES), len(labels), classes))
    for fitted, held in splits:
        for row, penalty in zip(logits, PENALTIES, strict=True):
            weight, bias = regression(inputs[fitted], labels[fitted], classes, penalty)
            row[held] = inputs[held] @ weight.T + bias
    accuracies = (logits.argmax(axis=2) == labels).mean(axis=1)
    best, names = int(np.flatnonzero(accuracies == accuracies.max())[-1]), np.arange(classes)  # of equal the strongest
    count = f"{len(np.unique(recordings)):,} recordings"
    return {
        "penalty": PENALTIES[best],
        "temperature": fit_temperature(lambda each: log_loss(labels, softmax(logits[best] / each, 1), labels=names)),
        "accuracies": {str(penalty): float(each) for penalty, each in zip(PENALTIES, accuracies, strict=True)},
        "chosen_on": f"{len(labels):,} training clips, {parts} parts of {count}, no validation or test clip",
    }


def linear_layers(model: PreTrainedModel, flag: str = "--probe_first") -> list[nn.Linear]:
    """The linear layers at the end of the head, input side first; UserError if it has none, and `flag` needs them."""
    names = family_of(model.config.model_type).linear_layers
    if not names:
        what = f"the head of {model.config.model_type} models does not end in a linear layer"
        raise UserError(what, flag, "leave it out for this family")
    return [cast(nn.Linear, model.get_submodule(name)) for name in names]


def regression(
    inputs: np.ndarray, labels: np.ndarray, classes: int, penalty: float = PENALTY
) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression on standardised inputs, for inputs as they are; of several labels, one a class.

    Of inputs `(clips, width)` and ids `(clips,)`, or 0 and 1 `(clips, classes)`: weights `(classes, width)` and biases
    `(classes,)`. A class without a clip gets the lowest bias and no weights.
    """
    if labels.ndim == 2:
        centre, scale = inputs.mean(axis=0), inputs.std(axis=0)
        scale = np.maximum(scale, LEAST_DEVIATION * scale.mean() + 1e-12)
        weights, biases = np.zeros((classes, inputs.shape[1])), 8 * labels[0] - 4  # scores of 0.98 and 0.02 where
        for number in np.flatnonzero(labels.min(axis=0) < labels.max(axis=0)):  # all clips are alike
            fit = LogisticRegression(C=1 / len(labels), max_iter=1000).fit((inputs - centre) / scale, labels[:, number])
            weights[number] = fit.coef_[0] / scale
            biases[number] = fit.intercept_[0] - weights[number] @ centre
        return weights, biases
    scaler = StandardScaler().fit(inputs)
    found = LogisticRegression(C=1 / (penalty * len(labels)), max_iter=1000).fit(scaler.transform(inputs), labels)
    rows, shifts = found.coef_, found.intercept_
    if len(rows) == 1:  # of two classes it gives the second's odds
        rows, shifts = np.concatenate([-rows, rows]) / 2, np.concatenate([-shifts, shifts]) / 2
    weight, bias = np.zeros((classes, inputs.shape[1])), np.full(classes, shifts.min())
    weight[found.classes_] = rows / scaler.scale_
    bias[found.classes_] = shifts - weight[found.classes_] @ scaler.mean_
    return weight, bias


def put_head(layers: list[nn.Linear], weight: Tensor, bias: Tensor) -> None:
    """Makes linear layers in a row compute `inputs @ weight.T + bias`, in place; `weight` is `(classes, width)`.

    The product is shared out by its singular values. What a layer holds beyond them stays as it was drawn, and is
    multiplied by zero in the next one, so that it can still be learnt.
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
