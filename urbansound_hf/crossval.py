"""One command, one run for each test fold: prepared once, continued after an interruption, gathered at the end.

A job array may share the work, one `--test_fold k` a job into the same output folder; then

    python -m urbansound_hf.crossval OUTPUT_DIR

gathers what is there.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import shutil
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from urbansound_hf import folds, leaks, models, receipts, report, training
from urbansound_hf.config import RunConfig, test_folds
from urbansound_hf.errors import UserError, exit_code
from urbansound_hf.folds import Split
from urbansound_hf.runs import find_runs
from urbansound_hf.sounds import SoundRequest, Sounds, load_sounds

RESOLVED = "run.yaml"  # the resolved config of a run: `train.py` takes it again


def run(config: RunConfig) -> int:
    """Runs every test fold that the config asks for; returns the exit code (1: some fold failed)."""
    sounds = load(config)
    wanted = list(splits(config, sounds))
    found = {split.name: leak_report(config, sounds, split) for split in wanted}  # before an hour is wasted
    failed = {}
    for split in wanted:
        folder = Path(str(config.training.output_dir)) / split.name
        if len(wanted) > 1 and receipts.finished(folder) and not config.training.overwrite:
            say(config, f"{split.name} is finished already: skipped ({folder})")
            continue
        try:
            run_split(config, sounds, split, folder, found[split.name])
        except Exception as error:
            if len(wanted) == 1:
                raise
            failed[split.name] = error  # whatever it was, the other folds go on
            traceback.print_exception(error) if not isinstance(error, UserError) else None
            say(config, f"{split.name} failed, the others go on: {error}")
    if len(wanted) > 1 and len(failed) < len(wanted) and config.training.process_index == 0:
        output_dir = Path(str(config.training.output_dir))
        print(summary(gather(output_dir), output_dir))
    for name, reason in failed.items():
        say(config, f"failed: {name}: {reason}\n  fix:   run the same command again; finished folds are skipped")
    return 1 if failed else 0


def load(config: RunConfig) -> Sounds:
    """The data, decoded and resampled to the rate that the model's feature extractor wants."""
    data = config.data
    extractor = models.load_feature_extractor(config.model)
    with config.training.main_process_first(desc="preparing the sounds"):
        return load_sounds(
            SoundRequest(
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
        )


def splits(config: RunConfig, sounds: Sounds) -> Iterator[Split]:
    """The splits that the config asks for: one, or one for each test fold."""
    columns, rows, seed = sounds.dataset.column_names, sounds.dataset, config.training.seed
    if config.data.split == "random":
        yield folds.random(rows["label"], seed)
    elif config.data.split == "grouped":
        if "group" not in columns:
            raise UserError(
                "--split grouped needs to know which clips share a recording, and the data has no group column",
                "--split",
                "give the metadata a group (or recording, speaker) column, or use --split random",
            )
        yield folds.grouped(rows["label"], rows["group"], seed)
    elif "fold" in columns:
        for fold in test_folds(config.data, sorted(set(rows["fold"]))):
            yield folds.official(rows["fold"], fold, config.data.validation)
    elif "split" in columns:
        yield folds.predefined(rows["split"], rows["label"], seed)
    else:
        raise UserError(
            "--split official needs a fold column, or train/validation/test parts, and the data has neither",
            "--split",
            "use --split grouped" if "group" in columns else "add a fold column, or use --split random",
        )


def leak_report(config: RunConfig, sounds: Sounds, split: Split) -> dict[str, Any]:
    """What the test rows share with the training rows; printed, and kept in metrics.json.

    Raises:
        UserError: folds that should keep recordings apart do not.
    """
    present = [name for name in ("group", "label", "start", "end") if name in sounds.dataset.column_names]
    columns = {name: sounds.dataset[name][:] for name in present}
    with config.training.main_process_first(desc="the leak report"):
        fingerprints = leaks.audio_fingerprints(sounds.dataset, config.data.preprocessing_num_workers)
    found = leaks.report(split, columns, fingerprints)
    say(config, f"{split.name}: {leaks.describe(found)}")
    known = leaks.KNOWN if sounds.name == "UrbanSound8K" else frozenset()
    leaks.check(found, "official" if split.test_fold is not None else split.name, known)
    return found


def run_split(
    config: RunConfig, sounds: Sounds, split: Split, folder: Path, leak_report: dict[str, Any]
) -> dict[str, Any]:
    """One run, from its folder to its receipt."""
    own = dataclasses.replace(config, training=copy.copy(config.training))
    with own.training.main_process_first(desc="the run's folder"):
        if own.training.process_index == 0:
            make_folder(config, folder)
    with receipts.Stopwatch() as watch:
        metrics = training.run(own, sounds, split, folder, {"leaks": leak_report})
    if own.training.process_index == 0:
        report.write_run(folder)
        receipts.write(folder, receipt(config, sounds, metrics, watch))
        print(report.summary(metrics, folder))
    return metrics


def make_folder(config: RunConfig, folder: Path) -> None:
    """Makes the folder of a run; one that was interrupted is kept, to be continued, if its config is the same.

    Raises:
        UserError: it holds a finished run, or an interrupted one of another config.
    """
    settings = receipts.settings_of(config.as_dict())
    if config.training.overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    elif receipts.finished(folder):
        raise UserError("this run is finished already", str(folder), "choose another --output_dir, or give --overwrite")
    elif (folder / RESOLVED).is_file():
        before = receipts.settings_of(yaml.safe_load((folder / RESOLVED).read_text()))
        if changed := receipts.differences(before, settings):
            raise UserError(
                f"an interrupted run of another config lies here ({'; '.join(changed)})",
                str(folder),
                "give the same values to continue it, another --output_dir, or --overwrite",
            )
    folder.mkdir(parents=True, exist_ok=True)
    resolved = yaml.safe_dump(config.as_dict(), sort_keys=False, allow_unicode=True)
    (folder / RESOLVED).write_text(
        f"# the resolved config of this run: python train.py {RESOLVED} repeats it\n{resolved}"
    )


def receipt(config: RunConfig, sounds: Sounds, metrics: dict[str, Any], watch: receipts.Stopwatch) -> dict[str, Any]:
    """What run.json says beside the environment."""
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "config": config.as_dict(),
        "data": {"name": sounds.name, "fingerprint": sounds.fingerprint, "clips": len(sounds.dataset)},
        "seed": config.training.seed,
        "processes": config.training.world_size,
        "test_accuracy": metrics["test_accuracy"],
        "seconds": round(watch.seconds, 1),
        "peak_memory_gib": round(watch.peak_memory_gib, 2),
    }


