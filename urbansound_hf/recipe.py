"""The flags of a recipe: how training rows are changed, what the loss makes of them, which weights are kept."""
# ruff: noqa: RUF009  (`flag` makes dataclass fields)

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from urbansound_hf.flags import flag


@dataclass
class RecipeArguments:
    """What happens between a training clip and the loss; validation and test rows are never changed."""

    _argument_group_name = "augmentation and loss"
    augment: list[str] | None = flag(
        None,
        "NAME[:PROBABILITY[:LOW..HIGH]] ... effects on the waveform, in order: docs/augmentation.md; none: no effect",
    )
    fill: Literal["auto", "repeat", "zeros", "reflect"] = flag(
        "auto", "what fills the window after a short training clip; auto: the feature extractor, else repeat"
    )
    spec_augment: float = flag(
        0.0, "probability of a mask over frequency and one over time; raw-waveform models: of their own masking"
    )
    frequency_mask: float = flag(0.2, "widest frequency mask, as a share of the bands")
    time_mask: float = flag(0.2, "widest time mask, as a share of the frames")
    mixup_alpha: float = flag(0.0, "mix two clips in shares from Beta(alpha, alpha), labels too; 0: never")
    cutmix_alpha: float = flag(0.0, "replace a stretch of time by another clip's, its share from Beta(alpha, alpha)")
    mix_probability: float = flag(1.0, "probability that a clip is mixed at all")
    focal_gamma: float = flag(0.0, "focal loss: a clip that is already told apart weighs less, the more so the higher")
    class_weights: bool = flag(False, "weigh the loss of each class by the inverse of its training clips")
    balanced_sampling: bool = flag(False, "draw training clips so that all classes come equally often")
    ema_decay: float = flag(0.0, "keep the moving average of the weights, with this decay an update; 0: the last ones")
    test_time_shifts: int = flag(0, "score a clip also shifted in a circle so many times; kept for serving")

    @property
    def changes_waveforms(self) -> bool:
        """Whether features have to be extracted anew each epoch."""
        return bool(self.augment)

    @property
    def changes_rows(self) -> bool:
        """Whether a training row is another one each epoch."""
        return self.changes_waveforms or self.spec_augment > 0 or self.mixes

    @property
    def mixes(self) -> bool:
        return self.mix_probability > 0 and max(self.mixup_alpha, self.cutmix_alpha) > 0


def class_weights(labels: np.ndarray, classes: int) -> torch.Tensor:
    """`(classes,)` weights inverse to the number of training clips; over the clips their mean is 1.

    A class without a training clip weighs 0: it never occurs as a target but through label smoothing.

    Args:
        labels: `(clips,)` class ids of the training rows.
    """
    counts = np.bincount(labels, minlength=classes)
    present = counts > 0
    return torch.tensor(np.where(present, len(labels) / present.sum() / np.maximum(counts, 1), 0), dtype=torch.float32)


def loss(
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
