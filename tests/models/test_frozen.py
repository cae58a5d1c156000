"""The frozen start of a model runs once per clip, and a training from its stored output is the same training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForAudioClassification

from tests.helpers.tiny import save
from tests.training.test_run import small_split
from urbansound_hf.models import adapt
from urbansound_hf.models.adapt import frozen_parts
from urbansound_hf.training.run import train_and_evaluate

EXACT = {"wav2vec2": 1e-5, "whisper": 1e-5, "yamnet": 1e-5}
LAYERS = {"whisper": {"encoder_layers": 2}, "yamnet": {}, "wav2vec2": {}}


@pytest.mark.parametrize("family", EXACT)
def test_losses_are_the_same_with_and_without_the_stored_output(family, configure, sounds, tmp_path, capsys):
    model = save(family, tmp_path / family, clip_seconds=1.0, **LAYERS[family])
    frozen = (
        ["--freeze", "feature_encoder"] if family == "wav2vec2" else ["--freeze", "backbone", "--unfreeze_last_n", 1]
    )
    logs = {}
    for cached in ("true", "false"):
        flags = ["--model_name_or_path", model, "--model_config", "none", "--clip_seconds", 1.0, "--max_steps", 4]
        config = configure(*flags, *frozen, "--cache_frozen", cached, "--eval_steps", 2, "--save_steps", 2)
        train_and_evaluate(config, sounds, small_split(), tmp_path / cached)
        assert ("the frozen part of the model ran once" in capsys.readouterr().err) == (cached == "true")
        log = json.loads((tmp_path / cached / "log_history.json").read_text(encoding="utf-8"))
        logs[cached] = [entry[name] for entry in log for name in ("loss", "grad_norm", "eval_loss") if name in entry]
    assert len(logs["true"]) == 4 * 2 + 2
    np.testing.assert_allclose(logs["true"], logs["false"], rtol=EXACT[family])
    weights = [(tmp_path / cached / "model.safetensors").stat().st_size for cached in logs]
    assert weights[0] == weights[1], "the checkpoint is complete"


def part_of(folder: Path, unfreeze: int = 1, **changes: float) -> list[int]:
    """The number of modules in each part that may be left out and gives the same output twice."""
    model = AutoModelForAudioClassification.from_pretrained(folder, **changes)
    adapt.freeze(model, "backbone", unfreeze)
    inputs = {"input_values": torch.randn(2, 16000)}
    return [len(part.modules) for part in frozen_parts(model) if part.is_constant(model, inputs)]


def test_what_random_numbers_change_is_not_stored(tmp_path):
    still = {"layerdrop": 0.0, "hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0,
             "feat_proj_dropout": 0.0, "mask_time_prob": 0.0}  # fmt: skip
    folder = save("wav2vec2", tmp_path)
    assert len(part_of(folder, **still)) == 2, "the layers, and the feature encoder"
    for name in still:
        assert part_of(folder, **{**still, name: 0.5}) == [1], f"{name}: only the feature encoder"


def test_the_model_is_restored(tmp_path):
    model = AutoModelForAudioClassification.from_pretrained(save("ast", tmp_path, num_hidden_layers=2)).eval()
    adapt.freeze(model, "backbone", 1)
    inputs = {"input_values": torch.randn(2, 128, 128)}
    part, before = next(frozen_parts(model)), model(**inputs).logits
    stored = part.compute(model, inputs)
    with part.skipped():
        part.output = stored.flatten(0, 1)
        torch.testing.assert_close(model(**inputs).logits, before)
        part.output = torch.randn_like(part.output)
        assert (model(**inputs).logits - before).abs().max() > 1e-3
    torch.testing.assert_close(model(**inputs).logits, before, rtol=0, atol=0)
