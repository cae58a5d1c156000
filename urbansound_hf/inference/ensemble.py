"""Ensembles: the weighted mean of the scores of several models, and the file that names its members."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from urbansound_hf.errors import UserError
from urbansound_hf.layout import ENSEMBLE

MEANS = ("geometric", "arithmetic")
LOWEST = 1e-9  # of a score in a geometric mean, so that one model cannot rule a class out


def combined(
    scores: np.ndarray, weights: Sequence[float] | None = None, mean: str = "geometric", several: bool = False
) -> np.ndarray:
    """The scores `(models, clips, classes)` of several models as those of one, `(clips, classes)`; NaN stays NaN.

    Args:
        weights: of each model, 1 in sum (default: equal).
        mean: "arithmetic", or "geometric", whose scores are brought to a sum of 1 again (logarithmic opinion pool).
        several: whether several classes may be true at a time: each class then has a geometric mean of its own.
    """
    shares = np.full(len(scores), 1 / len(scores)) if weights is None else np.asarray(weights)
    if mean == "arithmetic":
        return np.tensordot(shares, scores, 1)
    yes, no = (np.exp(np.tensordot(shares, np.log(np.maximum(each, LOWEST)), 1)) for each in (scores, 1 - scores))
    return yes / (yes + no if several else yes.sum(axis=-1, keepdims=True))


def members_of(folder: str | Path | Sequence[str | Path]) -> dict[str, Any] | None:
    """The `members` of a list, or the `members`, `weights` and `mean` of a folder of `urbansound-hf ensemble`.

    None for any other folder. Raises UserError if the ensemble's file is damaged.
    """
    if not isinstance(folder, str | Path):
        return {"members": list(folder)}
    path = Path(folder) / ENSEMBLE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {"members": [str(path.parent / name) for name in found["members"]],
                "weights": [float(each) for each in found["weights"]], "mean": str(found["mean"])}  # fmt: skip
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"cannot be read: {error}", str(path), "make the ensemble again") from error


def check_alike(members: Sequence[Any]) -> None:
    """Raises UserError where classifiers differ in labels, sampling rate or kind of scores, or are none."""
    names = ("labels", "sampling rate in Hz", "kind of scores")
    facts = [(sorted(each.labels), each.sampling_rate, each.problem_type or "one label") for each in members]
    what = "the models of an ensemble share labels, sampling rate and kind of scores"
    differ = [
        f"{name}: {a} and {b}" for each in facts for name, a, b in zip(names, facts[0], each, strict=True) if a != b
    ]
    if differ or not members or members[0].problem_type == "regression":
        found = "; ".join(differ[:3]) or "found none, or a regression"
        raise UserError(f"{what}; {found}", "--model", "give models that were trained on the same data")
