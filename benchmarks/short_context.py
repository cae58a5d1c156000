"""Training on clips of 4 s with a context cut to them against the model's own context, in clips a second.

    python benchmarks/short_context.py [--whisper DIR] [--models whisper ast] [--precision bfloat16 float32] [--batch 8]

Whisper-tiny hears 30 s or 4 s, AST-base 1,024 frames or 400 (random weights: speed does not depend on them; `--whisper`
takes real ones). A step is forward, backward and AdamW on one batch of the same clips at the same precision. The sides
take turns; each figure is the median of the rounds, the ratio the median of their ratios. Beside it stands the ratio of
the operations of forward and backward pass (matrix products, convolutions, attention), which a machine without any
other cost would reach.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from statistics import median

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers.utils import logging

from urbansound_hf.data.urbansound8k import CLASSES
from urbansound_hf.models.loading import load_feature_extractor, load_model

CLIP_SECONDS = 4.0
MODELS = {"whisper": ("Whisper-tiny", "whisper", 30.0), "ast": ("AST-base", "audio-spectrogram-transformer", 10.24)}
"""Each with its name for readers, its model type, and the seconds of its own context."""


class Training:
    """Steps on one batch of random 4-second clips, by a model that hears `context_seconds` of each."""

    def __init__(self, name_or_path: str, context_seconds: float, clips: int) -> None:
        extractor = load_feature_extractor(name_or_path, clip_seconds=context_seconds)
        self.model = load_model(name_or_path, CLASSES, clip_seconds=context_seconds).train()
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=1e-5)
        rate, rng = extractor.sampling_rate, np.random.default_rng(0)
        waveforms = [rng.uniform(-0.5, 0.5, int(CLIP_SECONDS * rate)).astype(np.float32) for _ in range(clips)]
        name = self.model.main_input_name
        self.features = extractor(waveforms, sampling_rate=rate, return_tensors="pt")[name]
        self.batch = {name: self.features, "labels": torch.arange(clips) % len(CLASSES)}

    def clips_per_second(self, bfloat16: bool) -> float:
        """Of one step."""
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = self.model(**self.batch).loss
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        return len(self.features) / (time.perf_counter() - started)

    def operations(self) -> int:
        """Floating-point operations of one clip, forward and backward."""
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # the only one it can count here
            self.model(**{name: values[:1] for name, values in self.batch.items()}).loss.backward()
        self.optimiser.zero_grad()
        return counter.get_total_flops()


def compare(title: str, full: Training, cut: Training, precisions: Sequence[str], rounds: int) -> None:
    """Prints a line for the operations and one for each precision."""
    operations = full.operations(), cut.operations()
    promised = operations[0] / operations[1]
    print(f"{title}: {operations[0] / 1e9:,.1f} and {operations[1] / 1e9:,.1f} GFLOP a clip, ratio {promised:.1f}")
    for precision in precisions:
        bfloat16 = precision == "bfloat16"
        for side in (full, cut):
            side.clips_per_second(bfloat16)  # warm-up
        pairs = [(full.clips_per_second(bfloat16), cut.clips_per_second(bfloat16)) for _ in range(rounds)]
        slow, fast = (median(speeds) for speeds in zip(*pairs, strict=True))
        ratios = [pair[1] / pair[0] for pair in pairs]
        print(
            f"{title}, {precision}: {slow:.2f} and {fast:.2f} clips/s, ratio {median(ratios):.1f} "
            f"({min(ratios):.1f}–{max(ratios):.1f}), {median(ratios) / promised:.0%} of that of the operations"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whisper", metavar="DIR", help="a Whisper checkpoint; absent: Whisper-tiny's random weights")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--precision", nargs="+", choices=("bfloat16", "float32"), default=["bfloat16", "float32"])
    parser.add_argument("--batch", type=int, default=8, help="clips a step (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="steps of each side (default: %(default)s)")
    options = parser.parse_args()
    logging.set_verbosity_error()  # that the head of a checkpoint is new is no news
    logging.disable_progress_bar()
    print(f"{torch.get_num_threads()} threads, batches of {options.batch}, {options.rounds} rounds; own, cut context")
    for name in options.models:
        title, model_type, seconds = MODELS[name]
        source = options.whisper if name == "whisper" and options.whisper else model_type
        full, cut = (Training(source, context, options.batch) for context in (seconds, CLIP_SECONDS))
        compare(title, full, cut, options.precision, options.rounds)


if __name__ == "__main__":
    main()
