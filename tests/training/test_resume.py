"""A run continues only from a checkpoint that has all of its state; else it starts anew and says so."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.conftest import TINY
from tests.helpers.processes import exit_status, fork
from tests.training.test_run import EVERY_STEP, assert_same_weights, logged, small_split
from urbansound_hf import cli
from urbansound_hf.errors import Interrupted, UserError, exit_code
from urbansound_hf.layout import BEGUN, finished
from urbansound_hf.training import cross_validation
from urbansound_hf.training.cross_validation import run_experiment
from urbansound_hf.training.resume import complete_checkpoints, interrupted, missing_parts, resume_point
from urbansound_hf.training.run import train_and_evaluate
from urbansound_hf.training.trainer import SoundTrainer

pytestmark = pytest.mark.usefixtures("plain_reports")

KEPT = ["--keep_checkpoints", "--ema_decay", 0.9, *EVERY_STEP]
FILES = {
    "model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
    "average.safetensors",
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory, sounds) -> Path:
    """The folder of a run with five checkpoints."""
    from urbansound_hf.config.parse import parse_run_config

    folder = tmp_path_factory.mktemp("kept")
    (folder / "tiny.yaml").write_text(TINY, encoding="utf-8")
    config = parse_run_config([str(flag) for flag in KEPT], folder / "tiny.yaml")
    train_and_evaluate(config, sounds, small_split(), folder / "run")
    return folder / "run"


@pytest.fixture
def run(kept, tmp_path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "run"))


def test_a_checkpoint_of_trainer_is_complete(configure, kept):
    config = configure(*KEPT)
    assert [path.name for path in complete_checkpoints(config, kept)] == [f"checkpoint-{step}" for step in range(1, 6)]
    assert interrupted(config, kept) and not interrupted(configure(*KEPT, "--resume_from_checkpoint", "false"), kept)
    assert {path.name for path in (kept / "checkpoints/checkpoint-5").iterdir()} > FILES


@pytest.mark.parametrize("damage", ["removed", "halved", "emptied"])
@pytest.mark.parametrize("name", sorted(FILES))
def test_each_file_counts(configure, run, name, damage):
    config, path = configure(*KEPT), run / "checkpoints/checkpoint-5" / name
    content = path.read_bytes()
    path.unlink() if damage == "removed" else path.write_bytes(
        content[: len(content) // 2] if damage == "halved" else b""
    )
    assert missing_parts(path.parent, config) == [name]
    assert resume_point(config, run) == str(run / "checkpoints/checkpoint-4"), "an older one that is complete"
    with pytest.raises(UserError, match=f"is incomplete, a training cannot continue from it: it lacks {name}"):
        resume_point(configure(*KEPT, "--resume_from_checkpoint", path.parent), run)


def test_what_a_run_does_not_use_need_not_be_there(configure, run):
    (run / "checkpoints/checkpoint-5/average.safetensors").unlink()
    assert resume_point(configure(*EVERY_STEP), run) == str(run / "checkpoints/checkpoint-5")


def test_fp16_on_a_gpu_needs_the_state_of_its_scaler(configure, run, monkeypatch):
    config = configure(*EVERY_STEP)
    config.training.fp16 = True
    assert not missing_parts(run / "checkpoints/checkpoint-5", config), "there is no scaler on the CPU"
    monkeypatch.setattr(type(config.training), "device", torch.device("cuda"))
    assert missing_parts(run / "checkpoints/checkpoint-5", config) == ["scaler.pt"]


def test_each_process_needs_its_random_state(configure, run, monkeypatch):
    config = configure(*EVERY_STEP)
    monkeypatch.setattr(type(config.training), "world_size", 2)
    assert missing_parts(run / "checkpoints/checkpoint-5", config) == ["rng_state_0.pth", "rng_state_1.pth"]


def test_the_best_checkpoint_so_far_belongs_to_it(configure, run):
    config, state = configure(*EVERY_STEP), run / "checkpoints/checkpoint-5/trainer_state.json"
    values = json.loads(state.read_text(encoding="utf-8"))
    state.write_text(json.dumps({**values, "best_model_checkpoint": str(run / "moved")}), encoding="utf-8")
    (missing,) = missing_parts(state.parent, config)
    assert missing == f"the best checkpoint so far, {run / 'moved'}"
    assert not missing_parts(state.parent, configure(*EVERY_STEP, "--load_best_model_at_end", "false"))


@pytest.mark.parametrize("name", ["absent", "checkpoints", "."])
def test_a_folder_that_is_no_checkpoint(configure, kept, name):
    with pytest.raises(UserError, match=r"is not a checkpoint of Trainer's \(it has no trainer_state.json\)"):
        resume_point(configure("--resume_from_checkpoint", kept / name), kept)


def test_early_stopping_counts_on_after_an_interruption(configure, sounds, tmp_path):
    flags = [
        *EVERY_STEP,
        "--max_steps",
        9,
        "--learning_rate",
        1e-12,
        "--early_stopping_patience",
        3,
        "--keep_checkpoints",
    ]
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train_and_evaluate(configure(*flags), sounds, small_split(), whole)
    checkpoint = "checkpoints/checkpoint-3"
    shutil.copytree(whole / checkpoint, resumed / checkpoint)
    train_and_evaluate(configure(*flags), sounds, small_split(), resumed)
    logs = [json.loads((folder / "log_history.json").read_text(encoding="utf-8")) for folder in (whole, resumed)]
    assert logged(logs[0], "eval_loss") == logged(logs[1], "eval_loss") and len(logged(logs[0], "eval_loss")) == 4
    assert_same_weights(whole, resumed)


# ---- through the command


@pytest.fixture
def experiment(synthetic_root, tmp_path, configure):
    """A config of a run of five steps on real clips, with further flags."""
    data = ["--dataset", "urbansound8k", "--data_dir", synthetic_root, "--preprocessing_num_workers", 1]
    return lambda *more: configure(*data, *EVERY_STEP, "--output_dir", tmp_path / "out", *more)


def interrupt_at(monkeypatch, step: int) -> None:
    """Ctrl-C after the checkpoint of a step."""
    save = SoundTrainer._save_checkpoint

    def save_and_stop(trainer, *args, **kwargs):
        save(trainer, *args, **kwargs)
        if trainer.state.global_step == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(SoundTrainer, "_save_checkpoint", save_and_stop)


def rates(folder: Path) -> list[float]:
    return logged(json.loads((folder / "log_history.json").read_text(encoding="utf-8")), "learning_rate")


def test_a_run_without_optimizer_starts_anew_and_says_so(experiment, tmp_path, monkeypatch, capsys):
    whole = experiment("--save_only_model", "--output_dir", tmp_path / "whole")
    assert run_experiment(whole) == 0
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="has no complete checkpoint yet"):
        interrupt_at(patch, 3)
        run_experiment(experiment("--save_only_model"))
    assert list((tmp_path / "out/fold10/checkpoints").glob("checkpoint-3")) and capsys.readouterr()
    assert run_experiment(experiment("--save_only_model", "--quiet")) == 0
    message = capsys.readouterr().err
    assert f"warning: the interrupted run in {tmp_path / 'out/fold10'} starts from the beginning" in message
    assert "checkpoint-3 lacks optimizer.pt, scheduler.pt, rng_state.pth (--save_only_model)" in message
    assert rates(tmp_path / "out/fold10") == rates(tmp_path / "whole/fold10")
    assert_same_weights(tmp_path / "out/fold10", tmp_path / "whole/fold10")


def test_ctrl_c_says_what_is_kept_and_the_same_command_continues(experiment, tmp_path, monkeypatch, caplog):
    """With --overwrite too, which replaces finished runs alone; without it, test_cross_validation continues a run."""
    folder = tmp_path / "out/fold10"
    with monkeypatch.context() as patch, pytest.raises(Interrupted) as caught:
        interrupt_at(patch, 3)
        run_experiment(experiment("--overwrite"))
    assert str(caught.value).startswith(f"interrupted; kept: {folder / 'checkpoints/checkpoint-3'}")
    assert "the same command continues from there" in str(caught.value)
    assert run_experiment(experiment("--overwrite")) == 0
    assert "continuing the interrupted run from" in caplog.text and finished(folder)
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["continued"] is True


def test_overwrite_does_not_replace_an_interrupted_run_of_other_values(experiment, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupt_at(patch, 3)
        run_experiment(experiment("--overwrite"))
    with pytest.raises(UserError, match="an interrupted run of another experiment lies here") as caught:
        run_experiment(experiment("--overwrite", "--seed", 3))
    assert "--resume_from_checkpoint false" in caught.value.fix
    assert run_experiment(experiment("--overwrite", "--seed", 3, "--resume_from_checkpoint", "false")) == 0


def test_ctrl_c_before_the_training(experiment, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cross_validation, "prepare_experiment", stop)
    with pytest.raises(Interrupted, match="interrupted before the training; prepared sounds are kept"):
        run_experiment(experiment())


def test_ctrl_c_in_a_terminal(synthetic_root, tmp_path):
    """The signal itself, at any moment of a training, to a process of its own."""
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")
    flags = ["--dataset", "urbansound8k", "--data_dir", synthetic_root, "--preprocessing_num_workers", 1,
             "--max_steps", 4000, "--output_dir", tmp_path / "out"]  # fmt: skip

    def train() -> None:
        with (tmp_path / "stderr").open("w", encoding="utf-8") as sys.stderr:
            code = exit_code(lambda: cli.train([str(word) for word in (tmp_path / "tiny.yaml", *flags)]))
        os._exit(code)

    pid = fork(train)
    folder = tmp_path / "out/fold10"
    deadline = time.monotonic() + 120
    while not list(folder.glob("checkpoints/checkpoint-*/trainer_state.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(pid, signal.SIGINT)
    code, message = exit_status(pid), (tmp_path / "stderr").read_text(encoding="utf-8")
    assert code == 130, message
    assert "interrupted; kept: " in message and "the same command continues" in message and "Traceback" not in message
    assert (folder / BEGUN).is_file()
