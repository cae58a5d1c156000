"""One run: its model and data, training, the checkpoint chosen on the validation clips, and one test."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from transformers import EarlyStoppingCallback, FeatureExtractionMixin, PreTrainedModel, TrainerCallback, set_seed

from urbansound_hf.audio.io import Limits, audio_seconds
from urbansound_hf.config.arguments import ModelArguments, RecipeArguments, RunConfig
from urbansound_hf.config.parse import key_values
from urbansound_hf.data.loading import Sounds
from urbansound_hf.data.splits import Split, split_notes
from urbansound_hf.errors import UserError
from urbansound_hf.evaluation.confidence import calibration, fit_temperature
from urbansound_hf.evaluation.hf_metric import AudioClassificationMetric
from urbansound_hf.evaluation.metrics import ALL_METRICS, UNTUNED, best_thresholds, clip_scores, compute_metrics
from urbansound_hf.evaluation.receipts import PeakMemory
from urbansound_hf.evaluation.runs import Predictions, write_json
from urbansound_hf.features.dataset import prepare_features, readable
from urbansound_hf.features.extract import FeatureExtractor, Waveforms, extract, filling
from urbansound_hf.features.streaming import StreamedClips
from urbansound_hf.layout import HISTORY, METRICS, PREDICTIONS, TRACE, VALIDATION
from urbansound_hf.models import adapt
from urbansound_hf.models.heads import choose_head_inputs
from urbansound_hf.models.linear_probe import LinearProbe, agrees, embeddings, fit_head, linear_layers
from urbansound_hf.models.loading import library_messages, load_feature_extractor, load_model
from urbansound_hf.models.onnx_export import export_onnx
from urbansound_hf.models.registry import family_of, window_cut
from urbansound_hf.profiling import stage
from urbansound_hf.progress import say
from urbansound_hf.training.augmented_dataset import AugmentedDataset
from urbansound_hf.training.callbacks import SaveOnTerm, StepTimes
from urbansound_hf.training.resume import resume_point
from urbansound_hf.training.trainer import SoundTrainer


class Prepared(NamedTuple):
    """The model and the data with which a training starts."""

    model: PreTrainedModel  # with a head for the labels; frozen and adapted as the config says
    extractor: FeatureExtractionMixin
    learner: torch.nn.Module  # what Trainer trains: `model` or, for a linear probe, its head
    train: datasets.Dataset | AugmentedDataset  # model inputs of one shape; augmented where epochs differ
    train_labels: np.ndarray  # (len(train),) class ids
    validation: datasets.Dataset | None  # model inputs of the clips as serving computes them; None without clips
    test: datasets.Dataset | None
    probe: dict[str, Any]


def prepare_training(config: RunConfig, sounds: Sounds, split: Split) -> Prepared:
    """Loads and adapts the model, and computes the inputs of the three parts. Raises UserError."""
    extractor = configured_extractor(config)
    model = configured_model(config, sounds.labels, sounds.multi_label)
    probe = {}
    if config.model.probe_first:
        probe = start_from_probe(config, sounds.dataset, split.train, extractor, model)
    if config.recipe.spec_augment and mask_hidden_states(model, extractor, config.recipe, config.data.clip_seconds):
        config = config.with_values({"spec_augment": 0.0})  # the model masks hidden states, its inputs stay unmasked
    adapt_model(model, config.model, config.recipe.test_time_shifts)
    with stage("extract"):
        compute = streamed_inputs if config.data.streaming else prepare_inputs
        parts, learner = compute(config, sounds.dataset, split, extractor, model)
    train: Any = parts["train"]
    if config.recipe.changes_inputs:  # augmented anew in each epoch
        window, classes = window_samples(config.data.clip_seconds, extractor), model.config.num_labels or 0
        spectrogram = family_of(model.config.model_type).spectrogram
        recipe, seed = config.recipe, config.training.seed
        train = AugmentedDataset(train, recipe, extractor, window, classes, seed, spectrogram)
    labels = np.array(readable(parts["train"]).kept["labels"])
    return Prepared(model, extractor, learner, train, labels, parts.get("validation"), parts.get("test"), probe)


def configured_extractor(config: RunConfig) -> FeatureExtractionMixin:
    """The feature extractor for clips of `clip_seconds`. Raises UserError as `load_feature_extractor` does."""
    overrides = key_values(config.model.feature_extractor_config or ())
    return load_feature_extractor(config.model.model_name_or_path, overrides=overrides, **_source(config))


def configured_model(config: RunConfig, labels: Sequence[str], multi_label: bool = False) -> PreTrainedModel:
    """The model with a head for `labels`, before anything is frozen. Raises UserError as `load_model` does."""
    model, kind = config.model, "multi_label_classification" if multi_label else "single_label_classification"
    overrides = key_values(model.model_config or ()) | {"problem_type": kind}
    head: dict[str, Any] = {"head_from": key_values(model.head_from or ())}
    head["weighted_layer_sum"] = model.weighted_layer_sum
    loaded = load_model(model.model_name_or_path, labels, overrides=overrides, **head, **_source(config))
    choose_head_inputs(loaded, model.probe_pooling or (), model.probe_layers or ())
    return loaded


def _source(config: RunConfig) -> dict[str, Any]:
    revision, trusted = config.model.model_revision, config.model.trust_remote_code
    return {"clip_seconds": config.data.clip_seconds, "revision": revision, "trust_remote_code": trusted}


def adapt_model(model: PreTrainedModel, arguments: ModelArguments, test_time_shifts: int) -> None:
    """Freezes the model, adds LoRA, and stores in its config what serving must know; all in place."""
    if test_time_shifts:
        model.config.test_time_shifts = test_time_shifts
    adapt.mask_without_waiting(model)
    adapt.freeze(model, arguments.freeze, arguments.unfreeze_last_n)
    if arguments.lora_rank:
        from urbansound_hf.models import lora  # needs peft, an extra, installed where it is asked for

        lora.apply_lora(model, arguments.lora_rank)


def mask_hidden_states(
    model: PreTrainedModel, extractor: FeatureExtractor, recipe: RecipeArguments, clip_seconds: float
) -> bool:
    """Turns on a model's own masking of hidden states (wav2vec2-style models), in place; returns whether it has one."""
    clip = extract(extractor, np.zeros(window_samples(clip_seconds, extractor), np.float32))
    # A mask of random width hides half of the maximum on average; the model's own masks hide exactly their share.
    probability = recipe.spec_augment / 2
    return adapt.model_masking(model, clip, probability * recipe.frequency_mask, probability * recipe.time_mask)


