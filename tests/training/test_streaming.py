"""Sounds that stay in shards: trained on in the order and with the losses of prepared ones, shuffled, resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import TINY
from urbansound_hf.config.parse import parse_run_config
from urbansound_hf.data.__main__ import main as data_command
from urbansound_hf.errors import UserErrors
from urbansound_hf.features.streaming import StreamOrder
from urbansound_hf.layout import finished
from urbansound_hf.training.cross_validation import run_experiment
from urbansound_hf.training.experiment import prepare_experiment
from urbansound_hf.training.run import train_and_evaluate

pytestmark = pytest.mark.usefixtures("plain_reports")

STREAMING = ["--streaming", "--dataloader_num_workers", 0]
STEPS = ["--max_steps", 6, "--logging_steps", 1, "--eval_steps", 3, "--save_steps", 3, "--quiet", "--keep_checkpoints",
         "--load_best_model_at_end", "false", "--save_total_limit", 3]  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory, synthetic_root) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    assert data_command(["shard", str(synthetic_root), str(folder), "--clips_per_shard", "40", "--quiet"]) == 0
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, shards):
    """Trains the tiny model on the shards; returns the folder of the run."""
    root = tmp_path_factory.mktemp("runs")
    (root / "tiny.yaml").write_text(TINY, encoding="utf-8")

    def train(name: str, *flags: object, command: bool = False) -> Path:
        words = ["--dataset", shards, "--output_dir", root / name, *STEPS, *flags]
        config = parse_run_config([str(word) for word in words], root / "tiny.yaml")
        if command:
            assert run_experiment(config) == 0
        else:
            experiment = prepare_experiment(config)
            train_and_evaluate(config, experiment.sounds, *experiment.planned_splits(), root / name / "fold10")
        return root / name / "fold10"

    return train


def losses(folder: Path) -> list[float]:
    log = json.loads((folder / "log_history.json").read_text(encoding="utf-8"))
    return [entry[name] for entry in log for name in ("loss", "eval_accuracy") if name in entry]


def test_streamed_and_prepared_sounds_have_equal_losses(run):
    prepared = run("prepared", "--train_sampling_strategy", "sequential")
    in_order = run("in_order", *STREAMING, "--shuffle_buffer", 0, command=True)
    assert losses(in_order) == losses(prepared) and len(losses(prepared)) == 8
    tables = [(folder / "predictions.csv").read_text(encoding="utf-8") for folder in (prepared, in_order)]
    assert tables[0] == tables[1]
    assert finished(in_order) and (in_order / "report.html").is_file()


def test_sounds_of_several_labels_are_streamed_alike(run, pairs, tmp_path):
    assert data_command(["shard", str(pairs), str(tmp_path), "--quiet"]) == 0
    flags = ["--dataset", tmp_path, "--split", "official", "--test_fold", 10]
    prepared = run("prepared_pairs", *flags, "--train_sampling_strategy", "sequential")
    streamed = run("streamed_pairs", *flags, *STREAMING, "--shuffle_buffer", 0)
    assert losses(streamed) == losses(prepared) and len(losses(prepared)) >= 6
    tables = [(folder / "predictions.csv").read_text(encoding="utf-8") for folder in (prepared, streamed)]
    assert tables[0] == tables[1] and ";" in tables[0].splitlines()[1]


def test_a_resumed_stream_continues_with_the_same_losses(run):
    effects = ["--augment", "shift", "gain", "--shuffle_buffer", 20]
    whole = run("whole", *STREAMING, *effects)
    begun = whole.parent.parent / "resumed/fold10/checkpoints/checkpoint-3"
    shutil.copytree(whole / "checkpoints/checkpoint-3", begun)
    resumed = run("resumed", *STREAMING, *effects)
    assert losses(resumed) == losses(whole) and len(losses(whole)) == 8
    assert losses(whole) != losses(run("other", *STREAMING, *effects, "--seed", 1))


def test_readers_share_the_pieces_and_each_row_comes_once():
    pieces = np.repeat(np.arange(12), 10)
    order = StreamOrder(pieces, batch=8, streams=4, together=2, seed=0)
    first = list(order)
    order.set_epoch(1)
    assert sorted(first) == sorted(order) == list(range(120)) and first != list(order)
    whole = np.array(first[: 4 * 3 * 8]).reshape(3, 4, 8)  # (turns, readers, batch); what is left comes last
    read = [set(pieces[whole[:, reader]].ravel()) for reader in range(4)]
    assert sum(map(len, read)) == len(set.union(*read)) == 12, "no piece is read by two"


def test_what_needs_all_clips_at_once_is_refused_by_name(tmp_path):
    flags = ["--streaming", "--mixup_alpha", "0.2", "--probe_first", "--balanced_sampling", "--cache_frozen", "true"]
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")
    with pytest.raises(UserErrors) as caught:
        parse_run_config([*flags, "--dataset", str(tmp_path)], tmp_path / "tiny.yaml")
    named = [error.what.split("`")[1] for error in caught.value.problems]
    assert named == ["balanced_sampling", "mixup_alpha", "probe_first", "cache_frozen"]
