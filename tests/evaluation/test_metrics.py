"""Metrics against numbers computed by hand, and the registry."""

from __future__ import annotations

import numpy as np
import pytest
from evaluate import config
from sklearn.metrics import f1_score

from urbansound_hf.errors import UserErrors
from urbansound_hf.evaluation.hf_metric import AudioClassificationMetric
from urbansound_hf.evaluation.metrics import (
    ALL_METRICS,
    clip_scores,
    macro_f1,
    mean_over_windows,
    metric,
    metrics_of,
)
from urbansound_hf.evaluation.runs import read_run
from urbansound_hf.reports.run_report import write_cross_validation
from urbansound_hf.training.cross_validation import run_experiment

pytestmark = pytest.mark.usefixtures("plain_reports")

LABELS = ["bark", "horn", "rain", "silence"]
TRUE = [0, 0, 0, 1, 1, 2]
PREDICTED = [0, 0, 1, 1, 2, 2]  # nothing is silence, nothing is taken for it


def one_hot(predicted: list[int]) -> np.ndarray:
    """Probabilities that are 0.7 for the predicted class and 0.1 for the others."""
    return (0.1 + 0.6 * np.eye(len(LABELS))[predicted]).astype(np.float32)


@pytest.fixture
def scores() -> dict:
    return AudioClassificationMetric(LABELS).compute(predictions=one_hot(PREDICTED), references=TRUE)


def test_every_registered_metric_is_computed(scores):
    assert list(scores) == ["accuracy", "macro_f1", "loss", "per_class", "confusion_matrix"]
    assert [each.name for each in metrics_of(np.array(TRUE))] == ["accuracy", "macro_f1", "loss"]
    assert [each.name for each in ALL_METRICS.values() if not each.greater_is_better] == ["loss"]
    assert scores["loss"] == pytest.approx(-(4 * np.log(0.7) + 2 * np.log(0.1)) / 6)


def test_accuracy_and_confusion(scores):
    assert scores["accuracy"] == pytest.approx(4 / 6)
    assert scores["confusion_matrix"] == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_per_class_scores(scores):
    assert list(scores["per_class"]) == LABELS
    bark = {"precision": 1.0, "recall": 2 / 3, "f1": 0.8, "support": 3}
    horn = {"precision": 1 / 2, "recall": 1 / 2, "f1": 0.5, "support": 2}
    assert scores["per_class"]["bark"] == pytest.approx(bark)
    assert scores["per_class"]["horn"] == pytest.approx(horn)
    assert scores["per_class"]["silence"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0}


def test_macro_f1_is_over_the_classes_that_occur(scores):
    assert scores["macro_f1"] == pytest.approx((0.8 + 0.5 + 2 / 3) / 3)
    predicted_only = AudioClassificationMetric(LABELS).compute(predictions=one_hot([0, 3]), references=[0, 0])
    assert predicted_only["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)


def test_one_metric_computes_again_and_beside_another_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "HF_METRICS_CACHE", tmp_path)
    one, other = AudioClassificationMetric(LABELS), AudioClassificationMetric(LABELS)
    one.add_batch(predictions=one_hot([0, 1]), references=[0, 0])
    assert other.compute(predictions=one_hot([2]), references=[2])["accuracy"] == 1
    assert one.compute()["accuracy"] == 0.5
    assert one.compute(predictions=one_hot([1]), references=[0])["accuracy"] == 0
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "processes would share them"


def test_mean_over_windows_whatever_their_order():
    windows = np.array([[0.2, 0.8], [1.0, 0.0], [0.6, 0.4], [0.4, 0.6]], np.float32)
    clips, means = mean_over_windows(windows, np.array([7, 3, 7, 7]))
    assert clips.tolist() == [3, 7] and means.dtype == np.float32
    np.testing.assert_allclose(means, [[1.0, 0.0], [0.4, 0.6]], rtol=1e-6)