def prepare_inputs(
    config: RunConfig, clips: datasets.Dataset, split: Split, extractor: FeatureExtractor, model: PreTrainedModel
) -> tuple[dict[str, datasets.Dataset], torch.nn.Module]:
    """The inputs of the parts that have clips, by name, and what is trained: the model, or a probe of its head."""
    recipe, batch_size = config.recipe, config.training.per_device_eval_batch_size
    cut, processes = window_cut(model, extractor, config.data.clip_seconds), config.data.preprocessing_num_workers
    filled = "none" if recipe.augment else filling(extractor, cut.window, recipe.fill)
    train_extractor = Waveforms(extractor.sampling_rate) if recipe.augment else extractor
    learner: torch.nn.Module = model
    with config.training.main_process_first(desc="feature extraction"):
        scored = prepare_features(clips, extractor, cut._replace(shifts=recipe.test_time_shifts), processes)
        learned = prepare_features(clips, train_extractor, cut._replace(filled=filled), processes)
        kinds = {features._fingerprint: features for features in (scored, learned)}.values()
        if is_probe(config.model, recipe) and all(agrees(model, each, config.training.device) for each in kinds):
            features, scored, learner = learned, embeddings(model, scored, batch_size), LinearProbe(model)
            learned = scored.select(range(0, len(scored), recipe.test_time_shifts + 1))  # the first is not shifted
            if filled != "none":  # only the clips that were filled pass through the model again
                samples = [audio_seconds(clip["bytes"]) * extractor.sampling_rate for clip in clips["audio"]]
                short = np.isin(features["clip"][:], np.flatnonzero(np.round(samples) < cut.window))
                if short.any():
                    again = embeddings(model, features.select(np.flatnonzero(short)), batch_size)
                    learned = datasets.concatenate_datasets([learned.select(np.flatnonzero(~short)), again])
                    learned = learned.select(np.argsort(learned["clip"][:], kind="stable"))
    inputs = {"train": learned} | {part: scored for part in ("validation", "test") if len(getattr(split, part))}
    return {part: select_clips(features, getattr(split, part)) for part, features in inputs.items()}, learner


def streamed_inputs(
    config: RunConfig, clips: datasets.Dataset, split: Split, extractor: FeatureExtractor, model: PreTrainedModel
) -> tuple[dict[str, Any], torch.nn.Module]:
    """As `prepare_inputs`, but each part reads, decodes and extracts its clips when they are asked for."""
    recipe, limits = config.recipe, Limits(config.data.min_rate, config.data.max_seconds)
    cut = window_cut(model, extractor, config.data.clip_seconds)._replace(limits=limits)
    filled = "none" if recipe.augment else filling(extractor, cut.window, recipe.fill)
    train_extractor = Waveforms(extractor.sampling_rate) if recipe.augment else extractor
    buffer, scored = config.data.shuffle_buffer, cut._replace(shifts=recipe.test_time_shifts)
    parts = {"train": StreamedClips(clips, split.train, train_extractor, cut._replace(filled=filled), buffer)}
    held_out = {"validation": split.validation, "test": split.test}
    parts |= {part: StreamedClips(clips, rows, extractor, scored) for part, rows in held_out.items() if len(rows)}
    return parts, model


