"""The runs of a command, one per test fold: data prepared once, interrupted runs continued, folds gathered at the end.

Jobs of an array can train one fold each, with `--test_fold k` and the same output folder; then

    urbansound-hf crossval OUTPUT_DIR [--force]

gathers the finished folds.
"""

from __future__ import annotations

import gc
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from transformers.utils import logging

from urbansound_hf import progress
from urbansound_hf.config.arguments import RunConfig
from urbansound_hf.data.splits import Split
from urbansound_hf.errors import UserError, interruption, printable_lines, redacted, write_text, writing
from urbansound_hf.evaluation.receipts import Stopwatch
from urbansound_hf.evaluation.runs import Run
from urbansound_hf.layout import CHECKPOINTS, METRICS, REPORT, REPORT_PAGE, RESOLVED, finished
from urbansound_hf.profiling import profiling, stage
from urbansound_hf.reports.run_report import cross_validation_summary, gather_folds, run_summary, write_run
from urbansound_hf.training.experiment import (
    Experiment,
    check_checkpoint,
    check_push,
    locked_folder,
    planned_splits,
    prepare_experiment,
    push_callback,
    refuse_mixtures,
    report_leaks,
    unfinished_splits,
)
from urbansound_hf.training.preflight import check_serving, check_storage
from urbansound_hf.training.resume import interrupted, kept_of, report_restart
from urbansound_hf.training.run import train_and_evaluate
from urbansound_hf.training.search import run_search

NOTHING_TRAINED = "interrupted before the training; prepared sounds are kept, and the same command continues"


def run_experiment(config: RunConfig) -> int:
    """Runs every test fold that the config asks for; returns the exit code (1: some fold failed).

    Raises:
        UserError: the data, the folds or the content of the output folder do not allow it; nothing was trained then.
    """
    with run_logging(config.training.quiet), profiling(config.training.profile and config.training.process_index == 0):
        try:
            if config.training.search:
                return run_search(config)
            outcome = run_folds(config)
        except KeyboardInterrupt as error:
            raise error if str(error) else interruption(error, NOTHING_TRAINED) from error
    several = len(outcome.folders) > 1
    for name, reason in outcome.failed.items():
        print(printable_lines(f"failed: {name}: {reason}" if several else f"error: {reason}"), file=sys.stderr)
    return 1 if outcome.failed else 0


