"""The common part of all runs of a command: data, splits, receipt, and checks of the output folder and the Hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.trainer_utils import HubStrategy

from urbansound_hf import progress
from urbansound_hf.audio import resampling
from urbansound_hf.config.arguments import RunConfig, trains_in_tf32
from urbansound_hf.config.parse import changed_flags, key_values
from urbansound_hf.data.fingerprints import Fingerprints, audio_fingerprints
from urbansound_hf.data.known import known_dataset
from urbansound_hf.data.leaks import KNOWN, check_leaks, leak_report, summarize_leaks
from urbansound_hf.data.loading import SoundRequest, Sounds, load_sounds
from urbansound_hf.data.splits import KINDS, Split, fold_numbers, several_folds, split_notes, wanted_splits
from urbansound_hf.errors import UserError, printable_lines, redacted
from urbansound_hf.evaluation.receipts import environment, mismatches
from urbansound_hf.evaluation.runs import Run, finished_folds
from urbansound_hf.hub.callback import Pusher
from urbansound_hf.hub.files import TOKEN
from urbansound_hf.hub.push import Target, check_upload
from urbansound_hf.layout import finished
from urbansound_hf.models import checkpoint
from urbansound_hf.models.linear_probe import linear_layers
from urbansound_hf.models.loading import starts_from_config
from urbansound_hf.models.registry import register
from urbansound_hf.profiling import stage
from urbansound_hf.training import preflight, resume
from urbansound_hf.training.preprocessing import configured_extractor, configured_model


@dataclass(frozen=True)
class Experiment:
    """The common part of all runs of a command: config, data, and the receipt begun when the command started."""

    config: RunConfig
    sounds: Sounds
    receipt: dict[str, Any]
    run_bytes: int = 0  # of a run's weights and a checkpoint
    silent: bool = False  # prints no results

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
        if self.config.training.process_index == 0 and not self.silent:
            print(printable_lines(text))

    def say(self, text: str) -> None:
        """Prints a line in the first process only; nothing with --quiet."""
        if self.config.training.process_index == 0:
            progress.say(text)


def prepare_experiment(config: RunConfig) -> Experiment:
    """Checks the model's flags, decodes the data at the feature extractor's sampling rate, and begins the receipt.

    Raises:
        UserError: a mistake in a flag of the model or the data, or in the output folder.
    """
    data = config.data
    extractor = configured_extractor(config)
    # This takes seconds, and reports a mistake in the model's flags before an hour of decoding; two labels suffice.
    with checkpoint.quietly(local=True):
        named = list(key_values(config.model.head_from or (), "--head_from"))
        model = configured_model(config, [*named, "a", "b"])
        if config.model.probe_first:
            linear_layers(model)
        if config.training.calibrate:
            linear_layers(model, "--calibrate")
        run_bytes = preflight.run_bytes(config, model)
        preflight.check_storage(config, run_bytes)
        preflight.check_optimizer(config, model)
        preflight.check_model(config, model, extractor)
    request = SoundRequest(
        dataset=data.dataset,
        data_dir=data.data_dir,
        download=data.download,
        dataset_variant=data.dataset_variant,
        dataset_config=data.dataset_config,
        dataset_revision=data.dataset_revision,
        audio_column=data.audio_column,
        label_column=data.label_column,
        allow_missing_files=data.allow_missing_files,
        annotations=data.annotations,
        background_class=data.background_class,
        label_map=data.label_map,
        clip_seconds=data.clip_seconds,
        sampling_rate=extractor.to_dict()["sampling_rate"],
        num_proc=data.preprocessing_num_workers,
        max_seconds=data.max_seconds,
        min_rate=data.min_rate,
        streaming=data.streaming,
    )
    with stage("decode"), config.training.main_process_first(desc="preparing the sounds"):
        sounds = load_sounds(request)
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
    return Experiment(config, sounds, receipt, run_bytes=run_bytes)


def recorded_facts(config: RunConfig, sounds: Sounds) -> dict[str, Any]:
    """The facts of a receipt that a model card needs and that later readers could only guess."""
    register()
    name, dataset = config.model.model_name_or_path, config.data.dataset
    known, _ = known_dataset(sounds.name)
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
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1 and not Path(name).is_dir()


@contextmanager
def locked_folder(experiment: Experiment, folder: Path, doing: str) -> Iterator[None]:
    """Locks a folder for one command; the first of its processes holds the lock file, which lies beside the folder.

    Raises:
        UserError: another command is `doing` ("training", "searching") in it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0)
    if experiment.config.training.process_index == 0:
        try:
            lock.acquire()
        except Timeout:
            fix = "wait for it, or choose another --output_dir"
            raise UserError(f"another command is {doing} in this folder", str(folder), fix) from None
    try:
        yield
    finally:
        lock.release()


