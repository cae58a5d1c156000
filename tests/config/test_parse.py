"""The resolved config: precedence, defaults, what is saved, help, and the imports on the way."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml

from urbansound_hf.config.arguments import (
    DataArguments,
    ModelArguments,
)
from urbansound_hf.config.parse import parse_run_config


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
        ("run_name: 'null'", "run_name", "null"),
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


def test_the_saved_config_is_a_config_of_the_same_run(parse):
    text = "test_fold: [1, 3]\nmodel_config: [a=1, b=2]\nfreeze: backbone\nunfreeze_last_n: 2\nseed: 5\n"
    run = parse(text, "--hub_token", "secret", "--learning_rate", "1e-4", "--lr_scheduler_kwargs", '{"a": 1}')
    saved = run.as_dict()
    assert "secret" not in json.dumps(saved) and "hub_token" not in saved
    assert (saved["learning_rate"], saved["test_fold"], saved["eval_strategy"]) == (1e-4, "1,3", "epoch")
    assert saved["output_dir"] == "outputs/run" and saved["bf16"] in (True, False)
    assert parse(yaml.safe_dump(saved)).as_dict() == saved


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
