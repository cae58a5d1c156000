"""A run's folder: files are read as they were written, and damaged ones are named."""

from __future__ import annotations

import datasets
import numpy as np
import pytest

from tests.helpers.runs import finish, write_run
from urbansound_hf.audio.io import to_wav
from urbansound_hf.errors import UserError
from urbansound_hf.evaluation.metrics import compute_metrics
from urbansound_hf.evaluation.runs import Predictions, Run, finished_folds

LABELS = ["rain", "wind"]


def clips(**columns: list) -> datasets.Dataset:
    """Three clips of 0.5, 1 and 1.5 s."""
    audio = [{"path": f"{i}.wav", "bytes": to_wav(np.zeros(8000 * (i + 1), np.float32))} for i in range(3)]
    return datasets.Dataset.from_dict({"audio": audio, "label": [0, 1, 0], **columns})


def test_predictions_are_read_as_they_were_written(tmp_path):
    run = Run(tmp_path)
    data = clips(fold=[1, 1, 2], group=["a", "a", "b"], salience=[1, 2, 1])
    probabilities = np.array([[0.75, 0.25], [1.2345678e-9, 1 - 1.2345678e-9], [3e-8, 1 - 3e-8]], np.float32)
    Predictions.of(data, probabilities, LABELS).write(tmp_path / "predictions.csv")
    read = run.predictions
    assert read.labels == LABELS and read.paths.tolist() == ["0.wav", "1.wav", "2.wav"]
    assert read.folds.tolist() == [1, 1, 2] and read.groups.tolist() == ["a", "a", "b"]
    assert read.salience.tolist() == [1, 2, 1] and read.seconds.tolist() == [0.5, 1.0, 1.5]
    assert read.true.tolist() == [0, 1, 0] and read.predicted.tolist() == [0, 1, 1]
    np.testing.assert_allclose(read.probabilities, probabilities, rtol=5e-6)
    again = compute_metrics(read.true, read.predicted, read.probabilities)
    assert again == pytest.approx(compute_metrics(read.true, read.predicted, probabilities), rel=1e-5), (
        "every metric can be recomputed from the file, the loss of a confident mistake as well"
    )


def test_unknown_facts_of_clips_stay_empty(tmp_path):
    Predictions.of(clips(), np.array([[0.75, 0.25]] * 3, np.float32), LABELS).write(tmp_path / "predictions.csv")
    assert (tmp_path / "predictions.csv").read_text(encoding="utf-8").splitlines()[
        1
    ] == "0.wav,,,,0.500,rain,rain,0.75,0.25"
    read = Run(tmp_path).predictions
    assert not read.recordings_known and read.folds.tolist() == [0, 0, 0]


def test_absent_files_are_empty_and_damaged_ones_are_errors(tmp_path):
    run = Run(tmp_path)
    assert run.history == [] and run.report_clips == {} and run.receipt is None and not run.finished
    with pytest.raises(UserError, match="cannot be read") as error:
        _ = run.metrics
    assert error.value.where == str(tmp_path / "metrics.json")
    (tmp_path / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be read") as error:
        _ = run.receipt
    assert error.value.where == str(tmp_path / "run.json")
    for text in ("[" * 100_000, "[1]", "null", '{"config": {}, "data": [], "environment": {}}'):
        (tmp_path / "run.json").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=r"cannot be read|no right 'data'|no right 'config'"):
            _ = run.receipt


def test_finished_folds_are_those_with_a_receipt_and_a_fold(tmp_path):
    for fold in (10, 2, 1):
        write_run(tmp_path / f"fold{fold}", fold)
    finish(tmp_path / "fold10"), finish(tmp_path / "fold2"), finish(write_run(tmp_path / "random", None))
    assert [run.folder.name for run in finished_folds(tmp_path)] == ["fold2", "fold10"]
