"""urbansound-hf: transfer learning for audio classification with Hugging Face, from labelled sounds to a served model.

    import urbansound_hf as ush

    runs = ush.train("cnn", dataset="synthetic", num_train_epochs=5)   any config, any flag as a keyword
    ush.SoundClassifier.from_pretrained(runs[0].folder).classify("clip.wav")

- data: `load_urbansound8k`, `load_sounds`, `synthetic_dataset`, `splits`, `leak_report`, `describe_leaks`
- models: `list_families`, `load_model`, `load_feature_extractor`
- sound: `load_audio`, `spectrogram`, `mel_spectrogram`, `mfcc`, `augment`
- training and serving: `train`, `SoundClassifier`, `export_onnx`, `launch_app`
- results: `read_run`, `report`, `compare_runs`, `plots`
- `UserError` is raised for every mistake in the input; `quietly` switches progress output off.

The names are imported on first use, so that importing the package takes no time.
"""

from typing import TYPE_CHECKING

from urbansound_hf.lazy import lazy_names

__version__ = "0.2.0"

__all__ = [
    "Run", "SoundClassifier", "Sounds", "UserError", "augment", "compare_runs", "describe_leaks", "export_onnx",
    "launch_app", "leak_report", "list_families", "listen", "load_audio", "load_feature_extractor", "load_model",
    "load_sounds", "load_urbansound8k", "mel_spectrogram", "mfcc", "plots", "quietly", "read_run", "report",
    "spectrogram", "splits", "synthetic_dataset", "train",
]  # fmt: skip

if TYPE_CHECKING:  # for type checkers and editors, and read by `lazy_names`
    from urbansound_hf import augment, plots
    from urbansound_hf.app.__main__ import launch_app
    from urbansound_hf.audio.io import load_audio
    from urbansound_hf.audio.spectrogram import mel_spectrogram, mfcc, spectrogram
    from urbansound_hf.data import splits
    from urbansound_hf.data.leaks import describe_leaks, leak_report
    from urbansound_hf.data.loading import Sounds, load_sounds, load_urbansound8k
    from urbansound_hf.data.synthetic import synthetic_dataset
    from urbansound_hf.errors import UserError
    from urbansound_hf.evaluation.runs import Run, read_run
    from urbansound_hf.inference.classifier import SoundClassifier
    from urbansound_hf.inference.live import listen
    from urbansound_hf.models.catalogue import list_families
    from urbansound_hf.models.loading import load_feature_extractor, load_model
    from urbansound_hf.models.onnx_export import export_onnx
    from urbansound_hf.progress import quietly
    from urbansound_hf.reports.comparison import compare_runs
    from urbansound_hf.reports.run_report import report
    from urbansound_hf.training.cross_validation import train
else:
    __getattr__, __dir__ = lazy_names(__name__, __file__)
