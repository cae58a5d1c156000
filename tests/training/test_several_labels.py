"""Training, serving and reporting of a model of several labels a clip."""

from __future__ import annotations

import csv
import dataclasses
import json

import numpy as np
import pytest
import torch
import yaml
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import pipeline

from urbansound_hf.audio.io import load_audio
from urbansound_hf.cli import infer
from urbansound_hf.data.loading import load_sounds
from urbansound_hf.evaluation.runs import read_run
from urbansound_hf.inference.classifier import SoundClassifier
from urbansound_hf.models.linear_probe import regression
from urbansound_hf.models.onnx_export import export_onnx
from urbansound_hf.reports.comparison import class_differences, paired
from urbansound_hf.training.augmented_dataset import AugmentedDataset
from urbansound_hf.training.cross_validation import run_experiment
from urbansound_hf.training.experiment import prepare_experiment
from urbansound_hf.training.losses import BalancedSampler, class_weights, classification_loss
from urbansound_hf.training.run import prepare_training

pytestmark = pytest.mark.usefixtures("plain_reports")

CNN = ["--model_name_or_path", "cnn", "--model_config", "hidden_sizes=[8,8]", "--clip_seconds", "1"]


@pytest.fixture(scope="module")
def finished(pairs, tmp_path_factory):
    """Two folds of a small cnn, trained for some steps with everything that changes labels."""
    from urbansound_hf.config.parse import parse_run_config

    folder = tmp_path_factory.mktemp("several") / "run"
    argv = [*CNN, "--dataset", str(pairs), "--split", "official", "--test_fold", "1,2", "--max_steps", "6"]
    argv += ["--learning_rate", "1e-2", "--eval_strategy", "steps", "--eval_steps", "3", "--save_strategy", "steps"]
    argv += ["--save_steps", "3", "--mixup_alpha", "0.3", "--cutmix_alpha", "1", "--class_weights", "true"]
    argv += ["--focal_gamma", "1", "--label_smoothing_factor", "0.1", "--use_cpu", "true", "--disable_tqdm", "true"]
    argv += ["--output_dir", str(folder), "--preprocessing_num_workers", "1"]
    empty = folder.with_name("empty.yaml")
    empty.write_text("{}", encoding="utf-8")
    assert run_experiment(parse_run_config(argv, empty)) == 0
    return folder


def test_the_loss_is_the_binary_cross_entropy():
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 3), torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 0]])
    weights = class_weights(labels.numpy(), 3)
    assert weights.tolist() == [1.0, 1.0, 3.0]  # clips without the label for each with it
    expected = binary_cross_entropy_with_logits(logits, labels, pos_weight=weights)
    assert classification_loss(logits, labels, weights, 0, 0, several=True) == pytest.approx(expected.item())
    assert classification_loss(logits, labels, weights, 0, 1e-9, several=True) == pytest.approx(expected.item())
    smooth = binary_cross_entropy_with_logits(logits, labels * 0.8 + 0.1)
    assert classification_loss(logits, labels, None, 0.2, 0, several=True) == pytest.approx(smooth.item())
    right = torch.where(labels > 0, logits.sigmoid(), 1 - logits.sigmoid())
    focal = (-((1 - right) ** 2) * right.log()).mean()
    assert classification_loss(logits, labels, None, 0, 2, several=True) == pytest.approx(focal.item())


def test_the_balanced_sampler_draws_rare_labels_more_often():
    labels = np.array([[1, 0], [1, 0], [1, 1], [0, 0]], np.float32)
    assert BalancedSampler(labels, 0).weights.tolist() == pytest.approx([1 / 3, 1 / 3, 4 / 3, 1])


def test_a_regression_for_each_label():
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(60, 2))
    labels = np.column_stack([inputs[:, 0] > 0, inputs[:, 1] > 0, np.zeros(60), np.ones(60)]).astype(np.float32)
    weight, bias = regression(inputs, labels, 4)
    assert (((inputs @ weight.T + bias) > 0) == labels).mean() > 0.9


def test_mixed_clips_have_the_labels_of_both(pairs, configure):
    config = configure(*CNN, "--dataset", pairs, "--split", "official", "--test_fold", 1, "--mixup_alpha", 1)
    experiment = prepare_experiment(config)
    prepared = prepare_training(config, experiment.sounds, experiment.planned_splits()[0])
    assert isinstance(prepared.train, AugmentedDataset) and prepared.train_labels.shape[1] == 10
    labels = np.stack([prepared.train[row]["labels"] for row in range(10)])
    np.testing.assert_allclose(labels.sum(axis=1), 2, atol=1e-5)  # every clip has two
    assert ((labels > 0).sum(axis=1) > 2).any()


