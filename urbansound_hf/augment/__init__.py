"""Augmentation of training clips: waveform effects, spectrogram masks, mixup and CutMix.

`EFFECTS` is the registry of waveform effects by name, each with its unit, default range and probability.
"""

from typing import TYPE_CHECKING

from urbansound_hf.lazy import lazy_names

__all__ = ["EFFECTS", "apply_effects", "mask_spectrogram", "mix", "parse_effects"]

if TYPE_CHECKING:  # for type checkers and editors, and read by `lazy_names`
    from urbansound_hf.augment.chain import apply_effects, parse_effects
    from urbansound_hf.augment.effects import EFFECTS
    from urbansound_hf.augment.mixing import mix
    from urbansound_hf.augment.spec_augment import mask_spectrogram
else:
    __getattr__, __dir__ = lazy_names(__name__, __file__)
