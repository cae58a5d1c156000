"""A folder of sounds trains with no more than its path: a single split, and folds made here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from urbansound_hf.reports.run_report import gather_folds
from urbansound_hf.training.cross_validation import run_experiment

pytestmark = pytest.mark.usefixtures("plain_reports")

SHORT = ("--max_steps", 1, "--eval_strategy", "no", "--load_best_model_at_end", "false", "--save_strategy", "no")


@pytest.fixture(scope="session")
def class_folders(synthetic_root, tmp_path_factory) -> Path:
    """Links to the synthetic clips of three classes, a folder a class."""
    root = tmp_path_factory.mktemp("own") / "sounds"
    for clip in sorted(synthetic_root.glob("audio/*/*.wav")):
        label = clip.name.split("-")[1]
        if label in "123":
            (root / label).mkdir(parents=True, exist_ok=True)
            (root / label / clip.name).symlink_to(clip)
    return root


def test_one_command_splits_a_folder_by_file_and_says_so(configure, class_folders, tmp_path, capsys):
    assert run_experiment(configure("--dataset", class_folders, "--output_dir", tmp_path / "out", *SHORT)) == 0
    run = tmp_path / "out" / "stratified"
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["clips"] == {"train": 24, "validation": 3, "test": 3} and metrics["split_kind"] == "stratified"
    assert any(note.startswith("split by file: the data do not tell") for note in metrics["notes"])
    assert "split by file" in (run / "report.md").read_text(encoding="utf-8")
    assert "split: drawn by file, stratified by class" in capsys.readouterr().err


def test_folds_are_made_of_any_folder(configure, class_folders, tmp_path):
    flags = ("--dataset", class_folders, "--output_dir", tmp_path / "out", "--test_fold", "all", "--folds", 3, *SHORT)
    assert run_experiment(configure(*flags, "--seed", 7)) == 0
    gathered = gather_folds(tmp_path / "out")
    assert gathered["scope"] == "3 of 3 folds made here (stratified)" and gathered["complete"]
    assert sum(np.sum(fold["clips"]["test"]) for fold in gathered["folds"]) == 30
    receipt = json.loads((tmp_path / "out" / "fold2" / "run.json").read_text(encoding="utf-8"))
    assert receipt["split"] == {"kind": "stratified", "test_fold": 2, "seed": 7} and receipt["config"]["folds"] == 3
