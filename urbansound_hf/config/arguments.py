"""The schema of a run: every flag is a field below, with its default and its help."""
# ruff: noqa: RUF009  (`flag` and `inherited` make dataclass fields)

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from transformers.utils import is_torch_tf32_available

from urbansound_hf.config.flags import flag
from urbansound_hf.evaluation.metrics import ALL_METRICS

Arguments = TypeVar("Arguments")


@dataclass
class RecipeArguments:
    """Augmentation, loss, batch and weight averaging; validation and test clips are never changed."""

    _argument_group_name = "augmentation, loss and batch"
    augment: list[str] | None = flag(
        None,
        "NAME[:PROBABILITY[:LOW..HIGH]] ... waveform effects, applied in this order (docs/augmentation.md); "
        "none: no effect",
    )
    fill: Literal["auto", "repeat", "zeros", "reflect"] = flag(
        "auto", "how a training clip shorter than the window is filled; auto: by the feature extractor, else repeat"
    )
    spec_augment: float = flag(
        0.0,
        "SpecAugment: probability of one frequency mask and one time mask per clip; wav2vec2-style models mask their "
        "hidden states instead",
    )
    frequency_mask: float = flag(0.2, "SpecAugment: maximum width of the frequency mask, as a fraction of the bands")
    time_mask: float = flag(0.2, "SpecAugment: maximum width of the time mask, as a fraction of the frames")
    mixup_alpha: float = flag(
        0.0, "mixup: mix two clips and their labels, weight drawn from Beta(alpha, alpha); 0 disables it"
    )
    cutmix_alpha: float = flag(
        0.0, "CutMix: replace a time span by another clip's, its length drawn from Beta(alpha, alpha); 0 disables it"
    )
    mix_probability: float = flag(1.0, "probability that mixup or CutMix is applied to a clip")
    focal_gamma: float = flag(0.0, "focal loss gamma; 0 disables it, higher values down-weight easy clips")
    train_batch_size: int | None = flag(
        32,
        "clips per update, of all processes and accumulation steps together; the largest batch that fits into memory "
        "is chosen. --per_device_train_batch_size and --gradient_accumulation_steps, where given, win",
    )
    class_weights: bool = flag(False, "weight the loss of each class inversely to its number of training clips")
    balanced_sampling: bool = flag(False, "sample training clips so that all classes are equally frequent")
    ema_decay: float = flag(
        0.0, "exponential moving average of the weights: decay per update; the average is saved; 0 disables it"
    )
    test_time_shifts: int = flag(0, "test-time augmentation: number of extra circular shifts; stored in the checkpoint")

    @property
    def changes_waveforms(self) -> bool:
        """Whether features must be extracted anew in each epoch."""
        return bool(self.augment)

    @property
    def changes_inputs(self) -> bool:
        """Whether the model input of a training clip differs from epoch to epoch."""
        return self.changes_waveforms or self.spec_augment > 0 or self.mixes

    @property
    def mixes(self) -> bool:
        """Whether clips are mixed with others, so that labels are soft."""
        return self.mix_probability > 0 and max(self.mixup_alpha, self.cutmix_alpha) > 0


BATCH_FLAGS = ("per_device_train_batch_size", "gradient_accumulation_steps")  # those that win over `train_batch_size`


def inherited(name: str, default: Any) -> Any:
    """A field of `TrainingArguments` with its own help and another default."""
    return field(default=default, metadata=TrainingArguments.__dataclass_fields__[name].metadata)