def planned_splits(experiment: Experiment) -> list[Split]:
    """The splits that the config asks for: one, or one for each test fold. Raises UserError as `wanted_splits`."""
    clips, data = experiment.sounds.dataset, experiment.config.data
    columns = {name: clips[name][:] for name in ("fold", "group", "split") if name in clips.column_names}
    columns["label"], seed = experiment.sounds.targets, experiment.config.training.seed
    wanted = wanted_splits(columns, data.split, data.test_fold, data.validation, seed, data.folds)
    experiment.say(f"split: {KINDS[wanted[0].kind]}")
    return wanted


def unfinished_splits(experiment: Experiment, wanted: Sequence[Split]) -> Iterator[Split]:
    """The splits without a finished run.

    Raises:
        UserError: only one is wanted, and it is finished.
    """
    for split in wanted:
        folder = experiment.folder(split)
        if experiment.config.training.overwrite or not finished(folder):
            yield split
        elif len(wanted) == 1:
            fix = "choose another --output_dir, or give --overwrite"
            raise UserError("this run is finished already", str(folder), fix)
        else:
            experiment.say(f"{split.name} is finished already: skipped ({folder})")


def refuse_mixtures(experiment: Experiment, wanted: Sequence[Split], waiting: Sequence[Split]) -> None:
    """Checks, before anything is trained, that runs of other experiments in the output folder are not mixed in.

    Raises:
        UserError: an interrupted run of another experiment would be continued, or finished folds of another one could
            not be gathered with several new ones. A single new one only prints a note.
    """
    now = {"this run": experiment.receipt}
    for split in (split for split in waiting if resume.interrupted(experiment.config, experiment.folder(split))):
        before = Run(experiment.folder(split)).begun_receipt
        differ = mismatches({"the interrupted run": before, **now}) if before else ["no record of its values"]
        if differ:
            what = f"an interrupted run of another experiment lies here: {'; '.join(differ)}"
            fix = "give the same values to continue it, another --output_dir, or --resume_from_checkpoint false"
            raise UserError(what, str(experiment.folder(split)), fix)
    replaced = {experiment.folder(split) for split in waiting}
    kept = [run for run in finished_folds(experiment.output_dir) if run.folder not in replaced]
    differ = mismatches({**{run.folder.name: run.receipt or {} for run in kept}, **now})
    if differ and len(wanted) > 1:
        what = f"finished folds of another experiment lie here: {'; '.join(differ)}"
        fix = "give the same values with the same data and code, another --output_dir, or --overwrite"
        raise UserError(what, str(experiment.output_dir), fix)
    if differ and wanted[0].test_fold is not None:
        experiment.say(f"note: {experiment.output_dir} holds folds of another experiment: {'; '.join(differ)}")


def check_checkpoint(experiment: Experiment, wanted: Sequence[Split]) -> None:
    """Raises UserError if the checkpoint that --resume_from_checkpoint names must not be continued."""
    arguments = experiment.config.training
    named = str(arguments.resume_from_checkpoint or "last")
    if named.lower() in ("last", "true", "false"):
        return
    if len(wanted) > 1:
        what = "a checkpoint of one fold has been trained on the test clips of the others"
        fix = "leave it out: each fold continues from its own checkpoint"
        raise UserError(what, f"--resume_from_checkpoint {named}", fix)
    folder = experiment.folder(wanted[0])
    if arguments.overwrite and finished(folder) and folder.resolve() in Path(named).resolve().parents:
        raise UserError("--overwrite would remove the checkpoint to continue from", named, "give another --output_dir")
    resume.check_named(experiment.config)


def report_leaks(experiment: Experiment, split: Split) -> dict[str, Any]:
    """The leak report of a split: recordings and clips that training and test share; printed.

    Raises:
        UserError: a recording is in several parts of a split that should keep recordings apart.
    """
    data = experiment.sounds.dataset
    columns = {name: data[name][:] for name in ("group", "start", "end") if name in data.column_names}
    columns["label"] = [str(label) for label in data["label"]] if experiment.sounds.multi_label else data["label"][:]
    found = leak_report(split, columns, experiment.fingerprints)
    experiment.say(f"{split.name}: {summarize_leaks(found)}")
    for note in split_notes(split, experiment.sounds.targets, experiment.sounds.labels):
        experiment.say(f"{split.name}: {note}")
    known = KNOWN if experiment.sounds.name == "UrbanSound8K" else frozenset()
    check_leaks(found, split.kind, known)
    return found


def check_push(config: RunConfig) -> None:
    """Checks, before anything is prepared, that the Hub accepts a push; creates the first repository.

    Raises:
        NotPushed: no token, no right to write there, no connection.
    """
    if config.training.push_to_hub and config.training.process_index == 0:
        first = (fold_numbers(config.data.test_fold or "") or [1])[0]
        check_upload(push_target(config, f"fold{first}"))


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
