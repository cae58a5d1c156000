"""Calibration of a trained classifier: a temperature, fitted on validation clips and folded into the last layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from urbansound_hf.evaluation.confidence import fit_temperature, reliability
from urbansound_hf.evaluation.metrics import clip_scores, compute_metrics
from urbansound_hf.models.linear_probe import linear_layers


@torch.no_grad()
def calibrate(model: PreTrainedModel, logits: np.ndarray, targets: Any) -> dict[str, float]:
    """Divides a model's logits by the temperature with the lowest loss on validation clips, in place.

    The label of a window stays the same. See `fit_temperature`.

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

    temperature = fit_temperature(lambda each: measured(each)[0])
    before, after = measured(1.0), measured(temperature)
    for values in last.parameters():
        values.div_(temperature)
    return {"temperature": temperature, "loss_before": before[0], "loss_after": after[0],
            "ece_before": before[1], "ece_after": after[1]}  # fmt: skip
