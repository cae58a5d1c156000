"""One run: prepare, train, choose the checkpoint on the validation rows, look at the test rows once."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import EarlyStoppingCallback, EvalPrediction, FeatureExtractionMixin, Trainer, set_seed
from transformers.utils import logging

from urbansound_hf import audio, features, models
from urbansound_hf.config import ModelArguments, RunArguments, RunConfig
from urbansound_hf.errors import UserError
from urbansound_hf.folds import Split
from urbansound_hf.metrics import AudioClassificationMetric, mean_over_windows, softmax
from urbansound_hf.models import adapt, checkpoint
from urbansound_hf.receipts import Stopwatch
from urbansound_hf.sounds import Sounds

logger = logging.get_logger(__name__)

CLIP_FACTS = ("fold", "group", "salience")  # columns of the data that predictions.csv repeats where they exist


class SoundTrainer(Trainer):
    """Trainer that evaluates as serving does: clips of one shape together, nothing padded."""

    def __init__(self, adaptation: ModelArguments, **kwargs: Any) -> None:
        super().__init__(data_collator=features.collate_training, **kwargs)
        self.adaptation = adaptation
        self.label_names = ["labels", "clip"]
        # Our models' losses are means over the batch; Trainer takes a `**kwargs` in `forward` for a promise to divide
        # by the accumulated batch instead, and would then not average over gradient accumulation steps.
        self.model_accepts_loss_kwargs = False

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Trainer's choice of optimizer (`--optim`) over this project's parameter groups."""
        model = model or self.model
        groups = adapt.parameter_groups(
            model,
            self.args.learning_rate,
            self.args.weight_decay,
            self.adaptation.head_learning_rate,
            self.adaptation.layer_decay,
        )
        kind, settings = self.get_optimizer_cls_and_kwargs(self.args, model)
        self.optimizer_cls_and_kwargs = (kind, {"params": groups, **settings})  # GaLore and its kin bring their own
        return super().create_optimizer(model)

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> torch.utils.data.DataLoader:
        return self._with_evaluation_collator(super().get_eval_dataloader, *args, **kwargs)

    def get_test_dataloader(self, *args: Any, **kwargs: Any) -> torch.utils.data.DataLoader:
        return self._with_evaluation_collator(super().get_test_dataloader, *args, **kwargs)

    def _with_evaluation_collator(self, get: Any, *args: Any, **kwargs: Any) -> torch.utils.data.DataLoader:
        self.data_collator = features.collate_evaluation
        try:
            return get(*args, **kwargs)
        finally:
            self.data_collator = features.collate_training

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, Any]:
        """Logits `(batch, classes)` of clips of several shapes; the loss comes with the metrics, of whole clips."""
        inputs = self._prepare_inputs(inputs)
        logits = torch.empty(len(inputs["labels"]), self.model.config.num_labels, device=self.args.device)
        with torch.no_grad():
            for positions, group in self._in_step(list(zip(inputs["positions"], inputs["groups"], strict=True))):
                logits[positions] = model(**group).logits.float()
        return None, logits, (inputs["labels"], inputs["clip"])

    def _in_step(self, groups: list[Any]) -> list[Any]:
        """Under FSDP every process must call the model equally often: the first group is then scored again."""
        if not self.is_fsdp_enabled:
            return groups
        most = self.accelerator.gather(torch.tensor([len(groups)], device=self.args.device)).max()
        return groups + groups[:1] * (int(most) - len(groups))