def gather(output_dir: Path, force: bool = False) -> dict[str, Any]:
    """Gathers the finished folds below a folder into its metrics.json, report and figures.

    Args:
        force: gather runs that differ, and say so in the report.

    Returns:
        the content of its metrics.json.

    Raises:
        UserError: there is no finished fold, or their configs, data or code differ.
    """
    runs = [run.folder for run in find_runs(output_dir) if receipts.finished(run.folder) and run.metrics["test_fold"]]
    if not runs:
        raise UserError("no finished fold is there to gather", str(output_dir), "run train.py with --test_fold all")
    mismatches = receipts.mismatches(runs)
    if mismatches and not force:
        raise UserError(
            "these folds are not of one experiment: " + "; ".join(mismatches),
            str(output_dir),
            "run the odd ones again, or give --force to gather all the same; the report will say so",
        )
    cautions = [f"gathered by force: {mismatch}" for mismatch in mismatches]
    return report.write_cross_validation(output_dir, runs, cautions)


def summary(metrics: dict[str, Any], output_dir: Path) -> str:
    """The last lines that a cross-validation prints."""
    lines = [f"{'fold':>4}  accuracy  macro-F1"]
    lines += [
        f"{row['test_fold']:>4}  {row['test_accuracy']:8.4f}  {row['test_macro_f1']:8.4f}" for row in metrics["folds"]
    ]
    spread = "" if metrics["std_accuracy"] is None else f" ± {metrics['std_accuracy']:.4f} (std over folds, ddof=1)"
    lines.append(f"mean  {metrics['mean_accuracy']:8.4f}{spread}; pooled {metrics['pooled_accuracy']:.4f}")
    lines += [metrics["scope"], *metrics["notes"], f"report: {output_dir / 'report.md'}"]
    return "\n".join(lines)


def say(config: RunConfig, text: str) -> None:
    """Prints once, however many processes run."""
    if config.training.process_index == 0:
        print(text, file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m urbansound_hf.crossval", description=gather.__doc__)
    parser.add_argument("output_dir", type=Path, help="the folder that holds fold1, fold2, …")
    parser.add_argument("--force", action="store_true", help="gather folds that differ, and say so")
    options = parser.parse_args()
    print(summary(gather(options.output_dir, options.force), options.output_dir))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
