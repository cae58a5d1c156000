"""urbansound-hf: transfer learning for audio classification with Hugging Face, from labelled sounds to a served model.

    import urbansound_hf as ush

    ush.SoundClassifier.from_pretrained("outputs/cnn/fold10").classify("clip.wav")

- data: `load_urbansound8k`, `load_sounds`, `synthetic_dataset`, `splits`, `leak_report`, `describe_leaks`
- sound: `load_audio`, `spectrogram`, `mel_spectrogram`, `mfcc`, `augment`
- serving: `SoundClassifier`, `launch_app`
- results: `plots`
- `UserError` is raised for every mistake in the input; `quietly` switches progress output off.

The names are imported on first use, so that importing the package takes no time.
"""

from typing import TYPE_CHECKING

from urbansound_hf.lazy import lazy_names

__version__ = "0.1.0"

__all__ = [
    "SoundClassifier", "Sounds", "UserError", "augment", "describe_leaks", "launch_app",
    "leak_report", "load_audio", "load_sounds",
    "load_urbansound8k", "mel_spectrogram", "mfcc", "plots", "quietly", "spectrogram", "splits",
    "synthetic_dataset",
]  # fmt: skip

if TYPE_CHECKING:  # for type checkers and editors; the same names as below
    from urbansound_hf import augment, plots
    from urbansound_hf.app.launch import launch_app
    from urbansound_hf.audio.io import load_audio
    from urbansound_hf.audio.spectrogram import mel_spectrogram, mfcc, spectrogram
    from urbansound_hf.data import splits
    from urbansound_hf.data.leaks import describe_leaks, leak_report
    from urbansound_hf.data.loading import Sounds, load_sounds, load_urbansound8k
    from urbansound_hf.data.synthetic import synthetic_dataset
    from urbansound_hf.errors import UserError
    from urbansound_hf.inference.classifier import SoundClassifier
    from urbansound_hf.progress import quietly
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "app.launch": ["launch_app"],
            "audio.io": ["load_audio"],
            "audio.spectrogram": ["mel_spectrogram", "mfcc", "spectrogram"],
            "data.leaks": ["describe_leaks", "leak_report"],
            "data.loading": ["Sounds", "load_sounds", "load_urbansound8k"],
            "data.synthetic": ["synthetic_dataset"],
            "errors": ["UserError"],
            "inference.classifier": ["SoundClassifier"],
            "progress": ["quietly"],
        },
        {"augment": "augment", "plots": "plots", "splits": "data.splits"},
    )
