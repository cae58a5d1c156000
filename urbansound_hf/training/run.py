"""One run: training, the checkpoint selected on the validation clips, and a single evaluation on the test clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import EarlyStoppingCallback, FeatureExtractionMixin, PreTrainedModel, TrainerCallback, set_seed

from urbansound_hf.config.arguments import RunConfig, replaced
from urbansound_hf.data.loading import Sounds
from urbansound_hf.data.splits import Split, split_notes
from urbansound_hf.errors import UserError
from urbansound_hf.evaluation.confidence import fit_temperature, reliability
from urbansound_hf.evaluation.hf_metric import AudioClassificationMetric
from urbansound_hf.evaluation.metrics import ALL_METRICS, UNTUNED, best_thresholds, clip_scores, compute_metrics
from urbansound_hf.evaluation.receipts import Stopwatch
from urbansound_hf.evaluation.runs import Run
from urbansound_hf.layout import TRACE, VALIDATION
from urbansound_hf.models import adapt
from urbansound_hf.models.linear_probe import LinearProbe, linear_layers
from urbansound_hf.models.onnx_export import export_onnx
from urbansound_hf.profiling import stage
from urbansound_hf.progress import say
from urbansound_hf.training.callbacks import SaveOnTerm, StepTimes
from urbansound_hf.training.preprocessing import Prepared, prepare_training
from urbansound_hf.training.resume import resume_point
from urbansound_hf.training.trainer import SoundTrainer


def train_and_evaluate(
    config: RunConfig,
    sounds: Sounds,
    split: Split,
    folder: Path,
    facts: Mapping[str, Any] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Trains on `split.train`, evaluates on `split.test`, writes the run, and returns the content of metrics.json.

    Args:
        sounds: the data at the sampling rate of the model's feature extractor.
        folder: of the run; its `checkpoints/` are those that an interrupted run continues from.
        facts: further entries of metrics.json, such as the leak report.
        callbacks: further callbacks of Trainer, such as the one that pushes checkpoints.

    Raises UserError if model or clips do not fit the config, or `--resume_from_checkpoint` names no checkpoint.
    """
    set_seed(config.training.seed)
    prepared = prepare_training(config, sounds, split)
    model, begun = prepared.model, resume_point(config, folder)
    if config.training.calibrate and prepared.validation is None:
        raise UserError("a temperature is fitted on validation clips, found none", "--calibrate", "leave it out")
    trainer = make_trainer(config, prepared, sounds.labels, folder, begun)
    for callback in (*callbacks, SaveOnTerm()):
        trainer.add_callback(callback)
    with Stopwatch() as watch:
        outcome = trainer.train(resume_from_checkpoint=begun)
    trained = adapt.count_parameters(model)["trained_parameters"]  # before LoRA's are merged into the others
    if config.model.lora_rank:
        from urbansound_hf.models import lora

        lora.merge_lora(model)
    calibration = {}
    if config.training.calibrate:
        calibration["calibration"] = calibrate(model, *predict_windows(trainer, prepared.validation))
    thresholds: list[float] | None = None
    if sounds.multi_label:
        thresholds = [UNTUNED] * len(sounds.labels)
        if prepared.validation:
            clips = clip_scores(*predict_windows(trainer, prepared.validation))
            thresholds = best_thresholds(clips["true"], clips["probabilities"])
        model.config.update({"thresholds": thresholds})
    with stage("write"):
        save_run(trainer, folder, model, prepared.extractor)
    if config.training.export_onnx and trainer.is_world_process_zero():
        try:
            export_onnx(folder)
        except UserError as error:  # the run itself is complete
            say(f"no ONNX export: {error}")
    test = clip_scores(*predict_windows(trainer, prepared.test))
    known = clip_scores(*predict_windows(trainer, prepared.validation)) if prepared.validation else None
    metric = AudioClassificationMetric(sounds.labels, thresholds)
    scores = metric.compute(predictions=test["probabilities"], references=test["true"])
    metrics = {
        **{f"test_{name}": scores.pop(name) for name in ALL_METRICS if name in scores},
        **scores,  # per_class, confusion_matrix
        **split_facts(sounds, split),
        **calibration,
        **({"probe": prepared.probe} if prepared.probe else {}),
        **adapt.count_parameters(model),
        "trained_parameters": trained,
        "train_peak_memory_gib": round(watch.peak_memory_gib, 2),
        **training_facts(trainer, outcome.metrics, begun),
        **(facts or {}),
    }
    if trainer.is_world_process_zero():
        run = Run(folder)
        run.write_predictions(sounds.dataset.select(split.test), test["probabilities"], sounds.labels, thresholds)
        if known:  # an ensemble fits its weights on them
            held_out = sounds.dataset.select(split.validation)
            run.write_predictions(held_out, known["probabilities"], sounds.labels, thresholds, VALIDATION)
        run.write_results(metrics, trainer.state.log_history)
    return metrics


def split_facts(sounds: Sounds, split: Split) -> dict[str, Any]:
    """The part of metrics.json on the data and its split."""
    return {
        "labels": sounds.labels,
        "split": split.name,
        "split_kind": split.kind,
        "test_fold": split.test_fold,
        "validation_fold": split.validation_fold,
        "train_folds": split.train_folds,
        "notes": [*sounds.notes, *split_notes(split, sounds.targets, sounds.labels)],
        "clips": {part: len(getattr(split, part)) for part in ("train", "validation", "test")},
    }


