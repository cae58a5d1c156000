"""Hyperparameter search (`--search N`) with Optuna and Trainer, scored on the validation clips.

The test clips are removed from the data before the search. Every trial starts from the same seed and weights and trains
to its end. The trials are stored in `search/study.db`; the same command continues until there are N of them, also after
an interruption.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import shutil
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import yaml
from accelerate.utils import broadcast_object_list
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments, set_seed

from urbansound_hf import progress
from urbansound_hf.config.arguments import RunConfig
from urbansound_hf.config.parse import flag_parser
from urbansound_hf.config.search_space import Space, parse_search_space, suggest
from urbansound_hf.data.splits import Split
from urbansound_hf.errors import NotFiniteError, UserError, interruption, printable, write_text, writing
from urbansound_hf.evaluation.receipts import mismatches
from urbansound_hf.reports import search
from urbansound_hf.reports.search import finished_trials, ranked, write_search_report
from urbansound_hf.training.experiment import Experiment, prepare_experiment
from urbansound_hf.training.run import make_trainer, prepare_training

if TYPE_CHECKING:
    import optuna


FOLDER, STUDY, BEGUN, INTERRUPTED = "search", "study.db", "receipt", "interrupted"


def run_search(config: RunConfig) -> None:
    """Searches, and writes trials, report and best config to `search/` in the output folder."""
    experiment = prepare_experiment(config)
    (split,) = experiment.planned_splits()
    experiment.report_leaks(split)
    folder = experiment.output_dir / FOLDER
    with experiment.locked(folder, "searching"), writing(folder):
        try:
            # Only the first of several processes has the study; all count the same trials.
            study = open_study(experiment, split, folder) if config.training.process_index == 0 else None
            left = [(config.training.search or 0) - ended_trials(study) if study else 0]
            broadcast_object_list(left)
            if left[0] > 0:
                run_trials(experiment, split, folder, left[0], study)
            if study:
                space = parse_search_space(config.training.search_space or [], flag_parser())
                title = f"validation {config.training.metric_for_best_model}"
                text = write_search_report(folder, study, partial(suggest, space), title, split)
                write_best(folder, study, space, config, split)
                print(text)
        except KeyboardInterrupt as error:
            kept = f"interrupted; kept: the finished trials in {folder / STUDY}"
            raise interruption(error, f"{kept}\nthe same command continues with the next") from error


def write_best(folder: Path, study: optuna.Study, space: Space, config: RunConfig, split: Split) -> None:
    """Writes best.yaml: the config of a run with the best values, with their origin in a comment."""
    best = ranked(study)[0]
    values = suggest(space, best)
    settings = config.with_values({**values, "output_dir": str(folder / "best")}).as_dict()
    own = {name: value for name, value in settings.items() if name not in ("search", "search_space", "overwrite")}
    trained = f", trained on folds {', '.join(map(str, split.train_folds))}" if split.train_folds else ""
    validated = f"fold {split.validation_fold}{trained}" if split.validation_fold else "the validation part"
    held_out = f"fold {split.test_fold}" if split.test_fold else "the test part"
    header = [
        f"The best of {len(finished_trials(study))} trials of a search ({folder}, trial {best.number}).",
        f"Score    {config.training.metric_for_best_model} {best.value:.4f} on {validated}.",
        f"Test     on {held_out}, which was not used; the scores of other folds would be biased by the search.",
        f"Command  urbansound-hf train {folder / search.BEST}",
        f"Values   {search.shown(values)}",
    ]
    text = yaml.safe_dump(own, sort_keys=False, allow_unicode=True)
    write_text(folder / search.BEST, "".join(f"# {printable(line)}\n" for line in header) + text)


def open_study(experiment: Experiment, split: Split, folder: Path) -> optuna.Study:
    """Opens the study in the folder, or creates one; UserError if the study there is of another experiment."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # `Trials` prints a line per trial
    logging.getLogger("optuna.study._optimize").addFilter(_only_diverged)
    arguments = experiment.config.training
    folder.mkdir(exist_ok=True)
    study = optuna.create_study(**study_arguments(experiment, folder), load_if_exists=True)
    finished = ended_trials(study) >= (arguments.search or 0)
    if (arguments.overwrite and finished) or str(arguments.resume_from_checkpoint).lower() == "false":
        shutil.rmtree(folder)
        folder.mkdir()
        study = optuna.create_study(**study_arguments(experiment, folder))
    values = {name: value for name, value in experiment.receipt["config"].items() if name != "search"}
    stored = {**experiment.receipt, "config": {**values, "held-out fold": split.name}}
    receipt = json.loads(json.dumps(stored, default=str))
    begun = study.user_attrs.get(BEGUN, receipt)
    if differ := mismatches({"the search": begun, "this command": receipt}):
        what = f"the folder holds a search of another experiment: {'; '.join(differ)}"
        fix = "give the same values to continue it, another --output_dir, or --resume_from_checkpoint false"
        raise UserError(what, str(folder), fix)
    study.set_user_attr(BEGUN, receipt)
    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        mark_interrupted(study, trial.number)
    return study


def _only_diverged(record: logging.LogRecord) -> bool:
    """Keeps of Optuna's warnings on failed trials the line on one that diverged, without its traceback."""
    _, error, _ = record.exc_info or (None, None, None)
    record.exc_info = None
    return isinstance(error, NotFiniteError)


def ended_trials(study: optuna.Study) -> int:
    """The number of trials that ended by themselves: with a score, or because the training diverged."""
    return len(study.trials) - len(study.user_attrs.get(INTERRUPTED, []))


