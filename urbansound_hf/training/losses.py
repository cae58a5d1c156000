"""Losses, class weights and the balanced sampler."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.nn.functional import cross_entropy


def class_weights(labels: np.ndarray, classes: int) -> torch.Tensor:
    """`(classes,)` weights inverse to the number of training clips; over the clips their mean is 1.

    A class without a training clip weighs 0: it never occurs as a target but through label smoothing.

    Args:
        labels: `(clips,)` class ids of the training rows.
    """
    counts = np.bincount(labels, minlength=classes)
    present = counts > 0
    return torch.tensor(np.where(present, len(labels) / present.sum() / np.maximum(counts, 1), 0), dtype=torch.float32)


def classification_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor | None = None,
    smoothing: float = 0.0,
    focal_gamma: float = 0.0,
) -> torch.Tensor:
    """Cross entropy, in float32, averaged over the clips of a batch.

    Args:
        logits: `(batch, classes)`.
        labels: `(batch,)` class ids, or `(batch, classes)` shares that sum to 1 (mixed clips).
        weights: `(classes,)`; a clip weighs what its shares of the classes weigh.
        smoothing: the share of a label that is spread evenly over all classes (arXiv:1512.00567).
        focal_gamma: each class's part is multiplied by (1 - its score) ** gamma (arXiv:1708.02002, equation 4).
    """
    if labels.ndim == 1:  # so that a weighted loss is a mean over clips for both kinds, not over weights for one
        labels = torch.nn.functional.one_hot(labels, logits.shape[-1])
    logits, labels = logits.float(), labels.float()
    if not focal_gamma:
        return cross_entropy(logits, labels, weights, label_smoothing=smoothing)
    labels = labels * (1 - smoothing) + smoothing / logits.shape[-1]
    scores = logits.log_softmax(dim=-1)  # (batch, classes)
    parts = labels * (1 - scores.exp()) ** focal_gamma * scores
    return -(parts if weights is None else parts * weights).sum(dim=-1).mean()


class BalancedSampler(torch.utils.data.Sampler[int]):
    """As many rows an epoch as there are, each class equally often in the mean; drawn anew from (seed, epoch).

    Accelerate tells it the epoch, and shares its rows out among processes.
    """

    def __init__(self, labels: Sequence[int] | np.ndarray, seed: int) -> None:
        counts = np.bincount(np.asarray(labels))
        self.weights = torch.from_numpy(1.0 / counts[np.asarray(labels)])
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.weights)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(torch.multinomial(self.weights, len(self), replacement=True, generator=generator).tolist())
