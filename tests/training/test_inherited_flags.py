"""Every flag of TrainingArguments works in a run, or is refused before it; none ends in a traceback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames, SchedulerType

from tests.conftest import TINY
from tests.helpers.processes import exit_status, fork
from urbansound_hf.data.splits import Split
from urbansound_hf.errors import UserError
from urbansound_hf.training.experiment import check_model, check_optimizer
from urbansound_hf.training.run import configured_extractor, configured_model, train_and_evaluate

CLIPS = np.arange(100).reshape(10, 10)
SPLIT = Split("fold10", CLIPS[2:4].ravel()[:12], CLIPS[1][:5], CLIPS[9][:7], 10, 2, [3, 4])
JSON = "{}"
TOGETHER: dict[str, dict[str, object]] = {
    "optimisation": {
        "per_device_train_batch_size": 5, "num_train_epochs": 2, "max_steps": 3, "learning_rate": 1e-2,
        "lr_scheduler_type": "cosine", "lr_scheduler_kwargs": '{"num_cycles": 2}', "warmup_steps": 1,
        "optim_args": "a=1", "weight_decay": 0.1, "adam_beta1": 0.8, "adam_beta2": 0.9, "adam_epsilon": 1e-6,
        "optim_target_modules": "all-linear", "gradient_accumulation_steps": 2, "max_grad_norm": 0,
        "average_tokens_across_devices": "false", "label_smoothing_factor": 0.1, "torch_empty_cache_steps": 1,
    },
    "bf16": {
        "bf16": "true", "bf16_full_eval": "true", "gradient_checkpointing": "true",
        "gradient_checkpointing_kwargs": '{"use_reentrant": false}', "use_cache": "true", "optim": "adafactor",
    },
    "fp16": {
        "fp16": "true", "fp16_full_eval": "true", "activation_checkpointing": "true",
        "activation_checkpointing_kwargs": '{"use_reentrant": false}', "auto_find_batch_size": "true",
    },
    "compiled": {"torch_compile": "true", "torch_compile_backend": "eager", "torch_compile_mode": "default"},
    "logging": {
        "logging_strategy": "epoch", "logging_steps": 2, "logging_first_step": "true", "log_on_each_node": "false",
        "logging_nan_inf_filter": "true", "include_num_input_tokens_seen": "true", "log_level": "error",
        "log_level_replica": "error", "disable_tqdm": "false", "report_to": "tensorboard", "run_name": "name",
        "project": "name", "trackio_space_id": "a/b", "trackio_bucket_id": "a/b", "trackio_static_space_id": "a/b",
    },
    "evaluation": {
        "eval_strategy": "epoch", "save_strategy": "epoch", "eval_delay": 1, "per_device_eval_batch_size": 3,
        "prediction_loss_only": "true", "eval_on_start": "true", "eval_accumulation_steps": 1,
        "metric_for_best_model": "loss", "greater_is_better": "false",
    },
    "checkpoints": {
        "eval_steps": 2, "save_steps": 2, "save_only_model": "true", "save_on_each_node": "true",
        "save_total_limit": 2, "enable_jit_checkpoint": "true", "load_best_model_at_end": "false",
        "ignore_data_skip": "true", "restore_callback_states_from_checkpoint": "false",
        "resume_from_checkpoint": "false",
    },
    "hub": {
        "push_to_hub": "true", "hub_model_id": "a/b", "hub_token": "hf_x", "hub_private_repo": "true",
        "hub_strategy": "end", "hub_always_push": "true", "hub_revision": "x",
    },
    "data": {
        "dataloader_drop_last": "true", "dataloader_pin_memory": "false", "dataloader_in_order": "false",
        "remove_unused_columns": "true", "label_names": "labels", "train_sampling_strategy": "group_by_length",
        "length_column_name": "seconds", "accelerator_config": '{"split_batches": true}', "data_seed": 3, "seed": 3,
    },
    "workers": {
        "dataloader_num_workers": 1, "dataloader_persistent_workers": "true", "dataloader_prefetch_factor": 1,
        "dataloader_multiprocessing_context": "fork",
    },
    "processes": {
        "ddp_find_unused_parameters": "true", "ddp_bucket_cap_mb": 10, "ddp_broadcast_buffers": "true",
        "ddp_static_graph": "true", "ddp_timeout": 10, "fsdp_config": '{"min_num_params": 1}', "local_rank": 0,
        "use_cpu": "true", "do_train": "true", "do_eval": "true", "do_predict": "true",
    },
    "debugging": {"debug": "underflow_overflow", "skip_memory_metrics": "false", "full_determinism": "true"},
}  # fmt: skip
"""Flags that go together, so that one training tries them all."""
REFUSED: dict[str, tuple[object, str]] = {
    "eval_do_concat_batches": ("false", "cannot be changed here: scores of clips"),
    "batch_eval_metrics": ("true", "cannot be changed here: scores of clips"),
    "include_for_metrics": ("inputs", "cannot be changed here: the metrics are computed from scores and labels"),
    "neftune_noise_alpha": (5, "cannot be changed here: it adds noise to the embeddings of text"),
    "use_liger_kernel": ("true", "cannot be changed here: it replaces layers of language models"),
    "liger_kernel_config": ('{"rope": false}', "cannot be given as text"),
    "parallelism_config": (JSON, "cannot be given as text"),
    "eval_use_gather_object": ("true", "cannot be changed here: scores and labels are tensors"),
    "tf32": ("true", "tf32 requires Ampere"),
    "ddp_backend": ("gloo", "needs several processes"),
    "fsdp": ("full_shard", "needs several processes"),
    "deepspeed": ('{"zero_optimization": {"stage": 0}}', "needs DeepSpeed, which is not installed"),
}  # fmt: skip
MORE_REFUSED = [
    ("--debug tpu_metrics_debug", "needs a TPU"), ("--include_for_metrics loss", "cannot be changed here"),
    ("--dataloader_persistent_workers", "needs `dataloader_num_workers` above 0"),
    ("--dataloader_prefetch_factor 2", "needs `dataloader_num_workers` above 0"),
    ("--dataloader_multiprocessing_context spawn", "needs `dataloader_num_workers` above 0"),
    ("--dataloader_drop_last --per_device_train_batch_size 999", "windows, batches of 999"),
    ('--lr_scheduler_kwargs {"num_cycles":2}', "the schedule linear cannot be made"),
    ("--gradient_checkpointing --freeze backbone", "a linear probe has no backward pass"),
    ("--activation_checkpointing --freeze backbone", "a linear probe has no backward pass"),
]  # fmt: skip
RUN = ["--clip_seconds", "0.5", "--per_device_train_batch_size", "4", "--max_steps", "2", "--eval_steps", "1",
       "--save_steps", "1"]  # fmt: skip
PLAIN = ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, sounds) -> Callable[[list[str]], dict]:
    """Parses flags, checks and runs the tiny model on a few clips; returns the content of metrics.json."""
    from urbansound_hf.config.parse import parse_run_config

    folder = tmp_path_factory.mktemp("flags")
    (folder / "tiny.yaml").write_text(TINY, encoding="utf-8")

    def train(flags: list[str]) -> dict:
        config = parse_run_config([*RUN, *flags], folder / "tiny.yaml")
        extractor, model = configured_extractor(config), configured_model(config, ["a", "b"])
        check_optimizer(config, model)
        check_model(config, model, extractor)
        return train_and_evaluate(config, sounds, SPLIT, Path(tempdir(folder)))

    return train


def tempdir(folder: Path) -> str:
    import tempfile

    return tempfile.mkdtemp(dir=folder)


def test_every_inherited_flag_is_in_one_of_the_tables():
    flags = {field.name for field in fields(TrainingArguments) if field.init} - {"output_dir"}
    working = [name for group in TOGETHER.values() for name in group]
    assert flags == {*working} | {*REFUSED} and len(working) + len(REFUSED) == len(flags)


@pytest.mark.parametrize("group", TOGETHER)
def test_flags_that_work(run, group):
    def train() -> None:
        metrics = run([word for name, value in TOGETHER[group].items() for word in (f"--{name}", str(value))])
        assert sum(map(sum, metrics["confusion_matrix"])) == len(SPLIT.test), "every test clip is counted"
        assert np.isfinite(metrics["test_loss"]) and metrics["checkpoint"] in ("best", "last")

    if group == "workers":  # PyTorch waits 15 s when it collects data loaders whose workers persist
        assert exit_status(fork(train)) == 0
    else:
        train()


@pytest.mark.parametrize("strategy", ["best", "no"])
def test_each_way_to_save(run, strategy):
    assert run(["--save_strategy", strategy, "--load_best_model_at_end", str(strategy == "best")])["test_loss"] > 0


@pytest.mark.parametrize("name", REFUSED)
def test_a_flag_that_is_refused(run, name):
    value, reason = REFUSED[name]
    with pytest.raises(UserError) as caught:
        run([f"--{name}", str(value)])
    assert reason in str(caught.value) and f"command line, --{name}" in str(caught.value)


@pytest.mark.parametrize(("flags", "reason"), MORE_REFUSED)
def test_values_that_are_refused(run, flags, reason):
    with pytest.raises(UserError) as caught:
        run(flags.split(" "))
    assert reason in str(caught.value)


@pytest.mark.parametrize("name", [each.value for each in OptimizerNames])
def test_every_optimizer_trains_or_names_its_package(run, name):
    try:
        assert run(["--optim", name, *PLAIN])["test_loss"] > 0
    except UserError as error:
        assert error.where == f"--optim {name}" and "install it, or use adamw_torch" in error.fix


@pytest.mark.parametrize("name", [each.value for each in SchedulerType])
def test_every_schedule_trains_or_names_what_it_needs(run, name):
    needs = {"cosine_with_min_lr": '{"min_lr": 1e-6}', "cosine_warmup_with_min_lr": '{"min_lr": 1e-6}',
             "warmup_stable_decay": '{"num_decay_steps": 1}'}  # fmt: skip
    if name in needs:
        with pytest.raises(UserError, match=f"the schedule {name} cannot be made"):
            run(["--lr_scheduler_type", name])
    flags = [] if name in ("reduce_lr_on_plateau", "greedy") else PLAIN  # those two look at the evaluations
    run(["--lr_scheduler_type", name, *flags, *(["--lr_scheduler_kwargs", needs[name]] if name in needs else [])])


def test_dropping_the_last_batch_drops_no_clip_of_the_evaluation(run):
    losses = []
    for size in ("3", "7", "16"):
        metrics = run(["--dataloader_drop_last", "--per_device_eval_batch_size", size])
        assert metrics["clips"]["test"] == sum(map(sum, metrics["confusion_matrix"])) == 7
        losses.append(metrics["test_loss"])
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


@pytest.mark.parametrize(
    "more", [[], ["--freeze", "backbone"], ["--ema_decay", "0.5"], ["--validation", "none"]], ids=str
)
def test_evaluation_in_half_precision(run, more):
    plain = run(more)["test_loss"]
    for flag in ["--bf16_full_eval", *(["--fp16_full_eval"] if not more else [])]:
        assert run([flag, *more])["test_loss"] == pytest.approx(plain, abs=0.05)
