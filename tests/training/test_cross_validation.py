"""Cross-validation for real, with a tiny model: interrupted and continued, failing, spread over commands, gathered."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from tests.conftest import ROOT, TINY
from tests.helpers.processes import exit_status, fork
from urbansound_hf import layout
from urbansound_hf.config.parse import parse_run_config
from urbansound_hf.data import loading
from urbansound_hf.errors import UserError, exit_code
from urbansound_hf.evaluation.receipts import INCIDENTAL
from urbansound_hf.evaluation.runs import Run, read_predictions
from urbansound_hf.layout import BEGUN
from urbansound_hf.reports.__main__ import crossval_main
from urbansound_hf.reports.run_report import gather_folds
from urbansound_hf.training.cross_validation import run_experiment
from urbansound_hf.training.trainer import SoundTrainer

pytestmark = pytest.mark.usefixtures("plain_reports")


@pytest.fixture(scope="module")
def flags(synthetic_root, tmp_path_factory) -> list[str]:
    """The command of an experiment of three folds, but for its output folder."""
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    data = ["--dataset", "urbansound8k", "--data_dir", str(synthetic_root), "--preprocessing_num_workers", "1"]
    return [str(path), *data, "--learning_rate", "1e-2", "--test_fold", "1,2,3"]


@pytest.fixture(scope="module")
def run(flags) -> Callable[..., int]:
    """Runs that command, with further flags, into a folder; returns the exit code."""
    return lambda output_dir, *more: run_experiment(
        parse_run_config([*flags, "--output_dir", str(output_dir), *map(str, more)], ROOT / "absent.yaml")
    )


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory) -> Path:
    """The folder of an uninterrupted cross-validation."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    assert run(folder) == 0
    return folder


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "out"))


def table(folder: Path) -> dict:
    """metrics.json of a run or a cross-validation, without the times and the memory."""
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return untimed(metrics) | ({"folds": [untimed(row) for row in metrics["folds"]]} if "folds" in metrics else {})


def untimed(metrics: dict) -> dict:
    return {name: value for name, value in metrics.items() if not name.startswith("train_") or name == "train_folds"}


def assert_same_result(one: Path, other: Path) -> None:
    assert table(one) == table(other)
    for fold in ("fold1", "fold2", "fold3"):
        scores = [read_predictions(folder / fold / "predictions.csv").probabilities for folder in (one, other)]
        np.testing.assert_allclose(*scores, rtol=0, atol=1.5e-6)


