"""Training on clips of 4 s with a context cut to them against the model's own context, in clips a second.

Whisper-tiny hears 30 s or 4 s, AST-base 1,024 frames or 400 (random weights: speed does not depend on them; `--whisper`
takes real ones). A step is forward, backward and AdamW on one batch of the same clips at the same precision. Beside it
stands the ratio of the operations of forward and backward pass (matrix products, convolutions, attention), which a
machine without any other cost would reach.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers.utils import logging

from benchmarks.measure import Options, Row, compared
from urbansound_hf.data.urbansound8k import CLASSES
from urbansound_hf.models.loading import load_feature_extractor, load_model

CLIPS = 8  # a batch
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


def rows(options: Options) -> Iterator[Row]:
    logging.set_verbosity_error()  # that the head of a checkpoint is new is no news
    logging.disable_progress_bar()
    for name, (title, model_type, seconds) in MODELS.items():
        source = str(options.whisper) if name == "whisper" and options.whisper else model_type
        full, cut = (Training(source, context, CLIPS) for context in (seconds, CLIP_SECONDS))
        for precision in ("bfloat16", "float32"):
            sides = [partial(side.clips_per_second, precision == "bfloat16") for side in (cut, full)]
            for side in sides:
                side()  # warm-up
            yield compared(f"training {title} at 4 s against its own context, {precision}", *sides, options.rounds)
        operations = [1e9 / side.operations() for side in (cut, full)]
        yield Row(f"{title} at 4 s, by operations", *operations, operations[0] / operations[1], "clips/GFLOP")
