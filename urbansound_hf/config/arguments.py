"""The schema of a run: every flag is a field below, with its default; help.yaml has the help texts."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
import yaml
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from transformers.utils import is_torch_tf32_available

from urbansound_hf.evaluation.metrics import ALL_METRICS


def flag(default: Any, **metadata: Any) -> Any:
    """A dataclass field; `metadata` goes to argparse."""
    return field(default=default, metadata=metadata)


@dataclass
class RecipeArguments:
    """Augmentation, loss, batch and weight averaging; validation and test clips are never changed."""

    _argument_group_name = "augmentation, loss and batch"
    augment: list[str] | None = None
    fill: Literal["auto", "repeat", "zeros", "reflect"] = "auto"
    spec_augment: float = 0.0
    frequency_mask: float = 0.2
    time_mask: float = 0.2
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    mix_probability: float = 1.0
    focal_gamma: float = 0.0
    train_batch_size: int | None = 32
    class_weights: bool = False
    balanced_sampling: bool = False
    ema_decay: float = 0.0
    test_time_shifts: int = 0

    @property
    def changes_inputs(self) -> bool:
        """Whether the model input of a training clip differs from epoch to epoch."""
        return bool(self.augment) or self.spec_augment > 0 or self.mixes

    @property
    def mixes(self) -> bool:
        """Whether clips are mixed with others, so that labels are soft."""
        return self.mix_probability > 0 and max(self.mixup_alpha, self.cutmix_alpha) > 0


BATCH_FLAGS = ("per_device_train_batch_size", "gradient_accumulation_steps")  # those that win over `train_batch_size`


@dataclass
class DataArguments:
    """The data set, how it is split, and the length of a clip."""

    _argument_group_name = "data"
    dataset: str = "urbansound8k"
    dataset_variant: str | None = None
    dataset_config: str | None = None
    dataset_revision: str | None = None
    audio_column: str | None = None
    label_column: str | None = None
    data_dir: str | None = None
    download: bool = False
    allow_missing_files: bool = False
    annotations: str | None = None
    background_class: str | None = None
    label_map: str | None = None
    streaming: bool = False
    shuffle_buffer: int = 1000
    split: Literal["auto", "official", "grouped", "random"] = "auto"
    test_fold: str | None = None
    folds: int | None = None
    validation: Literal["next_fold", "none"] = "next_fold"
    clip_seconds: float = 4.0
    max_seconds: float = 3600.0
    min_rate: int = 1000
    preprocessing_num_workers: int | None = None


@dataclass
class ModelArguments:
    """The pretrained model, and which part of it is trained at which learning rate."""

    _argument_group_name = "model"
    model_name_or_path: str = "facebook/wav2vec2-base"
    model_revision: str | None = None
    trust_remote_code: bool = False
    model_config: list[str] | None = None
    feature_extractor_config: list[str] | None = None
    freeze: Literal["none", "feature_encoder", "backbone"] = "feature_encoder"
    unfreeze_last_n: int = 0
    lora_rank: int | None = None
    weighted_layer_sum: bool = False
    head_from: list[str] | None = None
    probe_first: bool = False
    probe_penalty: float | None = None
    probe_pooling: list[str] | None = None
    probe_layers: list[int] | None = None
    head_learning_rate: float | None = None
    layer_decay: float = 1.0


@dataclass
class OwnRunArguments:
    """Flags of a run that `TrainingArguments` lacks."""

    overwrite: bool = False
    quiet: bool = False
    profile: bool = False
    cache_frozen: Literal["auto", "true", "false"] = "auto"
    keep_checkpoints: bool = False
    export_onnx: bool = False
    early_stopping_patience: int | None = None
    calibrate: bool = False
    search: int | None = None
    search_space: list[str] | None = None


@dataclass
class RunArguments(TrainingArguments, OwnRunArguments):
    """All of `transformers.TrainingArguments`, with this project's defaults; constructing it sets up the device."""

    _argument_group_name = "training (all of transformers.TrainingArguments)"
    output_dir: str | None = None
    learning_rate: float = 3e-5
    per_device_eval_batch_size: int = None  # type: ignore[assignment]  # None until the hardware was asked
    dataloader_num_workers: int = None  # type: ignore[assignment]
    num_train_epochs: float = 10.0
    gradient_accumulation_steps: int = 4
    warmup_steps: float = 0.1
    eval_strategy: IntervalStrategy | str = "epoch"
    save_strategy: SaveStrategy | str = "epoch"
    save_total_limit: int | None = 1
    load_best_model_at_end: bool = True
    metric_for_best_model: str = flag("accuracy", choices=ALL_METRICS.keys())
    logging_steps: float = 10
    restore_callback_states_from_checkpoint: bool = True
    logging_nan_inf_filter: bool = False  # it waits for the device at each step
    remove_unused_columns: bool = False
    bf16: bool | None = flag(None, nargs="?", const=True)  # type: ignore[assignment]  # None until the hardware was asked, as fp16
    fp16: bool | None = flag(None, nargs="?", const=True)  # type: ignore[assignment]
    tf32: bool | None = flag(None, nargs="?", const=True)
    resume_from_checkpoint: str | None = None
    push_to_hub: bool = False
    hub_model_id: str | None = None

    def __post_init__(self) -> None:
        asked_for_cpu = self.use_cpu or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")
        self.use_cpu = asked_for_cpu or not torch.accelerator.is_available()
        launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        self.bf16, self.fp16 = mixed_precision(self.bf16, self.fp16, self.use_cpu, launched)
        if self.per_device_eval_batch_size is None:
            self.per_device_eval_batch_size = 8 if self.use_cpu else 32
        self.chooses_workers = self.dataloader_num_workers is None  # the data loader does
        self.dataloader_num_workers = self.dataloader_num_workers or 0
        if isinstance(self.report_to, str):  # from the command line or a file
            self.report_to = [name.strip() for name in self.report_to.split(",")]
        if self.greater_is_better is None:
            self.greater_is_better = ALL_METRICS[str(self.metric_for_best_model)].greater_is_better
        super().__post_init__()
        self.accelerator_config.non_blocking = self.dataloader_pin_memory  # type: ignore[union-attr]
        from transformers.integrations import get_available_reporting_integrations  # takes seconds

        installed = get_available_reporting_integrations()  # Trainer would refuse others after the data was prepared
        if missing := sorted(set(self.report_to or []) - {*installed, "flyte"}):
            what = f"`report_to` names what is not installed here: {', '.join(missing)}"
            raise ValueError(f"{what}; what is: {', '.join(['none', *installed])}")


