"""One clip in a fresh process: `infer.py clip.wav` against a three-line `pipeline` script, wall time and memory.

The checkpoint has the size of wav2vec2-base, with random weights and ten classes. The clip is read by soundfile for the
script, because the pipeline itself needs FFmpeg to open a file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
import soundfile

from benchmarks.measure import ROOT, Cost, Options, Row, cost, needs_packages, python

STOCK = """
import sys, soundfile
from transformers import pipeline
samples, rate = soundfile.read(sys.argv[2], dtype="float32")
print(pipeline("audio-classification", sys.argv[1])({"raw": samples, "sampling_rate": rate}))
"""
KINDS = {
    "ONNX": ("--device", "cpu"),
    "ONNX, 8 bits": ("--dtype", "int8"),
    "without ONNX": ("--device", "cpu", "--backend", "torch"),
}


def checkpoint(folder: Path) -> Path:
    """Writes a random wav2vec2-base with ten classes and its ONNX exports."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

    from urbansound_hf.data.urbansound8k import CLASSES
    from urbansound_hf.models.onnx_export import export_onnx

    names = {"id2label": dict(enumerate(CLASSES)), "label2id": {label: number for number, label in enumerate(CLASSES)}}
    Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**names, clip_seconds=4.0)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    export_onnx(folder, int8=True)
    return folder


def rows(options: Options) -> Iterator[Row]:
    needs_packages("onnx", "onnxscript", "onnxruntime")
    with tempfile.TemporaryDirectory() as place:
        folder, clip = checkpoint(Path(place) / "model"), Path(place) / "clip.wav"
        soundfile.write(clip, np.random.default_rng(0).normal(0, 0.1, 64_000).astype(np.float32), 16_000)
        stock = python(STOCK, folder, clip)
        ours = {name: [stock[0], ROOT / "infer.py", clip, "--model", folder, *flags] for name, flags in KINDS.items()}
        rounds: list[tuple[Cost, dict[str, Cost]]] = []
        env = {"HF_HUB_OFFLINE": "1"}
        for number in range(options.rounds + 1):  # the first fills the caches of the disk
            taken = cost(stock, env), {name: cost(command, env) for name, command in ours.items()}
            rounds += [taken] * (number > 0)
        for name in KINDS:
            for unit, attribute in (("s", "seconds"), ("CPU s", "cpu_seconds"), ("MiB", "peak_mib")):
                pairs = [(getattr(mine[name], attribute), getattr(other, attribute)) for other, mine in rounds]
                mine, theirs = (median(side) for side in zip(*pairs, strict=True))
                yield Row(f"{name}", mine, theirs, median(own / other for own, other in pairs), unit)
