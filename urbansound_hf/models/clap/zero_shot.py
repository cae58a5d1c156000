"""Zero-shot: a CLAP with both its towers becomes a classifier of whatever sounds are named to it.

CLAP's logit of a caption is a learnt scale times the cosine of the two embeddings. With the sound's embedding at a
length of √d, that is a linear layer without bias: a row a caption, its embedding of length 1 times scale / √d. So the
text tower is asked once, and what is left is an ordinary classifier, which can be served, saved and trained on. Its
scores are those of the stock `pipeline("zero-shot-audio-classification")` with its default template.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, ClapConfig, ClapModel

from urbansound_hf.errors import UserError
from urbansound_hf.models import checkpoint
from urbansound_hf.models.clap.modeling_clap_audio import (
    ClapAudioClassificationConfig,
    ClapAudioFeatureExtractor,
    ClapForAudioClassification,
)
from urbansound_hf.models.loading import check_path, library_messages
from urbansound_hf.models.registry import label_names

TEMPLATE = "This is a sound of {}."  # the stock pipeline's


def load_zero_shot(
    name_or_path: str | Path, labels: Sequence[str], revision: str | None = None
) -> tuple[ClapForAudioClassification, ClapAudioFeatureExtractor]:
    """Opens a whole CLAP as a classifier of `labels`, at least two names of sounds, as they would stand in a caption.

    Raises UserError if the labels leave nothing to choose, or the checkpoint is not there or has no text tower.
    """
    labels = [label.strip() for label in labels]
    if len(labels) < 2 or len({*labels}) < len(labels) or not all(labels):
        what = f"there must be at least two different sounds to choose from; found {', '.join(map(repr, labels))}"
        raise UserError(what, "--labels", 'separate them by commas: --labels "dog bark,siren,street music"')
    check_path(Path(name_or_path))
    options: dict[str, Any] = {"revision": revision or "main"}
    try:
        with library_messages(bars=not Path(name_or_path).is_dir()):
            config = AutoConfig.from_pretrained(name_or_path, **options)
            if not isinstance(config, ClapConfig):
                raise _no_text_tower(name_or_path, f"it is a {config.model_type} model")
            loaded: Any = ClapModel.from_pretrained(name_or_path, output_loading_info=True, **options)
            tokenizer = AutoTokenizer.from_pretrained(name_or_path, **options)
            feature_extractor = ClapAudioFeatureExtractor.from_pretrained(name_or_path, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise checkpoint.unopened(str(name_or_path), str(error)) from error
    clap, loading = loaded
    if missing := loading["missing_keys"] & dict(clap.named_parameters()).keys():
        raise _no_text_tower(name_or_path, f"the weights lack {max(missing)}")
    captions = tokenizer([TEMPLATE.format(label) for label in labels], padding=True, return_tensors="pt")
    if len(captions["input_ids"].unique(dim=0)) < len(labels):  # without its files it opens all the same, empty
        what = "the tokenizer reads the same in different captions: its vocabulary is missing"
        raise UserError(what, str(name_or_path), "add the tokenizer's files (tokenizer.json, tokenizer_config.json)")
    with torch.no_grad():
        embeddings = clap.get_text_features(**captions).pooler_output  # (labels, d), each of length 1
        config = ClapAudioClassificationConfig.take_over(clap.config)
        config.update(label_names(labels))
        model: Any = ClapForAudioClassification(config)
        model.to(clap.dtype)
        model.clap.audio_model, model.clap.audio_projection = clap.audio_model, clap.audio_projection
        model.classifier.weight.copy_(clap.logit_scale_a.exp() / math.sqrt(config.projection_dim) * embeddings)
        model.classifier.bias.zero_()
    return model.eval(), feature_extractor


def _no_text_tower(name_or_path: str | Path, found: str) -> UserError:
    fix = "give --model laion/clap-htsat-unfused; a trained model needs no --labels"
    return UserError(f"zero-shot needs a CLAP with its text tower; {found}", str(name_or_path), fix)