def mark_interrupted(study: optuna.Study, number: int) -> None:
    """Notes a trial that was interrupted: the next one repeats its values, see `stored_sampler`."""
    study.set_user_attr(INTERRUPTED, [*study.user_attrs.get(INTERRUPTED, []), number])


def stored_sampler(seed: int) -> optuna.samplers.BaseSampler:
    """TPE whose random numbers depend only on the seed and the trials in the storage, so that a search can continue."""
    import optuna

    class StoredSampler(optuna.samplers.TPESampler):
        def before_trial(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
            ended = trial.number - len(study.user_attrs.get(INTERRUPTED, []))
            super().__init__(seed=seed + ended)
            super().before_trial(study, trial)

    return StoredSampler(seed=seed)


def study_arguments(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """Optuna's arguments for the study in a folder."""
    direction = "maximize" if experiment.config.training.greater_is_better else "minimize"
    return {"storage": f"sqlite:///{folder / STUDY}", "study_name": FOLDER, "direction": direction}


def run_trials(experiment: Experiment, split: Split, folder: Path, count: int, study: optuna.Study | None) -> None:
    """Runs `count` further trials."""
    import optuna

    trials = Trials(experiment, split, folder, count)
    try:
        trials.trainer.hyperparameter_search(
            backend="optuna",
            hp_space=trials.arguments,
            compute_objective=trials.score,
            n_trials=count,
            # the trial fails, the search continues
            catch=(NotFiniteError,) if experiment.config.training.world_size == 1 else (),
            load_if_exists=True,
            sampler=stored_sampler(experiment.config.training.seed),
            pruner=optuna.pruners.NopPruner(),  # a trial that learns slowly may be the best in the end
            **study_arguments(experiment, folder),
        )
    except ValueError:  # Trainer asks for the best trial; where all have diverged, the report says so
        if study is None or finished_trials(study):
            raise
    except BaseException as error:  # interrupted, or stopped from outside, as by a full disk
        failed = study and trials.trial and study.trials[trials.trial.number].state.name == "FAIL"
        if study and failed and not isinstance(error, NotFiniteError):
            mark_interrupted(study, trials.trial.number)
        raise
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


class Trials(TrainerCallback):
    """Trainer's callbacks of a search: the values, model, data and score of each trial; `trainer` runs all of them."""

    def __init__(self, experiment: Experiment, split: Split, folder: Path, count: int) -> None:
        self.experiment, self.count, self.done, self.started = experiment, count, 0, time.perf_counter()
        self.trial: Any = None
        self.scored: float | None = None
        # A trial writes its score only: no checkpoints, no logs.
        self.config = experiment.config.with_values({"save_strategy": "no", "report_to": []})
        self.space = parse_search_space(self.config.training.search_space or [], flag_parser())
        kept = np.sort(np.concatenate([split.train, split.validation]))  # without the test clips
        self.sounds = dataclasses.replace(experiment.sounds, dataset=experiment.sounds.dataset.select(kept))
        train, validation = (np.searchsorted(kept, part) for part in (split.train, split.validation))
        self.split = dataclasses.replace(split, train=train, validation=validation, test=np.array([], np.int64))
        prepared = prepare_training(self.config, self.sounds, self.split)
        self.trainer = make_trainer(self.config, prepared, self.sounds.labels, folder)
        self.trainer.model_init = cast(Any, self.model)  # it may return the head of a probe
        self.trainer.add_callback(self)

    def arguments(self, trial: optuna.Trial) -> dict[str, Any]:
        """The values of the flags that are Trainer's arguments."""
        names = vars(self.config.training)
        return {name: value for name, value in suggest(self.space, trial).items() if name in names}

    def model(self, trial: optuna.Trial) -> torch.nn.Module:
        """The model of a trial; its data set and its recipe go to the Trainer."""
        self.trial, self.scored, trainer = trial, None, self.trainer
        config = self.config.with_values(suggest(self.space, trial))
        prepared = prepare_training(config, self.sounds, self.split)
        trainer.train_dataset, trainer.eval_dataset = prepared.train, prepared.validation
        rates = config.model.head_learning_rate, config.model.layer_decay
        trainer.follow(config.recipe, prepared.train_labels, rates)
        if patience := self.config.training.early_stopping_patience:
            trainer.remove_callback(EarlyStoppingCallback)  # its counter belongs to the trial before
            trainer.add_callback(EarlyStoppingCallback(patience))
        set_seed(self.config.training.seed)  # as in a run, where creating Trainer sets it
        return prepared.learner

    def score(self, metrics: Mapping[str, float]) -> float:
        """The score of the checkpoint that a run would keep: the best so far, or the last."""
        arguments, best = self.trainer.args, self.trainer.state.best_metric
        now = metrics[f"eval_{arguments.metric_for_best_model}"]
        if best is not None and math.isfinite(best) and arguments.load_best_model_at_end:
            now = max(best, now) if arguments.greater_is_better else min(best, now)
        self.scored = now
        return now

    def on_train_end(self, args: TrainingArguments, *_: Any, **__: Any) -> None:
        self.done += 1
        scored = "" if self.scored is None else f" {args.metric_for_best_model} {self.scored:.4f};"
        shown = search.shown(suggest(self.space, self.trial))
        far = progress.remaining("trials", self.done, self.count, time.perf_counter() - self.started)
        self.experiment.say(f"trial {self.trial.number}:{scored} {shown}; {far}")
