"""fp16 for real: its scaler skips updates, a run continues with it, and a divergence is still found."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.training.test_run import EVERY_STEP, assert_same_weights, logged, small_split
from urbansound_hf.errors import NotFiniteError
from urbansound_hf.training.resume import complete_checkpoints, missing_parts
from urbansound_hf.training.run import train_and_evaluate

FP16 = ["--fp16", *EVERY_STEP, "--max_steps", 5, "--load_best_model_at_end", "false"]


def test_a_run_of_fp16_continues_where_it_was(configure, sounds, tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    config = configure(*FP16, "--keep_checkpoints")
    train_and_evaluate(config, sounds, small_split(), whole)
    assert len(complete_checkpoints(config, whole)) == 5, missing_parts(whole / "checkpoints/checkpoint-2", config)
    shutil.copytree(whole / "checkpoints/checkpoint-2", resumed / "checkpoints/checkpoint-2")
    train_and_evaluate(config, sounds, small_split(), resumed)
    logs = [json.loads((folder / "log_history.json").read_text(encoding="utf-8")) for folder in (whole, resumed)]
    assert logged(logs[0], "loss") == logged(logs[1], "loss") and len(logged(logs[0], "loss")) == 5
    assert_same_weights(whole, resumed)


def test_a_divergence_under_fp16(configure, sounds, tmp_path):
    flags = ["--optim", "sgd", "--learning_rate", "1e38", "--max_grad_norm", 0, "--warmup_steps", 0]
    with pytest.raises(NotFiniteError) as caught:
        train_and_evaluate(configure(*FP16, *flags), sounds, small_split(), tmp_path / "run")
    assert "use --bf16 or float32 in place of fp16" in caught.value.fix
