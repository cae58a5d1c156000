"""Real runs of a tiny model: what they leave, how they go on, and what must not change their result."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from urbansound_hf.audio.io import load_audio
from urbansound_hf.data.loading import Sounds
from urbansound_hf.data.splits import Split
from urbansound_hf.errors import UserError, UserErrors
from urbansound_hf.inference.backend import is_stale
from urbansound_hf.inference.classifier import SoundClassifier
from urbansound_hf.models.loading import load_model
from urbansound_hf.training import run as training_run
from urbansound_hf.training.cross_validation import run_experiment
from urbansound_hf.training.run import calibrate, train_and_evaluate

pytestmark = pytest.mark.usefixtures("plain_reports")

FILES = {"config.json", "model.safetensors", "preprocessor_config.json",
         "metrics.json", "predictions.csv", "validation_predictions.csv", "log_history.json"}  # fmt: skip
ROWS = np.arange(100).reshape(10, 10)  # the synthetic set is sorted by fold: one clip of each class in each row


def small_split(validation: int = 10) -> Split:
    return Split("fold10", ROWS[2:6].ravel(), ROWS[1][:validation], ROWS[9], 10, 2, [3, 4, 5, 6])


@pytest.fixture
def train(configure, sounds, tmp_path) -> Callable[..., SimpleNamespace]:
    """Runs the tiny config with further flags on 40 training, 10 validation and 10 test clips, into `name`."""

    def run(*flags: object, name: str = "run", data: Sounds = sounds, split: Split | None = None) -> SimpleNamespace:
        folder = tmp_path / name
        config = configure(*flags)
        values = config.as_dict()
        metrics = train_and_evaluate(config, data, split or small_split(), folder)
        assert config.as_dict() == values, "nothing writes into a config"
        return SimpleNamespace(
            folder=folder, metrics=metrics, log=json.loads((folder / "log_history.json").read_text(encoding="utf-8"))
        )

    return run


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_weights(one: Path, other: Path, atol: float = 0) -> None:
    torch.testing.assert_close(weights(one), weights(other), rtol=0, atol=atol)


def logged(log: list[dict], key: str) -> list[float]:
    return [entry[key] for entry in log if key in entry]


def read_predictions(folder: Path, labels: list[str]) -> tuple[list[dict], np.ndarray]:
    with (folder / "predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return rows, np.array([[float(row[label]) for label in labels] for row in rows])


def waveforms(sounds: Sounds, rows: np.ndarray) -> list[np.ndarray]:
    return [load_audio(clip["bytes"]) for clip in sounds.dataset.select(rows)["audio"]]


# What a run leaves


def test_the_files_of_a_run(train):
    run = train()
    files = {str(path.relative_to(run.folder)) for path in run.folder.rglob("*") if path.is_file()}
    assert {name for name in files if not name.startswith("checkpoints/")} == FILES  # those go with the receipt
    assert json.loads((run.folder / "metrics.json").read_text(encoding="utf-8")) == run.metrics


def test_nothing_is_chosen_on_the_test_clips(train, sounds):
    """With the labels of the test clips shuffled, penalty, temperature, checkpoint and weights stay the same."""
    data, changed = sounds.dataset, np.array(sounds.dataset["label"][:])
    changed[ROWS[9]] = np.random.default_rng(0).permutation(changed[ROWS[9]])
    columns = data.remove_columns("label").add_column("label", changed.tolist(), feature=data.features["label"])
    flags = ["--probe_first", "--calibrate", "--num_train_epochs", "2", "--load_best_model_at_end", "true"]
    run, shuffled = train(*flags), train(*flags, name="shuffled", data=replace(sounds, dataset=columns))
    assert run.metrics["test_loss"] != shuffled.metrics["test_loss"], "the labels have not been shuffled"
    for chosen in ("probe", "calibration", "checkpoint", "best_validation_accuracy"):
        assert run.metrics[chosen] == shuffled.metrics[chosen]
    assert "40 training clips" in run.metrics["probe"]["chosen_on"]
    assert_same_weights(run.folder, shuffled.folder)


@pytest.mark.parametrize("flags", [[], ["--freeze", "backbone"], ["--test_time_shifts", "1"]], ids=" ".join)
def test_calibration_divides_the_logits_and_keeps_the_labels(train, sounds, flags):
    flags += ["--learning_rate", "0.05"]
    plain, calibrated = train(*flags), train(*flags, "--calibrate", name="calibrated")
    found = calibrated.metrics["calibration"]
    assert found["temperature"] != 1 and found["loss_after"] < found["loss_before"]
    (before, scores), (after, cooler) = (read_predictions(run.folder, sounds.labels) for run in (plain, calibrated))
    assert [row["predicted"] for row in after] == [row["predicted"] for row in before]
    assert np.abs(cooler - scores).max() > 1e-3
    if "--test_time_shifts" not in flags:  # a mean of several is no softmax
        expected = scores ** (1 / found["temperature"])
        np.testing.assert_allclose(cooler, expected / expected.sum(axis=1, keepdims=True), atol=1e-4)
    served = SoundClassifier.from_pretrained(calibrated.folder, device="cpu").probabilities(waveforms(sounds, ROWS[9]))
    np.testing.assert_allclose(cooler, served, atol=2e-6)


def test_calibration_needs_validation_clips_and_a_linear_head(train, configure):
    with pytest.raises(UserErrors, match="fits a temperature on validation clips, found `validation: none`"):
        configure("--calibrate", "--validation", "none")
    with pytest.raises(UserError, match="fitted on validation clips, found none"):
        train("--calibrate", split=small_split(0))
    cosines = load_model("ecapa-tdnn", ["a", "b"], overrides={"channels": [16, 16, 16, 16, 48]})
    with pytest.raises(UserError, match="the head of ecapa-tdnn models") as refused:
        calibrate(cosines, np.eye(2), (np.arange(2), np.arange(2)))
    assert refused.value.where == "--calibrate"


def test_the_checkpoint_names_the_labels_in_their_order_and_its_window(train, sounds):
    config = json.loads((train("--clip_seconds", 2).folder / "config.json").read_text(encoding="utf-8"))
    assert list(config["id2label"].items()) == [(str(i), label) for i, label in enumerate(sounds.labels)]
    assert config["label2id"] == {label: i for i, label in enumerate(sounds.labels)}
    assert (config["clip_seconds"], config["architectures"]) == (2.0, ["Wav2Vec2ForSequenceClassification"])


@pytest.mark.parametrize(
    "flags",
    [["--bf16", "false"], ["--bf16", "true"], ["--freeze", "backbone"], ["--test_time_shifts", "2"],
     ["--ema_decay", "0.5"]],
    ids=" ".join,
)  # fmt: skip
def test_the_predictions_are_those_of_serving_and_agree_with_the_metrics(train, sounds, flags):
    run = train(*flags, "--learning_rate", 1e-2, "--per_device_eval_batch_size", 7)
    rows, scores = read_predictions(run.folder, sounds.labels)
    assert [row["path"] for row in rows] == [clip["path"] for clip in sounds.dataset.select(ROWS[9])["audio"]]
    served = SoundClassifier.from_pretrained(run.folder, device="cpu").probabilities(waveforms(sounds, ROWS[9]))
    assert served.std(axis=0).max() > 0.01, "the clips must be told apart, or nothing is compared"
    np.testing.assert_allclose(scores, served, atol=2e-6)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)

    true = np.array([sounds.labels.index(row["true"]) for row in rows])
    predicted = scores.argmax(axis=1)
    assert true.tolist() == list(range(10)) and {row["fold"] for row in rows} == {"10"}
    assert [row["predicted"] for row in rows] == [sounds.labels[i] for i in predicted]
    assert run.metrics["test_accuracy"] == pytest.approx((true == predicted).mean())
    assert run.metrics["test_loss"] == pytest.approx(-np.log(scores[range(10), true]).mean(), abs=1e-4)
    assert np.array(run.metrics["confusion_matrix"])[true, predicted].all()
    assert run.metrics["clips"] == {"train": 40, "validation": 10, "test": 10}


def test_bf16_is_used_in_training(train):
    exact, rounded = (train("--bf16", flag, name=flag) for flag in ("false", "true"))
    losses = [np.array(logged(run.log, "loss")) for run in (exact, rounded)]
    assert 0 < np.abs(losses[0] - losses[1]).max() < 0.05


# The three parts


def test_the_test_rows_are_not_looked_at_during_training(train):
    run = train("--learning_rate", 1e-2, "--eval_steps", 1, "--save_steps", 1)
    other = train("--learning_rate", 1e-2, "--eval_steps", 1, "--save_steps", 1, name="other", split=swapped_test())
    assert len(logged(run.log, "eval_loss")) == 4 and not any(
        key.startswith("test") for entry in run.log for key in entry
    )
    assert logged(run.log, "eval_loss") == logged(other.log, "eval_loss")
    assert_same_weights(run.folder, other.folder)
    assert run.metrics["test_loss"] != other.metrics["test_loss"]


def swapped_test() -> Split:
    return Split("fold9", ROWS[2:6].ravel(), ROWS[1], ROWS[8], 9, 2, [3, 4, 5, 6])


def test_the_best_checkpoint_is_saved_and_not_the_last(train, sounds):
    flags = ["--learning_rate", 0.3, "--lr_scheduler_type", "constant", "--metric_for_best_model", "loss"]
    run = train(*flags, *EVERY_STEP, "--keep_checkpoints")
    losses = logged(run.log, "eval_loss")
    best = int(np.argmin(losses)) + 1
    assert best < 5, "a learning rate this high must spoil the end"
    assert_same_weights(run.folder, run.folder / "checkpoints" / f"checkpoint-{best}")
    classifier = SoundClassifier.from_pretrained(run.folder, device="cpu")
    scores = classifier.probabilities(waveforms(sounds, ROWS[1]))
    assert run.metrics["best_validation_loss"] == min(losses)
    assert -np.log(scores[range(10), range(10)]).mean() == pytest.approx(min(losses), abs=1e-5)


def test_without_validation_the_last_weights_are_taken(train):
    run = train("--validation", "none", "--save_steps", 4, "--keep_checkpoints", split=small_split(validation=0))
    assert_same_weights(run.folder, run.folder / "checkpoints" / "checkpoint-4")
    assert not logged(run.log, "eval_loss") and "best_validation_accuracy" not in run.metrics


def test_early_stopping(train):
    run = train("--learning_rate", 1e-12, "--eval_steps", 1, "--save_steps", 1, "--early_stopping_patience", 2)
    assert len(logged(run.log, "eval_accuracy")) == 3, "the first, and two that are no better"


def test_a_long_clip_is_the_mean_of_its_windows_as_in_serving(train, sounds):
    run = train("--clip_seconds", 1)
    assert run.metrics["clips"]["test"] == 10
    _, scores = read_predictions(run.folder, sounds.labels)
    clips = [clip["bytes"] for clip in sounds.dataset.select(ROWS[9])["audio"]]
    classifier = SoundClassifier.from_pretrained(run.folder, device="cpu")
    answers = list(classifier.classify_many(clips, top_k=10))
    assert max(len(answer.windows) for answer in answers) == 7, "4 s, a window of 1 s every half second"
    served = [dict((answer.summary or answer.windows[0]).top) for answer in answers]
    np.testing.assert_allclose(scores, [[row[label] for label in sounds.labels] for row in served], atol=2e-6)


# Going on after an interruption


MODEL = ["hidden_size=16", "num_hidden_layers=2", "num_attention_heads=2", "intermediate_size=16", "layerdrop=0",
         "conv_dim=[8,8,8,8,8,8,8]", "num_conv_pos_embeddings=4", "num_conv_pos_embedding_groups=2"]  # fmt: skip
EVERY_STEP = ["--max_steps", 5, "--eval_steps", 1, "--save_steps", 1, "--save_total_limit", 5]


RECIPE = ["--augment", "gain:1", "white_noise", "--mixup_alpha", 0.3, "--ema_decay", 0.9,
          "--balanced_sampling", "--label_smoothing_factor", 0.1]  # fmt: skip


@pytest.mark.parametrize(("recipe", "interrupted_after"), [([], 2), ([], 5), (RECIPE, 2)])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(train, tmp_path, recipe, interrupted_after):
    flags = ["--model_config", *MODEL, "hidden_dropout=0.3", "--load_best_model_at_end", "false", *EVERY_STEP, *recipe]
    whole = train(*flags, "--keep_checkpoints", name="whole")
    checkpoint = f"checkpoints/checkpoint-{interrupted_after}"
    shutil.copytree(whole.folder / checkpoint, tmp_path / "resumed" / checkpoint)
    (tmp_path / "resumed" / "checkpoints" / "checkpoint-9").mkdir()  # killed while it was written
    resumed = train(*flags, name="resumed")
    steps_run = round(resumed.log[-1]["train_runtime"] * resumed.log[-1]["train_steps_per_second"])
    assert steps_run == 5 - interrupted_after
    assert_same_weights(resumed.folder, whole.folder)
    for key in ("loss", "grad_norm", "eval_loss"):
        assert logged(resumed.log, key) == logged(whole.log, key) and len(logged(whole.log, key)) == 5
    assert resumed.metrics["test_loss"] == whole.metrics["test_loss"]


# Equal by theory is equal in the log


def test_gradient_accumulation_is_the_larger_batch(train):
    sgd = ["--optim", "sgd", "--learning_rate", 0.1]  # Adam would blow up the noise where the gradient is zero
    batches = [
        ["--per_device_train_batch_size", size, "--gradient_accumulation_steps", 8 // size] for size in (8, 2, 1)
    ]
    runs = [train(*sgd, *batch, name=str(batch[1])) for batch in batches]
    for run in runs[1:]:
        for key in ("loss", "grad_norm", "eval_loss"):
            np.testing.assert_allclose(logged(run.log, key), logged(runs[0].log, key), rtol=1e-4, err_msg=key)
        assert_same_weights(run.folder, runs[0].folder, atol=1e-5)


def test_a_linear_probe_on_cached_embeddings_is_the_frozen_model(train, monkeypatch):
    flags = ["--freeze", "backbone", "--optim", "sgd", "--learning_rate", 1]
    cached = train(*flags, name="cached")
    monkeypatch.setattr(training_run, "agrees", lambda *_: False)
    whole = train(*flags, name="whole")
    for key in ("loss", "grad_norm", "eval_loss"):
        np.testing.assert_allclose(logged(cached.log, key), logged(whole.log, key), rtol=1e-4, err_msg=key)
    assert_same_weights(cached.folder, whole.folder, atol=1e-5)
    assert cached.metrics["trained_parameters"] == whole.metrics["trained_parameters"] == 16 * 8 + 8 + 8 * 10 + 10


def test_a_run_repeats_itself_and_another_seed_does_not(train):
    one, same, other = train(name="one"), train(name="same"), train("--seed", 1, name="other")
    assert_same_weights(one.folder, same.folder)
    assert logged(one.log, "loss") == logged(same.log, "loss") != logged(other.log, "loss")


def test_the_batch_does_not_change_the_scores(train):
    runs = [train("--per_device_eval_batch_size", size, name=str(size)) for size in (1, 4, 16)]
    for run in runs[1:]:
        np.testing.assert_allclose(logged(run.log, "eval_loss"), logged(runs[0].log, "eval_loss"), rtol=1e-6)
        assert run.metrics["test_loss"] == pytest.approx(runs[0].metrics["test_loss"], rel=1e-6)


def test_tensorboard_logs_outlive_the_checkpoints(configure, synthetic_root, tmp_path):
    config = configure(
        "--data_dir", synthetic_root, "--output_dir", tmp_path / "out", "--max_steps", 2, "--report_to", "tensorboard"
    )
    assert run_experiment(config) == 0
    (log,) = (tmp_path / "out" / "fold10" / "tensorboard").glob("events.out.tfevents.*")
    assert b"eval/accuracy" in log.read_bytes()


def test_the_trained_checkpoint_is_exported_and_serves_the_same_scores(train):
    cnn = "--model_name_or_path cnn --model_config hidden_sizes=[4,4,4,4] --max_steps 1 --eval_strategy no"
    run = train(*f"{cnn} --save_strategy no --load_best_model_at_end false --export_onnx".split())
    assert not is_stale(run.folder)
    clip = np.random.default_rng(0).normal(0, 0.1, 64_000).astype(np.float32)
    models = [SoundClassifier.from_pretrained(run.folder, device="cpu", backend=each) for each in ("onnx", "torch")]
    found, expected = (model.probabilities([clip]) for model in models)
    np.testing.assert_allclose(found, expected, atol=1e-4)
