"""Checks of a run that take seconds: before the work, that it can succeed; after it, that serving opens the result."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from transformers import PreTrainedModel, SchedulerType, get_scheduler
from transformers.training_args import OptimizerNames

from urbansound_hf.config.arguments import RunConfig
from urbansound_hf.errors import UserError, check_free_space, check_writable
from urbansound_hf.features.extract import FeatureExtractor, extract
from urbansound_hf.inference.classifier import NotFiniteScores, SoundClassifier
from urbansound_hf.inference.torch_backend import TorchBackend
from urbansound_hf.models.registry import family_of
from urbansound_hf.training.preprocessing import adapt_model, is_probe, mask_hidden_states, window_samples
from urbansound_hf.training.trainer import SoundTrainer

REFUSALS = (ValueError, RuntimeError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError,
            MemoryError, UserError)  # fmt: skip
"""What models and feature extractors raise for inputs and settings that do not fit."""


def check_model(config: RunConfig, model: PreTrainedModel, extractor: FeatureExtractor) -> None:
    """Runs a window of faint noise through a model as serving and as training do; it is not usable afterwards.

    Silence would not do: the features of some families divide by its deviation. Raises UserError if model, feature
    extractor and clip length do not fit together, or the weights are not finite.
    """
    clip_seconds, rate = config.data.clip_seconds, extractor.sampling_rate
    samples = window_samples(clip_seconds, extractor)
    shortest = family_of(model.config.model_type).lengths.shortest_samples(model.config)
    if samples < shortest:
        what = f"this model takes clips of {shortest / rate:g} s or more, found {clip_seconds:g} s"
        raise UserError(what, "--clip_seconds", f"give at least {shortest / rate:g}")
    noise = np.random.default_rng(0).normal(0, 0.01, max(1, samples)).astype(np.float32)
    shape = ""
    try:
        with torch.random.fork_rng(devices=[]):
            inputs = extract(extractor, noise)
            shape = "; features: " + ", ".join(f"{name} {values.shape}" for name, values in inputs.items())
            if config.recipe.spec_augment:
                mask_hidden_states(model, extractor, config.recipe, clip_seconds)
            adapt_model(model, config.model, config.recipe.test_time_shifts)
            batch = {name: torch.from_numpy(np.stack([values, values])) for name, values in inputs.items()}
            with torch.no_grad():
                model.train()(**batch, labels=torch.tensor([0, 1]))
            classifier = SoundClassifier(TorchBackend(model, extractor, "cpu"))
            classifier.classify_many([])  # accepts the window, or raises
            classifier.probabilities([noise])
    except NotFiniteScores as error:
        what = f"the scores of {config.model.model_name_or_path} are not finite before any training"
        fix = "its weights are damaged: download or convert them again"
        raise UserError(what, "--model_name_or_path", fix) from error
    except REFUSALS as error:
        what = f"the model cannot process a clip of {clip_seconds:g} s: {_first_line(error)}{shape}"
        fix = "values of --model_config and --feature_extractor_config must agree; --clip_seconds must be long enough"
        raise UserError(what, "--clip_seconds, --model_config, --feature_extractor_config", fix) from error


def check_optimizer(config: RunConfig, model: PreTrainedModel) -> None:
    """Makes optimizer and schedule, and checks gradient checkpointing; UserError for what a run could not use."""
    arguments = config.training
    try:
        SoundTrainer.get_optimizer_cls_and_kwargs(arguments, model)
    except (*REFUSALS, ImportError) as error:
        where = f"--optim {OptimizerNames(arguments.optim).value}"
        raise UserError(_first_line(error), where, "install it, or use adamw_torch") from error
    try:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=arguments.learning_rate)
        values = dict(cast(dict, arguments.lr_scheduler_kwargs) or {})
        get_scheduler(arguments.lr_scheduler_type, optimizer, 1, 10, scheduler_specific_kwargs=values)
    except REFUSALS as error:
        name = SchedulerType(arguments.lr_scheduler_type).value
        what = f"the schedule {name} cannot be made: {_first_line(error)}"
        fix = f"--lr_scheduler_kwargs takes what {name} needs, as JSON: '{{\"num_decay_steps\": 100}}'"
        raise UserError(what, "--lr_scheduler_type, --lr_scheduler_kwargs", fix) from error
    if arguments.gradient_checkpointing or arguments.activation_checkpointing:
        probe = is_probe(config.model, config.recipe)
        if probe or not model.supports_gradient_checkpointing:
            kind = "a linear probe has no backward pass" if probe else f"{model.config.model_type} has none"
            fix = "leave it out; a smaller --per_device_train_batch_size saves memory too"
            raise UserError(f"gradient checkpointing is not available: {kind}", "--gradient_checkpointing", fix)


def run_bytes(config: RunConfig, model: PreTrainedModel) -> int:
    """The bytes of a run's weights and, if it saves any, of a checkpoint: the weights and, with Adam, two of each."""
    weights = sum(each.nbytes for each in model.parameters())
    if config.training.save_strategy == "no":
        return weights
    adam = 2 * sum(each.nbytes for each in model.parameters() if each.requires_grad)
    return 2 * weights + (adam if "adam" in str(config.training.optim) else 0)


def check_storage(config: RunConfig, needed: int) -> None:
    """Raises UserError if a run of so many bytes cannot be written to the output folder."""
    folder = str(config.training.output_dir)
    check_writable(folder, "--output_dir")
    check_free_space(folder, "--output_dir", needed)


def check_serving(folder: Path, clip: bytes, trust_remote_code: bool = False) -> None:
    """Opens a run as serving does and classifies a clip, the bytes of a sound file. Raises UserError."""
    try:
        classifier = SoundClassifier.from_pretrained(folder, None, "cpu", trust_remote_code, "torch")
        classifier.classify(clip)
    except REFUSALS as error:
        what = f"the trained model cannot be served: {_first_line(error)}"
        raise UserError(what, str(folder), "report it with this folder's run.yaml; its checkpoints are kept") from error


def _first_line(error: BaseException) -> str:
    text = error.what if isinstance(error, UserError) else str(error)
    return (text.strip() or type(error).__name__).splitlines()[0]
