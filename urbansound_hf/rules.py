"""What a run's values must satisfy beyond their types: ranges, forms, and what excludes what."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from urbansound_hf.errors import UserError

ALL_FOLDS = tuple(range(1, 11))

RANGES = {
    "clip_seconds": "above 0", "learning_rate": "above 0", "head_learning_rate": "above 0",
    "num_train_epochs": "above 0", "logging_steps": "above 0", "layer_decay": "above 0",
    "per_device_train_batch_size": "1 or more", "per_device_eval_batch_size": "1 or more",
    "gradient_accumulation_steps": "1 or more", "preprocessing_num_workers": "1 or more",
    "save_total_limit": "1 or more", "early_stopping_patience": "1 or more",
    "unfreeze_last_n": "0 or more", "warmup_steps": "0 or more", "weight_decay": "0 or more",
    "max_grad_norm": "0 or more", "dataloader_num_workers": "0 or more", "seed": "0 or more",
}  # fmt: skip
HOLDS = {
    "above 0": lambda value: value > 0,
    "1 or more": lambda value: value >= 1,
    "0 or more": lambda value: value >= 0,
}


def check(settings: Mapping[str, Any], origin: Mapping[str, str]) -> list[UserError]:
    """Every rule that the settings break.

    Args:
        settings: the value of every flag, given or default.
        origin: where the given ones were given.
    """
    broken = [*ranges(settings), *forms(settings), *conflicts(settings), *unused(settings, origin)]
    return [UserError(what, _places(names, origin), fix) for names, what, fix in broken]


Broken = Iterator[tuple[list[str], str, str]]
"""The flags concerned, the rule and what was found, the way out."""


def ranges(settings: Mapping[str, Any]) -> Broken:
    """Numbers out of their range; NaN and infinity are in none."""
    for name, rule in RANGES.items():
        value = settings[name]
        if value is not None and not (math.isfinite(value) and HOLDS[rule](value)):
            yield [name], f"`{name}` must be {rule}, found {value}", ""


def forms(settings: Mapping[str, Any]) -> Broken:
    """Texts that are not of the form their flag asks for."""
    tenfold = settings["dataset"] in ("urbansound8k", "synthetic")  # of other data, only they know their folds
    numbers = fold_numbers(settings["test_fold"])
    if settings["test_fold"] != "all" and not (numbers and (not tenfold or set(numbers) <= set(ALL_FOLDS))):
        rule = f"`test_fold` must be a fold{' from 1 to 10' * tenfold}, a list of them, or all"
        yield ["test_fold"], f"{rule}; found {settings['test_fold']!r}", "for example 10, or 1,3,5"
    for name in ("model_config", "feature_extractor_config"):
        for pair in settings[name] or []:
            if not re.fullmatch(r"\w+=.*", pair, re.DOTALL):
                yield [name], f"`{name}` takes KEY=VALUE, found {pair!r}", "for example hidden_size=256"


def conflicts(settings: Mapping[str, Any]) -> Broken:
    """Values that are fine alone and not together."""
    if settings["unfreeze_last_n"] > 0 and settings["freeze"] != "backbone":
        what = f"`unfreeze_last_n` needs `freeze: backbone`, found `freeze: {settings['freeze']}`"
        yield ["unfreeze_last_n", "freeze"], what, "nothing of the layers is frozen otherwise: leave it out"
    if settings["fp16"] and settings["bf16"]:
        yield ["fp16", "bf16"], "`fp16` and `bf16` exclude each other, found both", "keep bf16 where the GPU has it"
    yield from _validation_conflicts(settings)


def unused(settings: Mapping[str, Any], origin: Mapping[str, str]) -> Broken:
    """Flags of the command line that the others leave without an effect."""
    if origin.get("test_fold", "").startswith("command line") and settings["split"] != "official":
        what = f"`test_fold` belongs to `split: official`, found `split: {settings['split']}`"
        yield ["test_fold", "split"], what, "leave out one of the two"


def _validation_conflicts(settings: Mapping[str, Any]) -> Broken:
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
        names = ["load_best_model_at_end", "eval_strategy", "save_strategy"]
        yield names, what, f"save_strategy: {evaluated}, or load_best_model_at_end: false"


def fold_numbers(text: str) -> list[int]:
    """`"5,1,5"` → `[1, 5]`; nothing where the text is not a list of whole numbers. Which are there, the data know."""
    items = [item.strip() for item in text.split(",")]
    valid = all(item.isdecimal() for item in items)
    return sorted({int(item) for item in items}) if valid else []


def _places(names: list[str], origin: Mapping[str, str]) -> str:
    return " and ".join(origin[name] for name in names if name in origin)
