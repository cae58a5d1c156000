"""One run: prepare, train, choose the checkpoint on the validation rows, evaluate on the test rows once."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    FeatureExtractionMixin,
    PretrainedConfig,
    PreTrainedModel,
    TrainerCallback,
    set_seed,
)
from transformers.utils import logging

from urbansound_hf.audio.io import audio_seconds
from urbansound_hf.config.arguments import RunArguments, RunConfig
from urbansound_hf.data.loading import Sounds
from urbansound_hf.data.splits import Split, split_notes
from urbansound_hf.errors import UserError
from urbansound_hf.evaluation.metrics import AudioClassificationMetric, clip_loss, clip_scores, scores
from urbansound_hf.evaluation.receipts import Stopwatch
from urbansound_hf.features.dataset import prepare_features
from urbansound_hf.features.extract import FeatureExtractor, Waveforms, extract, filling
from urbansound_hf.models import adapt, masking
from urbansound_hf.models.linear_probe import LinearProbe, agrees, embeddings, fit_head
from urbansound_hf.models.registry import family_of
from urbansound_hf.training.augmented_dataset import AugmentedRows
from urbansound_hf.training.loading import configured_extractor, configured_model
from urbansound_hf.training.trainer import SoundTrainer

logger = logging.get_logger(__name__)

CLIP_FACTS = ("fold", "group", "salience")  # columns of the data that predictions.csv repeats where they exist


def train_and_evaluate(
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
    config, model, extractor, parts, learner = prepare_training(config, sounds, split)
    begun = resume_point(arguments, folder)
    trainer = make_trainer(config, learner, extractor, parts, sounds, folder, begun)
    for callback in callbacks:
        trainer.add_callback(callback)
    with Stopwatch() as watch:
        outcome = trainer.train(resume_from_checkpoint=begun)
    trained = adapt.count_parameters(model)["trained_parameters"]
    if config.model.lora_rank:
        from urbansound_hf.models import lora

        lora.merge_lora(model)
    save_run(trainer, folder, model, extractor)
    test = predict_clips(trainer, parts["test"])
    metrics = {
        **scores(test, sounds.labels),
        "labels": sounds.labels,
        "split": split.name,
        "test_fold": split.test_fold,
        "validation_fold": split.validation_fold,
        "train_folds": split.train_folds,
        "notes": [*sounds.notes, *split_notes(split, sounds.dataset["label"], sounds.labels)],
        "clips": {part: len(getattr(split, part)) for part in ("train", "validation", "test")},
        **chosen_checkpoint(trainer),
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
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        (folder / "log_history.json").write_text(
            json.dumps(trainer.state.log_history, indent=2) + "\n", encoding="utf-8"
        )
    return metrics


class Prepared(NamedTuple):
    """What a training begins with: a model, its clips, and what is to learn (the model, or for a probe its head)."""

    config: RunConfig  # without what the model itself does of the recipe
    model: PreTrainedModel
    extractor: FeatureExtractionMixin
    parts: dict[str, Any]
    learner: torch.nn.Module


def prepare_training(config: RunConfig, sounds: Sounds, split: Split) -> Prepared:
    """The model as the config wants it, and the parts of the data as the model hears them; see `rows.prepare`."""
    extractor = configured_extractor(config)
    model = configured_model(config, sounds.labels)
    if config.model.probe_first:
        begin_with_probe(config, sounds, split, extractor, model)
    config = with_own_masking(config, model, extractor)
    prepare_model(config, model)
    return Prepared(config, model, extractor, *prepare_rows(config, sounds, split, extractor, model))


def prepare_model(config: RunConfig, model: PreTrainedModel) -> None:
    """What is frozen and what is adapted, in place; what serving must know goes into the model's config."""
    if config.recipe.test_time_shifts:
        model.config.test_time_shifts = config.recipe.test_time_shifts
    adapt.freeze(model, config.model.freeze, config.model.unfreeze_last_n)
    if config.model.lora_rank:
        from urbansound_hf.models import lora  # only where it was asked for, and so peft is installed

        lora.apply_lora(model, config.model.lora_rank)


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
        train_dataset=training_rows(config, parts["train"], extractor, model.config),
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


def save_run(trainer: SoundTrainer, folder: Path, model: PreTrainedModel, extractor: FeatureExtractionMixin) -> None:
    """The best model as a stock checkpoint: safetensors, configs, extractor; no pickles."""
    if not isinstance(trainer.model, LinearProbe):  # Trainer knows how to put a sharded model together
        trainer.save_model(str(folder))
    elif trainer.is_world_process_zero():  # a probe: its head is the model's own
        model.save_pretrained(folder)
        extractor.save_pretrained(folder)
    if trainer.is_world_process_zero():
        (folder / "training_args.bin").unlink(missing_ok=True)


def predict_clips(trainer: SoundTrainer, dataset: Any) -> dict[str, np.ndarray]:
    """The test rows' clip scores, in float32 as they are served (autocast is taken off the trained model)."""
    trainer.model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    prediction = trainer.predict(dataset)
    return clip_scores(prediction.predictions, prediction.label_ids)


