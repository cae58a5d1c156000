"""One run: prepare, train, choose the checkpoint on the validation rows, look at the test rows once."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    FeatureExtractionMixin,
    PreTrainedModel,
    TrainerCallback,
    set_seed,
)
from transformers.utils import logging

from urbansound_hf import audio, models, rows
from urbansound_hf.config import RunArguments, RunConfig
from urbansound_hf.errors import UserError
from urbansound_hf.folds import Split
from urbansound_hf.metrics import AudioClassificationMetric, clip_loss, clip_scores, scores
from urbansound_hf.models import adapt, probe
from urbansound_hf.receipts import Stopwatch
from urbansound_hf.sounds import Sounds
from urbansound_hf.trainer import SoundTrainer

logger = logging.get_logger(__name__)

CLIP_FACTS = ("fold", "group", "salience")  # columns of the data that predictions.csv repeats where they exist


def run(
    config: RunConfig,
    sounds: Sounds,
    split: Split,
    folder: Path,
    facts: Mapping[str, Any] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Trains on `split.train`, and leaves a checkpoint folder with its predictions and metrics.

    Args:
        sounds: the data at the sampling rate of the model's feature extractor.
        folder: the run's folder; `checkpoints/` inside holds what an interrupted run continues from.
        facts: what else metrics.json should say, such as the leak report.
        callbacks: what else Trainer tells of its progress, such as what pushes its checkpoints.

    Returns:
        the content of metrics.json.
    """
    arguments = config.training
    set_seed(arguments.seed)
    config, model, extractor, parts, learner = prepare(config, sounds, split)
    begun = resume_point(arguments, folder)
    trainer = make_trainer(config, learner, extractor, parts, sounds, folder, begun)
    for callback in callbacks:
        trainer.add_callback(callback)
    with Stopwatch() as watch:
        outcome = trainer.train(resume_from_checkpoint=begun)
    trained = adapt.count_parameters(model)["trained_parameters"]
    if config.model.lora_rank:
        from urbansound_hf.models import lora

        lora.merge(model)
    save(trainer, folder, model, extractor)
    test = predict(trainer, parts["test"])
    metrics = {
        **scores(test, sounds.labels),
        "labels": sounds.labels,
        "split": split.name,
        "test_fold": split.test_fold,
        "validation_fold": split.validation_fold,
        "train_folds": split.train_folds,
        "notes": [*sounds.notes, *[split.warning] * bool(split.warning)],
        "clips": {part: len(getattr(split, part)) for part in ("train", "validation", "test")},
        **choice(trainer),
        **adapt.count_parameters(model),
        "trained_parameters": trained,  # LoRA's among them, which are merged into the others by now
        "train_seconds": round(outcome.metrics["train_runtime"], 2),
        "train_clips_per_second": round(outcome.metrics["train_samples_per_second"] * share_trained(trainer, begun), 2),
        "train_peak_memory_gib": round(watch.peak_memory_gib, 2),
        **gpu_memory(),
        **(facts or {}),
    }
    if trainer.is_world_process_zero():
        write_predictions(folder / "predictions.csv", sounds, split.test, test["probabilities"])
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        (folder / "log_history.json").write_text(json.dumps(trainer.state.log_history, indent=2) + "\n")
    return metrics


class Prepared(NamedTuple):
    """What a training begins with: a model, its clips, and what is to learn (the model, or for a probe its head)."""

    config: RunConfig  # without what the model itself does of the recipe
    model: PreTrainedModel
    extractor: FeatureExtractionMixin
    parts: dict[str, Any]
    learner: torch.nn.Module


def prepare(config: RunConfig, sounds: Sounds, split: Split) -> Prepared:
    """The model as the config wants it, and the parts of the data as the model hears them; see `rows.prepare`."""
    extractor = models.load_feature_extractor(config.model)
    model = models.load_model(config.model, sounds.labels, extractor, config.data.clip_seconds)
    if config.model.probe_first:
        rows.begin_with_probe(config, sounds, split, extractor, model)
    config = rows.with_own_masking(config, model, extractor)
    prepare_model(config, model)
    return Prepared(config, model, extractor, *rows.prepare(config, sounds, split, extractor, model))


def prepare_model(config: RunConfig, model: PreTrainedModel) -> None:
    """What is frozen and what is adapted, in place; what serving must know goes into the model's config."""
    if config.recipe.test_time_shifts:
        model.config.test_time_shifts = config.recipe.test_time_shifts
    adapt.freeze(model, config.model.freeze, config.model.unfreeze_last_n)
    if config.model.lora_rank:
        from urbansound_hf.models import lora  # only where it was asked for, and so peft is installed

        lora.apply(model, config.model.lora_rank)


