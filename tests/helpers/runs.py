"""Folders of runs, written as training writes them, without a training."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

from urbansound_hf.data.urbansound8k import CLASSES
from urbansound_hf.evaluation.metrics import compute_metrics, confusion_counts, per_class_scores
from urbansound_hf.evaluation.runs import write_json
from urbansound_hf.text import in_csv

RECEIPT = {
    "config": {"learning_rate": 1e-4},
    "data": {"fingerprint": "f"},
    "environment": {"urbansound_hf": "0", "code": {}},
}


def write_run(folder: Path, fold: int | None = 1, seed: int = 0, labels=CLASSES, clips: int = 60, **changes) -> Path:
    """A run's folder as training leaves it; the clips are the fold's own, the model is as good as the seed."""
    folder.mkdir(parents=True)
    facts, luck = np.random.default_rng(fold or 0), np.random.default_rng([fold or 0, seed])
    recordings = facts.integers(0, 15, clips)
    true = recordings % len(labels)
    logits = luck.normal(size=(clips, len(labels)))
    logits[np.arange(clips), true] += 1.5 + luck.normal(size=15)[recordings]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    predicted = probabilities.argmax(axis=1)
    seconds, salience = facts.choice([0.4, 1.5, 3.2, 4.0], clips), facts.integers(1, 3, clips)
    with (folder / "predictions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(map(in_csv, ["path", "fold", "group", "salience", "seconds", "true", "predicted", *labels]))
        for i in range(clips):
            told = [f"audio/fold{fold}/{i}.wav", fold or "", f"r{fold}-{recordings[i]}", salience[i], seconds[i]]
            names = map(in_csv, (labels[true[i]], labels[predicted[i]]))
            writer.writerow([*told, *names, *(f"{p:.6g}" for p in probabilities[i])])
    metrics = {
        **{f"test_{name}": value for name, value in compute_metrics(true, predicted, probabilities).items()},
        "per_class": per_class_scores(true, predicted, labels),
        "confusion_matrix": confusion_counts(true, predicted, len(labels)).tolist(),
        "labels": list(labels),
        "split": f"fold{fold}" if fold else "random",
        "test_fold": fold,
        "validation_fold": fold % 10 + 1 if fold else None,
        "train_folds": [other for other in range(1, 11) if other not in (fold, fold % 10 + 1)] if fold else [],
        "notes": [],
        "clips": {"train": 500, "validation": 60, "test": clips},
        "train_seconds": 12.5,
        "train_clips_per_second": 40.0,
        "train_peak_memory_gib": 1.25,
    }
    (folder / "metrics.json").write_text(json.dumps(metrics | changes), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"model_type": "wav2vec2"}), encoding="utf-8")
    return folder


def rewrite(path: Path, change) -> None:
    """Changes the rows (lists of cells, header first) of a CSV."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(change(rows))


def finish(folder: Path, **config: object) -> Path:
    """Writes the receipt of a run whose config has these values."""
    write_json(folder / "run.json", {**RECEIPT, "config": {**RECEIPT["config"], **config}})
    return folder
