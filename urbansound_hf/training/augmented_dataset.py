"""Training rows that are another sound each epoch: effects on the waveform, mixing, masks.

What a row becomes is drawn from (seed, epoch, row) alone: it is the same in one process or several, with data-loader
workers or without, and after a resume. A partner to mix with is drawn from all rows, not from the batch, for the same
reason.
"""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import torch

from urbansound_hf.augment import spec_augment
from urbansound_hf.augment.chain import apply_effects, parse_effects
from urbansound_hf.augment.mixing import mix
from urbansound_hf.config.arguments import RecipeArguments
from urbansound_hf.errors import UserError
from urbansound_hf.features.extract import KEPT, WAVEFORM, Features, Spectrogram, extract, fill, filling

IN_MEMORY_BYTES = 2**30  # rows up to this size are read once; a row at a time costs milliseconds, as much as a model


class AugmentedRows(torch.utils.data.Dataset):
    """Wraps prepared training rows, of features or (where the recipe changes waveforms) of waveforms.

    Args:
        rows: `labels` and the model's inputs, all of one shape; or `labels` and `waveform` `(samples,)` float32.
        feature_extractor: used where the rows are waveforms.
        window: samples of a training clip, to which waveforms are cut or filled.
        classes: the number of them, for the shares of mixed labels.
        spectrogram: the model input that is one, with its axes; None for a model of waveforms.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        recipe: RecipeArguments,
        feature_extractor: Any,
        window: int,
        classes: int,
        seed: int,
        spectrogram: Spectrogram | None = None,
    ) -> None:
        self.rows, self.recipe, self.extractor, self.seed = rows, recipe, feature_extractor, seed
        self.labels = np.asarray(rows["labels"][:], dtype=np.int64)
        size = sum(np.asarray(values).nbytes for values in rows[0].values()) * len(rows)
        self.in_memory = rows[:] if size <= IN_MEMORY_BYTES else None
        self.window, self.targets = window, np.eye(classes, dtype=np.float32)
        self.effects = parse_effects(recipe.augment or [])
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # data-loader workers see it change
        self.from_waveforms = WAVEFORM in rows.column_names
        self.how = filling(feature_extractor, window, recipe.fill)
        example = extract(feature_extractor, np.zeros(window, np.float32)) if self.from_waveforms else self._row(0)
        self.spectrogram = spectrogram
        self.main = spectrogram.name if spectrogram else next(iter(example))
        if not spectrogram and example[self.main].ndim > 1 and (recipe.spec_augment or recipe.cutmix_alpha):
            what = "the axes of this model's spectrogram are not known, and masks and CutMix need them"
            raise UserError(what, "--spec_augment, --cutmix_alpha", "leave both out for this model")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """The model's inputs of one clip, and `labels`: its class, or `(classes,)` shares where the recipe mixes."""
        generator = np.random.default_rng((self.seed, int(self.epoch), row))
        inputs, sound, label = self._sound(row, generator)
        if self.recipe.mixes and generator.random() < self.recipe.mix_probability:
            sound, label = self._mixed(sound, label, generator)
        inputs = extract(self.extractor, sound) if self.from_waveforms else {**inputs, self.main: sound}
        if self.spectrogram and generator.random() < self.recipe.spec_augment:
            shares = self.recipe.frequency_mask, self.recipe.time_mask
            inputs = spec_augment.spec_augment(inputs, self.spectrogram, generator, *shares)
        return {**inputs, "labels": label}

    def _row(self, row: int) -> Features:
        if self.in_memory is not None:
            return {name: values[row] for name, values in self.in_memory.items() if name not in KEPT}
        return {name: values for name, values in self.rows[row].items() if name not in KEPT}

    def _sound(self, row: int, generator: np.random.Generator) -> tuple[Features, np.ndarray, Any]:
        """The model's inputs (of cached features), what is to be mixed of them or the waveform, and the label."""
        label = int(self.labels[row])
        label = self.targets[label] if self.recipe.mixes else label
        inputs = self._row(row)
        if not self.from_waveforms:
            return inputs, inputs[self.main], label
        waveform = inputs[WAVEFORM]
        waveform = apply_effects(self.effects, waveform, self.extractor.sampling_rate, generator)
        if len(waveform) > self.window:  # slowed down, or a longer clip: any stretch of it
            start = generator.integers(len(waveform) - self.window + 1)
            waveform = waveform[start : start + self.window]
        return inputs, fill(waveform, self.window, self.how), label

    def _mixed(self, sound: np.ndarray, label: Any, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The sound with another row's in it: mixup or, as often where the recipe asks for both, CutMix."""
        _, other, its_label = self._sound(int(generator.integers(len(self.rows))), generator)
        asked = {"mixup": self.recipe.mixup_alpha, "cutmix": self.recipe.cutmix_alpha}
        how = generator.choice([name for name, alpha in asked.items() if alpha > 0])
        axis = 0 if self.from_waveforms or not self.spectrogram else self.spectrogram.time_axis
        return mix(sound, other, label, its_label, asked[how], how, axis, generator)
