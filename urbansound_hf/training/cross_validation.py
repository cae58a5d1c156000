"""`train`, and the runs of a command, one per test fold: data prepared once, interrupted runs continued.

Jobs of an array can train one fold each, with `--test_fold k` and the same output folder; then

    urbansound-hf crossval OUTPUT_DIR [--force]

gathers the finished folds.
"""

import gc
import io
import shutil
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import yaml

from urbansound_hf import progress
from urbansound_hf.config.arguments import RunConfig
from urbansound_hf.config.parse import keyword_run_config
from urbansound_hf.data.splits import Split, fold_numbers
from urbansound_hf.errors import UserError, interruption, printable_lines, redacted, write_text, writing
from urbansound_hf.evaluation.runs import Run, read_run, write_json
from urbansound_hf.hub.push import check_upload
from urbansound_hf.layout import BEGUN, CHECKPOINTS, METRICS, RECEIPT, REPORT, REPORT_PAGE, RESOLVED, finished
from urbansound_hf.models.loading import library_messages
from urbansound_hf.profiling import profiling, stage
from urbansound_hf.reports.run_report import cross_validation_summary, gather_folds, run_summary, write_run
from urbansound_hf.training.experiment import (
    Experiment,
    check_serving,
    check_storage,
    prepare_experiment,
    push_callback,
    push_target,
)
from urbansound_hf.training.resume import complete_checkpoints, interrupted, report_restart
from urbansound_hf.training.run import train_and_evaluate
from urbansound_hf.training.search import run_search

NOTHING_TRAINED = "interrupted before the training; prepared sounds are kept, and the same command continues"


def run_experiment(config: RunConfig) -> int:
    """Runs every test fold that the config asks for, or the search; returns the exit code (1: some fold failed)."""
    with profiling(config.training.profile and config.training.process_index == 0):
        try:
            folders, failed = search_or_train(config)
        except KeyboardInterrupt as error:
            raise error if str(error) else interruption(error, NOTHING_TRAINED) from error
    for name, reason in failed.items():
        what = f"failed: {name}: {reason}" if len(folders) > 1 else f"error: {reason}"
        print(printable_lines(what), file=sys.stderr)
    return 1 if failed else 0


def train(config: str | Path = "wav2vec2_base", /, **flags: Any) -> list[Run]:
    """Fine-tunes and evaluates a model, as the command `urbansound-hf train CONFIG --flag value …` does.

    Sets the global random seeds, as every training does; leaves the settings of logging and progress bars as they were.

    Args:
        config: the name of a shipped config, such as "cnn", or the path of a YAML file.
        flags: any flag of `urbansound-hf train --help`, without the dashes; they win over the config. Lists for flags
            of several values (`test_fold=[1, 2]`, `augment=["shift"]`), a mapping for KEY=VALUE flags
            (`model_config={"hidden_sizes": [8, 16]}`), None for a flag's default. With `quiet=True` nothing is printed.

    Returns:
        one `Run` per test fold, in the order of the folds: `folder` (the checkpoint, for
        `SoundClassifier.from_pretrained`), `metrics` and `predictions`. Folds of this experiment that are finished
        already are not trained again. With `search`, which trains no run, the list is empty.

    Raises:
        UserErrors: mistakes in the config or the keywords, each with its place and the nearest valid name.
        UserError: the data, the folds or the output folder do not allow it, the only run is finished already (unless
            `overwrite=True`), or a fold failed; the message says where the finished ones are.

    Examples:
        >>> model = {"hidden_sizes": [4, 8, 8, 8]}
        >>> runs = ush.train("cnn", dataset="sounds", test_fold=3, num_train_epochs=1, model_config=model, quiet=True)
        >>> runs[0].folder.as_posix(), runs[0].metrics["test_fold"], len(runs[0].predictions)
        ('outputs/cnn/fold3', 3, 10)
    """
    words = [repr(str(config)), *(f"{name}={value!r}" for name, value in flags.items())]
    run_config = keyword_run_config(config, flags, [f"urbansound_hf.train({', '.join(words)})"])
    arguments = run_config.training
    with redirect_stdout(io.StringIO()) if arguments.quiet else nullcontext():
        folders, failed = search_or_train(run_config)
    if failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        kept = [str(folder) for folder in folders.values() if finished(folder)]
        fix = "correct this and call again; finished runs are kept: " + (", ".join(kept) or "none")
        what = f"{len(failed)} of {len(folders)} runs failed: {reasons}"
        raise UserError(what, str(arguments.output_dir), fix)
    with arguments.main_process_first(desc="the finished runs"):  # which writes them
        return [read_run(folder) for folder in folders.values()]


def search_or_train(config: RunConfig) -> tuple[dict[str, Path], dict[str, str]]:
    """What `run_folds` does or, with `search`, a search, which trains no run."""
    with progress.quietly(config.training.quiet), library_messages(config.training.quiet, bars=True):
        if not config.training.search:
            return run_folds(config)
        run_search(config)
        return {}, {}