def test_clip_scores_are_in_the_order_of_the_rows():
    logits = np.log(np.array([[0.2, 0.8], [0.9, 0.1], [0.6, 0.4]], np.float32))
    clips = clip_scores(logits, (np.array([1, 0, 1]), np.array([7, 3, 7])))
    assert clips["true"].tolist() == [0, 1] and clips["predicted"].tolist() == [0, 1]
    np.testing.assert_allclose(clips["probabilities"], [[0.9, 0.1], [0.4, 0.6]], rtol=1e-6)


# ---- a metric of one's own


@pytest.fixture
def top_2():
    """A metric that is registered for one test: one function and its column title."""

    @metric("top-2 accuracy")
    def top_2_accuracy(true: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray) -> float:
        return float(np.mean((np.argsort(-probabilities)[:, :2] == true[:, None]).any(axis=1)))

    yield top_2_accuracy
    del ALL_METRICS["top_2_accuracy"]


def test_a_registered_metric_selects_the_checkpoint_and_is_reported(top_2, configure, synthetic_root, tmp_path, capsys):
    flags = ["--data_dir", synthetic_root, "--preprocessing_num_workers", 1, "--output_dir", tmp_path / "out"]
    config = configure(*flags, "--test_fold", 1, "--metric_for_best_model", "top_2_accuracy")
    assert config.training.greater_is_better is True
    assert run_experiment(config) == 0
    run = read_run(tmp_path / "out" / "fold1")
    clips = run.predictions
    value = run.metrics["test_top_2_accuracy"]
    assert value == pytest.approx(top_2(clips.true, clips.predicted, clips.probabilities))
    assert value == run.report["top_2_accuracy"] > run.metrics["test_accuracy"]
    low, high = run.report["top_2_accuracy_interval"]
    assert low <= value <= high
    assert run.metrics["checkpoint"] == "best"
    evaluated = [row["eval_top_2_accuracy"] for row in run.history if "eval_top_2_accuracy" in row]
    assert len(evaluated) == 2 and run.metrics["best_validation_top_2_accuracy"] == max(evaluated)
    shown = f"top-2 accuracy {value:.3f} [{low:.2f}, {high:.2f}]"
    for name in ("report.md", "report.html"):
        assert shown in (run.folder / name).read_text(encoding="utf-8"), name
    in_card = f"top-2 accuracy **[{low:.2f}, {high:.2f}]** ({value:.3f})"
    assert in_card in (run.folder / "README.md").read_text(encoding="utf-8")
    assert f"top-2 accuracy {value:.4f}" in capsys.readouterr().out
    write_cross_validation(tmp_path / "out", [run])
    assert f"top-2 accuracy {value:.3f}" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_a_metric_of_which_less_is_better_selects_the_least(configure):
    @metric("error rate", greater_is_better=False)
    def error_rate(true: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray) -> float:
        return float(np.mean(true != predicted))

    try:
        assert configure("--metric_for_best_model", "error_rate").training.greater_is_better is False
    finally:
        del ALL_METRICS["error_rate"]
    assert configure("--metric_for_best_model", "loss").training.greater_is_better is False


def test_an_unknown_metric_is_refused_with_the_nearest_name(configure):
    with pytest.raises(UserErrors) as caught:
        configure("--metric_for_best_model", "macro_f")
    (problem,) = caught.value.problems
    assert (
        "must be one of mean_average_precision, roc_auc, accuracy, macro_f1, micro_f1, loss, found 'macro_f'"
        in problem.what
    )
    assert problem.fix == "did you mean macro_f1?"


def test_macro_f1_is_that_of_scikit_learn():
    draw = np.random.default_rng(0)
    for classes in range(1, 12):
        true, predicted = draw.integers(0, classes, (2, 40))
        expected = f1_score(true, predicted, average="macro", zero_division=0.0)
        assert macro_f1(true, predicted, np.zeros((40, 12))) == pytest.approx(expected, abs=1e-15)
