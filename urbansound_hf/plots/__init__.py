"""Figures of sounds, data sets, runs and embeddings.

Each function returns a matplotlib `Figure`, and saves it where a `path` (.png, .svg or .pdf) is given.
"""

from typing import TYPE_CHECKING

from urbansound_hf.lazy import lazy_names

__all__ = [
    "before_after", "confusion_matrix", "learning_curves", "mel_spectrogram", "mfcc", "per_class",
    "reliability", "spectrogram", "timeline", "waveform",
]  # fmt: skip

if TYPE_CHECKING:  # for type checkers and editors, and read by `lazy_names`
    from urbansound_hf.plots.evaluation import confusion_matrix, learning_curves, per_class, reliability
    from urbansound_hf.plots.sounds import before_after, mel_spectrogram, mfcc, spectrogram, timeline, waveform
else:
    __getattr__, __dir__ = lazy_names(__name__, __file__)
