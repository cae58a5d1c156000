"""How a run came about, as its receipt (run.json) tells it, without a path of the machine it ran on."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from urbansound_hf.receipts import INCIDENTAL

CORE_WATTS, GPU_WATTS = 10, 300
"""Assumed, as nobody measured: a server's core under load, and a GPU between a workstation's and the largest."""

WORKED_OUT = frozenset({
    "accelerator_config", "greater_is_better", "do_train", "do_eval", "do_predict", "hub_strategy", "hub_always_push",
    "include_num_input_tokens_seen",
})  # fmt: skip
"""Values of `TrainingArguments` that follow from the others, or from nothing that was asked for."""
CHOICE = frozenset({"eval_strategy", "load_best_model_at_end", "metric_for_best_model"})  # of a checkpoint


def base_model(config: Mapping[str, Any]) -> str | None:
    """The Hub id of the model that training started from; None for random weights and for a local folder.

    The run's files do not say which one a name such as `models/yamnet` is: it is a folder where it is one here.
    """
    name = config["model_name_or_path"]
    return name if _is_hub_id(name) and not Path(name).is_dir() else None


def from_scratch(config: Mapping[str, Any]) -> bool:
    """Whether training started from random weights."""
    from urbansound_hf import models  # torch, which reading a report does without
    from urbansound_hf.config import ModelArguments

    models.register()
    return models.starts_from_config(ModelArguments(model_name_or_path=config["model_name_or_path"]))


def hub_dataset(receipt: Mapping[str, Any]) -> str | None:
    """The Hub id of the data; of a local folder, the receipt's name is the folder's alone."""
    name = receipt["data"]["name"]
    return name if name == receipt["config"]["dataset"] and _is_hub_id(name) else None


def _is_hub_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


def command(receipt: Mapping[str, Any], output_dir: str) -> str:
    """What repeats the run: every flag that matters and differs from its default, a line each.

    MODEL_FOLDER and DATA_FOLDER stand for folders of the machine that it ran on.
    """
    config = dict(receipt["config"])
    if not (base_model(config) or from_scratch(config)):
        config["model_name_or_path"] = "MODEL_FOLDER"
    if config["dataset"] not in ("urbansound8k", "synthetic") and not hub_dataset(receipt):
        config["dataset"] = "DATA_FOLDER"
    processes = receipt["processes"]
    start = f"accelerate launch --num_processes {processes} train.py" if processes > 1 else "python train.py"
    flags = {**changed(config), "output_dir": output_dir}
    return " \\\n  ".join([start, *(shlex.join([f"--{name}", *_words(name, flags[name])]) for name in flags)])


def changed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that decide what is learned and tested, where they differ from their defaults."""
    from urbansound_hf.config import SCHEMA  # torch, as above
    from urbansound_hf.flags import FlagParser

    defaults = vars(FlagParser(SCHEMA).parse_args([]))
    silent = (INCIDENTAL | WORKED_OUT | (CHOICE if config["validation"] == "none" else set())) - {
        "dataset",
        "test_fold",
    }
    return {
        name: value
        for name, value in config.items()
        if name not in silent and value != (default := defaults.get(name))
        if value or default or name == "bf16"  # off is off, but for bf16: absent, the hardware decides
    }


def _words(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [str(value).lower()]
    texts = map(str, value if isinstance(value, list) else [value])
    return [name.upper() if Path(text).expanduser().is_absolute() else text for text in texts]


def recipe(receipt: Mapping[str, Any]) -> str:
    """The few numbers that people ask for first, in a line."""
    config = receipt["config"]
    devices = max(receipt["processes"], len(_gpus(receipt)))  # a single process shares its batches among all GPUs
    each, steps = config["per_device_train_batch_size"] * devices, config["gradient_accumulation_steps"]
    length = f"{config['max_steps']:,} updates" if config["max_steps"] > 0 else f"{config['num_train_epochs']:g} epochs"
    batch = f"{each * steps} clips of {config['clip_seconds']:g} s an update"
    return f"{length}, {batch}, learning rate {config['learning_rate']:g}, seed {config['seed']}"


def hardware(receipt: Mapping[str, Any]) -> str:
    """What it ran on: "2 cores (Intel …)", or "2 GPUs (NVIDIA …)"."""
    gpus, machine = _gpus(receipt), receipt["environment"]["hardware"]
    if gpus:
        return f"{_count(len(gpus), 'GPU')} ({', '.join(dict.fromkeys(gpus))})"
    return f"{_count(machine['cores'] or 1, 'CPU core')} ({machine['cpu']})"


def energy(receipt: Mapping[str, Any], train_seconds: float) -> str:
    """An estimate of the energy that training took, with what was assumed for it."""
    gpus = _gpus(receipt)
    count, watts, part = len(gpus), GPU_WATTS, "GPU"
    if not gpus:
        count, watts, part = receipt["environment"]["hardware"]["cores"] or 1, CORE_WATTS, "core"
    watt_hours = float(f"{train_seconds * count * watts / 3600:.2g}")
    return f"about {watt_hours:,g} Wh, an estimate that assumes {watts} W for each {part} and nothing for the rest"


def _gpus(receipt: Mapping[str, Any]) -> Sequence[str]:
    return [] if receipt["config"]["use_cpu"] else receipt["gpus"]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
