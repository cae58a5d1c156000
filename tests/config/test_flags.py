"""Every mistake in a config or on the command line: its text, its place, the way out; and the nearest legal case."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from urbansound_hf.config.checks import RANGES, ranges
from urbansound_hf.config.parse import flag_parser, parse_run_config
from urbansound_hf.errors import UserError, UserErrors, exit_code


def parse(folder, text, *argv):
    """Parses `argv` with a config of that text in `folder`, which the test is in."""
    (folder / "run.yaml").write_text(text, encoding="utf-8")
    return parse_run_config(["run.yaml", *argv], folder / "absent.yaml")


def mistakes(folder, text, *argv):
    with pytest.raises(UserErrors) as caught:
        parse(folder, text, *argv)
    return [(problem.what, problem.where, problem.fix) for problem in caught.value.problems]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


IN_FILE = [
    ("lerning_rate: 3e-5", "there is no flag `lerning_rate`", "did you mean learning_rate?"),
    ("lerning_rate:", "there is no flag `lerning_rate`", "did you mean learning_rate?"),
    ("warmup_ratio: 0.1", "there is no flag `warmup_ratio`", "did you mean warmup_steps?"),
    ("no_do_train: true", "there is no flag `no_do_train`", "did you mean do_train?"),
    ("no_load_best_model_at_end: true", "there is no flag `no_load_best_model_at_end`",
     "did you mean load_best_model_at_end?"),
    ("zzz: 1", "there is no flag `zzz`", "--help lists all flags"),
    ("help: 1", "there is no flag `help`", "--help lists all flags"),
    ("learning_rate: fast", "`learning_rate` must be a number, found 'fast'", "leave it out for the default, 3e-05"),
    ("seed: 1.5", "`seed` must be a whole number, found '1.5'", "leave it out for the default, 42"),
    ("bf16: perhaps", "`bf16` must be true or false, found 'perhaps'", "leave it out for the default"),
    ("split: oficial", "`split` must be one of auto, official, grouped, random, found 'oficial'",
     "did you mean official?"),
    ("freeze: 7", "`freeze` must be one of none, feature_encoder, backbone, found '7'",
     "leave it out for the default, feature_encoder"),
    ("eval_strategy: epochs", "`eval_strategy` must be one of no, steps, epoch, found 'epochs'", "did you mean epoch?"),
    ("metric_for_best_model: f1", "`metric_for_best_model` must be one of mean_average_precision, roc_auc, "
     "accuracy, macro_f1, micro_f1, loss, found 'f1'",
     "leave it out for the default, accuracy"),
    ("seed: [1, 2]", "`seed` takes one value, found '1', '2'", "leave it out for the default, 42"),
    ("model_config: []", "`model_config` must be text, found no value", "leave it out for the default"),
    ("lr_scheduler_kwargs: {num_cycles: 2}", "`lr_scheduler_kwargs` holds a nested value; a config is flat",
     "a flag of several values takes a list, one that takes JSON takes it in quotes"),
    ("model_config: [[a=1]]", "`model_config` holds a nested value; a config is flat",
     "a flag of several values takes a list, one that takes JSON takes it in quotes"),
    ("clip_seconds: 0", "`clip_seconds` must be 0.001 or more, found 0.0", ""),
    ("learning_rate: -1e-5", "`learning_rate` must be above 0, found -1e-05", ""),
    ("learning_rate: nan", "`learning_rate` must be above 0, found nan", ""),
    ("num_train_epochs: inf", "`num_train_epochs` must be above 0, found inf", ""),
    ("per_device_train_batch_size: 0", "`per_device_train_batch_size` must be 1 or more, found 0", ""),
    ("warmup_steps: -1", "`warmup_steps` must be 0 or more, found -1.0", ""),
    ("test_fold: 11", "`test_fold` must be a fold from 1 to 10, a list of them, or all; found '11'",
     "for example 10, or 1,3,5"),
    ("test_fold: 1,,3", "`test_fold` must be a fold from 1 to 10, a list of them, or all; found '1,,3'",
     "for example 10, or 1,3,5"),
    ("model_config: [size]", "`model_config` takes KEY=VALUE, found 'size'", "for example hidden_size=256"),
    ("feature_extractor_config: =3", "`feature_extractor_config` takes KEY=VALUE, found '=3'",
     "for example n_mels=64"),
    ("head_from: [Bark]", "`head_from` takes KEY=VALUE, found 'Bark'", "for example dog_bark=Bark"),
    ("ema_decay: 1", "`ema_decay` must be 0 to below 1, found 1.0", ""),
    ("mixup_alpha: -0.1", "`mixup_alpha` must be 0 or more, found -0.1", ""),
    ("spec_augment: 1.5", "`spec_augment` must be 0 to 1, found 1.5", ""),
    ("unfreeze_last_n: 2", "`unfreeze_last_n` needs `freeze: backbone`, found `freeze: feature_encoder`",
     "leave it out, the layers are trained anyway"),
    ("save_strategy: steps",
     "`load_best_model_at_end` needs a checkpoint of every evaluation, found `eval_strategy: epoch` and"
     " `save_strategy: steps`", "save_strategy: epoch, or load_best_model_at_end: false"),
    ("eval_strategy: no",
     "`load_best_model_at_end: True` needs validation scores, found `eval_strategy: no`",
     "`validation: none` turns off both"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "what", "fix"), IN_FILE, ids=[line for line, *_ in IN_FILE])
def test_mistake_in_a_file_names_its_line(folder, line, what, fix):
    assert mistakes(folder, f"# a comment\nfull_determinism: true\n{line}\n") == [(what, "run.yaml:3", fix)]


@pytest.mark.parametrize(
    "line",
    [
        "learning_rate: 3e-5", "learning_rate:", "learning-rate: 1e-5", "remove_unused_columns: true", "seed: 1_000",
        "bf16: no", "split: official", "split: 'grouped'", "freeze: none", "model_config: [a=1, 'b=[1]']",
        "model_config:\n  - conv_dim=[1,2]", "model_config: a=", "clip_seconds: 0.1", "warmup_steps: 0",
        "lr_scheduler_kwargs: '{\"num_cycles\": 2}'", "test_fold: [1, 10]", "test_fold: all", "save_strategy: best",
        "unfreeze_last_n: 0", "unfreeze_last_n: 2\nfreeze: backbone", "early_stopping_patience: 1",
        "eval_strategy: no\nload_best_model_at_end: false", "save_strategy: steps\nload_best_model_at_end: no",
        "max_steps: -1", "report_to: none", "",
    ],
)  # fmt: skip
def test_the_nearest_legal_case_passes(folder, line):
    parse(folder, line)


ON_COMMAND_LINE = [
    (["--lerning_rate", "1"], "there is no flag `lerning_rate`", "--lerning_rate", "did you mean --learning_rate?"),
    (["--seed"], "`seed` must be a whole number, found no value", "--seed", "leave it out for the default, 42"),
    (["--seed=x"], "`seed` must be a whole number, found 'x'", "--seed", "leave it out for the default, 42"),
    (["--seed", "1", "2"], "`seed` takes one value, found '1', '2'", "--seed", "leave it out for the default, 42"),
    (["--overwrite", "-x"], "`overwrite` must be true or false, found '-x'", "--overwrite",
     "leave it out for the default, False"),
    (["--no_remove_unused_columns"], "there is no flag `no_remove_unused_columns`", "--no_remove_unused_columns",
     "did you mean --remove_unused_columns?"),
    (["--no_load_best_model_at_end", "1"], "`no_load_best_model_at_end` takes no value, found '1'",
     "--no_load_best_model_at_end", ""),
    (["--clip_seconds", "-1"], "`clip_seconds` must be 0.001 or more, found -1.0", "--clip_seconds", ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "what", "flag", "fix"), ON_COMMAND_LINE, ids=[argv[0] for argv, *_ in ON_COMMAND_LINE]
)
def test_mistake_on_the_command_line_names_its_flag(folder, argv, what, flag, fix):
    assert mistakes(folder, "", *argv) == [(what, f"command line, {flag}", fix)]


@pytest.mark.parametrize(
    "argv",
    [["--learning-rate", "1"], ["--seed=3"], ["--overwrite"], ["--overwrite", "no"], ["--no_load_best_model_at_end"],
     ["--model_config", "a=1", "b=2"], ["--test_fold", "1", "3"], ["--seed", "1", "--seed", "2"], ["--bf16"]],
)  # fmt: skip
def test_the_nearest_legal_command_line_passes(folder, argv):
    parse(folder, "", *argv)


def test_a_word_that_belongs_to_nothing(folder):
    with pytest.raises(UserErrors) as caught:
        parse_run_config(["train"], folder / "run.yaml")
    second, first = caught.value.problems
    assert (first.what, first.where) == ("'train' is neither a config nor a flag", "command line")
    assert first.fix == "a config ends in .yaml, a flag begins with --"
    assert second.what == "the config does not exist or cannot be read"


FILES = [
    ("- seed\n", "the config does not consist of `flag: value` lines", "run.yaml:1", ""),
    ("seed: 1\nsplit: [\n", "the config is not YAML: expected the node content, but found '<stream end>'", "run.yaml:3",
     "one `flag: value` a line"),
    ("seed: 1\nseed: 1\n", "`seed` is given twice", "run.yaml:2", "keep one of the lines 1 and 2"),
    ("run_name: a\nseed: 3\nrun-name: b\n", "`run-name` is given twice", "run.yaml:3", "keep one of the lines 1 and 3"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "what", "where", "fix"), FILES)
def test_a_file_that_is_no_config(folder, text, what, where, fix):
    assert mistakes(folder, text) == [(what, where, fix)]


def test_bytes_that_are_no_text(folder):
    (folder / "run.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserErrors, match="the config is not YAML: 'utf-8' codec can't decode byte 0xff"):
        parse_run_config(["run.yaml"], folder / "absent.yaml")


def test_a_missing_config_is_told_with_its_neighbour(folder):
    (folder / "wav2vec2.yaml").touch()
    with pytest.raises(UserErrors) as caught:
        parse_run_config(["wave2vec2.yaml"], folder / "absent.yaml")
    (problem,) = caught.value.problems
    assert (problem.where, problem.fix) == ("wave2vec2.yaml", "did you mean wav2vec2.yaml?")


def test_conflicts_name_every_place(folder):
    text = "validation: none\nfp16: true\nearly_stopping_patience: 3\nsave_strategy: best\n"
    fix = "leave out {} or validation"
    assert mistakes(folder, text, "--bf16", "--eval_on_start") == [
        ("`fp16` and `bf16` exclude each other, found both", "run.yaml:2 and command line, --bf16",
         "keep bf16 if the GPU supports it"),
        ("`early_stopping_patience: 3` needs validation scores, found `validation: none`", "run.yaml:3 and run.yaml:1",
         fix.format("early_stopping_patience")),
        ("`eval_on_start: True` needs validation scores, found `validation: none`",
         "command line, --eval_on_start and run.yaml:1", fix.format("eval_on_start")),
        ("`save_strategy: best` needs validation scores, found `validation: none`", "run.yaml:4 and run.yaml:1",
         fix.format("save_strategy")),
    ]  # fmt: skip


def test_all_mistakes_at_once_in_the_order_of_the_file(folder, capsys):
    text = "sead: 1\nsplit: x\nsplit: random\nseed: [[1]]\nclip_seconds: -4\n"
    assert exit_code(lambda: parse(folder, text, "--freeze", "all", "--num_train_epochs", "0")) == 2
    told = [line.split("where: ")[1] for line in capsys.readouterr().err.splitlines() if "where: " in line]
    lines = [f"run.yaml:{line}" for line in (1, 2, 3, 4)]
    assert told == [*lines, "command line, --freeze", "run.yaml:5", "command line, --num_train_epochs"]


@pytest.mark.parametrize(
    ("argv", "where", "message"),
    [
        (["--lr_scheduler_type", "reduce_lr_on_plateau", "--validation", "none"], "command line, --lr_scheduler_type",
         "lr_scheduler_type reduce_lr_on_plateau requires an eval strategy"),
        (["--deepspeed", "absent.json"], "command line, --deepspeed", ""),
        (["--lr_scheduler_kwargs", "{x}"], "run.yaml", "Expecting property name"),
        (["--report_to", "smoke_signals"], "command line, --report_to",
         "`report_to` names what is not installed here: smoke_signals; what is: none"),
    ],
)  # fmt: skip
def test_what_training_arguments_refuse_is_a_user_error_too(folder, argv, where, message):
    ((what, place, _),) = mistakes(folder, "", *argv)
    assert what.startswith(message) and place == where


def test_folds_need_a_test_fold_and_a_config_does_not_choose_it_for_another_split(folder, capsys):
    ((what, where, _),) = mistakes(folder, "", "--folds", "4")
    assert what == "`folds` belongs to `test_fold`, found it alone" and where == "command line, --folds"
    assert parse(folder, "test_fold: 10\n", "--split", "random").data.test_fold is None
    assert "left out, as --split random does not use it: test_fold" in capsys.readouterr().err
    assert parse(folder, "split: random\n", "--test_fold", "3", "--folds", "4").data.test_fold == "3"


# ---- every number has a range, every text ends in a config or in an error


def test_every_number_of_the_schema_has_a_range():
    numbers = {action.dest for action in flag_parser()._actions if action.type in (int, float)}
    assert numbers == set(RANGES)


@pytest.mark.parametrize("name", RANGES)
def test_both_ends_of_a_range_are_checked(name):
    low, high, above, below = RANGES[name]
    beyond = [low - 1, 2 * high + 1, high * 1e30 + 1e30, *[low] * above, *[high] * below, float("nan"), float("inf")]
    assert all(RANGES[name].rule(value) for value in beyond)
    assert not RANGES[name].rule((low + min(high, low + 2)) / 2)
    assert [f"`{name}` must be" in what for _, what, _ in ranges({name: beyond[0]})] == [True]


NUMBERS = ("1e20", "1e300", "-1", "nan", "9" * 30, "9" * 5000, "4294967296", "1e-320")
ODD = st.one_of(st.sampled_from([*NUMBERS, "", "[" * 20_000, "[1]", '{"a": 1}', "{", "a=b", "\x00", "1,2"]), st.text())
FLAGS = sorted({action.dest for action in flag_parser()._actions} - {"help", "output_dir"})


@settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(FLAGS), ODD)
def test_any_value_of_any_flag_is_a_config_or_an_error(folder, name, value):
    with suppress(UserError):
        parse(folder, "use_cpu: true\nbf16: false\n", f"--{name}={value}")


DEEP = ["seed: " + "[" * 20_000, "\n".join(" " * i + "a:" for i in range(3000)), "test_fold: " + "1" * 30]


@pytest.mark.parametrize("text", DEEP)
def test_a_deep_or_endless_value_is_an_error(folder, text):
    with pytest.raises(UserError):
        parse(folder, text)
