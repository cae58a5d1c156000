"""Opening of trained checkpoints for serving."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import (
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    FeatureExtractionMixin,
    PreTrainedModel,
)
from transformers.utils import logging

from urbansound_hf import progress
from urbansound_hf.errors import UserError
from urbansound_hf.layout import MODEL_CONFIG
from urbansound_hf.models.integrity import check_checkpoint, explained
from urbansound_hf.models.loading import check_path
from urbansound_hf.models.registry import register


def load_checkpoint(
    name_or_path: str | Path, revision: str | None = None, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, FeatureExtractionMixin]:
    """Opens a finished classifier, in the precision it was saved in, as the stock pipeline does.

    Args:
        name_or_path: the folder of a run, or a Hub id.
        revision: branch, tag or commit of a Hub id.
        trust_remote_code: run the model code that comes with the checkpoint; families of ours need none.

    Raises:
        UserError: it is not there, cannot be reached, or holds no trained audio classifier.
    """
    check_path(Path(name_or_path))
    register(_model_type(Path(name_or_path)))
    options = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
    auto_model, auto_extractor = AutoModelForAudioClassification, AutoFeatureExtractor
    try:
        with quietly(local=Path(name_or_path).is_dir()):
            model, loading = auto_model.from_pretrained(name_or_path, output_loading_info=True, **options)
            feature_extractor = auto_extractor.from_pretrained(name_or_path, **options)
    except Exception as error:  # of any kind: a config with impossible values stops anywhere in a model's constructor
        raise unopened(str(name_or_path), explained(Path(name_or_path), error)) from error
    check_checkpoint(str(name_or_path), model, feature_extractor, loading)
    return model, feature_extractor


def _model_type(folder: Path) -> str | None:
    """That of a checkpoint folder; None for a Hub id, or where the config does not say."""
    try:
        return json.loads((folder / MODEL_CONFIG).read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None


@contextmanager
def quietly(local: bool) -> Iterator[None]:
    """Suppresses the load report of Transformers, and progress bars except of a download in a terminal."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if local or not progress.in_terminal():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def unopened(name: str, reason: str) -> UserError:
    reason = reason.strip() or "no reason given"
    if "trust_remote_code" in reason:
        what, fix = "the checkpoint brings model code of its own", "read it, then allow it with --trust_remote_code"
    elif "couldn't connect" in reason or "offline" in reason:
        what = "the Hub cannot be reached, and the model is neither a folder here nor in the cache"
        fix = "check the name and the connection (or HF_HUB_OFFLINE), or give the folder of a run"
    elif "Unrecognized configuration class" in reason:
        what, fix = (
            "the model is no audio classifier",
            "choose one from https://huggingface.co/models?filter=audio-classification",
        )
    else:
        what = f"no audio classifier could be opened ({reason.splitlines()[0]})"
        fix = "give the folder of a finished run, or a Hub id; a private one needs `hf auth login`"
    return UserError(what, name, fix)