@contextmanager
def run_logging(quiet: bool) -> Iterator[None]:
    """Progress and library messages as a run shows them; the settings of the libraries are restored at the end."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with progress.quietly(quiet):
        if quiet:
            logging.set_verbosity_error()
        if not progress.in_terminal():
            logging.disable_progress_bar()  # those of transformers and huggingface_hub fill a log
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)  # Trainer sets it too
            if bars and not logging.is_progress_bar_enabled():
                logging.enable_progress_bar()


@dataclass(frozen=True)
class Outcome:
    """The folder of each split that a config asks for, and the reasons of the splits that failed, by their names."""

    folders: dict[str, Path]
    failed: dict[str, str]


def run_folds(config: RunConfig, silent: bool = False) -> Outcome:
    """Runs every test fold of the config that is not finished; with `silent`, the results are not printed.

    Raises:
        UserError: the data, the folds or the content of the output folder do not allow it; or the only run failed.
    """
    check_push(config)
    experiment = replace(prepare_experiment(config), silent=silent)
    wanted = planned_splits(experiment)
    waiting = list(unfinished_splits(experiment, wanted))
    check_checkpoint(experiment, wanted)
    refuse_mixtures(experiment, wanted, waiting)
    leaks = {split.name: report_leaks(experiment, split) for split in waiting}  # all before the first training
    folders = {split.name: experiment.folder(split) for split in wanted}
    if len(wanted) == 1:
        problem = run_split(experiment, wanted[0], leaks)
        return Outcome(folders, {wanted[0].name: problem} if problem else {})
    failed = run_splits(experiment, waiting, leaks)
    if len(failed) < len(wanted) and config.training.process_index == 0:
        metrics = gather_folds(experiment.output_dir)
        experiment.show(cross_validation_summary(metrics, experiment.output_dir))
    return Outcome(folders, failed)


def run_splits(experiment: Experiment, waiting: Sequence[Split], leaks: Mapping[str, Any]) -> dict[str, str]:
    """Runs all splits, even if some fail; returns the reasons of the failures by the names of the splits."""
    failed, started = {}, time.perf_counter()
    for done, split in enumerate(waiting, start=1):
        try:
            if problem := run_split(experiment, split, leaks):
                failed[split.name] = problem
        except Exception as error:  # of any kind: the other folds do not depend on this one
            if experiment.config.training.world_size > 1:
                raise  # the other processes wait for this one, so the launcher must end them all
            reason = str(error) or type(error).__name__
            if not isinstance(error, UserError):
                traceback.print_exc()
                reason += "\n  fix:   run the same command again; finished folds are skipped"
            failed[split.name] = reason
            print(printable_lines(f"{split.name} failed, the others go on: {reason}"), file=sys.stderr)
        experiment.say(progress.remaining("folds", done, len(waiting), time.perf_counter() - started))
        gc.collect()  # a Trainer is in a reference cycle that holds GPU memory
    return failed


def run_split(experiment: Experiment, split: Split, leaks: Mapping[str, Any]) -> str | None:
    """Trains and evaluates one split, from its folder to its receipt and the push to the Hub.

    Returns the reason if the finished run could not be pushed. Raises UserError if another command trains there.
    """
    folder = experiment.folder(split)
    with locked_folder(experiment, folder, "training"), writing(folder):
        try:
            return _run_split(experiment, split, leaks)
        except KeyboardInterrupt as error:
            raise interruption(error, kept_of(experiment.config, folder)) from error


def _run_split(experiment: Experiment, split: Split, leaks: Mapping[str, Any]) -> str | None:
    folder, config = experiment.folder(split), experiment.config
    continued = interrupted(config, folder)
    if not continued:
        check_storage(config, experiment.run_bytes)  # another run may have filled the disk
    with config.training.main_process_first(desc="the run's folder"):
        if config.training.process_index == 0:
            make_folder(experiment, split)
    pusher = push_callback(config, split.name)
    with Stopwatch() as watch:
        facts, callbacks = {"leaks": leaks[split.name]}, [pusher] if pusher else []
        metrics = train_and_evaluate(config, experiment.sounds, split, folder, facts, callbacks)
    if config.training.process_index == 0:
        measured = {
            "test_accuracy": metrics["test_accuracy"],
            "split": {"kind": split.kind, "test_fold": split.test_fold, "seed": config.training.seed},
            "continued": continued,  # `seconds` then covers the part after the interruption
            "micro_batch": metrics["micro_batch"],
            **{name: values for name, values in metrics.items() if name in ("calibration", "probe")},
            "seconds": round(watch.seconds, 1),
            "peak_memory_gib": round(watch.peak_memory_gib, 2),
        }
        receipt = {**experiment.receipt, **measured}
        with stage("write"):
            write_run(folder, experiment.sounds.dataset.select(split.test), receipt)
        clip = experiment.sounds.dataset[int(split.test[0])]["audio"]["bytes"]
        check_serving(folder, clip, config.model.trust_remote_code)
        Run(folder).finish(receipt)
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
    Run(folder).begin(experiment.receipt)
    own = {name: value for name, value in config.as_dict().items() if name not in ("output_dir", "overwrite")}
    own |= {} if split.test_fold is None else {"test_fold": str(split.test_fold)}
    about = f"# this run's resolved config: urbansound-hf train {RESOLVED} repeats it\n"
    write_text(folder / RESOLVED, about + redacted(yaml.safe_dump(own, sort_keys=False, allow_unicode=True)))
