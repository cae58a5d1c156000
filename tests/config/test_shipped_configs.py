"""Every shipped config is executed: its own flags, on a few synthetic clips, with a tiny model of its own kind."""

from __future__ import annotations

import json

import pytest
import yaml

from tests.conftest import ROOT

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))

TRANSFORMER = [
    "hidden_size=16", "num_hidden_layers=2", "num_attention_heads=2", "intermediate_size=16", "classifier_proj_size=8",
    "conv_dim=[8,8,8,8,8,8,8]", "num_conv_pos_embeddings=4", "num_conv_pos_embedding_groups=2",
]  # fmt: skip
WHISPER = ["d_model=16", "encoder_layers=1", "encoder_attention_heads=2", "encoder_ffn_dim=16", "decoder_layers=1"]
AST = ["hidden_size=16", "num_hidden_layers=1", "num_attention_heads=2", "intermediate_size=16"]
CLAP = ["patch_size=8", "patch_stride=[8,8]", "depths=[1,1]", "num_attention_heads=[1,2]", "patch_embeds_hidden_size=8",
        "hidden_size=16"]  # fmt: skip
STAND_INS = {
    "facebook/wav2vec2-base": ("wav2vec2", TRANSFORMER),
    "facebook/hubert-base-ls960": ("hubert", TRANSFORMER),
    "microsoft/wavlm-base-plus": ("wavlm", TRANSFORMER),
    "openai/whisper-tiny": ("whisper", WHISPER),
    "MIT/ast-finetuned-audioset-10-10-0.4593": ("audio-spectrogram-transformer", AST),
    "laion/clap-htsat-unfused": ("clap-audio", CLAP),
    "ecapa-tdnn": ("ecapa-tdnn", ["channels=[16,16,16,16,48]"]),
    "outputs/yamnet_audioset": ("yamnet", ["channels=[8,8,16,16]", "strides=[2,1,2,2]"]),
}
"""What cannot be downloaded here, or takes long → the same architecture, tiny and with random weights."""


def test_there_are_configs():
    assert len(CONFIGS) >= 8


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_trains(path, synthetic_root, tmp_path):
    from urbansound_hf.config.parse import parse_run_config
    from urbansound_hf.models.registry import known_types
    from urbansound_hf.training.cross_validation import run_experiment

    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    name, sizes = STAND_INS.get(given["model_name_or_path"], (given["model_name_or_path"], []))
    assert name in known_types(), f"{name} needs the network: give it one of STAND_INS"
    flags = ["--dataset", "urbansound8k", "--data_dir", str(synthetic_root), "--output_dir", str(tmp_path)]
    flags += ["--model_name_or_path", name, "--model_config", *given.get("model_config", []), *sizes]
    flags += ["--max_steps", "1", "--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "1"]
    flags += ["--eval_strategy", "steps", "--save_strategy", "steps", "--eval_steps", "1", "--save_steps", "1"]
    flags += ["--preprocessing_num_workers", "1", "--dataloader_num_workers", "0"]
    assert run_experiment(parse_run_config([str(path), *flags], path)) == 0
    metrics = json.loads((tmp_path / "fold10" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["clips"] == {"train": 80, "validation": 10, "test": 10}
    assert (tmp_path / "fold10" / "run.json").is_file()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_introduces_itself(path):
    header = [line for line in path.read_text(encoding="utf-8").splitlines()[:25] if line.startswith("#")]
    text = "\n".join(header)
    for heading in ("Needs", "Command", "Expect"):
        assert heading in text, f"{path.name} does not say: {heading}"
    assert f"train.py configs/{path.name}" in text
