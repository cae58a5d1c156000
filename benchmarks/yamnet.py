"""YAMNet on a CPU: our inference against ONNX Runtime patch by patch, and fine-tuning, in 4-second clips a second.

    python benchmarks/yamnet.py [--model MODEL.onnx] [--clips 32] [--rounds 5]

The graph takes one patch at a time, which is how the published YAMNet is run. Both read the same log-mel patches (8 a
clip) on the same threads, in turns; each figure is the median of the rounds, the ratio the median of their ratios.
Needs onnx and onnxruntime for the comparison, and no weights for the rest.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from urbansound_hf.models.yamnet import convert
from urbansound_hf.models.yamnet.modeling_yamnet import (
    YamnetConfig,
    YamnetFeatureExtractor,
    YamnetForAudioClassification,
)


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def onnx_patch_by_patch(graph: Path, patches: torch.Tensor) -> Callable[[], object]:
    """The float graph on `(patches, 1, 96, 64)`, one patch a call."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    model = convert.float_graph(convert.read_graph(graph))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    feeds = [{"audio": patch[None].numpy()} for patch in patches]
    return lambda: [session.run(None, feed) for feed in feeds]


def inference(model: YamnetForAudioClassification, features: torch.Tensor, bfloat16: bool) -> Callable[[], object]:
    """One batch forward."""

    def work() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            model.eval()(features)

    return work


def training(model: YamnetForAudioClassification, features: torch.Tensor, bfloat16: bool) -> Callable[[], object]:
    """One step: forward, backward, AdamW."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    labels = torch.arange(len(features)) % 10

    def work() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = model.train()(features, labels=labels).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return work


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, help="the published graph, model.onnx; absent: no comparison")
    parser.add_argument("--clips", type=int, default=32, help="clips a batch")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    clips = [rng.uniform(-0.5, 0.5, 64_000).astype(np.float32) for _ in range(arguments.clips)]
    extractor = YamnetFeatureExtractor()
    features = extractor(clips, return_tensors="pt")["input_features"]  # (clips, 432, 64)
    patches = features.unfold(1, 96, 48).transpose(2, 3).reshape(-1, 1, 96, 64)

    work = {"feature extraction": lambda: [extractor(clip, return_tensors="np") for clip in clips]}
    if arguments.model:
        work["ONNX Runtime, float32, patch by patch"] = onnx_patch_by_patch(arguments.model, patches)
    for hop in (48, 96):
        model = YamnetForAudioClassification(YamnetConfig(num_labels=10, patch_hop_frames=hop))
        for bfloat16 in (False, True):
            name = f"{'bfloat16' if bfloat16 else 'float32'}, a patch every {hop / 100:.2f} s"
            work[f"inference, {name}"] = inference(model, features, bfloat16)
            work[f"training, {name}"] = training(model, features, bfloat16)
    for once in work.values():
        once()  # warm-up
    rounds = [{name: arguments.clips / seconds(once) for name, once in work.items()} for _ in range(arguments.rounds)]
    print(f"{torch.get_num_threads()} threads, {arguments.clips} clips of 4 s, median of {arguments.rounds} rounds")
    for name in work:
        print(f"{median(rates[name] for rates in rounds):8.1f} clips/s  {name}")
        if name.startswith("inference") and arguments.model:
            ratios = [rates[name] / rates["ONNX Runtime, float32, patch by patch"] for rates in rounds]
            print(f"{median(ratios):8.2f} ×        ONNX Runtime patch by patch")


if __name__ == "__main__":
    main()