def is_probe(arguments: ModelArguments, recipe: RecipeArguments) -> bool:
    """Whether only the head is trained, on inputs that stay the same, so that embeddings can be cached."""
    return arguments.freeze == "backbone" and not arguments.unfreeze_last_n and not recipe.changes_inputs


def start_from_probe(
    config: RunConfig, clips: datasets.Dataset, train: np.ndarray, extractor: FeatureExtractor, model: PreTrainedModel
) -> dict[str, Any]:
    """Fits the head, in place, to embeddings of the training clips; returns what `fit_head` does, or UserError."""
    with config.training.main_process_first(desc="the linear probe before training"):
        cut = window_cut(model, extractor, config.data.clip_seconds)
        features = prepare_features(clips, extractor, cut, config.data.preprocessing_num_workers)
        if not agrees(model, features, config.training.device):
            what = f"the head of {model.config.model_type} models is no linear function of the pooled embedding"
            raise UserError(what, "--probe_first", "leave it out for this family")
        embedded = embeddings(model, features, config.training.per_device_eval_batch_size)  # for the other folds, too
        part = select_clips(embedded, train)
        groups = clips["group"][:] if "group" in clips.column_names else [None] * len(clips)
        names = [group or f"clip {number}" for number, group in enumerate(groups)]
        recordings = np.unique(names, return_inverse=True)[1]  # of every clip
        return fit_head(model, part, recordings[part["clip"][:]], config.model.probe_penalty)


def select_clips(features: datasets.Dataset, clips: np.ndarray) -> datasets.Dataset:
    """The rows of features that belong to some clips; a long clip has several."""
    return features.select(np.flatnonzero(np.isin(features["clip"][:], clips)))


def window_samples(clip_seconds: float, extractor: FeatureExtractor) -> int:
    """Samples of a training clip."""
    return round(clip_seconds * extractor.sampling_rate)


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
    with PeakMemory() as peak:
        outcome = trainer.train(resume_from_checkpoint=begun)
    trained = adapt.count_parameters(model)["trained_parameters"]  # before LoRA's are merged into the others
    fitted, thresholds = complete_model(config, trainer, prepared, sounds)
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
        **{f"test_{name}" if name in ALL_METRICS else name: value for name, value in scores.items()},
        **split_facts(sounds, split),
        **({"probe": prepared.probe} if prepared.probe else {}),
        **fitted,
        **adapt.count_parameters(model),
        "trained_parameters": trained,
        "train_peak_memory_gib": round(peak.gib, 2),
        **training_facts(trainer, outcome.metrics, begun),
        **(facts or {}),
    }
    if trainer.is_world_process_zero():
        for name, rows, clips in ((PREDICTIONS, split.test, test), (VALIDATION, split.validation, known)):
            if clips:  # an ensemble fits its weights on those for the validation clips
                part = sounds.dataset.select(rows)
                Predictions.of(part, clips["probabilities"], sounds.labels, thresholds).write(folder / name)
        write_json(folder / METRICS, metrics)
        write_json(folder / HISTORY, trainer.state.log_history)
    return metrics


def complete_model(
    config: RunConfig, trainer: SoundTrainer, prepared: Prepared, sounds: Sounds
) -> tuple[dict[str, Any], list[float] | None]:
    """Merges LoRA, fits a temperature and chooses thresholds, as the config and the labels ask, in the trained model.

    Returns the calibration for metrics.json, empty without one, and the thresholds of a model of several labels.
    """
    if config.model.lora_rank:
        from urbansound_hf.models import lora

        lora.merge_lora(prepared.model)
    fitted: dict[str, Any] = {}
    if config.training.calibrate:
        fitted["calibration"] = calibrate(prepared.model, *predict_windows(trainer, prepared.validation))
    if not sounds.multi_label:
        return fitted, None
    thresholds = [UNTUNED] * len(sounds.labels)
    if prepared.validation:
        clips = clip_scores(*predict_windows(trainer, prepared.validation))
        thresholds = best_thresholds(clips["true"], clips["probabilities"])
    prepared.model.config.update({"thresholds": thresholds})
    return fitted, thresholds


def split_facts(sounds: Sounds, split: Split) -> dict[str, Any]:
    """The part of metrics.json on the data and its split."""
    return {
        "labels": sounds.labels,
        "split": split.name,
        "split_kind": split.kind,
        **{name: getattr(split, name) for name in ("test_fold", "validation_fold", "train_folds")},
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
        args=config.with_values(changed).training,
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
        with library_messages():
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
        return compute_metrics(**clips)["loss"], calibration(clips["probabilities"], clips["true"])["ece"]

    temperature = fit_temperature(lambda each: measured(each)[0])
    before, after = measured(1.0), measured(temperature)
    for values in last.parameters():
        values.div_(temperature)
    return {"temperature": temperature, "loss_before": before[0], "loss_after": after[0],
            "ece_before": before[1], "ece_after": after[1]}  # fmt: skip