def make_trainer(
    config: RunConfig,
    model: Any,
    extractor: FeatureExtractionMixin,
    parts: Mapping[str, Any],
    sounds: Sounds,
    folder: Path,
    begun: str | None = None,
) -> SoundTrainer:
    """The Trainer of one run; its checkpoints go below the run's folder."""
    arguments = config.training
    arguments.output_dir = str(folder / "checkpoints")
    arguments.push_to_hub = False  # Trainer would push all of its folder; what pushes the model is a callback
    metric = AudioClassificationMetric(sounds.labels)

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        whole = clip_scores(prediction.predictions, prediction.label_ids)
        result = metric.compute(predictions=whole["predicted"], references=whole["true"])
        return {"accuracy": result["accuracy"], "macro_f1": result["macro_f1"], "loss": clip_loss(whole)}

    callbacks: list[TrainerCallback] = []
    if arguments.early_stopping_patience:
        callbacks.append(EarlyStoppingCallback(arguments.early_stopping_patience))
    trackers = list(arguments.report_to or [])
    if "tensorboard" in trackers and arguments.process_index == 0:
        callbacks.append(tensorboard(folder / "tensorboard"))
    arguments.report_to = [name for name in trackers if name != "tensorboard"]
    return SoundTrainer(
        adaptation=config.model,
        plan=config.recipe,
        labels=np.array(parts["train"]["labels"]),
        classes=len(sounds.labels),
        continued=begun,
        model=model,
        args=arguments,
        train_dataset=rows.training_rows(config, parts["train"], extractor, len(sounds.labels)),
        eval_dataset=parts.get("validation"),
        processing_class=extractor,
        compute_metrics=compute_metrics,
        callbacks=callbacks,
    )


def tensorboard(folder: Path) -> TrainerCallback:
    """Trainer's TensorBoard logs, but not among the checkpoints, which go when the run is finished."""
    from torch.utils.tensorboard import SummaryWriter  # only where it was asked for, and so is installed
    from transformers.integrations import TensorBoardCallback

    return TensorBoardCallback(SummaryWriter(str(folder)))


def resume_point(arguments: RunArguments, folder: Path) -> str | None:
    """The checkpoint to continue from: the one named, else the newest whole one of this run, else none."""
    wanted = str(arguments.resume_from_checkpoint or "last")
    if wanted.lower() == "false":
        return None
    if wanted.lower() not in ("last", "true"):
        if not Path(wanted, "trainer_state.json").is_file():
            raise UserError(
                f"{wanted} is not a checkpoint of Trainer's (it has no trainer_state.json)",
                "--resume_from_checkpoint",
                "give outputs/<run>/<fold>/checkpoints/checkpoint-<step>, or last",
            )
        return wanted
    whole = folder.glob("checkpoints/checkpoint-*/trainer_state.json")  # written last: a kill leaves folders without
    newest = max((path.parent for path in whole), key=lambda path: int(path.name.split("-")[1]), default=None)
    if newest:
        logger.warning("continuing the interrupted run from %s", newest)
    return str(newest) if newest else None


def save(trainer: SoundTrainer, folder: Path, model: PreTrainedModel, extractor: FeatureExtractionMixin) -> None:
    """The best model as a stock checkpoint: safetensors, configs, extractor; no pickles."""
    if not isinstance(trainer.model, probe.LinearProbe):  # Trainer knows how to put a sharded model together
        trainer.save_model(str(folder))
    elif trainer.is_world_process_zero():  # a probe: its head is the model's own
        model.save_pretrained(folder)
        extractor.save_pretrained(folder)
    if trainer.is_world_process_zero():
        (folder / "training_args.bin").unlink(missing_ok=True)


def predict(trainer: SoundTrainer, dataset: Any) -> dict[str, np.ndarray]:
    """The test rows' clip scores, in float32 as they are served (autocast is taken off the trained model)."""
    trainer.model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    prediction = trainer.predict(dataset)
    return clip_scores(prediction.predictions, prediction.label_ids)


def share_trained(trainer: SoundTrainer, begun: str | None) -> float:
    """The share of the steps that this process trained; the others were trained before an interruption."""
    before = int(begun.rpartition("-")[2]) if begun and begun.rpartition("-")[2].isdecimal() else 0
    return 1 - before / max(1, trainer.state.global_step)


def choice(trainer: SoundTrainer) -> dict[str, Any]:
    """Which checkpoint was taken, the best one with its validation score, or the last."""
    best = trainer.state.best_metric if trainer.args.load_best_model_at_end else None
    if best is None:
        return {"checkpoint": "last"}
    return {"checkpoint": "best", f"best_validation_{trainer.args.metric_for_best_model}": best}


def gpu_memory() -> dict[str, float]:
    """Peak GPU memory in GiB; nothing without a GPU."""
    if not torch.cuda.is_available():
        return {}
    return {"train_peak_gpu_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)}


def write_predictions(path: Path, sounds: Sounds, clips: np.ndarray, probabilities: np.ndarray) -> None:
    """predictions.csv, a line a test clip: what is known of it, its true and predicted class, every class's score."""
    told = sounds.dataset.select(clips)
    known = {name: told[name] if name in told.column_names else [""] * len(clips) for name in CLIP_FACTS}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", *CLIP_FACTS, "seconds", "true", "predicted", *sounds.labels])
        for clip, true, row, *facts in zip(told["audio"], told["label"], probabilities, *known.values(), strict=True):
            seconds = f"{audio.seconds(clip['bytes']):.3f}"
            names = (sounds.labels[true], sounds.labels[int(row.argmax())])
            writer.writerow([clip["path"], *facts, seconds, *names, *(f"{score:.6f}" for score in row)])