def changed(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def edit_json(path: Path, change: Callable[[dict], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


# ---- one command


def test_the_table(whole):
    metrics = json.loads((whole / "metrics.json").read_text(encoding="utf-8"))
    accuracies = [row["test_accuracy"] for row in metrics["folds"]]
    assert [row["test_fold"] for row in metrics["folds"]] == [1, 2, 3]
    assert [row["validation_fold"] for row in metrics["folds"]] == [2, 3, 4]
    assert metrics["mean_accuracy"] == pytest.approx(np.mean(accuracies))
    assert metrics["std_accuracy"] == pytest.approx(np.std(accuracies, ddof=1))
    assert (metrics["complete"], metrics["scope"]) == (False, "3 of 10 folds, not comparable")
    scores = [read_predictions(whole / f"fold{fold}" / "predictions.csv").probabilities for fold in (1, 2, 3)]
    assert np.concatenate(scores).std(axis=0).max() > 0.01, "the clips must be told apart, or nothing is compared here"


def test_what_is_told_of_each_fold(whole):
    for fold in (1, 2, 3):
        folder = whole / f"fold{fold}"
        leaks = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["leaks"]
        assert (leaks["train_clips"], leaks["test_clips"], leaks["validation"]["clips"]) == (80, 10, 10)
        assert leaks["shared_recording_clips"] == leaks["time_overlap_clips"] == leaks["exact_duplicates"] == 0
        receipt = Run(folder).receipt
        assert (receipt["config"]["learning_rate"], receipt["data"]["clips"], receipt["continued"]) == (
            0.01,
            100,
            False,
        )
        assert receipt["test_accuracy"] == table(folder)["test_accuracy"] and receipt["seconds"] > 0
        assert receipt["tf32"] is False, "on a CPU"
        last = max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        assert last.name == "run.json", "whoever finds it may believe the rest"
        assert not (folder / "checkpoints").exists()


def test_the_resolved_config_repeats_its_own_fold(whole):
    again = parse_run_config([str(whole / "fold2" / "run.yaml")], ROOT / "absent.yaml")
    assert (again.data.test_fold, again.training.learning_rate, again.training.overwrite) == ("2", 0.01, False)
    assert again.training.output_dir == "outputs/run", "it must not run into the finished folder"
    now, then = again.as_dict(), Run(whole / "fold2").receipt["config"]
    assert {name for name in now if now[name] != then.get(name)} <= INCIDENTAL


# ---- interrupted


def test_killed_in_the_middle_and_continued_gives_the_same_table(run, whole, tmp_path, monkeypatch, capsys, caplog):
    out = tmp_path / "out"
    save = SoundTrainer._save_checkpoint

    def save_and_die(trainer, *args, **kwargs):
        save(trainer, *args, **kwargs)
        if "fold2" in trainer.args.output_dir:
            os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(SoundTrainer, "_save_checkpoint", save_and_die)
        assert exit_status(fork(lambda: run(out))) == -signal.SIGKILL
    assert layout.finished(out / "fold1") and not layout.finished(out / "fold2") and not (out / "fold3").exists()
    assert (out / "fold2" / "checkpoints" / "checkpoint-2" / "trainer_state.json").is_file()
    before = changed(out)

    with pytest.raises(
        UserError, match=r"learning_rate is 0\.01 in the interrupted run and 0\.02 in this run"
    ) as caught:
        run(out, "--learning_rate", 2e-2)
    assert caught.value.where == str(out / "fold2") and "--resume_from_checkpoint false" in caught.value.fix
    begun = out / "fold2" / BEGUN
    begun.rename(tmp_path / "begun.json")
    with pytest.raises(UserError, match="an interrupted run of another experiment lies here: no record of its values"):
        run(out)
    (tmp_path / "begun.json").rename(begun)
    assert changed(out) == before, "a refusal touches nothing"

    assert run(out) == 0
    assert "fold1 is finished already: skipped" in capsys.readouterr().err
    assert f"continuing the interrupted run from {out / 'fold2' / 'checkpoints' / 'checkpoint-2'}" in caplog.text
    assert {path: time for path, time in before.items() if "fold1" in path.parts} == changed(out / "fold1")
    assert [Run(out / f"fold{fold}").receipt["continued"] for fold in (1, 2, 3)] == [False, True, False]
    assert_same_result(out, whole)


def test_a_fold_interrupted_before_its_receipt_is_run_again(run, copy, whole):
    (copy / "fold3" / "run.json").unlink()
    (copy / "fold3" / "metrics.json").write_text("{", encoding="utf-8")  # killed while it was written
    assert [row["test_fold"] for row in gather_folds(copy)["folds"]] == [1, 2]
    assert run(copy) == 0
    assert_same_result(copy, whole)


# ---- a fold that fails


def test_a_failed_fold_is_reported_and_the_others_run(run, copy, whole, capsys):
    for fold in ("fold1", "fold2"):
        shutil.rmtree(copy / fold)
    (copy / "fold1").write_text("a file where a folder must be", encoding="utf-8")
    finished = changed(copy / "fold3")
    assert run(copy) == 1
    told = capsys.readouterr()
    assert "fold1 failed, the others go on: a file cannot be read or written: " in told.err
    assert "fold3 is finished already: skipped" in told.err and f"where: {copy / 'fold1'}" in told.err
    assert "2 of 10 folds, not comparable" in told.out
    assert [row["test_fold"] for row in table(copy)["folds"]] == [2, 3]
    assert changed(copy / "fold3") == finished

    (copy / "fold1").unlink()
    assert run(copy) == 0
    assert_same_result(copy, whole)


def test_when_all_folds_fail_nothing_is_gathered(run, tmp_path):
    for fold in (1, 2, 3):
        (tmp_path / f"fold{fold}").touch()
    assert run(tmp_path) == 1
    assert not (tmp_path / "metrics.json").exists()


# ---- spread over commands, and gathered


def gather_by_hand(monkeypatch, *argv: object) -> int:
    monkeypatch.setattr(sys, "argv", ["crossval", *map(str, argv)])
    return exit_code(crossval_main)


def test_folds_of_single_commands_are_gathered_by_hand(run, copy, whole, monkeypatch, capsys):
    shutil.rmtree(copy / "fold2")
    for name in ("metrics.json", "report.md"):
        (copy / name).unlink()
    assert run(copy, "--test_fold", 2) == 0
    assert not (copy / "metrics.json").exists(), "one job of an array does not gather"
    capsys.readouterr()
    assert gather_by_hand(monkeypatch, copy) == 0
    assert_same_result(copy, whole)
    told = capsys.readouterr().out
    for row in table(whole)["folds"]:
        assert f"{row['test_fold']:>4}  {row['test_accuracy']:8.4f}  {row['test_macro_f1']:8.4f}" in told
    assert f"mean  {table(whole)['mean_accuracy']:8.4f} ± " in told and "3 of 10 folds, not comparable" in told


def test_what_cannot_be_gathered(whole, tmp_path):
    with pytest.raises(UserError, match="found no finished fold") as caught:
        gather_folds(tmp_path)
    assert caught.value.fix == "train with --test_fold all"
    with pytest.raises(UserError, match="found no finished fold") as caught:
        gather_folds(whole / "fold1")
    assert caught.value.fix == f"this is a single run; give {whole}"


MISMATCHES = [
    (("config", "learning_rate"), 1e-4, ["learning_rate is 0.01 in fold1, fold3 and 0.0001 in fold2"]),
    (("data", "fingerprint"), "other", ["data fingerprint is {} in fold1, fold3 and other in fold2"]),
    (("environment", "code", "source"), "other", ["code is version ", "source {}", "source other"]),
    (("environment", "code", "source"), "other", ["source {} in fold1, fold3 and ", "source other in fold2"]),
    (("environment", "packages", "torch"), "2.0", ["torch version is {} in fold1, fold3 and 2.0 in fold2"]),
    (("processes",), 2, ["number of processes is 1 in fold1, fold3 and 2 in fold2"]),
]


@pytest.mark.parametrize(("keys", "value", "told"), MISMATCHES, ids=[keys[-1] for keys, *_ in MISMATCHES])
def test_mismatched_folds_are_refused_with_both_values(copy, keys, value, told, monkeypatch, capsys):
    receipt = inner = Run(copy / "fold2").receipt
    for key in keys[:-1]:
        inner = inner[key]
    found = inner.get(keys[-1])
    inner[keys[-1]] = value
    (copy / "fold2" / "run.json").write_text(json.dumps(receipt), encoding="utf-8")
    before = changed(copy)
    assert gather_by_hand(monkeypatch, copy) == 2
    error = capsys.readouterr().err
    assert "these folds are not of one experiment: " in error and "--force" in error
    assert all(part.format(found) in error for part in told) or found is None
    assert changed(copy) == before


def test_by_force_they_are_gathered_and_everything_says_so(copy, monkeypatch, capsys):
    edit_json(copy / "fold2" / "run.json", lambda receipt: receipt["config"].update(learning_rate=1e-4))
    assert gather_by_hand(monkeypatch, copy, "--force") == 0
    caution = "gathered by force: learning_rate is 0.01 in fold1, fold3 and 0.0001 in fold2"
    assert caution in capsys.readouterr().out
    assert table(copy)["notes"][0] == caution
    assert f"> {caution}" in (copy / "report.md").read_text(encoding="utf-8")


def test_where_a_run_lies_does_not_matter(copy):
    elsewhere = {"output_dir": "x", "data_dir": "y", "test_fold": "2", "preprocessing_num_workers": 7}
    edit_json(copy / "fold2" / "run.json", lambda receipt: receipt["config"].update(elsewhere))
    edit_json(copy / "fold3" / "run.json", lambda receipt: receipt["environment"]["code"].update(dirty="?"))
    gather_folds(copy)


# ---- what lies there already


def test_finished_folds_of_another_experiment_stop_the_others(run, copy):
    shutil.rmtree(copy / "fold3")
    before = changed(copy)
    with pytest.raises(UserError, match="lie here: seed is 42 in fold1, fold2 and 7 in this run") as caught:
        run(copy, "--seed", 7)
    assert caught.value.where == str(copy) and "another --output_dir" in caught.value.fix
    assert changed(copy) == before


def test_a_finished_run_is_refused_and_overwritten_only_on_demand(run, copy, capsys, monkeypatch):
    before = changed(copy)
    with pytest.raises(UserError, match="this run is finished already") as caught:
        run(copy, "--test_fold", 1)
    assert (caught.value.where, "--overwrite" in caught.value.fix) == (str(copy / "fold1"), True)
    assert changed(copy) == before

    (copy / "fold1" / "stray").touch()
    assert run(copy, "--test_fold", 1, "--overwrite", "--seed", 7) == 0
    assert f"note: {copy} holds folds of another experiment: seed is 42 in fold2, fold3 and 7 in this run" in (
        capsys.readouterr().err
    )
    assert Run(copy / "fold1").receipt["seed"] == 7 and not (copy / "fold1" / "stray").exists()
    gathered = {copy / "metrics.json", copy / "report.md", copy / "report.html"}  # they spoke of the run that is gone
    kept = {path: time for path, time in before.items() if "fold1" not in path.parts and path not in gathered}
    assert kept.items() <= changed(copy).items() and not any(path.exists() for path in gathered)
    assert gather_by_hand(monkeypatch, copy) == 2
    assert "seed is 7 in fold1 and 42 in fold2, fold3" in capsys.readouterr().err


def test_a_checkpoint_that_would_be_lost_or_would_leak_is_refused(run, tmp_path):
    checkpoint = tmp_path / "fold1" / "checkpoints" / "checkpoint-2"
    checkpoint.mkdir(parents=True)
    with pytest.raises(UserError, match="a checkpoint of one fold has been trained on the test clips of the others"):
        run(tmp_path, "--resume_from_checkpoint", checkpoint)
    (tmp_path / "fold1" / "run.json").touch()
    with pytest.raises(UserError, match="--overwrite would remove the checkpoint to continue from"):
        run(tmp_path, "--test_fold", 1, "--resume_from_checkpoint", checkpoint, "--overwrite")
    assert checkpoint.is_dir()


# ---- leaks, and splits that promise less


def test_a_planted_leak_stops_before_training(run, synthetic_root, tmp_path):
    root = Path(shutil.copytree(synthetic_root, tmp_path / "data", copy_function=os.link))
    metadata = root / "metadata" / "UrbanSound8K.csv"
    rows = list(csv.DictReader(metadata.read_text(encoding="utf-8").splitlines()))
    same, other = (next(row for row in rows if (row["fold"], row["classID"]) == (fold, "3")) for fold in "15")
    source = root / "audio" / "fold5" / other["slice_file_name"]
    other["fsID"], other["slice_file_name"] = same["fsID"], f"{same['fsID']}-3-0-9.wav"
    source.rename(source.with_name(other["slice_file_name"]))
    metadata.unlink()  # a link to the original
    with metadata.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(UserError, match=rf"found 1 recording in training and test: {same['fsID']}") as caught:
        run(tmp_path / "out", "--data_dir", root)
    assert "--split grouped" in caught.value.fix
    assert not (tmp_path / "out").exists()


def test_a_random_split_carries_its_warning_everywhere(run, configure, synthetic_root, tmp_path, capsys):
    flags = ["--data_dir", synthetic_root, "--output_dir", tmp_path / "out", "--split", "random"]
    assert run_experiment(configure(*flags)) == 0
    warning, scope = "random split: drawn regardless of recordings, though no known one is in both", "not comparable"
    folder = tmp_path / "out" / "random"
    told = [
        capsys.readouterr().out,
        *((folder / name).read_text(encoding="utf-8") for name in ("README.md", "report.md")),
    ]
    assert all(warning in text and scope in text for text in told)
    for name in ("metrics.json", "report.json"):
        assert any(warning in note for note in json.loads((folder / name).read_text(encoding="utf-8"))["notes"])
    with pytest.raises(UserError, match="found no finished fold"):
        gather_folds(tmp_path / "out")


def test_a_fold_may_be_called_0(configure, synthetic_root, tmp_path):
    lines = ["file,label,fold"]
    for fold in (1, 2):
        shutil.copytree(synthetic_root / f"audio/fold{fold}", tmp_path / f"data/{fold}")
        names = sorted(path.name for path in (tmp_path / f"data/{fold}").iterdir())
        lines += [f"{fold}/{name},{name.split('-')[1]},{fold - 1}" for name in names]
    (tmp_path / "data/metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    flags = ["--dataset", tmp_path / "data", "--output_dir", tmp_path / "out", "--test_fold", "all"]
    flags += ["--validation", "none", "--eval_strategy", "no", "--load_best_model_at_end", "false"]
    assert run_experiment(configure(*flags)) == 0
    metrics = json.loads((tmp_path / "out/metrics.json").read_text(encoding="utf-8"))
    assert [fold["test_fold"] for fold in metrics["folds"]] == [0, 1] and metrics["complete"]


def test_a_folder_in_which_another_command_trains_is_refused(run, tmp_path):
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".fold1.lock"), pytest.raises(UserError, match="another command is training"):
        run(tmp_path / "out", "--test_fold", 1)
    assert not (tmp_path / "out" / "fold1").exists()
    assert run(tmp_path / "out", "--test_fold", 1) == 0


def test_mistakes_of_model_and_folder_are_told_before_the_data_are_decoded(run, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "load_sounds", lambda _: pytest.fail("decoded the data first"))
    with pytest.raises(UserError, match="there is no 'hidden_siz'"):
        run(tmp_path / "out", "--model_config", "hidden_siz=16")
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"the folder cannot be created: .*file is a file"):
        run(tmp_path / "file" / "out")
