"""`AugmentedDataset`: training examples augmented anew in each epoch, by waveform effects, mixing and SpecAugment.

The augmentation of an example is drawn from (seed, epoch, index) alone, so that it is the same with one process or
several, with or without data-loader workers, and after a resume. For the same reason the clip to mix with is drawn from
the whole data set, not from the batch.
"""

from typing import Any

import datasets
import numpy as np
import torch
from transformers import TrainerCallback, TrainerState, TrainingArguments

from urbansound_hf.augment.chain import apply_effects, parse_effects
from urbansound_hf.augment.mixing import mix
from urbansound_hf.augment.spec_augment import mask_spectrogram
from urbansound_hf.config.arguments import RecipeArguments
from urbansound_hf.errors import UserError
from urbansound_hf.features.dataset import PreparedClips, readable
from urbansound_hf.features.extract import KEPT, WAVEFORM, Features, Spectrogram, extract, fill, filling
from urbansound_hf.features.streaming import StreamedClips


class AugmentedDataset(torch.utils.data.Dataset, TrainerCallback):
    """Wraps a prepared training set of features or, where the recipe changes waveforms, of `waveform` `(samples,)`.

    As a callback of Trainer it learns the epoch before its first batch is loaded. Waveforms are cropped or filled to
    `window` samples. Where the axes of the spectrogram are not known, a recipe that masks or cuts it raises UserError.
    """

    def __init__(
        self,
        prepared: datasets.Dataset | StreamedClips,
        recipe: RecipeArguments,
        feature_extractor: Any,
        window: int,
        classes: int,
        seed: int,
        spectrogram: Spectrogram | None = None,
    ) -> None:
        self.clips: PreparedClips | StreamedClips = readable(prepared)
        self.recipe, self.extractor, self.seed = recipe, feature_extractor, seed
        self.window, self.targets = window, np.eye(classes, dtype=np.float32)
        self.effects = parse_effects(recipe.augment or [])
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # shared with data-loader workers
        self.from_waveforms = WAVEFORM in self.clips.columns
        self.filled = filling(feature_extractor, window, recipe.fill)
        example = extract(feature_extractor, np.zeros(window, np.float32)) if self.from_waveforms else self._stored(0)
        self.spectrogram = spectrogram
        self.main = spectrogram.name if spectrogram else next(iter(example))
        if not spectrogram and example[self.main].ndim > 1 and (recipe.spec_augment or recipe.cutmix_alpha):
            what = "the axes of this model's spectrogram are not known, and masks and CutMix need them"
            raise UserError(what, "--spec_augment, --cutmix_alpha", "leave both out for this model")

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        self.epoch.fill_(int(state.epoch or 0))

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The model inputs of one clip, and `labels`: a class id or, of several or mixed labels, `(classes,)`."""
        generator = np.random.default_rng((self.seed, int(self.epoch), index))
        inputs, sound, label = self._example(index, generator)
        if self.recipe.mixes and generator.random() < self.recipe.mix_probability:
            other = int(generator.integers(len(self.clips)))  # any clip of the data set
            _, other_sound, other_label = self._example(other, generator)
            alphas = {"mixup": self.recipe.mixup_alpha, "cutmix": self.recipe.cutmix_alpha}
            method = generator.choice([name for name, alpha in alphas.items() if alpha > 0])
            axis = 0 if self.from_waveforms or not self.spectrogram else self.spectrogram.time_axis
            sound, label = mix(sound, other_sound, label, other_label, alphas[method], method, axis, generator)
        inputs = extract(self.extractor, sound) if self.from_waveforms else {**inputs, self.main: sound}
        if self.spectrogram and generator.random() < self.recipe.spec_augment:
            name, *axes = self.spectrogram
            shares = self.recipe.frequency_mask, self.recipe.time_mask
            inputs = {**inputs, name: mask_spectrogram(inputs[name], generator, shares, axes=axes)}
        return {**inputs, "labels": label}

    def _stored(self, index: int) -> Features:
        return {name: values for name, values in self.clips[index].items() if name not in KEPT}

    def _example(self, index: int, generator: np.random.Generator) -> tuple[Features, np.ndarray, Any]:
        """The stored inputs, the array to mix (the main input, or the augmented waveform), and the label."""
        label = self.clips.kept["labels"][index]
        label = self.targets[label] if self.recipe.mixes and label.ndim == 0 else label
        inputs = self._stored(index)
        if not self.from_waveforms:
            return inputs, inputs[self.main], label
        waveform = inputs[WAVEFORM]
        waveform = apply_effects(self.effects, waveform, self.extractor.sampling_rate, generator)
        if len(waveform) > self.window:  # a long clip, or one that an effect made longer: a random crop
            start = generator.integers(len(waveform) - self.window + 1)
            waveform = waveform[start : start + self.window]
        return inputs, fill(waveform, self.window, self.filled), label
