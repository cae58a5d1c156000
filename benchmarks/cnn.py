"""The residual CNN in training on a CPU: channels-last order, and rows in memory, against the stock library.

The stock order is torch's own (channels first); the stock rows are those of `datasets`, read one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import datasets
import numpy as np
import torch

from benchmarks.measure import Options, Row, compared, rate
from urbansound_hf.config.arguments import RecipeArguments
from urbansound_hf.models.cnn.modeling_cnn import CnnConfig, CnnFeatureExtractor, CnnForAudioClassification
from urbansound_hf.models.registry import family_of
from urbansound_hf.training import augmented_dataset

CLIPS = 32  # a batch


def network(channels_last: bool, pictures: torch.Tensor) -> Callable[[], object]:
    """One step's forward and backward pass on `(clips, 64, 174)`."""
    model = CnnForAudioClassification(CnnConfig(architecture="residual", num_labels=10)).train()
    if not channels_last:  # undone where it begins, before the first convolution
        model.backbone.stem.register_forward_pre_hook(lambda _, inputs: inputs[0].contiguous())
    labels = torch.arange(len(pictures)) % 10

    def work() -> None:
        model.zero_grad()
        model(pictures, labels=labels).loss.backward()

    return work


def examples(in_memory: bool, clips: int) -> Callable[[], object]:
    """The training rows of one batch under mixup and masks."""
    extractor = CnnFeatureExtractor(feature="log_mel", n_mels=64, n_fft=1024, scaling="per_clip")
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (clips, 64_000)).astype(np.float32)
    columns = {"labels": [n % 10 for n in range(clips)], "clip": list(range(clips))}
    columns |= {"input_features": list(extractor(noise)["input_features"])}
    shape = datasets.Array2D((None, 174), "float32")
    kinds = datasets.Features(labels=datasets.Value("int64"), clip=datasets.Value("int64"), input_features=shape)
    stored = datasets.Dataset.from_dict(columns, features=kinds).with_format("numpy")
    recipe = RecipeArguments(mixup_alpha=0.4, spec_augment=1.0)
    changed = augmented_dataset.AugmentedDataset(stored, recipe, extractor, 64_000, 10, 0, family_of("cnn").spectrogram)
    if not in_memory:
        changed.in_memory = None
    return lambda: [changed[number] for number in range(clips)]


def rows(options: Options) -> Iterator[Row]:
    pictures = torch.randn(CLIPS, 64, 174)
    pairs = {
        "forward and backward, channels last": (network(True, pictures), network(False, pictures)),
        "training examples, in memory": (examples(True, CLIPS), examples(False, CLIPS)),
    }
    for case, (ours, stock) in pairs.items():
        yield compared(case, rate(CLIPS, ours), rate(CLIPS, stock), options.rounds)