def test_a_run_and_its_cross_validation_are_reported(finished, pairs):
    run, gathered = read_run(finished / "fold1"), json.loads((finished / "metrics.json").read_text(encoding="utf-8"))
    sounds = load_sounds(str(pairs))
    rows = np.flatnonzero(np.array(sounds.dataset["fold"]) == 1)
    np.testing.assert_array_equal(run.predictions.true, sounds.targets[rows])
    config = run.model_config
    assert config["problem_type"] == "multi_label_classification" and len(config["thresholds"]) == 10
    expected = run.predictions.probabilities >= np.float32(config["thresholds"])
    np.testing.assert_array_equal(run.predictions.predicted, expected)
    assert "best_validation_mean_average_precision" in run.metrics
    low, high = run.report["mean_average_precision_interval"]
    assert low <= run.metrics["test_mean_average_precision"] <= high
    assert {"average_precision", "average_precision_interval"} <= run.report["per_class"]["siren"].keys()
    card, report = ((finished / "fold1" / name).read_text(encoding="utf-8") for name in ("README.md", "report.md"))
    assert "| class            |                 AP |" in report and "mAP **" in report and "type: map" in card
    assert f"which are {config['thresholds'][0]:.2f}, " in card
    assert "mAP **" in (finished / "report.md").read_text(encoding="utf-8") and gathered["mean_roc_auc"] > 0
    with (finished / "fold1" / "predictions.csv").open(encoding="utf-8") as file:
        first = next(csv.DictReader(file))
    assert len(first["true_labels"].split(";")) == 2


def test_two_runs_are_paired_by_the_names_of_their_labels(finished):
    a = read_run(finished / "fold1").predictions
    turned = {name: getattr(a, name)[:, ::-1] for name in ("true", "predicted", "probabilities")}
    a, b = paired(a, dataclasses.replace(a, labels=a.labels[::-1], **turned))
    np.testing.assert_array_equal([b.true, b.predicted], [a.true, a.predicted])
    assert all(row[3].startswith("+0.000") for row in class_differences(a, b))


def test_serving_gives_the_labels_above_their_thresholds_as_the_pipeline_scores_them(finished, pairs, capsys):
    folder, clip = finished / "fold1", sorted(pairs.glob("1-*.wav"))[0]
    classifier = SoundClassifier.from_pretrained(folder, device="cpu", backend="torch")
    result = classifier.classify(clip, top_k=10, window_seconds=1.0, hop_seconds=1.0)
    scores = dict(result.windows[0].top)
    waveform = load_audio(clip, classifier.sampling_rate)[: classifier.sampling_rate]
    stock = pipeline("audio-classification", model=str(folder), device="cpu", trust_remote_code=True)
    for each in stock({"array": waveform, "sampling_rate": classifier.sampling_rate}, top_k=10):
        assert scores[each["label"]] == pytest.approx(each["score"], abs=1e-4)
    least = dict(zip(classifier.labels, classifier.thresholds, strict=True))
    above = [label for label, score in result.windows[0].top if score >= least[label]]
    assert list(result.windows[0].labels) == above
    lowest = np.min(result.scores, axis=0)
    wide = type(result)(**{**vars(result), "thresholds": list(lowest)})
    events = wide.events()
    assert {event.label for event in events} == set(classifier.labels), "overlapping, each by its own threshold"
    assert infer([str(clip), "--model", str(folder), "--format", "jsonl"]) == 0
    assert set(json.loads(capsys.readouterr().out.splitlines()[-1])["labels"]) <= set(classifier.labels)


def test_an_export_is_served_with_the_same_scores(finished, pairs):
    folder, clip = finished / "fold2", sorted(pairs.glob("2-*.wav"))[0]
    before = SoundClassifier.from_pretrained(folder, device="cpu", backend="torch").classify(clip)
    export_onnx(folder)
    exported = SoundClassifier.from_pretrained(folder, backend="onnx")
    assert exported.thresholds == yaml.safe_load((folder / "config.json").read_text(encoding="utf-8"))["thresholds"]
    np.testing.assert_allclose(exported.classify(clip).scores, before.scores, atol=1e-4)


@pytest.mark.parametrize("flags", [["--probe_first", "true"], ["--freeze", "backbone"], ["--lora_rank", "2"]])
def test_probes_and_lora_train_on_several_labels(flags, pairs, configure, tmp_path):
    argv = ["--dataset", pairs, "--split", "official", "--test_fold", 1, "--clip_seconds", 0.5, "--max_steps", 2]
    assert run_experiment(configure(*argv, *flags, "--output_dir", tmp_path / "out")) == 0
    assert read_run(tmp_path / "out" / "fold1").model_config["problem_type"] == "multi_label_classification"
