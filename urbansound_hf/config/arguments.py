"""The schema of a run: every flag is a field below, with its default and its help."""
# ruff: noqa: RUF009  (`flag` makes dataclass fields)
# ruff: noqa: RUF009  (`flag` and `inherited` make dataclass fields)

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from urbansound_hf.config.flags import flag


@dataclass
class RecipeArguments:
    """What happens between a training clip and the loss; validation and test rows are never changed."""

    _argument_group_name = "augmentation and loss"
    augment: list[str] | None = flag(
        None,
        "NAME[:PROBABILITY[:LOW..HIGH]] ... effects on the waveform, in order: docs/augmentation.md; none: no effect",
    )
    fill: Literal["auto", "repeat", "zeros", "reflect"] = flag(
        "auto", "what fills the window after a short training clip; auto: the feature extractor, else repeat"
    )
    spec_augment: float = flag(
        0.0, "probability of a mask over frequency and one over time; raw-waveform models: of their own masking"
    )
    frequency_mask: float = flag(0.2, "widest frequency mask, as a share of the bands")
    time_mask: float = flag(0.2, "widest time mask, as a share of the frames")
    mixup_alpha: float = flag(0.0, "mix two clips in shares from Beta(alpha, alpha), labels too; 0: never")
    cutmix_alpha: float = flag(0.0, "replace a stretch of time by another clip's, its share from Beta(alpha, alpha)")
    mix_probability: float = flag(1.0, "probability that a clip is mixed at all")
    focal_gamma: float = flag(0.0, "focal loss: a clip that is already told apart weighs less, the more so the higher")
    class_weights: bool = flag(False, "weigh the loss of each class by the inverse of its training clips")
    balanced_sampling: bool = flag(False, "draw training clips so that all classes come equally often")
    ema_decay: float = flag(0.0, "keep the moving average of the weights, with this decay an update; 0: the last ones")
    test_time_shifts: int = flag(0, "score a clip also shifted in a circle so many times; kept for serving")

    @property
    def changes_waveforms(self) -> bool:
        """Whether features have to be extracted anew each epoch."""
        return bool(self.augment)

    @property
    def changes_rows(self) -> bool:
        """Whether a training row is another one each epoch."""
        return self.changes_waveforms or self.spec_augment > 0 or self.mixes

    @property
    def mixes(self) -> bool:
        return self.mix_probability > 0 and max(self.mixup_alpha, self.cutmix_alpha) > 0


def inherited(name: str, default: Any) -> Any:
    """A field of `TrainingArguments` with its own help and another default."""
    return field(default=default, metadata=TrainingArguments.__dataclass_fields__[name].metadata)


@dataclass
class DataArguments:
    """What is heard, and what is held out."""

    _argument_group_name = "data"
    dataset: str = flag(
        "urbansound8k", "urbansound8k, synthetic, a folder (classes as folders, or metadata.csv), or a Hub id"
    )
    dataset_config: str | None = flag(None, "configuration of a Hub data set")
    dataset_revision: str | None = flag(None, "branch, tag or commit of a Hub data set")
    audio_column: str | None = flag(None, "column with the sounds; found by its type or name if absent")
    label_column: str | None = flag(None, "column with the labels; found by its type or name if absent")
    data_dir: str | None = flag(None, "where UrbanSound8K lies, or is downloaded to (6 GB); absent: data")
    allow_missing_files: bool = flag(False, "train on what is there although clips of the metadata lack their file")
    split: Literal["official", "grouped", "random"] = flag(
        "official", "the folds or parts of the data; by recording; or leaky: a recording on both sides"
    )
    test_fold: str = flag("10", "fold held out for the test, 1 to 10; a list 1,3,5; or all = cross-validation")
    validation: Literal["next_fold", "none"] = flag(
        "next_fold", "what chooses the checkpoint: the fold after the test fold; or none: train on it, take the last"
    )
    clip_seconds: float = flag(4.0, "length of a training clip and of the serving window, in seconds")
    preprocessing_num_workers: int | None = flag(None, "processes that decode and extract; absent: one for each core")


@dataclass
class ModelArguments:
    """What is trained, and how much of it."""

    _argument_group_name = "model"
    model_name_or_path: str = flag(
        "facebook/wav2vec2-base", "Hub id or checkpoint folder; or a model type (wav2vec2, cnn) for random weights"
    )
    model_revision: str | None = flag(None, "branch, tag or commit of a Hub model")
    trust_remote_code: bool = flag(False, "run the model code that comes with a Hub model")
    model_config: list[str] | None = flag(None, "KEY=VALUE ... that replace values of the model's config")
    feature_extractor_config: list[str] | None = flag(
        None, "KEY=VALUE ... that replace values of the feature extractor's config"
    )
    freeze: Literal["none", "feature_encoder", "backbone"] = flag(
        "feature_encoder", "what keeps its pretrained weights: nothing, the convolutional front, all but the head"
    )
    unfreeze_last_n: int = flag(0, "with --freeze backbone: how many of the last layers learn all the same")
    lora_rank: int | None = flag(
        None, "LoRA: the head learns, and corrections of this rank to the frozen backbone, merged into it at the end"
    )
    weighted_layer_sum: bool = flag(
        False, "put the head on a learned sum of all layers (speech families); absent: as the checkpoint has it"
    )
    head_from: list[str] | None = flag(
        None, "NEW=OLD ... classes that begin with what the checkpoint's head knows of another: dog_bark=Bark"
    )
    probe_first: bool = flag(False, "begin with the head of a linear probe of the frozen model (LP-FT)")
    head_learning_rate: float | None = flag(None, "learning rate of the new head; absent: that of the rest")
    layer_decay: float = flag(1.0, "learning rate of a layer over that of the next, 0 to 1; 1: the same for all")


