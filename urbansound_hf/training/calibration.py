"""Calibration of a trained classifier: a temperature, fitted on validation clips and folded into the last layer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from transformers import PreTrainedModel

from urbansound_hf.evaluation.confidence import reliability
from urbansound_hf.evaluation.metrics import clip_scores, compute_metrics
from urbansound_hf.models.linear_probe import linear_layers

TEMPERATURES = (0.05, 20.0)  # between which it is looked for


@torch.no_grad()
def calibrate(model: PreTrainedModel, logits: np.ndarray, targets: Any) -> dict[str, float]:
    """Divides a model's logits by the temperature with the lowest loss on validation clips, in place.

    The label of a window stays the same. Source: Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural
    Networks, ICML 2017.

    Args:
        logits, targets: of the validation clips, as for `clip_scores`.

    Returns:
        `temperature`, and the clips' negative log-likelihood in nats and expected calibration error, before and after.

    Raises:
        UserError: the head does not end in a linear layer.
    """
    last = linear_layers(model, "--calibrate")[-1]

    def measured(temperature: float) -> tuple[float, float]:
        clips = clip_scores(logits / temperature, targets)
        return compute_metrics(**clips)["loss"], reliability(clips["probabilities"], clips["true"]).error

    bounds = tuple(map(math.log, TEMPERATURES))
    fitted = minimize_scalar(lambda log: measured(math.exp(log))[0], bounds=bounds, method="bounded")
    before, temperature = measured(1.0), math.exp(fitted.x)
    if measured(temperature)[0] >= before[0]:
        temperature = 1.0
    after = measured(temperature)
    for values in last.parameters():
        values.div_(temperature)
    return {"temperature": temperature, "loss_before": before[0], "loss_after": after[0],
            "ece_before": before[1], "ece_after": after[1]}  # fmt: skip
