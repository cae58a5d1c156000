"""The common part of all runs of a command: data, splits, receipt, and checks before the work and after it."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from filelock import FileLock, Timeout
from transformers import PreTrainedModel, SchedulerType, get_scheduler
from transformers.trainer_utils import HubStrategy
from transformers.training_args import OptimizerNames

from urbansound_hf import progress
from urbansound_hf.audio import resampling
from urbansound_hf.config.arguments import RunConfig, trains_in_tf32
from urbansound_hf.config.parse import changed_flags, key_values
from urbansound_hf.data.fingerprints import Fingerprints, audio_fingerprints
from urbansound_hf.data.leaks import KNOWN, check_leaks, leak_report, summarize_leaks
from urbansound_hf.data.loading import SoundRequest, Sounds, load_sounds
from urbansound_hf.data.splits import KINDS, Split, several_folds, split_notes, wanted_splits
from urbansound_hf.errors import NotFiniteError, UserError, check_free_space, check_writable, printable_lines, redacted
from urbansound_hf.evaluation.receipts import environment, mismatches
from urbansound_hf.evaluation.runs import Run, finished_folds
from urbansound_hf.features.extract import FeatureExtractor, extract
from urbansound_hf.hub.callback import Pusher
from urbansound_hf.hub.files import TOKEN
from urbansound_hf.hub.push import Target
from urbansound_hf.inference.classifier import SoundClassifier
from urbansound_hf.inference.torch_backend import TorchBackend
from urbansound_hf.layout import finished
from urbansound_hf.models.linear_probe import linear_layers
from urbansound_hf.models.loading import library_messages, starts_from_config
from urbansound_hf.models.registry import family_of, register
from urbansound_hf.profiling import stage
from urbansound_hf.training import resume
from urbansound_hf.training.run import (
    adapt_model,
    configured_extractor,
    configured_model,
    is_probe,
    mask_hidden_states,
    window_samples,
)
from urbansound_hf.training.trainer import SoundTrainer


@dataclass(frozen=True)
class Experiment:
    """The common part of all runs of a command: config, data, and the receipt begun when the command started."""

    config: RunConfig
    sounds: Sounds
    receipt: dict[str, Any]
    run_bytes: int = 0  # of a run's weights and a checkpoint

    @property
    def output_dir(self) -> Path:
        return Path(str(self.config.training.output_dir))

    @cached_property
    def fingerprints(self) -> Fingerprints | None:
        """Of every clip, for the leak reports of all splits; None where sounds are streamed."""
        if self.config.data.streaming:
            return None
        with self.config.training.main_process_first(desc="the leak report"):
            return audio_fingerprints(self.sounds.dataset, self.config.data.preprocessing_num_workers)

    def folder(self, split: Split) -> Path:
        return self.output_dir / split.name

    def show(self, text: str) -> None:
        """Prints a result in the first process only."""
        if self.config.training.process_index == 0:
            print(printable_lines(text))

    def say(self, text: str) -> None:
        """Prints a line in the first process only; nothing with --quiet."""
        if self.config.training.process_index == 0:
            progress.say(text)

    @contextmanager
    def locked(self, folder: Path, doing: str) -> Iterator[None]:
        """Locks a folder for one command, by a file beside it; UserError if another one is `doing` something in it."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0)
        if self.config.training.process_index == 0:
            try:
                lock.acquire()
            except Timeout:
                fix = "wait for it, or choose another --output_dir"
                raise UserError(f"another command is {doing} in this folder", str(folder), fix) from None
        try:
            yield
        finally:
            lock.release()

    def planned_splits(self) -> list[Split]:
        """The splits that the config asks for: one, or one for each test fold. Raises UserError as `wanted_splits`."""
        clips, data = self.sounds.dataset, self.config.data
        columns = {name: clips[name][:] for name in ("fold", "group", "split") if name in clips.column_names}
        columns["label"], seed = self.sounds.targets, self.config.training.seed
        wanted = wanted_splits(columns, data.split, data.test_fold, data.validation, seed, data.folds)
        self.say(f"split: {KINDS[wanted[0].kind]}")
        return wanted

    def refuse_mixtures(self, wanted: Sequence[Split], waiting: Sequence[Split]) -> None:
        """Raises UserError, before anything is trained, where runs of other experiments would be mixed in.

        That is, continued, or gathered as folds with several new ones. A single new one only prints a note.
        """
        now, folders = {"this run": self.receipt}, [self.folder(split) for split in waiting]
        for folder in (folder for folder in folders if resume.interrupted(self.config, folder)):
            before = Run(folder).receipt
            if differ := mismatches({"the interrupted run": before, **now}) if before else ["no record of its values"]:
                what = f"an interrupted run of another experiment lies here: {'; '.join(differ)}"
                fix = "give the same values to continue it, another --output_dir, or --resume_from_checkpoint false"
                raise UserError(what, str(folder), fix)
        kept = [run for run in finished_folds(self.output_dir) if run.folder not in folders]
        differ = mismatches({**{run.folder.name: run.receipt or {} for run in kept}, **now})
        if differ and len(wanted) > 1:
            what = f"finished folds of another experiment lie here: {'; '.join(differ)}"
            fix = "give the same values with the same data and code, another --output_dir, or --overwrite"
            raise UserError(what, str(self.output_dir), fix)
        if differ and wanted[0].test_fold is not None:
            self.say(f"note: {self.output_dir} holds folds of another experiment: {'; '.join(differ)}")

    def check_checkpoint(self, wanted: Sequence[Split]) -> None:
        """Raises UserError if the checkpoint that --resume_from_checkpoint names must not be continued."""
        arguments = self.config.training
        named = str(arguments.resume_from_checkpoint or "last")
        if named.lower() in ("last", "true", "false"):
            return
        if len(wanted) > 1:
            what = "a checkpoint of one fold has been trained on the test clips of the others"
            fix = "leave it out: each fold continues from its own checkpoint"
            raise UserError(what, f"--resume_from_checkpoint {named}", fix)
        folder = self.folder(wanted[0])
        if arguments.overwrite and finished(folder) and folder.resolve() in Path(named).resolve().parents:
            raise UserError(
                "--overwrite would remove the checkpoint to continue from", named, "give another --output_dir"
            )
        resume.check_named(self.config)

    def report_leaks(self, split: Split) -> dict[str, Any]:
        """Prints and returns the leak report of a split; UserError if one that keeps recordings apart shares one."""
        data = self.sounds.dataset
        columns = {name: data[name][:] for name in ("group", "start", "end") if name in data.column_names}
        columns["label"] = [str(label) for label in data["label"]] if self.sounds.multi_label else data["label"][:]
        found = leak_report(split, columns, self.fingerprints)
        self.say(f"{split.name}: {summarize_leaks(found)}")
        for note in split_notes(split, self.sounds.targets, self.sounds.labels):
            self.say(f"{split.name}: {note}")
        check_leaks(found, split.kind, KNOWN if self.sounds.name == "UrbanSound8K" else frozenset())
        return found