@dataclass
class DataArguments:
    """The data set, how it is split, and the length of a clip."""

    _argument_group_name = "data"
    dataset: str = flag(
        "urbansound8k", "urbansound8k, synthetic, a folder (classes as sub-folders, or metadata.csv), or a Hub id"
    )
    dataset_config: str | None = flag(None, "configuration name of a Hub data set")
    dataset_revision: str | None = flag(None, "branch, tag or commit of a Hub data set")
    audio_column: str | None = flag(None, "name of the audio column; absent: detected by type or name")
    label_column: str | None = flag(None, "name of the label column; absent: detected by type or name")
    data_dir: str | None = flag(
        None, "folder of UrbanSound8K; absent: data, where it is downloaded (6 GB) if it is missing"
    )
    download: bool = flag(False, "download UrbanSound8K to a data_dir that was given and does not hold it, too")
    allow_missing_files: bool = flag(False, "train without the clips of the metadata whose files are missing")
    annotations: str | None = flag(
        None, "label files of Audacity or Raven for the recordings of a folder; absent: those beside the recordings"
    )
    background_class: str | None = flag(
        None, "class of the stretches of recordings that no segment covers; absent: they are left out"
    )
    label_map: str | None = flag(None, "YAML file that renames and merges classes (old: new) or drops them (old: null)")
    split: Literal["auto", "official", "grouped", "random"] = flag(
        "auto",
        "official: the folds or parts of the data set; grouped: by recording; random: ignores recordings, so that "
        "training and test clips may share one (leaky); auto: the first of these that the data allow, and by file "
        "where they name no recordings",
    )
    test_fold: str | None = flag(
        None,
        "test fold; a list such as 1,3,5; or all for cross-validation; absent: the last one (10 in UrbanSound8K), or a "
        "single split of data without folds",
    )
    folds: int | None = flag(None, "how many folds test_fold makes of data that have none; absent: 5")
    validation: Literal["next_fold", "none"] = flag(
        "next_fold",
        "clips that select the checkpoint: next_fold: the fold after the test fold; none: train on that fold too and "
        "keep the last checkpoint",
    )
    clip_seconds: float = flag(4.0, "length of a training clip and of the inference window, in seconds")
    max_seconds: float = flag(3600.0, "refuse longer sounds, which are decoded as a whole")
    min_rate: int = flag(1000, "refuse sounds of a lower sampling rate, in Hz")
    preprocessing_num_workers: int | None = flag(
        None, "number of processes that decode audio and extract features; absent: one per CPU core"
    )


@dataclass
class ModelArguments:
    """The pretrained model, and which part of it is trained at which learning rate."""

    _argument_group_name = "model"
    model_name_or_path: str = flag(
        "facebook/wav2vec2-base", "Hub id or checkpoint folder; or a model type (wav2vec2, cnn) for random weights"
    )
    model_revision: str | None = flag(None, "branch, tag or commit of a Hub model")
    trust_remote_code: bool = flag(False, "run the model code that comes with a Hub model")
    model_config: list[str] | None = flag(None, "KEY=VALUE ... overrides of the model config")
    feature_extractor_config: list[str] | None = flag(None, "KEY=VALUE ... overrides of the feature extractor config")
    freeze: Literal["none", "feature_encoder", "backbone"] = flag(
        "feature_encoder",
        "which part is frozen: nothing, the convolutional feature encoder, or everything but the head",
    )
    unfreeze_last_n: int = flag(0, "with --freeze backbone: number of last layers that are trained as well")
    lora_rank: int | None = flag(
        None, "LoRA: train the head and low-rank updates of the frozen backbone; merged into it after training"
    )
    weighted_layer_sum: bool = flag(
        False, "feed the head a learned weighted sum of all layers (speech models); absent: as in the checkpoint"
    )
    head_from: list[str] | None = flag(
        None, "NEW=OLD ... initialize the head of class NEW with that of class OLD of the checkpoint: dog_bark=Bark"
    )
    probe_first: bool = flag(False, "initialize the head with a linear probe of the frozen model (LP-FT)")
    head_learning_rate: float | None = flag(None, "learning rate of the head; absent: learning_rate")
    layer_decay: float = flag(
        1.0, "layer-wise learning rate decay: the factor from each layer to the one below it; 1 disables it"
    )


@dataclass
class OwnRunArguments:
    """Flags of a run that `TrainingArguments` lacks."""

    overwrite: bool = flag(False, "replace a finished run in output_dir")
    quiet: bool = flag(False, "print only the result: no progress bars, no messages")
    profile: bool = flag(
        False, "print where the time goes, and write a trace of a few steps to trace.json (chrome://tracing)"
    )
    cache_frozen: Literal["auto", "true", "false"] = flag(
        "auto",
        "compute the output of frozen layers once per clip, not once per epoch; auto: in one process, where memory "
        "allows and the inputs of these layers stay the same",
    )
    keep_checkpoints: bool = flag(False, "keep the checkpoints of a finished run, to continue training from them")
    export_onnx: bool = flag(False, "write onnx/model.onnx beside the trained checkpoint, to serve it without torch")
    early_stopping_patience: int | None = flag(None, "stop after this many evaluations without improvement")
    calibrate: bool = flag(
        False, "after training, fit a temperature on the validation clips and fold it into the head: calibrated scores"
    )
    search: int | None = flag(
        None,
        "hyperparameter search: total number of trials over search_space, scored on the validation clips; "
        "nothing else is trained",
    )
    search_space: list[str] | None = flag(
        None, "FLAG=LOW..HIGH [log] or FLAG=CHOICE|CHOICE ... flags that --search varies: learning_rate=1e-5..1e-3 log"
    )


