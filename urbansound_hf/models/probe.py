"""Linear probes on cached embeddings: with a frozen backbone, each clip passes through it once, not once an epoch.

In every family here the head is linear up to the pooling over time, or comes after it, so that it may as well see the
pooled embedding: `head(mean(frames)) = mean(head(frames))`. `agrees` checks that on real clips before it is relied on.
"""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import torch
from datasets.fingerprint import Hasher
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from urbansound_hf import progress
from urbansound_hf.features import KEPT, as_tensors, equal_shapes, source_code
from urbansound_hf.models.adapt import backbone


class LinearProbe(nn.Module):
    """The head of a model, its sum of layers included, on pooled embeddings; the parameters are the model's."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        body = backbone(model)
        self.config, self.base_model = model.config, nn.Identity()  # nothing but head
        self.head = nn.Sequential(*(child for child in model.children() if child is not body))
        self.layer_weights: torch.Tensor | None = getattr(model, "layer_weights", None)

    def forward(self, embedding: torch.Tensor, labels: torch.Tensor | None = None) -> SequenceClassifierOutput:
        """`embedding` (batch, hidden), or (batch, layers, hidden) under a weighted sum of layers.

        Returns:
            `logits` (batch, classes) and, with `labels` (batch,), the cross entropy.
        """
        if self.layer_weights is not None:
            embedding = (embedding * self.layer_weights.softmax(dim=0)[:, None]).sum(dim=1)  # (batch, hidden)
        logits = self.head(embedding)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


@torch.no_grad()
def embed(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The output of the backbone, pooled as the model pools it: (batch, hidden) float32.

    Where the model has a weighted sum of layers, that of each layer: (batch, layers, hidden).
    """
    layered = hasattr(model, "layer_weights")
    outputs = backbone(model)(**inputs, **{"output_hidden_states": True} if layered else {})
    if layered:
        outputs = torch.stack(outputs.hidden_states, dim=1)
    elif not isinstance(outputs, torch.Tensor):
        pooled = getattr(outputs, "pooler_output", None)
        outputs = outputs[0] if pooled is None else pooled
    if outputs.ndim != 3 + layered:
        return outputs.float()
    frames, mask = outputs.float(), inputs.get("attention_mask")  # (batch, [layers,] frames, hidden)
    frames_heard: Any = getattr(model, "_get_feature_vector_attention_mask", None)
    if mask is None or frames_heard is None:
        return frames.mean(dim=-2)
    # wav2vec2-bert's extractor fills up an odd number of frames, and the model leaves the last one out
    heard = frames_heard(frames.shape[-2], mask).unsqueeze(-1)  # (batch, frames, 1)
    if layered:
        heard = heard.unsqueeze(1)
    return (frames * heard).sum(dim=-2) / heard.sum(dim=-2)


@torch.no_grad()
def agrees(model: PreTrainedModel, dataset: datasets.Dataset, device: torch.device | str, clips: int = 8) -> bool:
    """Whether the head on pooled embeddings gives the model's own logits, on clips from all over the data.

    To a thousandth of their size: fresh heads answer with small numbers, in which a frame too many hardly shows.
    """
    nn.Module.to(model, device).eval()
    probe = LinearProbe(model).eval()
    for row in dataset.select(np.linspace(0, len(dataset) - 1, clips, dtype=int)):
        clip = {name: values[None] for name, values in row.items() if name not in KEPT}
        inputs = {name: values.to(model.device) for name, values in as_tensors(clip).items()}
        whole = model(**inputs).logits
        if not (probe(embed(model, inputs)).logits - whole).norm() <= 1e-3 * whole.norm():  # NaN does not agree
            return False
    return True


def embeddings(model: PreTrainedModel, dataset: datasets.Dataset, batch_size: int) -> datasets.Dataset:
    """Rows of `embedding` (hidden,) or (layers, hidden) float32, `labels` and `clip`.

    Cached, by the features and the frozen model.
    """
    model.eval()
    weights = [values.detach().cpu().numpy() for values in backbone(model).state_dict().values()]
    shape = _embed_rows(dataset[:1], model)["embedding"][0].shape
    numbers = datasets.Value("float32")
    columns = {
        "labels": datasets.Value("int64"),
        "clip": datasets.Value("int64"),
        "embedding": datasets.Array2D(shape, "float32") if len(shape) > 1 else datasets.List(numbers, length=shape[0]),
    }
    key = [dataset._fingerprint, source_code(embed, type(model)), model.config.to_json_string(), weights]
    embedded = progress.mapped(
        dataset,
        _embed_rows,
        batched=True,
        batch_size=batch_size,
        remove_columns=[name for name in dataset.column_names if name not in KEPT],
        features=datasets.Features(columns),
        fn_kwargs={"model": model},
        new_fingerprint=Hasher.hash(key),
        desc="Computing embeddings",
    )
    return embedded.with_format("numpy")


def _embed_rows(batch: dict[str, Any], model: PreTrainedModel) -> dict[str, Any]:
    names = [name for name in batch if name not in KEPT]
    clips = [dict(zip(names, values, strict=True)) for values in zip(*(batch[name] for name in names), strict=True)]
    found: list[Any] = [None] * len(clips)
    device = model.device
    for positions, group in equal_shapes(clips):
        inputs = {name: values.to(device) for name, values in as_tensors(group).items()}
        for position, vector in zip(positions, embed(model, inputs).cpu().numpy(), strict=True):
            found[position] = vector
    return {name: batch[name] for name in KEPT} | {"embedding": found}
