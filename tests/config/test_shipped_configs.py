"""Every shipped config introduces itself and is executed: its flags, few clips, a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from transformers import AutoConfig, AutoModelForAudioClassification

from tests.conftest import ROOT
from tests.helpers import miniatures
from urbansound_hf.config.parse import parse_run_config
from urbansound_hf.models.registry import known_types
from urbansound_hf.training.cross_validation import run_experiment

pytestmark = pytest.mark.usefixtures("plain_reports")

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
ACCELERATE = sorted((ROOT / "configs" / "accelerate").glob("*.yaml"))

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
    "mispeech/ced-tiny": ("audio-spectrogram-transformer", AST),  # its own architecture is code on the Hub
    "ecapa-tdnn": ("ecapa-tdnn", ["channels=[16,16,16,16,48]"]),
    "outputs/yamnet_audioset": ("yamnet", ["channels=[8,8,16,16]", "strides=[2,1,2,2]"]),
}
"""Models that need a download, and the same architecture, tiny and with random weights."""
MINIATURES = {
    "esc50": (miniatures.esc50, "fold5", {"train": 48, "validation": 0, "test": 12}),
    "fsd50k": (miniatures.fsd50k, "split", {"train": 2, "validation": 2, "test": 2}),
    "speech_commands_v2": (miniatures.speech_commands, "split", {"train": 16, "validation": 2, "test": 2}),
}
"""Configs of other data sets: what makes a miniature, the run's folder, and its clips."""


@pytest.fixture(scope="module")
def three_classes(synthetic_root, tmp_path_factory) -> Path:
    """The synthetic clips of three classes, in the layout of UrbanSound8K."""
    root = tmp_path_factory.mktemp("three")
    header, *rows = (synthetic_root / "metadata/UrbanSound8K.csv").read_text(encoding="utf-8").splitlines()
    rows = [row for row in rows if row.split(",")[6] in "012"]
    (root / "metadata").mkdir()
    (root / "metadata/UrbanSound8K.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    for row in rows:
        name, *_, fold, _, _ = row.split(",")
        (root / f"audio/fold{fold}").mkdir(parents=True, exist_ok=True)
        (root / f"audio/fold{fold}" / name).symlink_to(synthetic_root / f"audio/fold{fold}" / name)
    return root


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_trains(path, three_classes, tmp_path):
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    name, sizes = STAND_INS.get(given["model_name_or_path"], (given["model_name_or_path"], []))
    assert name in known_types(), f"{name} needs the network: give it one of STAND_INS"
    flags = ["--dataset", "urbansound8k", "--data_dir", str(three_classes), "--output_dir", str(tmp_path)]
    make, folder, clips = MINIATURES.get(path.stem, (None, "fold10", {"train": 24, "validation": 3, "test": 3}))
    if make:
        flags[1:4] = [str(make(tmp_path / "data"))]
    flags += ["--model_name_or_path", name, "--model_config", *given.get("model_config", []), *sizes]
    flags += ["--max_steps", "1", "--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "1"]
    flags += ["--eval_strategy", "steps", "--save_strategy", "steps", "--eval_steps", "1", "--save_steps", "1"]
    flags += ["--preprocessing_num_workers", "1", "--dataloader_num_workers", "0"]
    assert run_experiment(parse_run_config([str(path), *flags], path)) == 0
    metrics = json.loads((tmp_path / folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["clips"] == clips and (tmp_path / folder / "run.json").is_file()


def test_there_are_configs_to_test():
    assert {"wav2vec2_base", "demo"} <= {path.stem for path in CONFIGS} and len(ACCELERATE) >= 4


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_is_a_run(path):
    run = parse_run_config([str(path)], ROOT / "absent.yaml")
    assert run.training.output_dir == f"outputs/{path.stem}" and run.source == path
    if "/" not in run.model.model_name_or_path:
        assert run.model.model_name_or_path in known_types()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_introduces_itself(path):
    head = path.read_text(encoding="utf-8").split("\n\n")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert all(f"# {word} " in head for word in ("Trains", "Needs", "Command", "Expect"))
    assert f"train.py configs/{path.name}" in head


def test_the_demo_model_is_small():
    run = parse_run_config([str(ROOT / "configs/demo.yaml")], ROOT / "absent.yaml")
    values = {key: json.loads(value) for key, _, value in (pair.partition("=") for pair in run.model.model_config)}
    model_config = AutoConfig.for_model(run.model.model_name_or_path)
    assert not [key for key in values if not hasattr(model_config, key)]
    model_config.update(values)
    model = AutoModelForAudioClassification.from_config(model_config)
    assert sum(parameter.numel() for parameter in model.parameters()) < 500_000


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda path: path.stem)
def test_accelerate_reads_its_configs(path):
    launch = load_config_from_file(str(path))
    expected = {
        "cpu_2proc": ("MULTI_GPU", 2),
        "single_gpu": ("NO", 1),
        "multi_gpu": ("MULTI_GPU", 8),
        "fsdp": ("FSDP", 8),
    }
    assert (launch.distributed_type.value, launch.num_processes) == expected[path.stem]
    assert f"--config_file configs/accelerate/{path.name} train.py configs/" in path.read_text(encoding="utf-8")
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert written.keys() <= set(launch.to_dict()) and launch.mixed_precision == "no"
