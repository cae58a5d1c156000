"""What a run leaves for people: figures, tables, and a page that says what the numbers mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def write_run(folder: Path) -> None:
    """Writes confusion_matrix.png and README.md beside the metrics.json of a run."""
    metrics = json.loads((folder / "metrics.json").read_text())
    draw_confusion(np.array(metrics["confusion_matrix"]), metrics["labels"], folder / "confusion_matrix.png")
    (folder / "README.md").write_text(card(folder, metrics))


def draw_confusion(counts: np.ndarray, labels: list[str], path: Path) -> None:
    """Draws a `(true, predicted)` matrix: colour is the share of the true class, the number is the count."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 2.5 + 0.45 * len(labels)
    figure, axes = pyplot.subplots(figsize=(side + 1, side), layout="constrained")
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [label.replace("_", " ") for label in labels]
    axes.set_xticks(range(len(labels)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), names)
    axes.set(xlabel="predicted", ylabel="true")
    if len(labels) <= 20:
        for (true, predicted), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[true, predicted] > 0.5 else "black"
                axes.text(predicted, true, str(count), ha="center", va="center", color=colour, fontsize=9)
    figure.colorbar(image, label="share of the true class", shrink=0.8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def card(folder: Path, metrics: dict[str, Any]) -> str:
    """The README.md of a run's folder: what it is, what it scored and how, and how to use it."""
    config = json.loads((folder / "config.json").read_text())
    rows = [
        f"| {name} | {row['precision']:.3f} | {row['recall']:.3f} | {row['f1']:.3f} | {row['support']} |"
        for name, row in metrics["per_class"].items()
    ]
    lines = [
        "# Sound classifier",
        "",
        f"A `{config['model_type']}` model that tells {len(metrics['labels'])} kinds of sound apart: "
        f"{', '.join(metrics['labels'])}.",
        "",
        f"Test accuracy **{metrics['test_accuracy']:.4f}**, macro-F1 {metrics['test_macro_f1']:.4f}, "
        f"on {metrics['clips']['test']} clips. {protocol(metrics)}",
        *[f"\n> {note}" for note in metrics["notes"]],
        "",
        "| class | precision | recall | F1 | clips |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        "",
        "![confusion matrix](confusion_matrix.png)",
        "",
        "```python",
        "import soundfile",
        "from transformers import pipeline",
        "",
        'waveform, rate = soundfile.read("clip.wav", dtype="float32", always_2d=True)',
        'classify = pipeline("audio-classification", model=".")',
        'print(classify({"array": waveform.mean(axis=1), "sampling_rate": rate}))',
        "```",
        "",
    ]
    return "\n".join(lines)


def protocol(metrics: dict[str, Any]) -> str:
    """One sentence on which rows trained, validated and tested."""
    if metrics["test_fold"] is None:
        return f"Split: {metrics['split']}."
    chosen = "the last checkpoint was taken"
    if metrics["validation_fold"] is not None:
        chosen = f"the checkpoint was chosen on fold {metrics['validation_fold']}"
    trained = ", ".join(str(fold) for fold in metrics["train_folds"])
    return f"Tested once on fold {metrics['test_fold']}; trained on folds {trained}; {chosen}."


def summary(metrics: dict[str, Any], folder: Path) -> str:
    """The last lines that a run prints."""
    worst = sorted(metrics["per_class"].items(), key=lambda item: item[1]["f1"])[:3]
    hardest = ", ".join(f"{name} (F1 {row['f1']:.2f})" for name, row in worst)
    lines = [
        "",
        f"test accuracy  {metrics['test_accuracy']:.4f}   macro-F1 {metrics['test_macro_f1']:.4f}   "
        f"({metrics['clips']['test']} clips)",
        f"hardest        {hardest}",
        f"training       {metrics['train_seconds']:.0f} s, {metrics['train_clips_per_second']:.1f} clips/s, "
        f"{metrics['train_peak_memory_gib']:.1f} GiB",
        f"protocol       {protocol(metrics)}",
        *[f"note           {note}" for note in metrics["notes"]],
        f"checkpoint     {folder}",
        f"try it         python infer.py CLIP.wav --model {folder}",
    ]
    return "\n".join(lines)
