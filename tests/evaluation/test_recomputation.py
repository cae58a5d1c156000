"""metrics.json and the report's numbers, computed again from predictions.csv by pandas and scikit-learn alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import (
    accuracy_score,
    classification_report,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
)

from tests.training.test_run import ROWS
from urbansound_hf.data.splits import Split
from urbansound_hf.training.run import train_and_evaluate

ALL_CLASSES = Split("fold10", ROWS[2:6].ravel(), ROWS[1], ROWS[8:].ravel(), 10, 2, [3, 4, 5, 6])
SOME_CLASSES = Split("fold10", ROWS[2:6].ravel(), ROWS[1], ROWS[7:, [0, 3, 9]].ravel(), 10, 2, [3, 4, 5, 6])
RUNS = {
    "a few steps": ([], ALL_CLASSES),
    "another seed, further": (["--seed", 5, "--max_steps", 12, "--learning_rate", 1e-2], ALL_CLASSES),
    "clips of several windows": (["--clip_seconds", 1.1, "--per_device_eval_batch_size", 3], ALL_CLASSES),
    "classes without a test clip": (["--learning_rate", 1e-2], SOME_CLASSES),
    "shifted test clips": (["--test_time_shifts", 2], ALL_CLASSES),
    "a linear probe": (["--freeze", "backbone", "--learning_rate", 1e-1], ALL_CLASSES),
}


@pytest.fixture(scope="module", params=RUNS)
def run(request, sounds, tmp_path_factory) -> Path:
    """The folder of a run."""
    from tests.conftest import TINY
    from urbansound_hf.config.parse import parse_run_config

    flags, split = RUNS[request.param]
    folder = tmp_path_factory.mktemp("run")
    (folder / "tiny.yaml").write_text(TINY, encoding="utf-8")
    config = parse_run_config([str(flag) for flag in flags], folder / "tiny.yaml")
    train_and_evaluate(config, sounds, split, folder / "run")
    return folder / "run"


@pytest.fixture
def metrics(run) -> dict:
    return json.loads((run / "metrics.json").read_text(encoding="utf-8"))


@pytest.fixture
def table(run) -> pd.DataFrame:
    return pd.read_csv(run / "predictions.csv", dtype={"path": str, "group": str})


def test_the_scores(metrics, table):
    labels = metrics["labels"]
    assert len(table) == metrics["clips"]["test"] and table["path"].is_unique
    scores = table[labels].to_numpy()
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    best = scores[np.arange(len(table)), [labels.index(name) for name in table["predicted"]]]
    np.testing.assert_array_equal(best, scores.max(axis=1))  # equal scores have equal digits

    present = sorted(set(table["true"]) | set(table["predicted"]))
    assert metrics["test_accuracy"] == pytest.approx(accuracy_score(table["true"], table["predicted"]), abs=1e-12)
    f1 = f1_score(table["true"], table["predicted"], average="macro", labels=present, zero_division=0)
    assert metrics["test_macro_f1"] == pytest.approx(f1, abs=1e-12)
    ids = [labels.index(name) for name in table["true"]]
    likelihoods = scores / scores.sum(axis=1, keepdims=True)
    assert metrics["test_loss"] == pytest.approx(log_loss(ids, likelihoods, labels=range(len(labels))), abs=1e-4)


def test_each_class(metrics, table):
    labels = metrics["labels"]
    columns = precision_recall_fscore_support(table["true"], table["predicted"], labels=labels, zero_division=0)
    for position, name in enumerate(labels):
        found = [metrics["per_class"][name][key] for key in ("precision", "recall", "f1", "support")]
        np.testing.assert_allclose(found, [column[position] for column in columns], atol=1e-12)
    report = classification_report(table["true"], table["predicted"], labels=labels, output_dict=True, zero_division=0)
    assert sum(each["support"] for each in metrics["per_class"].values()) == report["weighted avg"]["support"]


def test_the_confusion_matrix(metrics, table):
    labels = metrics["labels"]
    expected = confusion_matrix(table["true"], table["predicted"], labels=labels)
    np.testing.assert_array_equal(metrics["confusion_matrix"], expected)
    crossed = pd.crosstab(table["true"], table["predicted"]).reindex(index=labels, columns=labels, fill_value=0)
    np.testing.assert_array_equal(metrics["confusion_matrix"], crossed.to_numpy())


def test_the_test_clips_are_those_of_the_split(table, sounds, request, run):
    split = next(split for name, (_, split) in RUNS.items() if name in request.node.name)
    clips = sounds.dataset.select(split.test)
    assert table["path"].tolist() == [clip["path"] for clip in clips["audio"]]
    assert table["true"].tolist() == [sounds.labels[label] for label in clips["label"]]
