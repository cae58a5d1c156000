"""The resolved config: who wins, what the defaults are, what is saved; and every file under configs/."""

from __future__ import annotations

import ast
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from transformers import AutoConfig, AutoModelForAudioClassification

from tests.conftest import ROOT
from urbansound_hf.config import arguments
from urbansound_hf.config.arguments import (
    DataArguments,
    ModelArguments,
    OwnRunArguments,
    RecipeArguments,
    RunArguments,
    has_bf16,
)
from urbansound_hf.config.parse import parse_run_config
from urbansound_hf.models.registry import known_types

CONFIGS = sorted(ROOT.glob("configs/*.yaml"))
ACCELERATE = sorted(ROOT.glob("configs/accelerate/*.yaml"))


@pytest.fixture
def parse(tmp_path):
    """Parses flags over a config of the given text."""

    def parse_text(text="", *argv):
        (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
        return parse_run_config([*argv], tmp_path / "run.yaml")

    return parse_text


def test_the_defaults(parse):
    run = parse()
    assert (run.name, run.training.output_dir) == ("run", "outputs/run")
    assert run.data == DataArguments() and run.model == ModelArguments()
    training = run.training
    assert (training.learning_rate, training.num_train_epochs, training.warmup_steps) == (3e-5, 10, 0.1)
    assert (training.per_device_train_batch_size, training.gradient_accumulation_steps) == (8, 4)
    assert (training.eval_strategy, training.save_strategy, training.save_total_limit) == ("epoch", "epoch", 1)
    assert training.load_best_model_at_end and training.metric_for_best_model == "accuracy"
    assert training.greater_is_better and training.report_to == [] and not training.remove_unused_columns
    assert (training.logging_steps, training.seed) == (10, 42)


def test_the_command_line_beats_the_file_and_the_file_the_default(parse):
    run = parse("seed: 1\nlearning_rate: 2e-5\nfreeze: none\n", "--seed", "2", "--freeze=backbone")
    assert (run.training.seed, run.training.learning_rate, run.model.freeze) == (2, 2e-5, "backbone")


def test_the_command_line_can_drop_what_the_file_lists(parse):
    text = "augment:\n  - shift\nhead_from:\n  - dog_bark=Bark\n"
    assert parse(text).recipe.augment == ["shift"]
    run = parse(text, "--augment", "none", "--head_from", "none")
    assert run.recipe.augment is None and not run.recipe.changes_inputs and run.model.head_from is None


@pytest.mark.parametrize("before", [True, False])
def test_the_config_may_stand_anywhere(tmp_path, before):
    (tmp_path / "mine.yaml").write_text("seed: 7", encoding="utf-8")
    path, flags = [str(tmp_path / "mine.yaml")], ["--run_name", "a.yaml", "--overwrite"]
    run = parse_run_config([*path, *flags] if before else [*flags, *path], tmp_path / "absent.yaml")
    assert (run.name, run.training.seed, run.training.run_name, run.training.overwrite) == ("mine", 7, "a.yaml", True)


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("learning_rate: 3e-5", "learning_rate", 3e-5),  # to YAML 1.1 this is a string
        ("learning_rate: null", "learning_rate", 3e-5),
        ("learning_rate: ~", "learning_rate", 3e-5),
        ("eval_strategy: no\nload_best_model_at_end: no", "eval_strategy", "no"),  # to YAML 1.1 this is False
        ("overwrite: True", "overwrite", True),
        ("overwrite: false", "overwrite", False),
        ("test_fold: 10", "test_fold", "10"),
        ("test_fold: [1, 3, 5]", "test_fold", "1,3,5"),
        ("test_fold: 1,3,5", "test_fold", "1,3,5"),
        ("dataset_revision: 'null'", "dataset_revision", "null"),
        ("model_config:\n- a=1\n- b=[1,2]", "model_config", ["a=1", "b=[1,2]"]),
        ("model_config: a=1", "model_config", ["a=1"]),
        ("lr_scheduler_kwargs: '{\"num_cycles\": 2}'", "lr_scheduler_kwargs", {"num_cycles": 2}),
        ("resume_from_checkpoint: last", "resume_from_checkpoint", "last"),
    ],
)
def test_a_yaml_value_is_what_the_flag_makes_of_it(parse, line, name, value):
    run = parse(line)
    assert {**vars(run.data), **vars(run.model), **vars(run.training)}[name] == value


def test_without_validation_nothing_is_evaluated(parse):
    training = parse("load_best_model_at_end: true", "--validation", "none").training
    assert training.eval_strategy == "no" and not training.load_best_model_at_end


PRECISIONS = [  # given bf16, given fp16, launched with, on the CPU, with CUDA, bf16 in hardware → bf16, fp16
    (None, None, "no", False, True, True, (True, False)),  # an A100
    (None, None, "no", False, True, False, (False, True)),  # a T4
    (None, None, "no", True, False, True, (True, False)),  # a recent server CPU
    (None, None, "no", True, True, False, (False, False)),  # --use_cpu beside a T4: never float16
    (None, None, "no", False, False, False, (False, False)),  # an accelerator without CUDA
    (None, False, "no", False, True, False, (False, False)),
    (None, False, "no", False, True, True, (True, False)),
    (None, True, "no", False, True, True, (False, True)),
    (True, None, "no", False, True, False, (True, False)),
    (False, None, "no", False, True, False, (False, False)),  # --bf16 false stays float32
    (False, True, "no", True, False, True, (False, True)),
    (None, None, "fp16", False, True, True, (False, False)),  # Accelerate's own wins
    (None, None, "fp8", False, True, True, (False, False)),
    (None, None, "bf16", False, True, False, (False, False)),
    (None, None, "bf16", False, True, True, (True, False)),
]


