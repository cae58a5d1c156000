"""Damaged checkpoints never answer: each error names the tensor or the key, and the undamaged neighbour opens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers import tiny
from urbansound_hf.errors import UserError
from urbansound_hf.inference.classifier import SoundClassifier
from urbansound_hf.inference.torch_backend import TorchBackend
from urbansound_hf.models.checkpoint import load_checkpoint

LAYER = "wav2vec2.encoder.layers.0.attention.k_proj.weight"


@pytest.fixture(scope="module")
def intact(tmp_path_factory) -> Path:
    return tiny.save("wav2vec2", tmp_path_factory.mktemp("intact") / "model", clip_seconds=1.0)


@pytest.fixture
def damaged(intact, tmp_path) -> Callable[..., Path]:
    """A copy of the checkpoint whose weights, config or feature extractor were changed."""

    def damage(weights=None, config=None, extractor=None) -> Path:
        folder = Path(shutil.copytree(intact, tmp_path / "damaged"))
        if weights:
            stored = weights(load_file(folder / "model.safetensors"))
            save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
        for name, values in (("config.json", config), ("preprocessor_config.json", extractor)):
            if values:
                content = json.loads((folder / name).read_text(encoding="utf-8")) | values
                (folder / name).write_text(json.dumps(content), encoding="utf-8")
        return folder

    return damage


WEIGHTS = {
    "half": lambda stored: {name: weight for name, weight in stored.items() if "layers.0" not in name},
    "nan": lambda stored: stored | {LAYER: stored[LAYER] * torch.nan},
    "infinite": lambda stored: stored | {LAYER: stored[LAYER] - torch.inf},
    "shape": lambda stored: stored | {LAYER: stored[LAYER][:5].clone()},
    "integers": lambda stored: stored | {LAYER: stored[LAYER].int()},
    "complex": lambda stored: stored | {LAYER: stored[LAYER].to(torch.complex64)},
    "more": lambda stored: stored | {LAYER.replace("layers.0", "layers.7"): stored[LAYER].clone()},
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_damaged_weights_are_named(damaged, kind):
    with pytest.raises(UserError, match=r"layers\.[07]\.attention\.k_proj"):
        load_checkpoint(damaged(weights=WEIGHTS[kind]))


CONFIG = {
    "hidden_size": [-1, 0, 1e300, 10**7, "x"], "num_attention_heads": [0], "num_hidden_layers": [-3, 0],
    "conv_dim": [[], "x"], "conv_stride": [[0] * 7], "conv_kernel": [[0] * 7], "hidden_act": ["boom"],
    "layer_norm_eps": [float("nan")], "clip_seconds": [-1, "a", 1e12, True], "test_time_shifts": [-2, 10**9, "a"],
    "id2label": [{"0": "a"}, {str(i): "a" for i in range(10)}, [1]], "problem_type": ["x"], "dtype": ["float99"],
    "feat_extract_norm": ["zz"],
}  # fmt: skip
NAMES_SHAPE = r"has the shape"  # of these, the sizes of the weights show that the config is wrong


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in CONFIG.items() for value in values])
def test_an_impossible_config_is_named(damaged, key, value):
    with pytest.raises(UserError, match=f"{key}|{NAMES_SHAPE}"):
        load_checkpoint(damaged(config={key: value}))


@pytest.mark.parametrize(
    ("key", "value"),
    [("sampling_rate", value) for value in (0, -5, "a", 1e30, None)]
    + [("feature_size", -1), ("do_normalize", "x"), ("feature_extractor_type", "WhisperFeatureExtractor")],
)
def test_an_impossible_feature_extractor_is_named(damaged, key, value):
    with pytest.raises(UserError, match=key):
        load_checkpoint(damaged(extractor={key: value}))


def test_the_neighbours_open(damaged):
    load_checkpoint(damaged(config={"test_time_shifts": 3, "clip_seconds": 0.5, "hidden_dropout": 0.0}))


def test_more_weights_are_a_warning_for_a_model_that_is_no_run_of_ours(damaged, capsys):
    load_checkpoint(damaged(weights=lambda stored: stored | {"junk": torch.zeros(2)}, config={"clip_seconds": None}))
    assert "warning: the checkpoint holds weights that its model does not have: junk" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"\xff" * 50, b'{"a": ' * 30_000, b"[1]", b'"x"', b"{}"])
def test_a_broken_config_file_is_one_error(damaged, content):
    folder = damaged()
    (folder / "config.json").write_bytes(content)
    with pytest.raises(UserError):
        load_checkpoint(folder)


def test_scores_that_are_not_finite_are_an_error(intact):
    backend = TorchBackend(*load_checkpoint(intact), "cpu")
    with torch.no_grad():
        backend.model.classifier.bias.fill_(torch.inf)
    with pytest.raises(UserError, match="not finite"):
        SoundClassifier(backend).probabilities([np.zeros(16000, np.float32)])
