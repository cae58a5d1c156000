"""The generated part of docs/recipe.md: what each ingredient was worth, from the receipts of benchmarks/recipe.py."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import recipe
from experiments import RECEIPTS, ROOT, load

from urbansound_hf import statistics
from urbansound_hf.markdown import table

PAGE = ROOT / "docs" / "recipe.md"
HEADER = ("recipe", "seeds", "accuracy", "of each rotation", "against plain")


def ablation() -> str:
    """A table for each model: the recipes that were trained in all three rotations, in the order of the script."""
    rows = load(recipe.FILE)
    groups = {fold: json.loads((RECEIPTS / f"fold{fold}.json").read_text()) for fold in recipe.FOLDS} if rows else {}
    parts = [part for model in recipe.PLAIN for part in _model(model, rows, groups)]
    return "\n\n".join(parts) or "*No receipts yet.*"


def _model(model: str, rows: Sequence[Mapping[str, Any]], groups: Mapping[int, list[str]]) -> list[str]:
    names = dict.fromkeys(job.name for job in recipe.jobs(dict.fromkeys(("data_dir", "whisper", "yamnet"), "")))
    trained = {name: [row for row in rows if row["name"] == name] for name in names if name.startswith(f"{model}: ")}
    whole = {name: found for name, found in trained.items() if {row["fold"] for row in found} == set(recipe.FOLDS)}
    plain = whole.get(f"{model}: plain")
    if not plain:
        return []
    lines = [(name.partition(": ")[2], *_line(found, plain, groups)) for name, found in whole.items()]
    return [f"### {model}", table(HEADER, lines)]


def _line(
    rows: Sequence[Mapping[str, Any]], plain: Sequence[Mapping[str, Any]], groups: Mapping[int, list[str]]
) -> tuple[str, str, str, str]:
    """How many seeds, the mean over rotations (and seeds), each rotation's, and the paired difference.

    The difference is taken over the seeds that both have, and its interval resamples recordings.
    """
    seeds = {row["seed"] for row in rows} & {row["seed"] for row in plain}
    ours, theirs = (np.concatenate([_right(each, fold, seeds) for fold in recipe.FOLDS]) for each in (rows, plain))
    recordings = np.array([name for fold in recipe.FOLDS for name in groups[fold]])
    gain, low, high = statistics.paired_difference(theirs, ours, recordings)
    each = [np.mean([row["accuracy"] for row in rows if row["fold"] == fold]) for fold in recipe.FOLDS]
    against = "" if rows == plain else f"{gain:+.3f} ({low:+.3f} to {high:+.3f})"
    number = len({row["seed"] for row in rows})
    return str(number), f"**{np.mean(each):.3f}**", " ".join(f"{score:.3f}" for score in each), against


def _right(rows: Iterable[Mapping[str, Any]], fold: int, seeds: set[int]) -> np.ndarray:
    """The share of the seeds that got each clip of a fold right, `(clips,)`."""
    return np.mean([[int(c) for c in r["correct"]] for r in rows if r["fold"] == fold and r["seed"] in seeds], axis=0)


BLOCKS = {"ablation": ablation}
