"""The generated part of docs/recipe.md: what each ingredient was worth, from the receipts of benchmarks/recipe.py."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import recipe
from benchmarks.experiments import load
from benchmarks.measure import RECEIPTS, ROOT
from urbansound_hf.evaluation import confidence
from urbansound_hf.text import table

PAGE = ROOT / "docs" / "recipe.md"
Rows = Sequence[Mapping[str, Any]]
CONFIGS = {"YAMNet": "yamnet", "CNN": "cnn_logmel", "Whisper": "whisper_tiny"}
"""The shipped config of each model, which is its recipe `recipe.SHIPPED`."""
NONE = "*No receipts yet.*"
FOLDERS = dict.fromkeys(("data_dir", "whisper", "yamnet"), "")


def ablation() -> str:
    """Two tables for each model, of the trainings that have run in all three rotations; then what has not."""
    whole, groups = _receipts()
    return "\n\n".join(part for model in recipe.PLAIN for part in _model(model, whole, groups)) if groups else NONE


def outcome() -> str:
    """A line a model: its plain recipe, its shipped config and their paired difference."""
    whole, groups = _receipts()
    lines = []
    for model, config in CONFIGS.items():
        plain, final = whole[f"{model}: plain"], whole[f"{model}: {recipe.SHIPPED[model]}"]
        if plain and final:
            (_, before, *_), (seeds, after, _, gain) = (_line(each, plain, groups) for each in (plain, final))
            lines.append((f"{model} (`configs/{config}.yaml`)", seeds, before, after, gain))
    return table(("model", "seeds", "plain", "config", "difference"), lines) if lines else NONE


def tutorial() -> str:
    """The tutorial's CNN on the official folds and on random splits of the same clips, a line each."""
    lines = []
    for split in ("official folds", "random splits"):
        scores = [row["accuracy"] for row in load(recipe.FILE) if row["name"] == f"tutorial CNN: {split}"]
        if scores:
            spread = f"{min(scores):.3f}–{max(scores):.3f}"
            lines.append((split, str(len(scores)), f"**{np.mean(scores):.3f}**", spread))
    return table(("the tutorial's CNN on", "trainings", "accuracy", "range"), lines) if lines else NONE


def accuracies() -> str:
    """A line a recipe: its mean accuracy with the range over trainings, hardware and code; then the command."""
    rows, lines = load(recipe.FILE), []
    configs = (f"{model}: {name}" for model, name in recipe.SHIPPED.items())
    for name in (*configs, *(f"{model}: plain" for model in CONFIGS), "tutorial CNN: official folds"):
        if named := [row for row in rows if row["name"] == name]:
            scores = [row["accuracy"] for row in named]
            spread = f"{np.mean(scores):.3f} ({min(scores):.3f}–{max(scores):.3f})"
            facts = (", ".join(sorted({row[fact] for row in named})) for fact in ("hardware", "code"))
            lines.append((name, str(len(named)), spread, *facts))
    command = "python -m benchmarks.recipe --data_dir DIR --whisper WHISPER_DIR --yamnet outputs/yamnet_audioset"
    header = ("recipe", "trainings", "accuracy", "hardware", "code")
    return f"{table(header, lines)}\n\n```bash\n{command}  # --only NAME\n```" if lines else NONE


def _receipts() -> tuple[dict[str, Rows], dict[int, list[str]]]:
    """The rows by name, in the order of the script, of the seeds that have all rotations; each fold's recordings."""
    rows = load(recipe.FILE)
    whole: dict[str, Rows] = {}
    for name in dict.fromkeys(job.name for job in recipe.jobs(FOLDERS)):
        named = [row for row in rows if row["name"] == name]
        folds = {seed: {row["fold"] for row in named if row["seed"] == seed} for seed in recipe.SEEDS}
        whole[name] = [row for row in named if folds[row["seed"]] == set(recipe.FOLDS)]
    groups = (
        {fold: json.loads((RECEIPTS / f"fold{fold}.json").read_text(encoding="utf-8")) for fold in recipe.FOLDS}
        if rows
        else {}
    )
    return whole, groups


def _model(model: str, whole: Mapping[str, Rows], groups: Mapping[int, list[str]]) -> list[str]:
    named = {name.partition(": ")[2]: rows for name, rows in whole.items() if name.startswith(f"{model}: ")}
    changed = {name for name in named if name.startswith(("final - ", "final + "))}
    parts = [f"### {model}"]
    for against, names in (("plain", named.keys() - changed), ("final", changed | {"final"})):
        if rows := named.get(against):
            lines = [(name, *_line(found, rows, groups)) for name, found in named.items() if name in names and found]
            if len(lines) > 1 or against == "plain":
                parts.append(table(("recipe", "seeds", "accuracy", "of each rotation", f"against {against}"), lines))
    if missing := [name for name, rows in named.items() if not rows]:
        parts.append(f"Not run: {'; '.join(missing)}.")
    return parts


def _line(rows: Rows, others: Rows, groups: Mapping[int, list[str]]) -> tuple[str, str, str, str]:
    """How many seeds, the mean over rotations (and seeds), each rotation's, and the paired difference to `others`.

    The difference is taken over the seeds that both have, and its interval resamples recordings.
    """
    seeds = {row["seed"] for row in rows} & {row["seed"] for row in others}
    ours, theirs = (np.concatenate([_right(each, fold, seeds) for fold in recipe.FOLDS]) for each in (rows, others))
    recordings = np.array([name for fold in recipe.FOLDS for name in groups[fold]])
    gain, low, high = confidence.paired_difference(theirs, ours, recordings)
    each = [np.mean([row["accuracy"] for row in rows if row["fold"] == fold]) for fold in recipe.FOLDS]
    against = "" if rows == others else f"{gain:+.3f} ({low:+.3f} to {high:+.3f})"
    number = len({row["seed"] for row in rows})
    return str(number), f"**{np.mean(each):.3f}**", " ".join(f"{score:.3f}" for score in each), against


def _right(rows: Iterable[Mapping[str, Any]], fold: int, seeds: set[int]) -> np.ndarray:
    """The share of the seeds that got each clip of a fold right, `(clips,)`."""
    return np.mean([[int(c) for c in r["correct"]] for r in rows if r["fold"] == fold and r["seed"] in seeds], axis=0)


BLOCKS = {"outcome": outcome, "ablation": ablation, "tutorial": tutorial}
