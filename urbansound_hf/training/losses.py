"""Losses, class weights and the balanced sampler."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid


def class_weights(labels: np.ndarray, classes: int) -> Tensor:
    """Class weights `(classes,)` inverse to the clips of each label, with a mean of 1 over the clips; 0 without clips.

    Of several labels, the number of clips without the label for each with it, as torch's `pos_weight`.
    """
    if labels.ndim == 2:
        positives = labels.sum(axis=0)
        return torch.tensor((len(labels) - positives) / np.maximum(positives, 1), dtype=torch.float32)
    counts = np.bincount(labels, minlength=classes)
    present = counts > 0
    return torch.tensor(np.where(present, len(labels) / present.sum() / np.maximum(counts, 1), 0), dtype=torch.float32)


def classification_loss(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    smoothing: float = 0.0,
    focal_gamma: float = 0.0,
    several: bool = False,
) -> Tensor:
    """Cross entropy in float32, averaged over the clips of a batch; of several labels, the binary one over classes.

    Args:
        logits: `(batch, classes)`.
        labels: `(batch,)` class ids, or `(batch, classes)` soft labels that sum to 1 (mixed clips); of several labels
            each from 0 to 1.
        weights: `(classes,)` class weights; of several labels, those of having the label.
        smoothing: label smoothing: the part of a label that is spread evenly over all classes (arXiv:1512.00567); of
            several labels, how much nearer each is brought to 1/2.
        focal_gamma: multiplies the term of each class by (1 - score) ** gamma (arXiv:1708.02002, equation 4); of
            several labels, both terms of each.
    """
    if labels.ndim == 1:  # with class ids, torch would divide a weighted loss by the sum of the weights
        labels = torch.nn.functional.one_hot(labels, logits.shape[-1])
    logits, labels = logits.float(), labels.float()
    if not focal_gamma and not several:
        return cross_entropy(logits, labels, weights, label_smoothing=smoothing)
    labels = labels * (1 - smoothing) + smoothing / (2 if several else logits.shape[-1])
    if not focal_gamma:
        return binary_cross_entropy_with_logits(logits, labels, pos_weight=weights)
    weighted = labels if weights is None else labels * weights
    if several:
        scores = logits.sigmoid()
        having = weighted * (1 - scores) ** focal_gamma * logsigmoid(logits)
        return -(having + (1 - labels) * scores**focal_gamma * logsigmoid(-logits)).mean()
    scores = logits.log_softmax(dim=-1)  # (batch, classes)
    return -(weighted * (1 - scores.exp()) ** focal_gamma * scores).sum(dim=-1).mean()


class BalancedSampler(torch.utils.data.Sampler[int]):
    """Draws `len(labels)` examples per epoch with replacement, all classes with equal probability.

    A clip of several labels is drawn for each of them; to have none is a class, too. The random numbers depend on
    (seed, epoch); Accelerate sets the epoch and distributes the indices to processes.
    """

    def __init__(self, labels: Sequence[int] | np.ndarray, seed: int) -> None:
        labels = np.asarray(labels)
        if labels.ndim == 1:
            classes = np.eye(labels.max() + 1)[labels]
        else:
            classes = np.column_stack([labels, ~labels.any(axis=1)])
        self.weights = torch.from_numpy(classes @ (1.0 / np.maximum(classes.sum(axis=0), 1)))
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.weights)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(torch.multinomial(self.weights, len(self), replacement=True, generator=generator).tolist())
