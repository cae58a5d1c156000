"""The file names of a run folder, and whether a run is finished."""

from __future__ import annotations

from pathlib import Path

PACKAGE_ROOT = Path(__file__).resolve().parent
"""The folder of this package: its source is hashed into receipts."""

CONFIGS = next(folder for folder in (PACKAGE_ROOT / "configs", PACKAGE_ROOT.parent / "configs") if folder.is_dir())
"""The folder of the shipped configs: inside an installed package, beside it in a checkout."""

PREDICTIONS, METRICS = "predictions.csv", "metrics.json"

RECEIPT = "run.json"
BEGUN = "checkpoints/begun.json"  # whose checkpoints these are; it goes when they go


def finished(folder: Path) -> bool:
    """Whether the run in this folder came to its end."""
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


REPORT_PAGE = "report.html"

RESOLVED = "run.yaml"  # the resolved config of a run: `train.py` takes it again
