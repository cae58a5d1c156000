"""Checks of flag values beyond their types: ranges, formats, and values that exclude each other."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple

from urbansound_hf.augment.chain import parse_effects
from urbansound_hf.config.flags import OVERRIDES
from urbansound_hf.data.splits import fold_numbers, several_folds
from urbansound_hf.errors import UserError, UserErrors
from urbansound_hf.text import shortened

TEN_FOLDS = frozenset(range(1, 11))  # of UrbanSound8K and the synthetic set


class Range(NamedTuple):
    """The values that a number may have; `above`, `below`: its low, its high end is not among them."""

    low: float
    high: float
    above: bool = False
    below: bool = False

    def rule(self, value: float) -> str:
        """What the value breaks; "" if it is in the range, as NaN never is."""
        if self.low < value < self.high or (value, self.above) == (self.low, False):
            return ""
        if (value, self.below) == (self.high, False):
            return ""
        if self.high <= 1:
            return f"{self.low:g} to {'below ' if self.below else ''}{self.high:g}"
        if value > self.high and math.isfinite(value):
            return f"at most {self.high:,.0f}"
        return f"above {self.low:g}" if self.above else f"{self.low:g} or more"


def _ranges(names: str, *values: Any) -> dict[str, Range]:
    return dict.fromkeys(names.split(), Range(*values))


RANGES = {
    **_ranges("learning_rate head_learning_rate", 0, 1e38, True),
    **_ranges("num_train_epochs logging_steps save_steps", 0, 10**7, True),
    **_ranges("max_steps", -1, 10**9),  # -1: as many as the epochs have
    **_ranges("warmup_steps eval_steps eval_delay", 0, 10**7),
    **_ranges("layer_decay", 0, 10, True),
    **_ranges("clip_seconds", 1e-3, 600),
    **_ranges("max_seconds", 1e-3, 10**7),
    **_ranges("min_rate", 1, 10**6),
    **_ranges("train_batch_size per_device_train_batch_size per_device_eval_batch_size", 1, 10**6),
    **_ranges("gradient_accumulation_steps eval_accumulation_steps torch_empty_cache_steps", 1, 10**6),
    **_ranges("save_total_limit early_stopping_patience search", 1, 10**6),
    **_ranges("preprocessing_num_workers dataloader_prefetch_factor", 1, 1024),
    **_ranges("dataloader_num_workers", 0, 1024),
    **_ranges("shuffle_buffer", 0, 10**7),
    **_ranges("folds", 2, 1000),
    **_ranges("lora_rank", 1, 65536),
    **_ranges("probe_layers", 0, 1000),
    **_ranges("probe_penalty", 0, 1e6, True),
    **_ranges("unfreeze_last_n test_time_shifts mixup_alpha cutmix_alpha focal_gamma weight_decay", 0, 1000),
    **_ranges("max_grad_norm neftune_noise_alpha", 0, 10**9),
    **_ranges("spec_augment frequency_mask time_mask mix_probability adam_epsilon", 0, 1),
    **_ranges("ema_decay label_smoothing_factor adam_beta1 adam_beta2", 0, 1, False, True),
    **_ranges("seed data_seed", 0, 2**32 - 1),  # numpy's
    **_ranges("ddp_bucket_cap_mb ddp_timeout", 1, 10**7),
    **_ranges("local_rank", -1, 10**6),
}
"""The range of every number among the flags; a test fails for one without."""


ALL_BATCHES = "scores of clips are computed from the windows of all batches"
UNSUPPORTED = {
    "batch_eval_metrics": ALL_BATCHES, "eval_do_concat_batches": ALL_BATCHES,
    "eval_use_gather_object": "scores and labels are tensors",
    "include_for_metrics": "the metrics are computed from scores and labels",
    "neftune_noise_alpha": "it adds noise to the embeddings of text",
    "use_liger_kernel": "it replaces layers of language models",
}  # fmt: skip
"""Flags of `TrainingArguments` that must keep their default, and why."""
WITH_WORKERS = ("dataloader_persistent_workers", "dataloader_prefetch_factor", "dataloader_multiprocessing_context")
DISTRIBUTED = ("fsdp", "ddp_backend")


USED_BY = {
    "data_dir": ("urbansound8k",), "download": ("urbansound8k",), "allow_missing_files": ("urbansound8k", "folder"),
    "dataset_config": ("stored",), "dataset_revision": ("stored",),
    "dataset_variant": ("folder",), "annotations": ("folder",), "background_class": ("folder",),
    "audio_column": ("folder", "stored"), "label_column": ("folder", "stored"),
}  # fmt: skip
"""Flags that only some kinds of data sets use, and those kinds (see `kind_of_dataset`)."""
KINDS = {"urbansound8k": "UrbanSound8K", "folder": "a folder of sounds", "stored": "a Hub id or stored data"}


def unused_by_dataset(settings: Mapping[str, Any], origin: Mapping[str, str]) -> list[str]:
    """The flags that were given and that the chosen data set does not use."""
    given = [name for name in USED_BY if name in origin and settings[name]]
    if not given:
        return []
    from urbansound_hf.data.loading import kind_of_dataset  # heavy, and not needed without such a flag

    kind = kind_of_dataset(settings["dataset"])
    named = settings["dataset"] == "urbansound8k"  # a folder of UrbanSound8K is its own data_dir
    return [name for name in given if kind not in USED_BY[name] or (name in ("data_dir", "download") and not named)]


def check_settings(settings: Mapping[str, Any], origin: Mapping[str, str]) -> list[UserError]:
    """One error for each rule that is broken by the values of all flags; `origin`: the places of those given."""
    broken = [*ranges(settings), *forms(settings), *conflicts(settings), *misplaced(settings, origin)]
    problems = [
        UserError(what, " and ".join(origin[name] for name in names if name in origin), fix)
        for names, what, fix in broken
    ]
    try:
        parse_effects(settings["augment"] or [])
    except UserErrors as errors:
        problems += [UserError(error.what, origin.get("augment", ""), error.fix) for error in errors.problems]
    return problems


Broken = Iterator[tuple[list[str], str, str]]
"""For each broken rule: its flags, the rule with the value found, and the fix."""


def ranges(settings: Mapping[str, Any]) -> Broken:
    """Numbers outside their range; NaN and infinity always are."""
    for name in (name for name in settings if name in RANGES and settings[name] is not None):
        values = settings[name] if isinstance(settings[name], list) else [settings[name]]
        if rule := next(filter(None, map(RANGES[name].rule, values)), None):
            yield [name], f"`{name}` must be {rule}, found {shortened(str(settings[name]), 60)}", ""


def forms(settings: Mapping[str, Any]) -> Broken:
    """Texts that do not have the format of their flag."""
    named = settings["dataset"] in ("urbansound8k", "synthetic")  # other data sets number their folds as they like
    tenfold = named and settings["split"] in ("auto", "official")
    numbers = fold_numbers(settings["test_fold"] or "1")
    if settings["test_fold"] != "all" and not (numbers and (not tenfold or TEN_FOLDS.issuperset(numbers))):
        rule = f"`test_fold` must be a fold{' from 1 to 10' * tenfold}, a list of them, or all"
        yield ["test_fold"], f"{rule}; found {shortened(repr(settings['test_fold']), 60)}", "for example 10, or 1,3,5"
    pairs = {"model_config": "hidden_size=256", "feature_extractor_config": "n_mels=64", "head_from": "dog_bark=Bark"}
    for name, example in pairs.items():
        for pair in settings[name] or []:
            if not re.fullmatch(r"\w+=.*", pair, re.DOTALL):
                yield [name], f"`{name}` takes KEY=VALUE, found {pair!r}", f"for example {example}"


# fmt: off
CONFLICTS: tuple[tuple[str, Callable[[Mapping[str, Any]], Any], str, str], ...] = (
    ("unfreeze_last_n freeze", lambda s: s["unfreeze_last_n"] > 0 and s["freeze"] != "backbone",
     "`unfreeze_last_n` needs `freeze: backbone`, found `freeze: {freeze}`",
     "leave it out, the layers are trained anyway"),
    ("lora_rank freeze", lambda s: s["lora_rank"] is not None and s["freeze"] == "backbone",
     "`lora_rank` trains low-rank updates of the backbone, found `freeze: backbone`",
     "leave out one of the two; LoRA freezes the backbone weights anyway"),
    ("lora_rank", lambda s: s["lora_rank"] is not None and not find_spec("peft"),
     "`lora_rank` needs peft, which is not installed", "pip install 'urbansound-hf[lora]', or pip install peft"),
    ("class_weights balanced_sampling", lambda s: s["class_weights"] and s["balanced_sampling"],
     "`class_weights` and `balanced_sampling` both correct class imbalance, found both", "keep one of the two"),
    ("ema_decay fsdp", lambda s: s["ema_decay"] and s["fsdp"],
     "`ema_decay` needs unsharded weights, found `fsdp: {fsdp}`", "leave out one of the two"),
    ("calibrate validation", lambda s: s["calibrate"] and s["validation"] == "none",
     "`calibrate` fits a temperature on validation clips, found `validation: none`", "leave out one of the two"),
    ("calibrate fsdp deepspeed", lambda s: s["calibrate"] and (s["fsdp"] or s["deepspeed"]),
     "`calibrate` needs unsharded weights, found `fsdp: {fsdp}`, `deepspeed: {deepspeed}`", "leave out one of the two"),
    ("fp16 bf16", lambda s: s["fp16"] and s["bf16"],
     "`fp16` and `bf16` exclude each other, found both", "keep bf16 if the GPU supports it"),
    ("push_to_hub", lambda s: s["push_to_hub"] and not s["hub_model_id"],
     "`push_to_hub` needs `hub_model_id`, found none", "add --hub_model_id owner/name"),
    ("hub_strategy", lambda s: s["push_to_hub"] and s["hub_strategy"] == "checkpoint",
     "`hub_strategy: checkpoint` pushes the optimizer's state, which is never uploaded",
     "use every_save, all_checkpoints or end; a run continues from its local folder"),
    ("search", lambda s: s["search"] and not s["search_space"],
     "`search` needs `search_space`, found none",
     "for example --search_space 'learning_rate=1e-5..1e-3 log' 'mixup_alpha=0|0.2'"),
    ("search validation", lambda s: s["search"] and s["validation"] == "none",
     "`search` compares scores of validation clips, found `validation: none`",
     "leave out validation for the search; the run with the best values may use it"),
    ("search eval_strategy", lambda s: s["search"] and s["validation"] != "none" and s["eval_strategy"] == "no",
     "`search` compares scores of validation clips, found `eval_strategy: {eval_strategy}`",
     "leave out eval_strategy for the search; the run with the best values may use it"),
    ("search test_fold", lambda s: s["search"] and several_folds(s["test_fold"]),
     "`search` needs a single test fold, found `test_fold: {test_fold}`",
     "give one, such as 10; to search for several folds, give each its own --output_dir"),
    ("search", lambda s: s["search"] and not find_spec("optuna"),
     "`search` needs Optuna, which is not installed", "pip install 'urbansound-hf[search]', or pip install optuna"),
    ("debug", lambda s: "tpu_metrics_debug" in str(s["debug"]) and not find_spec("torch_xla"),
     "`debug: tpu_metrics_debug` needs a TPU and torch_xla", "leave it out"),
    ("deepspeed", lambda s: s["deepspeed"] and not find_spec("deepspeed"),
     "`deepspeed` needs DeepSpeed, which is not installed", "pip install deepspeed"),
)
# fmt: on
"""Values that are valid alone but not together or not here: the flags, when it is so, what is wrong, and the fix."""


STREAMED = ("balanced_sampling", "mixup_alpha", "cutmix_alpha", "probe_first", "cache_frozen", "search")
"""What needs random access to the clips, or computes something of all of them first."""


def conflicts(settings: Mapping[str, Any]) -> Broken:
    """The rules of `CONFLICTS` that are broken, and those on validation scores."""
    for names, is_broken, what, fix in CONFLICTS:
        if is_broken(settings):
            yield names.split(), what.format(**settings), fix
    for name in STREAMED if settings["streaming"] else ():
        if settings[name] not in (None, 0, "auto", "false"):  # False is 0
            what = f"`{name}` needs random access to all clips, found `{name}: {settings[name]}` and `streaming`"
            yield [name, "streaming"], what, f"leave out one of the two ({name}: 0 or false in a config)"
    evaluated, saved, best = (settings[name] for name in ("eval_strategy", "save_strategy", "load_best_model_at_end"))
    without = "validation" if settings["validation"] == "none" else "eval_strategy"
    if settings[without] in ("none", "no"):
        asks = {
            "early_stopping_patience": settings["early_stopping_patience"] is not None,
            "eval_on_start": settings["eval_on_start"],
            "save_strategy": saved == "best",
            "load_best_model_at_end": best and without == "eval_strategy",  # `validation: none` turns it off
        }
        for name in (name for name in asks if asks[name]):
            what = f"`{name}: {settings[name]}` needs validation scores, found `{without}: {settings[without]}`"
            fix = f"leave out {name} or {without}" if without == "validation" else "`validation: none` turns off both"
            yield [name, without], what, fix
    elif best and saved not in (evaluated, "best"):
        found = f"`eval_strategy: {evaluated}` and `save_strategy: {saved}`"
        what = f"`load_best_model_at_end` needs a checkpoint of every evaluation, found {found}"
        flags = ["load_best_model_at_end", "eval_strategy", "save_strategy"]
        yield flags, what, f"save_strategy: {evaluated}, or load_best_model_at_end: false"


def misplaced(settings: Mapping[str, Any], origin: Mapping[str, str]) -> Broken:
    """Flags that do not apply to audio classification, lack what they need, or have no effect with the others."""
    for name in (name for name in UNSUPPORTED if name in origin):
        value = settings[name]
        if value not in (None, [], False) if name != "eval_do_concat_batches" else value is False:
            what = f"`{name}` cannot be changed here: {UNSUPPORTED[name]}; found {value}"
            yield [name], what, "leave it out"
    for name in (name for name in WITH_WORKERS if settings[name] and not settings["dataloader_num_workers"]):
        what = f"`{name}` needs `dataloader_num_workers` above 0, found `{name}: {settings[name]}`"
        yield [name, "dataloader_num_workers"], what, f"add --dataloader_num_workers 2, or leave out {name}"
    for name in (name for name in DISTRIBUTED if settings[name] and int(os.environ.get("WORLD_SIZE", "1")) == 1):
        what = f"`{name}` needs several processes, found one and `{name}: {settings[name]}`"
        yield [name], what, "start the training with accelerate launch, or leave it out"

    if settings["folds"] and not settings["test_fold"]:
        yield ["folds"], "`folds` belongs to `test_fold`, found it alone", "add --test_fold all"
    for name in unused_by_dataset(settings, origin):
        kinds = " or ".join(KINDS[kind] for kind in USED_BY[name])
        what = f"`{name}` belongs to {kinds} as `dataset`, found `dataset: {settings['dataset']}`"
        yield [name, "dataset"], what, f"leave out {name}"
    if origin.get("train_batch_size", "").startswith(OVERRIDES) and settings["train_batch_size"] is None:
        names = [name for name in ("per_device_train_batch_size", "gradient_accumulation_steps") if name in origin]
        what = f"`train_batch_size` has no effect beside {' and '.join(f'`{name}`' for name in names)}"
        yield ["train_batch_size", *names], what, "leave out one of them"
    if origin.get("hub_model_id", "").startswith(OVERRIDES) and not settings["push_to_hub"]:
        yield ["hub_model_id"], "`hub_model_id` belongs to `push_to_hub`, found it alone", "add --push_to_hub"