@dataclass
class OwnRunArguments:
    """What `TrainingArguments` lacks."""

    overwrite: bool = flag(False, "replace a finished run in output_dir")
    quiet: bool = flag(False, "print nothing but the result: no bars, no lines on how far it is")
    keep_checkpoints: bool = flag(False, "keep the checkpoints of a finished run, to train on from them")
    early_stopping_patience: int | None = flag(None, "stop after so many evaluations without a better score")
    search: int | None = flag(
        None, "try so many values from search_space in all, scored on the validation clips, and train nothing else"
    )
    search_space: list[str] | None = flag(
        None, "FLAG=LOW..HIGH [log] or FLAG=CHOICE|CHOICE ... what --search varies: learning_rate=1e-5..1e-3 log"
    )


@dataclass
class RunArguments(TrainingArguments, OwnRunArguments):
    """All of `transformers.TrainingArguments`, with this project's defaults; constructing it sets up the device."""

    _argument_group_name = "training (all of transformers.TrainingArguments)"
    output_dir: str | None = flag(None, "folder of the run, one sub-folder a test fold; absent: outputs/<config name>")
    learning_rate: float = inherited("learning_rate", 3e-5)
    num_train_epochs: float = inherited("num_train_epochs", 10.0)
    gradient_accumulation_steps: int = inherited("gradient_accumulation_steps", 4)
    warmup_steps: float = inherited("warmup_steps", 0.1)
    eval_strategy: IntervalStrategy | str = inherited("eval_strategy", "epoch")
    save_strategy: SaveStrategy | str = inherited("save_strategy", "epoch")
    save_total_limit: int | None = inherited("save_total_limit", 1)
    load_best_model_at_end: bool = inherited("load_best_model_at_end", True)
    metric_for_best_model: Literal["accuracy", "macro_f1", "loss"] = flag(
        "accuracy", "score that chooses the checkpoint"
    )
    logging_steps: float = inherited("logging_steps", 10)
    remove_unused_columns: bool = inherited("remove_unused_columns", False)
    bf16: bool | None = flag(  # type: ignore[assignment]  # None until the hardware was asked
        None, "bfloat16 mixed precision; absent: where the hardware has it", nargs="?", const=True
    )
    resume_from_checkpoint: str | None = flag(None, "last, or the folder of a checkpoint to continue from")
    push_to_hub: bool = flag(False, "push checkpoints (as --hub_strategy says) and the finished run to --hub_model_id")
    hub_model_id: str | None = flag(
        None, "owner/name on the Hub, made if need be; of several test folds, each goes to owner/name-fold<k>"
    )

    def __post_init__(self) -> None:
        asked_for_cpu = self.use_cpu or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")
        self.use_cpu = asked_for_cpu or not torch.accelerator.is_available()
        if self.bf16 is None:
            launched_with_other = os.environ.get("ACCELERATE_MIXED_PRECISION", "no") not in ("no", "bf16")
            self.bf16 = not self.fp16 and not launched_with_other and has_bf16(self.use_cpu)
        if isinstance(self.report_to, str):  # from the command line or a file
            self.report_to = [name.strip() for name in self.report_to.split(",")]
        super().__post_init__()
        _check_installed(self.report_to or [])


def _check_installed(trackers: Sequence[str]) -> None:
    """Raises ValueError now for what Trainer would refuse only after the data was prepared."""
    from transformers.integrations import get_available_reporting_integrations  # takes seconds; mistakes need not wait

    installed = get_available_reporting_integrations()
    if missing := sorted(set(trackers) - {*installed, "flyte"}):
        what = f"`report_to` names what is not installed here: {', '.join(missing)}"
        raise ValueError(f"{what}; what is: {', '.join(['none', *installed])}")


def has_bf16(on_cpu: bool) -> bool:
    """Whether bfloat16 pays here: computed in hardware, not emulated (as on a GPU before Ampere)."""
    if on_cpu:
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


@dataclass(frozen=True)
class RunConfig:
    """One run's resolved values; `name` is that of the config file, `source`."""

    data: DataArguments
    model: ModelArguments
    recipe: RecipeArguments
    training: RunArguments
    source: Path | None
    name: str

    def as_dict(self) -> dict[str, Any]:
        """Every value that is set, flat and JSON-able; as YAML it is a config of the same run. Tokens stay out."""
        flat = {**vars(self.data), **vars(self.model), **vars(self.recipe), **self.training.to_dict()}
        return {
            name: json.dumps(value) if isinstance(value, dict) else value
            for name, value in flat.items()
            if value not in (None, "", []) and not name.endswith("_token")
        }

    def with_values(self, values: Mapping[str, Any]) -> RunConfig:
        """The same run with other values of some flags, already checked."""
        parts = {part: copy.copy(getattr(self, part)) for part in ("data", "model", "recipe", "training")}
        for part in parts.values():
            vars(part).update({name: value for name, value in values.items() if name in vars(part)})
        return replace(self, **parts)
