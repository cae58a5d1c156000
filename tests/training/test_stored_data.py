"""Whole runs on stored data and folders whose names or classes are a trap: trained, reported, finished."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import datasets
import pytest

from tests.conftest import ROOT
from tests.data.test_loading import KEYWORDS, parquet, wav
from tests.data.test_urbansound8k import tone
from urbansound_hf.config.parse import parse_run_config
from urbansound_hf.evaluation.runs import read_run
from urbansound_hf.layout import finished
from urbansound_hf.training.cross_validation import run_experiment

pytestmark = pytest.mark.usefixtures("plain_reports")

TINY_CNN = ["--model_name_or_path", "cnn", "--freeze", "none", "--max_steps", "2", "--eval_strategy", "steps",
            "--eval_steps", "2", "--save_strategy", "steps", "--save_steps", "2", "--per_device_train_batch_size", "4",
            "--gradient_accumulation_steps", "1", "--use_cpu", "--bf16", "false", "--quiet"]  # fmt: skip


def words(order: list[str]) -> datasets.Dataset:
    """As Speech Commands lies on the Hub: the names of the sounds are those of the speakers, the same in each word."""
    rows = [
        {
            "audio": {
                "bytes": wav(seconds=1.0, pitch=200 + 100 * KEYWORDS.index(word)),
                "path": f"{n:08x}_nohash_0.wav",
            },
            "label": order.index(word),
            "speaker_id": f"{n:08x}",
        }
        for word in KEYWORDS
        for n in range(3)
    ]
    table = datasets.Dataset.from_list(rows).cast_column("audio", datasets.Audio(decode=False))
    return table.cast_column("label", datasets.ClassLabel(names=order))


def test_the_speech_commands_config_on_names_that_repeat_in_every_word(tmp_path):
    parquet(tmp_path / "data/v0.01", train=words(KEYWORDS), validation=words(KEYWORDS), test=words(KEYWORDS[::-1]))
    flags = ["--dataset", str(tmp_path / "data"), "--output_dir", str(tmp_path / "out"), *TINY_CNN]
    assert run_experiment(parse_run_config(flags, ROOT / "configs/speech_commands.yaml")) == 0
    folder = tmp_path / "out/split"
    assert finished(folder) and (folder / "report.md").is_file()
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        predictions = list(csv.DictReader(file))
    assert len({row["path"] for row in predictions}) == len(predictions) == 12
    assert all(row["path"].startswith(f"test/{row['true']}/") for row in predictions), "no test label is swapped"
    assert "mapped by name" in str(read_run(folder).metrics["notes"])


def test_a_folder_with_gaps_says_so_in_its_metrics(tmp_path):
    data = tmp_path / "data"
    for name in ("owl", "wren"):
        for number in range(12):
            tone(data / name / f"{number}.wav", seconds=1.0)
    (data / "crow").mkdir()
    (data / "crow/1.mpc").write_bytes(b"no")
    (tmp_path / "tit").mkdir()
    for number in range(12):
        tone(tmp_path / "tit" / f"{number}.wav", seconds=1.0)
    (data / "tit").symlink_to(tmp_path / "tit")
    flags = ["--dataset", str(data), "--split", "random", "--clip_seconds", "1", *TINY_CNN]
    config = parse_run_config([*flags, "--output_dir", str(tmp_path / "out")], ROOT / "configs/cnn.yaml")
    assert run_experiment(config) == 0
    metrics = json.loads(Path(tmp_path / "out/random/metrics.json").read_text(encoding="utf-8"))
    assert metrics["labels"] == ["owl", "tit", "wren"]
    assert metrics["notes"] == [
        "1 audio file passed over, no format that is read (1 .mpc): crow/1.mpc",
        "1 folder without a sound that is read: crow",
        "random split: the data do not tell which clips share a recording; if some do, the score is too high",
    ]