def run(
    config: RunConfig, sounds: Sounds, split: Split, folder: Path, facts: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Trains on `split.train`, and leaves a checkpoint folder with its predictions and metrics.

    Args:
        sounds: the data at the sampling rate of the model's feature extractor.
        folder: the run's folder; `checkpoints/` inside holds what an interrupted run continues from.
        facts: what else metrics.json should say, such as the leak report.

    Returns:
        the content of metrics.json.
    """
    arguments = config.training
    set_seed(arguments.seed)
    extractor = models.load_feature_extractor(config.model)
    model = models.load_model(config.model, sounds.labels, extractor, config.data.clip_seconds)
    adapt.freeze(model, config.model.freeze, config.model.unfreeze_last_n)
    parts = prepare_parts(config, sounds, split, extractor, checkpoint.shortest_samples(model.config))
    trainer = make_trainer(config, model, extractor, parts, sounds, folder)
    with Stopwatch() as watch:
        outcome = trainer.train(resume_from_checkpoint=resume_point(arguments, folder))
    save(trainer, folder)
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
        **best_validation(trainer),
        **adapt.count_parameters(model),
        "train_seconds": round(outcome.metrics["train_runtime"], 2),
        "train_clips_per_second": outcome.metrics["train_samples_per_second"],
        "train_peak_memory_gib": round(watch.peak_memory_gib, 2),
        **gpu_memory(),
        **(facts or {}),
    }
    if trainer.is_world_process_zero():
        write_predictions(folder / "predictions.csv", sounds, split.test, test["probabilities"])
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        (folder / "log_history.json").write_text(json.dumps(trainer.state.log_history, indent=2) + "\n")
        if not arguments.keep_checkpoints:
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return metrics


def prepare_parts(
    config: RunConfig, sounds: Sounds, split: Split, extractor: FeatureExtractionMixin, shortest_samples: int
) -> dict[str, Any]:
    """The three parts as model inputs. All clips are extracted, and cached, once for every split of the same data."""
    parts = {}
    with config.training.main_process_first(desc="feature extraction"):
        for part in ("train", "validation", "test"):
            whole = features.prepare(
                sounds.dataset,
                extractor,
                config.data.clip_seconds,
                training=part == "train",
                num_proc=config.data.preprocessing_num_workers or os.cpu_count(),
                shortest_samples=shortest_samples,
            )
            if len(rows := getattr(split, part)):
                parts[part] = whole.select(np.flatnonzero(np.isin(whole["clip"], rows)))
    return parts


def make_trainer(
    config: RunConfig,
    model: Any,
    extractor: FeatureExtractionMixin,
    parts: Mapping[str, Any],
    sounds: Sounds,
    folder: Path,
) -> SoundTrainer:
    """The Trainer of one run; its checkpoints go below the run's folder."""
    arguments = config.training
    arguments.output_dir = str(folder / "checkpoints")
    metric = AudioClassificationMetric(sounds.labels)

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        whole = clip_scores(prediction.predictions, *prediction.label_ids)
        result = metric.compute(predictions=whole["predicted"], references=whole["true"])
        return {"accuracy": result["accuracy"], "macro_f1": result["macro_f1"], "loss": clip_loss(whole)}

    patience = arguments.early_stopping_patience
    return SoundTrainer(
        adaptation=config.model,
        model=model,
        args=arguments,
        train_dataset=parts["train"],
        eval_dataset=parts.get("validation"),
        processing_class=extractor,
        compute_metrics=compute_metrics,
        callbacks=[EarlyStoppingCallback(patience)] if patience else [],
    )


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


def save(trainer: SoundTrainer, folder: Path) -> None:
    """The best model as a stock checkpoint: safetensors, configs, extractor; no pickles."""
    trainer.save_model(str(folder))
    if trainer.is_world_process_zero():
        (folder / "training_args.bin").unlink(missing_ok=True)


def predict(trainer: SoundTrainer, dataset: Any) -> dict[str, np.ndarray]:
    """The test rows' clip scores, in float32 as they are served (autocast is taken off the trained model)."""
    trainer.model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    prediction = trainer.predict(dataset)
    return clip_scores(prediction.predictions, *prediction.label_ids)


def clip_scores(logits: np.ndarray, labels: np.ndarray, clips: np.ndarray) -> dict[str, np.ndarray]:
    """Windows → clips: `probabilities` (clips, classes), `predicted` and `true` (clips,), clips in their row order."""
    rows, probabilities = mean_over_windows(softmax(logits), clips)
    first = np.unique(clips, return_index=True)[1]
    return {"rows": rows, "probabilities": probabilities, "predicted": probabilities.argmax(1), "true": labels[first]}


def scores(test: Mapping[str, np.ndarray], labels: list[str]) -> dict[str, Any]:
    """The test part of metrics.json."""
    result = AudioClassificationMetric(labels).compute(predictions=test["predicted"], references=test["true"])
    return {
        "test_accuracy": result["accuracy"],
        "test_macro_f1": result["macro_f1"],
        "test_loss": clip_loss(test),
        "per_class": result["per_class"],
        "confusion_matrix": result["confusion_matrix"],
    }


def clip_loss(whole: Mapping[str, np.ndarray]) -> float:
    """Mean negative log-likelihood (nats) of the true classes, of what `clip_scores` returns."""
    likelihood = whole["probabilities"][np.arange(len(whole["true"])), whole["true"]]
    return float(-np.log(np.maximum(likelihood, 1e-12)).mean())


def best_validation(trainer: SoundTrainer) -> dict[str, float]:
    """The validation score that chose the checkpoint; nothing with `--validation none`."""
    best = trainer.state.best_metric
    return {} if best is None else {f"best_validation_{trainer.args.metric_for_best_model}": best}


def gpu_memory() -> dict[str, float]:
    """Peak GPU memory in GiB; nothing without a GPU."""
    if not torch.cuda.is_available():
        return {}
    return {"train_peak_gpu_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)}


def write_predictions(path: Path, sounds: Sounds, rows: np.ndarray, probabilities: np.ndarray) -> None:
    """predictions.csv, a line a test clip: what is known of it, its true and predicted class, every class's score."""
    told = sounds.dataset.select(rows)
    known = {name: told[name] if name in told.column_names else [""] * len(rows) for name in CLIP_FACTS}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", *CLIP_FACTS, "seconds", "true", "predicted", *sounds.labels])
        for clip, true, row, *facts in zip(told["audio"], told["label"], probabilities, *known.values(), strict=True):
            seconds = f"{audio.seconds(clip['bytes']):.3f}"
            names = (sounds.labels[true], sounds.labels[int(row.argmax())])
            writer.writerow([clip["path"], *facts, seconds, *names, *(f"{score:.6f}" for score in row)])
