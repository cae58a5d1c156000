"""SIGTERM saves a checkpoint and exits with 143, a second signal leaves at once, a search goes on as it was."""

from __future__ import annotations

import os
import signal
import time

import pytest
from safetensors.torch import load_file

from tests.helpers.processes import exit_status, fork
from urbansound_hf.errors import catching_signals, exit_code
from urbansound_hf.training.callbacks import SaveOnTerm
from urbansound_hf.training.cross_validation import run_experiment
from urbansound_hf.training.search import mark_interrupted, stored_sampler

optuna = pytest.importorskip("optuna")

pytestmark = pytest.mark.usefixtures("plain_reports")


@pytest.fixture
def train(configure, synthetic_root, tmp_path):
    data = ["--data_dir", synthetic_root, "--test_fold", 1, "--ema_decay", 0.9]
    return lambda name: exit_code(lambda: run_experiment(configure(*data, "--output_dir", tmp_path / name)))


def test_sigterm_saves_a_checkpoint_that_continues_to_the_same_weights(train, tmp_path, monkeypatch, capsys):
    def terminate(self, args, state, control, **kwargs):
        if state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(SaveOnTerm, "on_step_begin", terminate)
        assert train("stopped") == 143
    folder = tmp_path / "stopped" / "fold1"
    assert (folder / "checkpoints" / "checkpoint-3" / "trainer_state.json").is_file()
    assert not (folder / "run.json").exists() and not (folder / "predictions.csv").exists()
    assert "kept: " in capsys.readouterr().err
    assert [train("stopped"), train("whole")] == [0, 0]
    stopped, whole = (load_file(tmp_path / name / "fold1" / "model.safetensors") for name in ("stopped", "whole"))
    assert all(stopped[name].equal(weight) for name, weight in whole.items())
    assert (folder / "predictions.csv").read_text() == (tmp_path / "whole/fold1/predictions.csv").read_text()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_command_and_a_second_one_at_once(number, code):
    def swallow():
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            os.kill(os.getpid(), number)
        return 0

    before = signal.getsignal(signal.SIGTERM)
    assert exit_code(lambda: os.kill(os.getpid(), number)) == code
    assert exit_status(fork(lambda: exit_code(swallow))) == code
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_forked_worker_has_no_handler_of_a_command_which_a_lock_could_hold_up():
    def check(expected) -> None:
        assert signal.getsignal(signal.SIGTERM) == expected

    with catching_signals():
        assert exit_status(fork(lambda: check(signal.SIG_DFL))) == 0
        own = lambda *_: None  # noqa: E731
        signal.signal(signal.SIGTERM, own)  # of a program that uses this package
        assert exit_status(fork(lambda: check(own))) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_not_lost_where_python_drops_exceptions(number, code, capsys):
    class Dying:
        def __del__(self):
            os.kill(os.getpid(), number)

    def work():
        Dying()
        time.sleep(5)
        return 0

    assert exit_code(work) == code
    assert "Exception ignored" not in capsys.readouterr().err


def test_an_interrupted_search_equals_the_uninterrupted_one():
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def search(interrupted_at: set[int]) -> list[dict]:
        study = optuna.create_study(sampler=stored_sampler(7))

        def objective(trial: optuna.Trial) -> float:
            x, choice = trial.suggest_float("x", 0, 1), trial.suggest_categorical("c", ["a", "b"])
            if trial.number in interrupted_at:
                raise KeyboardInterrupt
            return (x - 0.3) ** 2 + (choice == "a")

        while (left := 14 - len([t for t in study.trials if t.state.name == "COMPLETE"])) > 0:
            try:
                study.optimize(objective, n_trials=left)
            except KeyboardInterrupt:
                mark_interrupted(study, len(study.trials) - 1)
                study.sampler = stored_sampler(7)
        return [trial.params for trial in study.trials if trial.state.name == "COMPLETE"]

    assert search({0, 5, 12, 13}) == search(set())