@pytest.mark.parametrize(("bf16", "fp16", "launched", "cpu", "cuda", "hardware", "expected"), PRECISIONS)
def test_mixed_precision_follows_the_hardware(monkeypatch, bf16, fp16, launched, cpu, cuda, hardware, expected):
    monkeypatch.setattr(arguments, "has_bf16", lambda on_cpu: hardware)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert arguments.mixed_precision(bf16, fp16, cpu, launched) == expected


@pytest.mark.parametrize("answer", [True, False])
def test_bf16_is_automatic(parse, monkeypatch, answer):
    monkeypatch.setattr(arguments, "has_bf16", lambda on_cpu: answer)
    assert (parse().training.bf16, parse().training.fp16) == (answer, False)  # on the CPU
    assert parse("bf16: true").training.bf16 is True
    assert parse("bf16: false").training.bf16 is False
    assert (parse("fp16: true").training.bf16, parse("fp16: true").training.fp16) == (False, True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    assert parse().training.bf16 is False


def test_the_hardware_is_asked_for_bf16():
    flags = Path("/proc/cpuinfo")
    if not flags.is_file() or "flags" not in flags.read_text(encoding="utf-8"):
        pytest.skip("needs /proc/cpuinfo of an x86 processor")
    words = flags.read_text(encoding="utf-8").split()
    assert has_bf16(on_cpu=True) == ("avx512_bf16" in words or "amx_tile" in words)


def test_the_saved_config_is_a_config_of_the_same_run(parse):
    text = "test_fold: [1, 3]\nmodel_config: [a=1, b=2]\nfreeze: backbone\nunfreeze_last_n: 2\nseed: 5\n"
    run = parse(text, "--hub_token", "secret", "--learning_rate", "1e-4", "--lr_scheduler_kwargs", '{"a": 1}')
    saved = run.as_dict()
    assert "secret" not in json.dumps(saved) and "hub_token" not in saved
    assert (saved["learning_rate"], saved["test_fold"], saved["eval_strategy"]) == (1e-4, "1,3", "epoch")
    assert saved["output_dir"] == "outputs/run" and saved["bf16"] in (True, False)
    assert parse(yaml.safe_dump(saved)).as_dict() == saved


def test_training_arguments_can_be_copied_for_a_fold(parse):
    training = parse("report_to: [none]").training
    copy = dataclasses.replace(training, output_dir="elsewhere")
    assert copy.output_dir == "elsewhere" and copy.to_dict() == {**training.to_dict(), "output_dir": "elsewhere"}


def test_help_lists_ours_first_and_needs_no_config(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        parse_run_config(["--lerning_rate", "--help"], tmp_path / "absent.yaml")
    text = capsys.readouterr().out
    assert caught.value.code == 0 and text.startswith("usage: urbansound-hf train [CONFIG] [--flag value ...]")
    order = ["data:", "--dataset TEXT", "--clip_seconds FLOAT", "model:", "--freeze {none,feature_encoder,backbone}"]
    order += ["training (", "--overwrite [BOOL]", "--output_dir TEXT", "--learning_rate FLOAT", "--weight_decay FLOAT"]
    places = [text.index(item) for item in order]
    assert places == sorted(places)
    assert "3e-05)" in text and "--learning-rate" not in text and "  --help" in text


IMPORTED = """
import sys
from transformers import TrainingArguments
before = set(sys.modules)
import urbansound_hf.config.parse
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(new - set(sys.stdlib_module_names)))
"""


def test_reading_a_config_imports_little_beyond_training_arguments():
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["transformers", "urbansound_hf"], "import what is heavy where work starts"


OWN_GROUPS = (DataArguments, ModelArguments, RecipeArguments, OwnRunArguments)
OWN = [field for kind in OWN_GROUPS for field in dataclasses.fields(kind)]


@pytest.mark.parametrize("field", OWN, ids=lambda field: field.name)
def test_every_flag_of_ours_explains_itself(field):
    assert len(field.metadata["help"]) > 10 and "%" not in field.metadata["help"]


def attributes_read_from_arguments():
    """The attributes that code outside the schema reads from variables of these names."""
    for path in (ROOT / "urbansound_hf").rglob("*.py"):
        if path.parent.name == "config":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                owner = getattr(node.value, "attr", getattr(node.value, "id", ""))
                if owner in ("data", "model", "training", "arguments", "adaptation", "recipe", "plan", "self"):
                    yield node.attr


def test_no_flag_of_ours_is_dead():
    read = {*attributes_read_from_arguments()}
    assert not {field.name for field in OWN} - read


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


def test_the_schema_is_all_of_training_arguments():
    inherited = {field.name for field in dataclasses.fields(RunArguments.__mro__[1]) if field.init}
    own = {field.name for field in dataclasses.fields(OwnRunArguments)}
    assert {field.name for field in dataclasses.fields(RunArguments) if field.init} == inherited | own
