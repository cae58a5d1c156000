"""One command, one run for each test fold: prepared once, continued after an interruption, gathered at the end."""

from __future__ import annotations

import dataclasses
import copy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from urbansound_hf import folds, models, receipts, report
from urbansound_hf.config import RunConfig, test_folds
from urbansound_hf.errors import UserError
from urbansound_hf.folds import Split
from urbansound_hf.sounds import SoundRequest, Sounds, load_sounds


def run(config: RunConfig) -> int:
    """Runs every test fold that the config asks for; returns the exit code."""
    sounds = load(config)
    for split in splits(config, sounds):
        run_split(config, sounds, split)
    return 0


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
                sampling_rate=extractor.sampling_rate,
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


def run_split(config: RunConfig, sounds: Sounds, split: Split) -> dict[str, Any]:
    """One run, from preparation to its receipt."""
    from urbansound_hf import training

    folder = Path(str(config.training.output_dir)) / split.name
    if receipts.finished(folder):
        if not config.training.overwrite:
            raise UserError(
                "this run is finished already", str(folder), "choose another --output_dir, or give --overwrite"
            )
        shutil.rmtree(folder)
    own = dataclasses.replace(config, training=copy.copy(config.training))
    with receipts.Stopwatch() as watch:
        metrics = training.run(own, sounds, split, folder)
    if own.training.process_index == 0:
        report.write_run(folder)
        receipts.write(folder, receipt(config, sounds, metrics, watch))
        print(report.summary(metrics, folder))
    return metrics


def receipt(
    config: RunConfig, sounds: Sounds, metrics: dict[str, Any], watch: receipts.Stopwatch
) -> dict[str, Any]:
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
