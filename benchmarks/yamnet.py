"""YAMNet on a CPU: our inference against ONNX Runtime patch by patch, and fine-tuning, in 4-second clips a second.

The published graph takes one patch at a time. Both read the same log-mel patches (8 a clip) on the same threads.
Without the graph, or without onnx and onnxruntime, there is no stock side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import LeftOut, Options, Row, compared, given, needs_packages, rate
from urbansound_hf.models.yamnet import convert
from urbansound_hf.models.yamnet.modeling_yamnet import (
    YamnetConfig,
    YamnetFeatureExtractor,
    YamnetForAudioClassification,
)

CLIPS = 32  # a batch


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


def published(options: Options, patches: torch.Tensor) -> Callable[[], float]:
    """The published graph as a side; raises LeftOut without it."""
    needs_packages("onnx", "onnxruntime")
    graph = given(options.yamnet, "no published graph: give --yamnet")
    return rate(CLIPS, onnx_patch_by_patch(graph, patches))


def rows(options: Options) -> Iterator[Row | LeftOut]:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    clips = [rng.uniform(-0.5, 0.5, 64_000).astype(np.float32) for _ in range(CLIPS)]
    extractor = YamnetFeatureExtractor()
    features = extractor(clips, return_tensors="pt")["input_features"]  # (clips, 432, 64)
    patches = features.unfold(1, 96, 48).transpose(2, 3).reshape(-1, 1, 96, 64)
    stock = None
    try:
        stock = published(options, patches)
    except LeftOut as why:
        yield LeftOut(f"ONNX Runtime patch by patch: {why}")
    for hop in (48, 96):
        model = YamnetForAudioClassification(YamnetConfig(num_labels=10, patch_hop_frames=hop))
        for bfloat16 in (False, True):
            name = f"{'bfloat16' if bfloat16 else 'float32'}, a patch every {hop / 100:.2f} s"
            ours = rate(CLIPS, inference(model, features, bfloat16))
            yield compared(f"inference, {name}", ours, stock, options.rounds)
            step = rate(CLIPS, training(model, features, bfloat16))
            yield compared(f"training, {name}", step, None, options.rounds)
    extract = rate(CLIPS, lambda: [extractor(clip, return_tensors="np") for clip in clips])
    yield compared("feature extraction", extract, None, options.rounds)
