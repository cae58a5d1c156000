"""Training from Python: `train` takes a config and flags as keywords, and returns the finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from urbansound_hf.config.parse import keyword_run_config
from urbansound_hf.errors import UserError
from urbansound_hf.evaluation.runs import Run, read_run
from urbansound_hf.layout import finished
from urbansound_hf.training.cross_validation import Outcome, run_folds, run_logging
from urbansound_hf.training.search import run_search


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
    run_config = keyword_run_config(config, flags, [_call(config, flags)])
    arguments = run_config.training
    with run_logging(arguments.quiet):
        if arguments.search:
            run_search(run_config)
            return []
        outcome = run_folds(run_config, silent=arguments.quiet)
    if outcome.failed:
        raise _failure(outcome, str(arguments.output_dir))
    with arguments.main_process_first(desc="the finished runs"):  # which writes them
        return [read_run(folder) for folder in outcome.folders.values()]


def _call(config: str | Path, flags: dict[str, Any]) -> str:
    """The call for the receipt."""
    words = [repr(str(config)), *(f"{name}={value!r}" for name, value in flags.items())]
    return f"urbansound_hf.train({', '.join(words)})"


def _failure(outcome: Outcome, output_dir: str) -> UserError:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in outcome.failed.items())
    kept = [str(folder) for folder in outcome.folders.values() if finished(folder)]
    fix = "correct this and call again; finished runs are kept: " + (", ".join(kept) or "none")
    return UserError(f"{len(outcome.failed)} of {len(outcome.folders)} runs failed: {reasons}", output_dir, fix)
