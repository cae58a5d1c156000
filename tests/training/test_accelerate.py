"""The whole command, in one process and in two: what it leaves, and that two end where one does."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch.testing import assert_close

from tests.conftest import ROOT, TINY
from tests.helpers.processes import exit_status, fork
from urbansound_hf import cli
from urbansound_hf.errors import exit_code
from urbansound_hf.training.callbacks import SaveOnTerm

CHECKPOINT = {"config.json", "model.safetensors", "preprocessor_config.json"}
RUN = {
    "metrics.json",
    "predictions.csv",
    "validation_predictions.csv",
    "log_history.json",
    "run.yaml",
    "run.json",
    "README.md",
}
FIGURES = {"confusion_matrix.png", "per_class.png", "reliability.png", "conditions.png", "learning_curves.png"}
REPORT = {"report.md", "report.json", "report.html", "report_clips.json"}
SAME_UPDATE = {1: ["--per_device_train_batch_size", "8"], 2: ["--per_device_train_batch_size", "4"]}


@pytest.fixture(scope="module")
def command(tmp_path_factory, synthetic_root) -> SimpleNamespace:
    """The tiny config, and the flags for a run of it in so many processes into a folder of its own."""
    folder = tmp_path_factory.mktemp("command")
    (folder / "tiny.yaml").write_text(TINY, encoding="utf-8")
    data = ["--data_dir", str(synthetic_root), "--per_device_eval_batch_size", "3"]  # 3 does not divide 10 clips
    data += ["--augment", "gain:1", "white_noise", "--mixup_alpha", "0.3", "--ema_decay", "0.9", "--calibrate"]
    return SimpleNamespace(
        folder=folder,
        flags=lambda processes: [
            str(folder / "tiny.yaml"), *data, *SAME_UPDATE[processes], "--output_dir", str(folder / str(processes))
        ],
    )  # fmt: skip


@pytest.fixture(scope="module")
def alone(command) -> Path:
    """A run by `train.py`'s own `main`."""
    assert main(command.flags(1)) == 0
    return command.folder / "1" / "fold10"


@pytest.fixture(scope="module")
def together(command, alone) -> Path:
    """The same run by two processes that talk over gloo."""
    config = ROOT / "configs" / "accelerate" / "cpu_2proc.yaml"
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(config),
        "--main_process_port",
        "0",
    ]
    done = subprocess.run(
        [*launch, str(ROOT / "train.py"), *command.flags(2)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test accuracy") == 1, "only one of the processes reports"
    return command.folder / "2" / "fold10"


def main(argv: list[str]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", *argv])
        return exit_code(lambda: cli.train(sys.argv[1:]))


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def log_of(folder: Path, key: str) -> list[float]:
    return [
        entry[key] for entry in json.loads((folder / "log_history.json").read_text(encoding="utf-8")) if key in entry
    ]


def predictions(folder: Path) -> tuple[list[tuple], np.ndarray]:
    """What is known of each clip, and its scores."""
    with (folder / "predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    return [tuple(row[:-10]) for row in rows], np.array([row[-10:] for row in rows], float)


def test_the_files_of_a_run(alone):
    assert files(alone) == CHECKPOINT | RUN | FIGURES | REPORT, "and no pickle among them"


def test_a_finished_run_is_not_touched_unless_told_so(command, alone, capsys):
    before = {path: path.stat().st_mtime_ns for path in alone.iterdir()}
    assert main(command.flags(1)) == 2
    message = capsys.readouterr().err
    assert f"this run is finished already\n  where: {alone}" in message and "--overwrite" in message
    assert {path: path.stat().st_mtime_ns for path in alone.iterdir()} == before


def test_two_processes_leave_the_same_files(alone, together):
    assert files(together) == files(alone)


def test_two_processes_train_as_one_does(alone, together):
    for key in ("loss", "grad_norm", "learning_rate"):
        assert len(log_of(alone, key)) == 4
        np.testing.assert_allclose(log_of(together, key), log_of(alone, key), rtol=1e-4, err_msg=key)
    weights = (load_file(folder / "model.safetensors") for folder in (together, alone))
    # Adam moves a weight whose gradient is only noise (a key's bias: softmax cancels it) by up to the rate each step.
    assert_close(*({n: w for n, w in model.items() if "k_proj.bias" not in n} for model in weights), rtol=0, atol=1e-4)


def test_two_processes_evaluate_the_clips_that_one_does_and_score_them_alike(alone, together):
    for key in ("eval_loss", "eval_accuracy", "eval_macro_f1"):
        assert len(log_of(alone, key)) == 2
        np.testing.assert_allclose(log_of(together, key), log_of(alone, key), rtol=1e-4, err_msg=key)
    (clips, scores), (clips_alone, scores_alone) = predictions(together), predictions(alone)
    assert clips == clips_alone and len(clips) == 10
    np.testing.assert_allclose(scores, scores_alone, atol=1e-4)


def test_two_processes_end_with_the_metrics_of_one(alone, together):
    one, two = (json.loads((folder / "metrics.json").read_text(encoding="utf-8")) for folder in (alone, together))
    measured = {key for key in one if key.startswith(("train_seconds", "train_clips_per", "train_peak"))}
    assert one.keys() == two.keys() and len(measured) == 3
    assert two["test_loss"] == pytest.approx(one["test_loss"], abs=1e-4)
    near = measured | {"micro_batch", "test_loss", "best_validation_accuracy", "calibration"}
    assert two["calibration"] == pytest.approx(one["calibration"], abs=1e-3)
    assert {key: two[key] for key in two.keys() - near} == {key: one[key] for key in one.keys() - near}
    receipt = json.loads((together / "run.json").read_text(encoding="utf-8"))
    assert receipt["processes"] == 2 and receipt["calibration"] == two["calibration"]
    found = two["calibration"]
    shown = f"changed from {found['loss_before']:.3f} to {found['loss_after']:.3f}"
    assert found["loss_after"] <= found["loss_before"] and shown in (together / "README.md").read_text(encoding="utf-8")


def test_sigterm_to_one_of_two_processes_saves_a_checkpoint_of_both(command, tmp_path, monkeypatch):
    def terminate_one(self, args, state, control, **kwargs) -> None:
        if state.global_step == 2 and args.process_index == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def process(rank: int) -> None:
        AcceleratorState._reset_state(reset_partial_state=True)  # of the trainings before, in one process
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        os._exit(main([*command.flags(2)[:-1], str(tmp_path / "out")]))

    monkeypatch.setattr(SaveOnTerm, "on_step_begin", terminate_one)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    both = [fork(lambda rank=rank: process(rank)) for rank in (0, 1)]
    assert [exit_status(pid) for pid in both] == [143, 143]
    saved = files(tmp_path / "out/fold10/checkpoints/checkpoint-3")
    assert {"trainer_state.json", "rng_state_0.pth", "rng_state_1.pth", "average.safetensors"} <= saved
    assert not (tmp_path / "out/fold10/run.json").exists()