SCHEMA = (DataArguments, ModelArguments, RecipeArguments, RunArguments)
HELP = yaml.safe_load(Path(__file__).with_name("help.yaml").read_text(encoding="utf-8"))
for each in chain.from_iterable(map(fields, SCHEMA)):
    inherited = TrainingArguments.__dataclass_fields__.get(each.name)
    known = {"help": HELP[each.name]} if each.name in HELP or not inherited else inherited.metadata
    each.metadata = MappingProxyType({**known, **each.metadata})


def mixed_precision(bf16: bool | None, fp16: bool | None, on_cpu: bool, launched: str = "no") -> tuple[bool, bool]:
    """Whether to train in bfloat16, and whether in float16: the first in hardware, else the other on a CUDA GPU.

    What the user gave (None: nothing) wins; a given `bf16` leaves float16 off. The precision that Accelerate was
    launched with ("no": none) wins over the choice made here.
    """
    if bf16 is None:
        bf16 = not fp16 and launched in ("no", "bf16") and has_bf16(on_cpu)
        if fp16 is None:
            fp16 = not bf16 and launched == "no" and not on_cpu and torch.cuda.is_available()
    return bf16, bool(fp16)


def has_bf16(on_cpu: bool) -> bool:
    """Whether the hardware is faster in bfloat16; a GPU before Ampere only emulates it, which is slow.

    Of CPUs, those with AMX are. With avx512_bf16 alone, layers took 1.1 to 1.6 times as long as in float32.
    """
    if on_cpu:
        return torch.cpu._is_amx_tile_supported()
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def trains_in_tf32(arguments: TrainingArguments) -> bool:
    """Whether matrix products that stay float32 are computed in TF32: on GPUs that have it, unless refused."""
    return arguments.tf32 is not False and not arguments.use_cpu and is_torch_tf32_available()


@dataclass(frozen=True)
class RunConfig:
    """The resolved values of a run; `name` is the stem of the config file `source`.

    Only `training` and the command unpack it, and nothing writes into it.
    """

    data: DataArguments
    model: ModelArguments
    recipe: RecipeArguments
    training: RunArguments
    source: Path | None
    name: str
    command: tuple[str, ...] = field(default=(), compare=False)  # the call, for the receipt

    def as_dict(self) -> dict[str, Any]:
        """All values that are set, flat and JSON-able; as YAML a config of the same run. Tokens are left out."""
        flat = {**vars(self.data), **vars(self.model), **self.training.to_dict(), **vars(self.recipe)}
        unused = BATCH_FLAGS if self.recipe.train_batch_size else ()
        return {
            name: json.dumps(value) if isinstance(value, dict) else value
            for name, value in flat.items()
            if value not in (None, "", []) and not name.endswith("_token") and name not in unused
        }

    def with_values(self, values: Mapping[str, Any]) -> RunConfig:
        """The same run with other values of some flags, already checked."""
        if set(BATCH_FLAGS) & set(values):
            values = {"train_batch_size": None, **values}
        parts = {part: copy.copy(getattr(self, part)) for part in ("data", "model", "recipe", "training")}
        for part in parts.values():  # `dataclasses.replace` would set up the device again
            vars(part).update({name: values[name] for name in values if name in vars(part)})
        return replace(self, **parts)