def prepare_experiment(config: RunConfig) -> Experiment:
    """Checks the model's flags and the output folder, decodes the data at the model's rate, and begins the receipt."""
    data = config.data
    extractor = configured_extractor(config)
    # This takes seconds, and reports a mistake in the model's flags before an hour of decoding; two labels suffice.
    with library_messages():
        model = configured_model(config, [*key_values(config.model.head_from or ()), "a", "b"])
        if config.model.probe_first:
            linear_layers(model)
        if config.training.calibrate:
            linear_layers(model, "--calibrate")
        needed = run_bytes(config, model)
        check_storage(config, needed)
        check_optimizer(config, model)
        check_model(config, model, extractor)
    same = {field.name: getattr(data, field.name) for field in fields(SoundRequest) if hasattr(data, field.name)}
    rate, processes = extractor.to_dict()["sampling_rate"], data.preprocessing_num_workers
    with stage("decode"), config.training.main_process_first(desc="preparing the sounds"):
        sounds = load_sounds(SoundRequest(**same, sampling_rate=rate, num_proc=processes))
    if config.training.process_index == 0:
        for note in sounds.notes:
            progress.say(f"{sounds.name}: {note}")
    receipt = {
        "command": [TOKEN.sub("$HF_TOKEN", redacted(word)) for word in config.command],
        "config": config.as_dict(),
        **recorded_facts(config, sounds),
        "seed": config.training.seed,
        "processes": config.training.world_size,
        "gpus": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
        "tf32": trains_in_tf32(config.training),
        "environment": environment(),
    }
    return Experiment(config, sounds, receipt, run_bytes=needed)


def recorded_facts(config: RunConfig, sounds: Sounds) -> dict[str, Any]:
    """The facts of a receipt that a model card needs and that later readers could only guess."""
    register()
    name, dataset, known = config.model.model_name_or_path, config.data.dataset, sounds.known
    return {
        "data": {
            "name": sounds.name,
            "fingerprint": sounds.fingerprint,
            "clips": len(sounds.dataset),
            "resampler": resampling.DESCRIPTION,
            "hub_dataset": dataset if dataset == sounds.name and is_hub_id(dataset) else None,
            **({"licence": known.licence, "citation": known.citation, "homepage": known.homepage} if known else {}),
        },
        "model": {"base_model": name if is_hub_id(name) else None, "from_scratch": starts_from_config(name)},
        "changed_flags": changed_flags(config.as_dict()),
    }


def is_hub_id(name: str) -> bool:
    """Whether a name is owner/name on the Hub and not a folder here."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None and not Path(name).is_dir()


def push_callback(config: RunConfig, split: str) -> Pusher | None:
    """The callback that pushes the run of a split; None without `--push_to_hub`, and in all but the first process."""
    arguments = config.training
    if not arguments.push_to_hub or arguments.process_index != 0:
        return None
    # Until LoRA's matrices are merged into the weights, its checkpoints open nowhere.
    strategy = "end" if config.model.lora_rank else HubStrategy(arguments.hub_strategy).value
    return Pusher(push_target(config, split), strategy, arguments.hub_always_push)


def push_target(config: RunConfig, split: str) -> Target:
    """The repository of a split's run; with several test folds, each has its own."""
    arguments = config.training
    name = f"{arguments.hub_model_id}-{split}" if several_folds(config.data.test_fold) else str(arguments.hub_model_id)
    visible: dict[str, Any] = {"private": arguments.hub_private_repo, "revision": arguments.hub_revision}
    return Target(name, **visible, token=arguments.hub_token)


REFUSALS = (ValueError, RuntimeError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError,
            MemoryError, UserError)  # fmt: skip
"""What models and feature extractors raise for inputs and settings that do not fit."""


def check_model(config: RunConfig, model: PreTrainedModel, extractor: FeatureExtractor) -> None:
    """Runs faint noise through a model as serving and training do; UserError if it cannot. It is not usable afterwards.

    Silence would not do: the features of some families divide by its deviation.
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
    except NotFiniteError as error:
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
