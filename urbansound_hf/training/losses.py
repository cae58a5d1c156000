"""Losses, class weights and the balanced sampler."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.nn.functional import cross_entropy


def class_weights(labels: np.ndarray, classes: int) -> torch.Tensor:
    """Class weights `(classes,)` inverse to the number of clips of each label, with a mean of 1 over the clips.

    A class without a training clip has weight 0: it is a target through label smoothing only.
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
    """Cross entropy in float32, averaged over the clips of a batch.

    Args:
        logits: `(batch, classes)`.
        labels: `(batch,)` class ids, or `(batch, classes)` soft labels that sum to 1 (mixed clips).
        weights: `(classes,)` class weights.
        smoothing: label smoothing: the part of a label that is spread evenly over all classes (arXiv:1512.00567).
        focal_gamma: multiplies the term of each class by (1 - score) ** gamma (arXiv:1708.02002, equation 4).

    Returns:
        a scalar.
    """
    if labels.ndim == 1:  # with class ids, torch would divide a weighted loss by the sum of the weights
        labels = torch.nn.functional.one_hot(labels, logits.shape[-1])
    logits, labels = logits.float(), labels.float()
    if not focal_gamma:
        return cross_entropy(logits, labels, weights, label_smoothing=smoothing)
    labels = labels * (1 - smoothing) + smoothing / logits.shape[-1]
    scores = logits.log_softmax(dim=-1)  # (batch, classes)
    parts = labels * (1 - scores.exp()) ** focal_gamma * scores
    return -(parts if weights is None else parts * weights).sum(dim=-1).mean()


class BalancedSampler(torch.utils.data.Sampler[int]):
    """Draws `len(labels)` examples per epoch with replacement, all classes with equal probability.

    The random numbers depend on (seed, epoch); Accelerate sets the epoch and distributes the indices to processes.
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
