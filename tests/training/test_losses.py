"""What a recipe promises: losses, class weights and samplers by their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from urbansound_hf.training.losses import BalancedSampler, class_weights, classification_loss

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, 3.0], [1.0, 1.0, -2.0]])
LABELS = torch.tensor([0, 2, 1])


def test_the_plain_loss_is_the_models_own():
    torch.testing.assert_close(classification_loss(LOGITS, LABELS), cross_entropy(LOGITS, LABELS))


def test_shares_of_one_class_are_that_class():
    shares = torch.eye(3)[LABELS]
    for smoothing in (0.0, 0.1):
        of_classes, of_shares = (
            classification_loss(LOGITS, labels, smoothing=smoothing) for labels in (LABELS, shares)
        )
        torch.testing.assert_close(of_classes, of_shares)


def test_the_loss_of_a_mixed_clip_is_the_mixed_loss():
    one, other = torch.eye(3)[[0, 1, 2]], torch.eye(3)[[1, 2, 0]]
    mixed = classification_loss(LOGITS, 0.3 * one + 0.7 * other)
    torch.testing.assert_close(mixed, 0.3 * classification_loss(LOGITS, one) + 0.7 * classification_loss(LOGITS, other))


def test_smoothing_spreads_a_share_over_all_classes():
    smoothed = 0.9 * torch.eye(3)[LABELS] + 0.1 / 3
    torch.testing.assert_close(
        classification_loss(LOGITS, LABELS, smoothing=0.1), classification_loss(LOGITS, smoothed)
    )


def test_the_focal_loss_weighs_a_clip_by_what_is_still_wrong():
    """Equation 4 of arXiv:1708.02002; without a gamma it is the cross entropy, of shares and smoothed labels too."""
    p = LOGITS.softmax(dim=1)[torch.arange(3), LABELS]
    focal = classification_loss(LOGITS, LABELS, focal_gamma=2)
    torch.testing.assert_close(focal, (-((1 - p) ** 2) * p.log()).mean())
    weights = torch.tensor([1.0, 2.0, 4.0])
    weighted = classification_loss(LOGITS, LABELS, weights, focal_gamma=2)
    torch.testing.assert_close(weighted, (weights[LABELS] * -((1 - p) ** 2) * p.log()).mean())
    smoothed, shares = 0.9 * torch.eye(3)[LABELS] + 0.1 / 3, torch.tensor([[0.7, 0.3, 0.0]] * 3)
    nearly_none = {"focal_gamma": 1e-9}
    for labels, smoothing in ((LABELS, 0.1), (shares, 0.0), (shares, 0.1), (smoothed, 0.0)):
        plain = classification_loss(LOGITS, labels, weights, smoothing)
        torch.testing.assert_close(classification_loss(LOGITS, labels, weights, smoothing, **nearly_none), plain)


def test_class_weights_are_inverse_to_the_clips_and_1_on_average():
    labels = np.array([0] * 6 + [1] * 3 + [3])
    weights = class_weights(labels, 4)
    assert weights[2] == 0
    torch.testing.assert_close(weights[0] * 6, weights[1] * 3)
    torch.testing.assert_close(weights[0] * 6, weights[3])
    assert weights[labels].mean() == pytest.approx(1)


def test_a_weighted_loss_is_a_mean_over_clips():
    weights = torch.tensor([1.0, 2.0, 4.0])
    each = cross_entropy(LOGITS, LABELS, reduction="none")
    torch.testing.assert_close(classification_loss(LOGITS, LABELS, weights), (each * weights[LABELS]).mean())


def test_balanced_sampling_draws_every_class_equally_often():
    labels = np.array([0] * 900 + [1] * 90 + [2] * 10)
    drawn = np.bincount(labels[list(BalancedSampler(labels, seed=0))])
    assert drawn.sum() == 1000
    assert np.abs(drawn - 1000 / 3).max() < 60  # four standard deviations


def test_balanced_sampling_is_drawn_from_seed_and_epoch():
    def epoch(seed: int, number: int) -> list[int]:
        sampler = BalancedSampler([0, 0, 0, 1] * 5, seed)
        sampler.set_epoch(number)
        return list(sampler)

    assert epoch(0, 1) == epoch(0, 1)
    assert epoch(0, 1) != epoch(0, 2)
    assert epoch(0, 1) != epoch(1, 1)
