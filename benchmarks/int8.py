"""int8 against float32, both by ONNX Runtime: size on disk, clips a second, and accuracy on real clips.

Whisper-tiny and YAMNet, frozen as their shipped configs take them, get a head for the folds of `--data_dir` but the
last, which is scored in both precisions. `ours` is int8, `stock` float32. The weights of linear layers are in 8 bits,
convolutions are not. The last rows are the largest and the mean difference of a score from float32 in the other
precisions of `--dtype`, by PyTorch on the CPU.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.measure import LeftOut, Options, Row, given, needs_packages
from urbansound_hf.data.urbansound8k import CLASSES
from urbansound_hf.inference.classifier import SoundClassifier
from urbansound_hf.layout import ONNX_INT8
from urbansound_hf.models.onnx_export import export_onnx, quantize
from urbansound_hf.models.yamnet.convert import convert
from urbansound_hf.training.cross_validation import train

KINDS = {"int8": "int8", "float32": "float32"}


def pretrained(name: str, options: Options, folder: Path) -> Path:
    """The weights that a recipe starts from."""
    if name == "whisper_tiny":
        return options.checkpoint()
    convert(given(options.yamnet, "no published graph: give --yamnet"), folder)
    return folder


def trained(name: str, weights: Path, data: Path, fold: int, folder: Path) -> Path:
    """A linear probe of a shipped config's model on the other folds, with both exports."""
    (run,) = train(
        name, data_dir=str(data), model_name_or_path=str(weights), test_fold=fold, output_dir=str(folder),
        freeze="backbone", layer_decay=1.0, num_train_epochs=5, validation="none", eval_strategy="no",
        save_strategy="no", load_best_model_at_end=False, quiet=True,
    )  # fmt: skip
    quantize(export_onnx(run.folder) / "model.onnx", run.folder / ONNX_INT8, least_share=0)  # YAMNet's, too
    return run.folder


def accuracy(labels: Sequence[str], clips: Sequence[Path]) -> float:
    """The share of clips whose class, the second number of a file name, is the label."""
    true = [CLASSES[int(clip.stem.split("-")[1])] for clip in clips]
    return sum(label == right for label, right in zip(labels, true, strict=True)) / len(clips)


def both(name: str, run: Path, clips: Sequence[Path], rounds: int) -> Iterator[Row]:
    """The rows of one model: int8 and float32 in turn in every round."""
    models = {kind: SoundClassifier.from_pretrained(run, backend="onnx", dtype=dtype) for kind, dtype in KINDS.items()}
    rates: list[list[float]] = []
    labels: dict[str, list[str]] = {}
    for _ in range(rounds):
        rates.append([])
        for kind, model in models.items():
            started = time.perf_counter()
            labels[kind] = [result.overall.label for result in model.classify_many(clips, top_k=1)]
            rates[-1].append(len(clips) / (time.perf_counter() - started))
    sides = {
        "clips/s": (median(int8 for int8, _ in rates), median(float32 for _, float32 in rates)),
        "accuracy": tuple(accuracy(labels[kind], clips) for kind in KINDS),
        "MiB": tuple(sum(file.stat().st_size for file in (run / "onnx").glob(f"{stem}.onnx*")) / 2**20
                     for stem in ("model_quantized", "model")),
    }  # fmt: skip
    for unit, (ours, stock) in sides.items():
        yield Row(f"{name}, {len(clips)} clips", ours, stock, ours / stock, unit)


def differences(name: str, run: Path, clips: Sequence[Path]) -> Iterator[Row]:
    """The largest and the mean difference between a class's score in bfloat16 or float16 and in float32."""
    scores = []
    for dtype in ("float32", "bfloat16", "float16"):
        model = SoundClassifier.from_pretrained(run, backend="torch", dtype=dtype, device="cpu")
        tops = [dict(result.overall.top) for result in model.classify_many(clips, top_k=len(CLASSES))]
        scores.append(np.array([[top[label] for label in CLASSES] for top in tops]))
        if dtype != "float32":
            apart = np.abs(scores[-1] - scores[0])
            yield Row(f"{name}, {dtype}, largest difference", float(apart.max()), None, None, "score")
            yield Row(f"{name}, {dtype}, mean difference", float(apart.mean()), None, None, "score")


def rows(options: Options) -> Iterator[Row | LeftOut]:
    needs_packages("onnx", "onnxscript", "onnxruntime")
    data = options.clips()
    folds = sorted((folder for folder in data.glob("audio/fold*")), key=lambda folder: int(folder.name[4:]))
    with tempfile.TemporaryDirectory() as place:
        for name, title in {"whisper_tiny": "Whisper-tiny", "yamnet": "YAMNet"}.items():
            try:
                weights = pretrained(name, options, Path(place) / f"{name}_weights")
            except LeftOut as why:
                yield LeftOut(f"{title}: {why}")
                continue
            run = trained(name, weights, data, int(folds[-1].name[4:]), Path(place) / name)
            clips = sorted(folds[-1].glob("*.wav"))
            yield from both(title, run, clips, options.rounds)
            yield from differences(title, run, clips)
