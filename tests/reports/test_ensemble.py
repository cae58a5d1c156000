"""`urbansound-hf ensemble`: combined predictions, weights from validation clips only, and members that do not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import runs
from tests.helpers.runs import rewrite
from urbansound_hf.cli import run as command
from urbansound_hf.errors import UserError
from urbansound_hf.evaluation.runs import read_predictions, read_run
from urbansound_hf.inference.classifier import combined, members_of
from urbansound_hf.reports.ensemble import fit_weights, write_ensemble

pytestmark = pytest.mark.usefixtures("plain_reports")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[Path]:
    """Two models, each tested on two folds, with the predictions for their validation clips."""
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("one", "two")):
        for fold in (1, 2):
            folder = runs.finish(runs.write_run(root / name / f"fold{fold}", fold, seed))
            validation = runs.write_run(root / "validation" / name / str(fold), fold + 1, seed)
            shutil.copy(validation / "predictions.csv", folder / "validation_predictions.csv")
    return [root / "one", root / "two"]


@pytest.fixture(scope="module")
def ensemble(models, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ensemble")
    assert command(["ensemble", *map(str, models), "--output_dir", str(folder), "--weights", "validation"]) == 0
    return folder


def test_a_fold_is_a_run_with_the_combined_scores(models, ensemble):
    run, one, two = (read_run(folder / "fold1") for folder in (ensemble, *models))
    choice = members_of(run.folder)
    scores = combined(np.stack([one.predictions.probabilities, two.predictions.probabilities]), choice["weights"])
    np.testing.assert_allclose(run.predictions.probabilities, scores, rtol=1e-4)
    assert run.predictions.paths.tolist() == one.predictions.paths.tolist()
    assert run.metrics["test_accuracy"] == (scores.argmax(axis=1) == one.predictions.true).mean()
    assert [Path(member).resolve() for member in choice["members"]] == [each.folder.resolve() for each in (one, two)]
    assert run.metrics["train_seconds"] == 25 and "combined" in (run.folder / "report.md").read_text(encoding="utf-8")


def test_receipt_report_and_comparison_with_each_member(models, ensemble):
    receipt = json.loads((ensemble / "fold2/run.json").read_text(encoding="utf-8"))
    assert receipt["ensemble"]["chosen_on"] == "the 60 validation clips, no test clip"
    assert sum(receipt["ensemble"]["weights"]) == pytest.approx(1) and receipt["data"] == {"fingerprint": "f"}
    assert json.loads((ensemble / "metrics.json").read_text(encoding="utf-8"))["mean_accuracy"] > 0
    text = (ensemble / "comparison.md").read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("# ")] == [
        f"# {ensemble.name} against {model.name}" for model in models
    ]


def test_weights_are_those_of_the_lowest_loss_and_ignore_the_test_clips(models, tmp_path):
    known = [read_predictions(model / "fold1/validation_predictions.csv") for model in models]
    scores, true = np.stack([each.probabilities for each in known]), known[0].true

    def loss(share: float) -> float:
        return -np.log(combined(scores, [share, 1 - share])[np.arange(len(true)), true]).mean()

    best = fit_weights(scores, true, "geometric")
    assert loss(best[0]) <= min(map(loss, np.linspace(0.001, 0.999, 200))) + 1e-6
    changed = [shutil.copytree(model / "fold1", tmp_path / model.name / "fold1") for model in models]
    for folder in changed:  # the true classes of the test clips move on by one clip
        rewrite(folder / "predictions.csv", lambda rows: [rows[0], *_shifted(rows[1:], rows[0].index("true"))])
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        predictions = read_predictions(folder / "predictions.csv")
        metrics["test_accuracy"] = float(predictions.correct.mean())
        (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    text = write_ensemble(changed, tmp_path / "ensemble", weights="validation")
    assert f"try it: urbansound-hf infer CLIP.wav --model {tmp_path / 'ensemble'}" in text
    assert members_of(tmp_path / "ensemble/fold1")["weights"] == best


def _shifted(rows: list[list[str]], column: int) -> list[list[str]]:
    values = [row[column] for row in rows]
    return [
        [*row[:column], value, *row[column + 1 :]] for row, value in zip(rows, values[1:] + values[:1], strict=True)
    ]


def test_members_that_do_not_fit_are_refused(models, tmp_path):
    def refused(folders, match, **options):
        with pytest.raises(UserError, match=match):
            write_ensemble(folders, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists(), "nothing is written"

    refused(models[:1], "two members or more")
    refused([models[0], models[1] / "fold1"], r"test folds \[1, 2\] in .*; \[1\] in")
    other = runs.finish(runs.write_run(tmp_path / "labels/fold1", 1, 3, labels=("cat", "dog")))
    refused([models[0] / "fold1", other], "same classes")
    split = runs.finish(runs.write_run(tmp_path / "split/fold1", 1, 3, train_folds=[5]))
    refused([models[0] / "fold1", split], "train folds differs")
    shutil.copytree(models[1] / "fold1", tmp_path / "data/fold1")
    path = tmp_path / "data/fold1/run.json"
    receipt = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(receipt | {"data": {"fingerprint": "g"}}), encoding="utf-8")
    refused([models[0] / "fold1", tmp_path / "data/fold1"], "data differs: f in .*; g in")
    path.write_text(json.dumps(receipt), encoding="utf-8")
    (tmp_path / "data/fold1/validation_predictions.csv").unlink()
    refused([models[0] / "fold1", tmp_path / "data/fold1"], "there is no validation_pred", weights="validation")
    with pytest.raises(UserError, match="a trained model lies in the folder"):
        write_ensemble([models[0] / "fold1", models[1] / "fold1"], models[0])