@dataclass
class RunArguments(TrainingArguments, OwnRunArguments):
    """All of `transformers.TrainingArguments`, with this project's defaults; constructing it sets up the device."""

    _argument_group_name = "training (all of transformers.TrainingArguments)"
    output_dir: str | None = flag(
        None, "folder of the runs, one sub-folder per test fold; absent: outputs/<config name>"
    )
    learning_rate: float = inherited("learning_rate", 3e-5)
    per_device_eval_batch_size: int = flag(  # type: ignore[assignment]  # None until the hardware was asked
        None, "clips that a device evaluates at once; absent: 8 on a CPU, else 32"
    )
    dataloader_num_workers: int = flag(  # type: ignore[assignment]
        None, "processes that load training batches; absent: none on a CPU, else 4 for clips that are not on the device"
    )
    num_train_epochs: float = inherited("num_train_epochs", 10.0)
    gradient_accumulation_steps: int = inherited("gradient_accumulation_steps", 4)
    warmup_steps: float = inherited("warmup_steps", 0.1)
    eval_strategy: IntervalStrategy | str = inherited("eval_strategy", "epoch")
    save_strategy: SaveStrategy | str = inherited("save_strategy", "epoch")
    save_total_limit: int | None = inherited("save_total_limit", 1)
    load_best_model_at_end: bool = inherited("load_best_model_at_end", True)
    metric_for_best_model: str = flag(
        "accuracy", "validation metric that selects the checkpoint", choices=ALL_METRICS.keys()
    )
    logging_steps: float = inherited("logging_steps", 10)
    restore_callback_states_from_checkpoint: bool = inherited("restore_callback_states_from_checkpoint", True)
    logging_nan_inf_filter: bool = inherited("logging_nan_inf_filter", False)  # it waits for the device at each step
    remove_unused_columns: bool = inherited("remove_unused_columns", False)
    bf16: bool | None = flag(  # type: ignore[assignment]  # None until the hardware was asked, as fp16
        None,
        "bfloat16 mixed precision; absent: where the hardware is made for it (a CPU with AMX, a GPU from Ampere on)",
        nargs="?",
        const=True,
    )
    fp16: bool | None = flag(  # type: ignore[assignment]
        None, "float16 mixed precision; absent: on a CUDA GPU that lacks bfloat16", nargs="?", const=True
    )
    tf32: bool | None = flag(
        None, "TF32 for what stays float32 in training; absent: on a GPU that has it", nargs="?", const=True
    )
    resume_from_checkpoint: str | None = flag(None, "last, or the folder of a checkpoint to continue from")
    push_to_hub: bool = flag(False, "push checkpoints (see --hub_strategy) and the finished run to --hub_model_id")
    hub_model_id: str | None = flag(
        None,
        "owner/name on the Hub, created if it is missing; with several test folds, each goes to owner/name-fold<k>",
    )

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
        _check_installed(self.report_to or [])


def mixed_precision(bf16: bool | None, fp16: bool | None, on_cpu: bool, launched: str = "no") -> tuple[bool, bool]:
    """Chooses the mixed precision of training: bfloat16 in hardware, else float16 on a CUDA GPU, else neither.

    Args:
        bf16, fp16: what the user asked for, which wins; None: not given. A given `bf16` leaves float16 off.
        on_cpu: training runs on the CPU, where float16 is never chosen.
        launched: the precision that Accelerate was launched with, which wins over the choice made here; "no": none.

    Returns:
        whether to use bfloat16, and whether to use float16.
    """
    if bf16 is None:
        bf16 = not fp16 and launched in ("no", "bf16") and has_bf16(on_cpu)
        if fp16 is None:
            fp16 = not bf16 and launched == "no" and not on_cpu and torch.cuda.is_available()
    return bf16, bool(fp16)


def _check_installed(trackers: Sequence[str]) -> None:
    """Raises ValueError for trackers that Trainer would refuse only after the data was prepared."""
    from transformers.integrations import get_available_reporting_integrations  # takes seconds

    installed = get_available_reporting_integrations()
    if missing := sorted(set(trackers) - {*installed, "flyte"}):
        what = f"`report_to` names what is not installed here: {', '.join(missing)}"
        raise ValueError(f"{what}; what is: {', '.join(['none', *installed])}")


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


def replaced(arguments: Arguments, values: Mapping[str, Any]) -> Arguments:
    """A copy with other values, already checked; unlike `dataclasses.replace`, it sets up no device again."""
    changed = copy.copy(arguments)
    vars(changed).update(values)
    return changed


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
        parts = {part: getattr(self, part) for part in ("data", "model", "recipe", "training")}
        changed = {
            part: replaced(arguments, {name: value for name, value in values.items() if name in vars(arguments)})
            for part, arguments in parts.items()
        }
        return replace(self, **changed)
