"""The schema of a run: every flag is a field below, with its default and its help, and there is no other schema."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from urbansound_hf import progress
from urbansound_hf.audio import resampling
from urbansound_hf.config.arguments import DataArguments, RunConfig
from urbansound_hf.config.checks import ALL_FOLDS, fold_numbers
from urbansound_hf.config.parse import key_values
from urbansound_hf.data import splits
from urbansound_hf.data.fingerprints import audio_fingerprints
from urbansound_hf.data.leaks import KNOWN, check_leaks, describe_leaks, leak_report
from urbansound_hf.data.loading import SoundRequest, Sounds, load_sounds
from urbansound_hf.data.splits import Split
from urbansound_hf.errors import UserError
from urbansound_hf.evaluation.receipts import begun_receipt, environment, mismatches
from urbansound_hf.evaluation.runs import read_run
from urbansound_hf.hub.files import TOKEN
from urbansound_hf.layout import RECEIPT, finished
from urbansound_hf.models import checkpoint
from urbansound_hf.models.linear_probe import linear_layers
from urbansound_hf.training.loading import configured_extractor, configured_model


def chosen_folds(data: DataArguments, present: Sequence[int] = ALL_FOLDS) -> list[int]:
    """The folds to hold out in turn, sorted.

    Args:
        present: the folds that the data has.

    Raises:
        UserError: one that was asked for is not there.
    """
    wanted = present if data.test_fold == "all" else fold_numbers(data.test_fold)
    if missing := sorted(set(wanted) - set(present)):
        there = ", ".join(map(str, present))
        raise UserError(
            f"the data has no clip of test fold {', '.join(map(str, missing))}", "--test_fold", f"there are {there}"
        )
    return sorted(set(wanted))


@dataclass(frozen=True)
class Experiment:
    """What all folds share: config, data, and a receipt of how things stood when the command was given."""

    config: RunConfig
    sounds: Sounds
    receipt: dict[str, Any]

    @property
    def output_dir(self) -> Path:
        return Path(str(self.config.training.output_dir))

    def folder(self, split: Split) -> Path:
        return self.output_dir / split.name

    def say(self, text: str) -> None:
        """Prints once, however many processes run; nothing with --quiet."""
        if self.config.training.process_index == 0:
            progress.say(text)


def prepare_experiment(config: RunConfig) -> Experiment:
    """Decodes the data, resampled to the rate that the model's feature extractor wants, and begins the receipt."""
    data = config.data
    check_output_dir(Path(str(config.training.output_dir)))
    extractor = configured_extractor(config)
    # Seconds, and a mistake in the model's flags is told before an hour of decoding: two labels will do.
    with checkpoint.quietly(local=True):
        named = list(key_values(config.model.head_from or (), "--head_from"))
        model = configured_model(config, [*named, "a", "b"])
        if config.model.probe_first:
            linear_layers(model)
    request = SoundRequest(
        dataset=data.dataset,
        data_dir=data.data_dir,
        dataset_config=data.dataset_config,
        dataset_revision=data.dataset_revision,
        audio_column=data.audio_column,
        label_column=data.label_column,
        allow_missing_files=data.allow_missing_files,
        sampling_rate=extractor.to_dict()["sampling_rate"],
        num_proc=data.preprocessing_num_workers,
    )
    with config.training.main_process_first(desc="preparing the sounds"):
        sounds = load_sounds(request)
    receipt = {
        "command": [Path(sys.argv[0]).name, *(TOKEN.sub("$HF_TOKEN", word) for word in sys.argv[1:])],
        "config": config.as_dict(),
        "data": {
            "name": sounds.name,
            "fingerprint": sounds.fingerprint,
            "clips": len(sounds.dataset),
            "resampler": resampling.DESCRIPTION,
        },
        "seed": config.training.seed,
        "processes": config.training.world_size,
        "gpus": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
        "environment": environment(),
    }
    return Experiment(config, sounds, receipt)