def training_facts(trainer: SoundTrainer, outcome: Mapping[str, float], begun: str | None) -> dict[str, Any]:
    """The part of metrics.json on the training: the selected checkpoint, duration, speed, batch and GPU memory."""
    arguments, step = trainer.args, (begun or "").rpartition("-")[2]
    trained_now = 1 - (int(step) if step.isdecimal() else 0) / max(1, trainer.state.global_step)  # since `begun`
    best = trainer.state.best_metric if arguments.load_best_model_at_end else None
    facts: dict[str, Any] = {
        "checkpoint": "last" if best is None else "best",
        "train_seconds": round(outcome["train_runtime"], 2),
        "train_clips_per_second": round(outcome["train_samples_per_second"] * trained_now, 2),
        "micro_batch": arguments.per_device_train_batch_size,  # clips of a device at once
        "accumulation_steps": arguments.gradient_accumulation_steps,
    }
    if best is not None:
        facts[f"best_validation_{arguments.metric_for_best_model}"] = best
    if torch.cuda.is_available():
        facts["train_peak_gpu_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return facts


def make_trainer(
    config: RunConfig, prepared: Prepared, labels: Sequence[str], folder: Path, begun: str | None = None
) -> SoundTrainer:
    """The Trainer of the run in `folder`; `begun`: the checkpoint that an interrupted training continues from."""
    # Trainer changes its arguments; uploads and TensorBoard logs are left to callbacks
    trackers = [name for name in config.training.report_to or [] if name != "tensorboard"]
    changed = {"output_dir": str(folder / "checkpoints"), "push_to_hub": False, "report_to": trackers}
    if prepared.train_labels.ndim == 2 and config.training.metric_for_best_model == "accuracy":  # the default
        changed["metric_for_best_model"] = "mean_average_precision"
    arguments = config.training
    callbacks: list[TrainerCallback] = []
    if arguments.early_stopping_patience:
        callbacks.append(EarlyStoppingCallback(arguments.early_stopping_patience))
    if arguments.profile and arguments.process_index == 0:
        callbacks.append(StepTimes(folder / TRACE))
    if "tensorboard" in (arguments.report_to or []) and arguments.process_index == 0:
        from torch.utils.tensorboard import SummaryWriter  # an extra, installed where it is asked for
        from transformers.integrations import TensorBoardCallback

        # outside of the checkpoints, which are deleted when the run is finished
        callbacks.append(TensorBoardCallback(SummaryWriter(str(folder / "tensorboard"))))
    return SoundTrainer(
        recipe=config.recipe,
        labels=prepared.train_labels,
        classes=len(labels),
        rates=(config.model.head_learning_rate, config.model.layer_decay),
        continued=begun,
        model=prepared.learner,
        args=replaced(config.training, changed),
        train_dataset=prepared.train,
        eval_dataset=prepared.validation,
        processing_class=prepared.extractor,
        compute_metrics=lambda scored: compute_metrics(**clip_scores(scored.predictions, scored.label_ids)),
        callbacks=callbacks,
    )


def save_run(trainer: SoundTrainer, folder: Path, model: PreTrainedModel, extractor: FeatureExtractionMixin) -> None:
    """Saves the selected model as a stock checkpoint: safetensors, configs and feature extractor; no pickles."""
    if not isinstance(trainer.model, LinearProbe):  # Trainer gathers the weights of a sharded model
        trainer.save_model(str(folder))
    elif trainer.is_world_process_zero():  # the probe's head is the model's own
        model.save_pretrained(folder)
        extractor.save_pretrained(folder)
    if trainer.is_world_process_zero():
        (folder / "training_args.bin").unlink(missing_ok=True)


def predict_windows(trainer: SoundTrainer, dataset: Any) -> tuple[np.ndarray, Any]:
    """The arguments of `clip_scores`, in float32 as in serving: autocast is removed from the trained model."""
    trainer.model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    prediction = trainer.predict(dataset)
    return np.asarray(prediction.predictions), prediction.label_ids


@torch.no_grad()
def calibrate(model: PreTrainedModel, logits: np.ndarray, targets: Any) -> dict[str, float]:
    """Divides a model's logits by the temperature of the lowest loss on validation clips, in place (`fit_temperature`).

    Returns it, and the clips' negative log-likelihood in nats and expected calibration error, before and after.
    """
    last = linear_layers(model, "--calibrate")[-1]

    def measured(temperature: float) -> tuple[float, float]:
        clips = clip_scores(logits / temperature, targets)
        return compute_metrics(**clips)["loss"], reliability(clips["probabilities"], clips["true"]).error

    temperature = fit_temperature(lambda each: measured(each)[0])
    before, after = measured(1.0), measured(temperature)
    for values in last.parameters():
        values.div_(temperature)
    return {"temperature": temperature, "loss_before": before[0], "loss_after": after[0],
            "ece_before": before[1], "ece_after": after[1]}  # fmt: skip