def run_folds(config: RunConfig) -> tuple[dict[str, Path], dict[str, str]]:
    """Runs every test fold of the config that is not finished.

    Returns the folder of each split that the config asks for, and by split the reasons of those that failed.
    """
    if config.training.push_to_hub and config.training.process_index == 0:
        first = (fold_numbers(config.data.test_fold or "") or [1])[0]
        check_upload(push_target(config, f"fold{first}"))  # before hours of work
    experiment = prepare_experiment(config)
    wanted, waiting = experiment.planned_splits(), []
    for split in wanted:
        folder = experiment.folder(split)
        if config.training.overwrite or not finished(folder):
            waiting.append(split)
        elif len(wanted) == 1:
            fix = "choose another --output_dir, or give --overwrite"
            raise UserError("this run is finished already", str(folder), fix)
        else:
            experiment.say(f"{split.name} is finished already: skipped ({folder})")
    experiment.check_checkpoint(wanted)
    experiment.refuse_mixtures(wanted, waiting)
    leaks = {split.name: experiment.report_leaks(split) for split in waiting}  # all before the first training
    failed, started = {}, time.perf_counter()
    for done, split in enumerate(waiting, start=1):
        try:
            if problem := run_split(experiment, split, leaks):
                failed[split.name] = problem
        except Exception as error:  # of any kind: the other folds do not depend on this one
            if len(wanted) == 1 or config.training.world_size > 1:
                raise  # other processes wait for this one, so the launcher must end them all
            reason = str(error) or type(error).__name__
            if not isinstance(error, UserError):
                traceback.print_exc()
                reason += "\n  fix:   run the same command again; finished folds are skipped"
            failed[split.name] = reason
            print(printable_lines(f"{split.name} failed, the others go on: {reason}"), file=sys.stderr)
        if len(wanted) > 1:
            experiment.say(progress.remaining("folds", done, len(waiting), time.perf_counter() - started))
        gc.collect()  # a Trainer is in a reference cycle that holds GPU memory
    if len(wanted) > 1 and len(failed) < len(wanted) and config.training.process_index == 0:
        metrics = gather_folds(experiment.output_dir)
        experiment.show(cross_validation_summary(metrics, experiment.output_dir))
    return {split.name: experiment.folder(split) for split in wanted}, failed


def run_split(experiment: Experiment, split: Split, leaks: Mapping[str, Any]) -> str | None:
    """Trains and evaluates one split in its own folder; returns the reason if the finished run could not be pushed."""
    folder, config = experiment.folder(split), experiment.config
    with experiment.locked(folder, "training"), writing(folder):
        try:
            return _run_split(experiment, split, folder, {"leaks": leaks[split.name]})
        except KeyboardInterrupt as error:
            kept = f"{folder} has no complete checkpoint yet: the same command starts this run from the beginning"
            if complete := complete_checkpoints(config, folder):
                kept = f"kept: {complete[-1]}\nthe same command continues from there"
            raise interruption(error, f"interrupted; {kept}") from error


def _run_split(experiment: Experiment, split: Split, folder: Path, facts: Mapping[str, Any]) -> str | None:
    config = experiment.config
    continued = interrupted(config, folder)
    if not continued:
        check_storage(config, experiment.run_bytes)  # another run may have filled the disk
    with config.training.main_process_first(desc="the run's folder"):
        if config.training.process_index == 0:
            make_folder(experiment, split)
    pusher, started = push_callback(config, split.name), time.perf_counter()
    callbacks = [pusher] if pusher else []
    metrics = train_and_evaluate(config, experiment.sounds, split, folder, facts, callbacks)
    if config.training.process_index == 0:
        receipt = {
            **experiment.receipt,
            "test_accuracy": metrics["test_accuracy"],
            "split": {"kind": split.kind, "test_fold": split.test_fold, "seed": config.training.seed},
            "continued": continued,  # `seconds` then covers the part after the interruption
            "micro_batch": metrics["micro_batch"],
            **{name: values for name, values in metrics.items() if name in ("calibration", "probe")},
            "seconds": round(time.perf_counter() - started, 1),
            "peak_memory_gib": metrics["train_peak_memory_gib"],
        }
        with stage("write"):
            write_run(folder, experiment.sounds.dataset.select(split.test), receipt)
        clip = experiment.sounds.dataset[int(split.test[0])]["audio"]["bytes"]
        check_serving(folder, clip, config.model.trust_remote_code)
        write_json(folder / RECEIPT, receipt)  # last: it marks the run as finished
        if pusher:
            pusher.wait()
        if not config.training.keep_checkpoints:  # not earlier: a kill in between would lose the training
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        experiment.show(run_summary(metrics, folder))
    return pusher.finish(folder) if pusher else None


def make_folder(experiment: Experiment, split: Split) -> None:
    """Creates the folder of a run; the checkpoints of an interrupted one are kept."""
    config, folder = experiment.config, experiment.folder(split)
    if config.training.overwrite and finished(folder):
        shutil.rmtree(folder, ignore_errors=True)
        for gathered in (METRICS, REPORT, REPORT_PAGE):  # they include the run that is replaced
            (folder.parent / gathered).unlink(missing_ok=True)
    if not interrupted(config, folder):
        report_restart(config, folder)
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    write_json(folder / BEGUN, experiment.receipt)
    own = {name: value for name, value in config.as_dict().items() if name not in ("output_dir", "overwrite")}
    own |= {} if split.test_fold is None else {"test_fold": str(split.test_fold)}
    about = f"# this run's resolved config: urbansound-hf train {RESOLVED} repeats it\n"
    write_text(folder / RESOLVED, about + redacted(yaml.safe_dump(own, sort_keys=False, allow_unicode=True)))
