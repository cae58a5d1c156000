"""A folder of clips: `SoundClassifier.classify_many` against the stock pipeline, clips a second, labels compared.

Models are random, at their published sizes: wav2vec2-base, Whisper-tiny (cut to 4 s) and YAMNet. The pipeline gets the
waveforms at the model's rate, decoded beforehand; ours reads the files. On a GPU the pipeline's best batch size of
several is measured too, and ours in bfloat16 as well.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.measure import Options, Row, gpus, needs_packages
from urbansound_hf.audio.files import find_audio_files
from urbansound_hf.audio.io import load_audio
from urbansound_hf.inference.classifier import SoundClassifier

MODELS = {"wav2vec2-base": "wav2vec2", "Whisper-tiny": "whisper", "YAMNet": "yamnet"}
WHISPER_TINY = {"d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536,
                "decoder_layers": 4, "decoder_attention_heads": 6}  # fmt: skip
CLIPS = {"wav2vec2-base": 32, "Whisper-tiny": 128, "YAMNet": 128}  # the clips there are, repeated to as many
CLIPS_OF_GPU = 4096
BATCHES = (8, 64, 256)  # of the pipeline on a GPU


def checkpoint(model_type: str, folder: Path, device: str) -> Path:
    """Writes a random model whose scores tell clips apart, and its ONNX export for a CPU."""
    import torch

    from urbansound_hf.data.urbansound8k import CLASSES
    from urbansound_hf.models.loading import load_feature_extractor, load_model
    from urbansound_hf.models.onnx_export import export_onnx

    torch.manual_seed(0)
    overrides = WHISPER_TINY if model_type == "whisper" else {}
    model = load_model(model_type, CLASSES, clip_seconds=4.0, overrides=overrides)
    with torch.no_grad():
        model.classifier.weight.mul_(100)
    model.save_pretrained(folder)
    load_feature_extractor(model_type, clip_seconds=4.0).save_pretrained(folder)
    if device == "cpu":
        export_onnx(folder)
    return folder


def rows(options: Options) -> Iterator[Row]:
    device = "cuda" if gpus() else "cpu"
    if device == "cpu":
        needs_packages("onnx", "onnxscript", "onnxruntime")
    found = find_audio_files(options.clips()).sounds
    with tempfile.TemporaryDirectory() as place:
        for name, model_type in MODELS.items():
            count = CLIPS[name] if device == "cpu" else CLIPS_OF_GPU
            paths = [found[number % len(found)] for number in range(count)]
            folder = checkpoint(model_type, Path(place) / model_type, device)
            yield from compared_models(name, folder, paths, device, options.rounds)


def compared_models(name: str, folder: Path, paths: Sequence[Path], device: str, rounds: int) -> Iterator[Row]:
    """The rows of one model: every side in turn in every round."""
    from transformers import pipeline

    stock = pipeline("audio-classification", model=str(folder), device=device, trust_remote_code=True)
    decoded = {path: load_audio(path, 16_000) for path in set(paths)}
    clips = [decoded[path] for path in paths]
    batches = (1, *(BATCHES if device == "cuda" else ()))
    sides: dict[str, Callable[[], list[str]]] = {
        f"pipeline, batch {batch}": lambda batch=batch: [answer[0]["label"] for answer in stock(
            ({"raw": clip, "sampling_rate": 16_000} for clip in clips), batch_size=batch, top_k=1)]
        for batch in batches
    }  # fmt: skip
    kinds = {"float32": ("torch", None), "bfloat16": ("torch", "bfloat16")}
    if device == "cpu":
        kinds["float32, ONNX"] = ("onnx", None)
    for kind, (backend, dtype) in kinds.items():
        model = SoundClassifier.from_pretrained(folder, device=device, backend=backend, dtype=dtype)
        sides[kind] = lambda model=model: [each.windows[0].label for each in model.classify_many(paths, top_k=1)]
        list(islice(model.classify_many(paths[:16]), 16))  # warm-up
    speeds: dict[str, list[float]] = {side: [] for side in sides}
    labels: dict[str, list[str]] = {}
    for _ in range(rounds):
        for side, work in sides.items():
            started = time.perf_counter()
            labels[side] = work()
            speeds[side].append(len(paths) / (time.perf_counter() - started))
    best = max(list(speeds)[: len(batches)], key=lambda side: median(speeds[side]))
    for kind in kinds:
        same = np.mean([ours == theirs for ours, theirs in zip(labels[kind], labels["pipeline, batch 1"], strict=True)])
        for against in dict.fromkeys(("pipeline, batch 1", best)):
            ratio = median(mine / other for mine, other in zip(speeds[kind], speeds[against], strict=True))
            case = f"{name}, {kind}, against {against} (same label: {100 * same:.1f} %)"
            yield Row(case, median(speeds[kind]), median(speeds[against]), ratio, "clips/s")