@contextmanager
def locked_folder(experiment: Experiment, folder: Path, doing: str) -> Iterator[None]:
    """One command at a time is at work in a folder; the first of its processes holds the lock, beside the folder.

    Raises:
        UserError: another command is `doing` something in it.
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


def check_output_dir(folder: Path) -> None:
    """Raises UserError where no folder can be made."""
    above = next(path for path in [folder, *folder.absolute().parents] if path.exists())
    if not above.is_dir():
        raise UserError(f"the runs go into a folder, {above} is a file", "--output_dir", "give another name")


def wanted_splits(experiment: Experiment) -> Iterator[Split]:
    """The splits that the config asks for: one, or one for each test fold.

    Raises:
        UserError: the data lack what it takes, or the folds.
    """
    config, sounds = experiment.config, experiment.sounds
    columns, rows, seed = sounds.dataset.column_names, sounds.dataset, config.training.seed
    if config.data.split == "official" and "fold" in columns:
        for fold in chosen_folds(config.data, sorted(set(rows["fold"]))):
            yield splits.official(rows["fold"], fold, config.data.validation)
        return
    if config.data.test_fold == "all" or "," in config.data.test_fold:
        raise UserError(
            "several test folds need data with a fold column, and --split official",
            f"--test_fold {config.data.test_fold}",
            "leave --test_fold out" if "fold" not in columns else "leave --split out",
        )
    if config.data.split == "random":
        yield splits.random(rows["label"], seed)
    elif config.data.split == "grouped":
        if "group" not in columns:
            raise UserError(
                "--split grouped needs to know which clips share a recording, and the data has no group column",
                "--split",
                "give the metadata a group (or recording, speaker) column, or use --split random",
            )
        yield splits.grouped(rows["label"], rows["group"], seed)
    elif "split" in columns:
        yield splits.predefined(rows["split"], rows["label"], seed)
    else:
        raise UserError(
            "--split official needs a fold column, or train/validation/test parts, and the data has neither",
            "--split",
            "use --split grouped" if "group" in columns else "add a fold column, or use --split random",
        )


def unfinished_splits(experiment: Experiment, wanted: Sequence[Split]) -> Iterator[Split]:
    """Those that are still to be run.

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
    """Looks, before anything is trained, for runs of other experiments in the output folder.

    Raises:
        UserError: one of them was interrupted, and would be continued as if it were of this one; or finished folds
            could not be gathered with several new ones. A single new one may stand beside others, with a note.
    """
    now = {"this run": experiment.receipt}
    for split in filter(lambda split: interrupted(experiment, split), waiting):
        before = begun_receipt(experiment.folder(split))
        differ = mismatches([], {"the interrupted run": before, **now}) if before else ["unknown which"]
        if differ:
            raise UserError(
                f"an interrupted run of another experiment lies here: {'; '.join(differ)}",
                str(experiment.folder(split)),
                "give the same values to continue it, another --output_dir, or --overwrite; or remove the folder",
            )
    replaced = {experiment.folder(split) for split in waiting}
    kept = [folder for folder in finished_folds(experiment.output_dir) if folder not in replaced]
    differ = mismatches(kept, now)
    if differ and len(wanted) > 1:
        raise UserError(
            f"finished folds of another experiment lie here: {'; '.join(differ)}",
            str(experiment.output_dir),
            "give the same values with the same data and code, another --output_dir, or --overwrite",
        )
    if differ and wanted[0].test_fold is not None:
        experiment.say(f"note: {experiment.output_dir} holds folds of another experiment: {'; '.join(differ)}")


def check_checkpoint(experiment: Experiment, wanted: Sequence[Split]) -> None:
    """Raises UserError where the checkpoint that --resume_from_checkpoint names must not or cannot be continued."""
    arguments = experiment.config.training
    named = str(arguments.resume_from_checkpoint or "last")
    if named.lower() in ("last", "true", "false"):
        return
    if len(wanted) > 1:
        raise UserError(
            "a checkpoint of one fold has been trained on the test clips of the others",
            f"--resume_from_checkpoint {named}",
            "leave it out: each fold goes on from its own",
        )
    if arguments.overwrite and experiment.folder(wanted[0]).resolve() in Path(named).resolve().parents:
        raise UserError("--overwrite would remove the checkpoint to go on from", named, "give another --output_dir")


def interrupted(experiment: Experiment, split: Split) -> bool:
    """Whether this split's folder holds a whole checkpoint to continue from."""
    arguments = experiment.config.training
    if arguments.overwrite or str(arguments.resume_from_checkpoint).lower() == "false":
        return False
    return any(experiment.folder(split).glob("checkpoints/checkpoint-*/trainer_state.json"))


def finished_folds(output_dir: Path) -> list[Path]:
    """The folders of finished runs, each of one test fold, in the folder of a cross-validation."""
    runs = [read_run(path.parent) for path in sorted(output_dir.glob(f"*/{RECEIPT}"))]
    return [run.folder for run in runs if run.metrics["test_fold"] is not None]


def report_leaks(experiment: Experiment, split: Split) -> dict[str, Any]:
    """What the test rows share with the training rows; printed, and kept in metrics.json.

    Raises:
        UserError: folds that should keep recordings apart do not.
    """
    data, config = experiment.sounds.dataset, experiment.config
    columns = {name: data[name][:] for name in ("group", "label", "start", "end") if name in data.column_names}
    with config.training.main_process_first(desc="the leak report"):
        fingerprints = audio_fingerprints(data, config.data.preprocessing_num_workers)
    found = leak_report(split, columns, fingerprints)
    experiment.say(f"{split.name}: {describe_leaks(found)}")
    known = KNOWN if experiment.sounds.name == "UrbanSound8K" else frozenset()
    check_leaks(found, "official" if split.test_fold is not None else split.name, known)
    return found
