"""File names: those of a run's folder, and where this package lies."""

from __future__ import annotations

from pathlib import Path

PACKAGE_ROOT = Path(__file__).resolve().parent
"""The folder of this package: its source is hashed into receipts."""

CONFIGS = PACKAGE_ROOT / "configs" if (PACKAGE_ROOT / "configs").is_dir() else PACKAGE_ROOT.parent / "configs"
"""The folder of the shipped configs: inside an installed package, beside it in a checkout."""

# Written by training
PREDICTIONS = "predictions.csv"  # a line per test clip, with the score of every class
METRICS = "metrics.json"  # of a run, and of a cross-validation
HISTORY = "log_history.json"  # what Trainer logged
RESOLVED = "run.yaml"  # the resolved config; `urbansound-hf train run.yaml` repeats the run
TRACE = "trace.json"  # with --profile; serving writes it to the working directory
CHECKPOINTS = "checkpoints"  # of Trainer; removed when the run is finished
BEGUN = f"{CHECKPOINTS}/begun.json"  # the receipt of an unfinished run, removed with its checkpoints
RECEIPT = "run.json"  # written last: a folder with it holds a finished run
MODEL_CONFIG = "config.json"  # of Transformers, as its weights and its feature extractor's config
EXTRACTOR_CONFIG = "preprocessor_config.json"
VALIDATION = "validation_predictions.csv"  # as PREDICTIONS, of the validation clips; an ensemble fits its weights on it
ENSEMBLE = "ensemble.json"  # written by `urbansound-hf ensemble`: the members of a fold and their weights

# Written by the ONNX export, in the layout of Transformers.js
ONNX_MODEL = "onnx/model.onnx"  # beside it, for large models, model.onnx_data with the weights
ONNX_INT8 = "onnx/model_quantized.onnx"
ONNX_EXPORT = "onnx/export.json"  # of which weights, and what serving has to know; written last

# Written by the report
REPORT_NUMBERS = "report.json"
REPORT = "report.md"
REPORT_PAGE = "report.html"
REPORT_CLIPS = "report_clips.json"  # the sounds and spectrograms of report.html; holds audio, never published
CARD = "README.md"
COMPARISON = "comparison.md"  # of an ensemble with each of its members


def finished(folder: Path) -> bool:
    """Whether the folder holds a finished run, that is, one with a receipt."""
    return (folder / RECEIPT).is_file()


def expand_user(name: str | Path) -> Path:
    """A path with `~` and `~user` replaced by the home folder; a name that only begins with a tilde stays as it is."""
    path = Path(name)
    if path.exists():
        return path
    try:
        return path.expanduser()
    except RuntimeError:  # there is no such user
        return path