def share_trained(trainer: SoundTrainer, begun: str | None) -> float:
    """The share of the steps that this process trained; the others were trained before an interruption."""
    before = int(begun.rpartition("-")[2]) if begun and begun.rpartition("-")[2].isdecimal() else 0
    return 1 - before / max(1, trainer.state.global_step)


def chosen_checkpoint(trainer: SoundTrainer) -> dict[str, Any]:
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
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", *CLIP_FACTS, "seconds", "true", "predicted", *sounds.labels])
        for clip, true, row, *facts in zip(told["audio"], told["label"], probabilities, *known.values(), strict=True):
            seconds = f"{audio_seconds(clip['bytes']):.3f}"
            names = (sounds.labels[true], sounds.labels[int(row.argmax())])
            writer.writerow([clip["path"], *facts, seconds, *names, *(f"{score:.6f}" for score in row)])


def prepare_rows(
    config: RunConfig, sounds: Sounds, split: Split, extractor: FeatureExtractor, model: PreTrainedModel
) -> tuple[dict[str, datasets.Dataset], torch.nn.Module]:
    """The three parts as model inputs, and what is to learn from them: the model, or for a linear probe its head.

    All clips are extracted, or embedded by the frozen backbone, once for every split of the same data, and cached.
    Where the recipe changes waveforms, the training part holds those.
    """
    recipe = config.recipe
    probing = config.model.freeze == "backbone" and not config.model.unfreeze_last_n and not recipe.changes_inputs
    heard = _hearing(config, sounds, model)
    with config.training.main_process_first(desc="feature extraction"):
        evaluated = heard(extractor, shifts=recipe.test_time_shifts)
        prepared = {part: evaluated for part in ("validation", "test") if len(getattr(split, part))}
        if recipe.changes_waveforms:
            prepared["train"] = heard(Waveforms(extractor.sampling_rate))
        else:
            filled = filling(extractor, window_samples(config, extractor), recipe.fill)
            prepared["train"] = heard(extractor, filled=filled)
        learner: torch.nn.Module = model
        if probing and all(agrees(model, rows, config.training.device) for rows in prepared.values()):
            batch_size = config.training.per_device_eval_batch_size
            prepared = {part: embeddings(model, rows, batch_size) for part, rows in prepared.items()}
            learner = LinearProbe(model)
    parts = {
        part: rows.select(np.flatnonzero(np.isin(rows["clip"], getattr(split, part))))
        for part, rows in prepared.items()
    }
    return parts, learner


def begin_with_probe(
    config: RunConfig, sounds: Sounds, split: Split, extractor: FeatureExtractor, model: PreTrainedModel
) -> None:
    """Fits the head, in place, to the training clips as the model hears them before anything was trained or changed.

    Raises:
        UserError: the head is no linear function of the pooled embedding, or does not end in a linear layer.
    """
    with config.training.main_process_first(desc="the probe before the training"):
        heard = _hearing(config, sounds, model)(extractor)
        heard = heard.select(np.flatnonzero(np.isin(heard["clip"], split.train)))
        if not agrees(model, heard, config.training.device):
            what = f"the head of {model.config.model_type} models is not linear in what the backbone tells of a clip"
            raise UserError(what, "--probe_first", "leave it out for this family")
        fit_head(model, embeddings(model, heard, config.training.per_device_eval_batch_size))


def _hearing(config: RunConfig, sounds: Sounds, model: PreTrainedModel) -> partial[datasets.Dataset]:
    """`features.prepare` for all clips of a run."""
    return partial(
        prepare_features,
        sounds.dataset,
        clip_seconds=config.data.clip_seconds,
        num_proc=config.data.preprocessing_num_workers,
        shortest_samples=family_of(model.config.model_type).lengths.shortest_samples(model.config),
    )


def training_rows(
    config: RunConfig, rows: datasets.Dataset, extractor: FeatureExtractor, model_config: PretrainedConfig
) -> datasets.Dataset | AugmentedRows:
    """The training part as the recipe wants it: as it was prepared, or another sound each epoch."""
    if not config.recipe.changes_inputs:
        return rows
    window, classes = window_samples(config, extractor), model_config.num_labels or 0
    spectrogram = family_of(model_config.model_type).spectrogram
    return AugmentedRows(rows, config.recipe, extractor, window, classes, config.training.seed, spectrogram)


def with_own_masking(config: RunConfig, model: PreTrainedModel, extractor: FeatureExtractor) -> RunConfig:
    """Lets a model mask its own hidden states where it can (the wav2vec2 kind); its inputs then stay whole."""
    recipe = config.recipe
    if not recipe.spec_augment:
        return config
    clip = extract(extractor, np.zeros(window_samples(config, extractor), np.float32))
    often = recipe.spec_augment / 2  # a mask of up to a share hides half of it in the mean; these hide what they say
    if not masking.model_masking(model, clip, often * recipe.frequency_mask, often * recipe.time_mask):
        return config
    return dataclasses.replace(config, recipe=dataclasses.replace(recipe, spec_augment=0.0))


def window_samples(config: RunConfig, extractor: FeatureExtractor) -> int:
    """Samples of a training clip."""
    return round(config.data.clip_seconds * extractor.sampling_rate)
