"""What the benchmarks compute besides seconds: the tables of docs/choosing_a_model.md, and counted operations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import experiments, recipe, recipe_table, short_context, tables
from tests.helpers import tiny
from tests.helpers.runs import write_run

ROW = {"fold": 3, "train_seconds": 12.34, "train_clips_per_second": 1234.5, "train_peak_memory_gib": 1.26}


def row(name: str, seed: int, accuracy: float, **facts: float) -> dict:
    return ROW | {"name": name, "seed": seed, "accuracy": accuracy, "trained_parameters": 10_250} | facts


def test_a_line_is_the_mean_and_the_range_of_its_seeds():
    rows = [row("YAMNet, linear probe", 1, 0.7), row("YAMNet, linear probe", 2, 0.8, train_seconds=99.0),
            row("YAMNet, linear probe", 3, 0.72, train_seconds=3.0)]  # fmt: skip
    line = tables.measured(rows).splitlines()[2]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["YAMNet, linear probe", "3", "0.740 (0.700–0.800)", "10,250", "12", "1,234", "1.3 GiB"]


def test_the_best_comes_first_and_each_has_its_command():
    from urbansound_hf.config.parse import parse_run_config

    names = list(tables.families.RUNS)
    told = tables.measured([row(name, 1, 0.5 + number / 100) for number, name in enumerate(names)])
    assert [line.split("|")[1].strip() for line in told.splitlines()[2 : 2 + len(names)]] == names[::-1]
    commands = [line for line in told.splitlines() if line.startswith("python train.py ")]
    assert [line.partition("  # ")[2] for line in commands] == names[::-1]
    for line in commands:
        words = line.partition("  # ")[0].split()[2:]
        run = parse_run_config(words, tables.ROOT / "configs" / "wav2vec2_base.yaml")
        assert (run.data.test_fold, run.data.validation) == ("3", "none")


def test_few_seeds_are_told():
    line = tables.measured([row("YAMNet, fine-tuned", 2, 0.75, train_seconds=1.5)]).splitlines()[2]
    assert "| YAMNet, fine-tuned |" in line and "|     1 |" in line and "|     1.5 |" in line


def test_a_row_that_nobody_can_repeat_is_refused():
    with pytest.raises(ValueError, match=r"lists no 'a rumour': take its rows out of families\.jsonl"):
        tables.measured([row("a rumour", 1, 1.0)])


def test_no_receipts_are_no_table():
    assert tables.measured([]) == "*No receipts yet.*"


def test_operations_are_those_of_the_formula(tmp_path):
    """Attention included, which a fused kernel would hide from the counter."""
    folder = tiny.save("whisper", tmp_path / "whisper")
    width, hidden, bands = 32, 64, 80
    for seconds in (2, 1):
        frames, tokens = 100 * seconds, 50 * seconds
        first = 2 * 3 * bands * width * frames  # its input needs no gradient
        second = 2 * 3 * width * width * tokens
        products = 2 * tokens * (4 * width * width + 2 * width * hidden + width * 32)  # the projector at the end
        attention = 2 * 2 * tokens * tokens * width
        expected = 2 * first + 3 * (second + products + attention + 2 * 32 * 10)  # backward is twice forward
        training = short_context.Training(str(folder), seconds, clips=2)
        assert training.operations() == pytest.approx(expected, rel=0.001)
        assert training.clips_per_second(bfloat16=True) > 0


def test_the_ablation_compares_whole_rotations_and_tells_what_is_missing(monkeypatch):
    def rows(name: str, seed: int, correct: str, folds: tuple[int, ...] = (1, 2, 3)) -> list[dict]:
        accuracy = correct.count("1") / len(correct)
        return [{"name": name, "seed": seed, "fold": fold, "correct": correct, "accuracy": accuracy} for fold in folds]

    receipts = [
        *rows("CNN: plain", 1, "1000"), *rows("CNN: plain", 2, "1100"), *rows("CNN: plain", 3, "1111", folds=(1, 2)),
        *rows("CNN: + masks", 1, "1110"), *rows("CNN: final", 1, "1111"), *rows("CNN: final + masks", 1, "0111"),
    ]  # fmt: skip
    monkeypatch.setattr(recipe_table, "load", lambda _: receipts)
    monkeypatch.setattr(recipe_table.json, "loads", lambda _: ["a", "b", "c", "d"])
    told = recipe_table.ablation().splitlines()
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in told
        if line.startswith("| ") and "---" not in line
    ]
    assert cells[1] == ["plain", "2", "**0.375**", "0.375 0.375 0.375", ""]
    assert cells[2][:3] == ["+ masks", "1", "**0.750**"] and cells[2][4].startswith("+0.500 (")
    assert [row[0] for row in cells[3:]] == ["final", "recipe", "final", "final + masks"]
    assert cells[4][4] == "against final" and cells[6][4].startswith("-0.250 (")
    assert [cell.strip() for cell in recipe_table.outcome().splitlines()[2].split("|")[1:5]] == [
        "CNN (`configs/cnn_logmel.yaml`)", "1", "**0.375**", "**1.000**",
    ]  # fmt: skip
    missing = next(line for line in told[told.index("### CNN") :] if line.startswith("Not run: "))
    assert missing.startswith("Not run: + mixup; ") and "+ masks" not in missing


WEIGHTS = {"yamnet": "outputs/yamnet_audioset", "whisper": "openai/whisper-tiny", "data_dir": "data"}


@pytest.mark.parametrize(("model", "name"), recipe_table.CONFIGS.items())
def test_the_shipped_configs_are_recipes_of_the_ablation(model, name):
    from urbansound_hf.config.parse import parse_run_config

    def resolved(words: list[str]) -> dict:
        """But for places, and bf16: the ablation computes in float32, a config as fast as the hardware can."""
        values = parse_run_config(words, tables.ROOT / "configs" / "wav2vec2_base.yaml").as_dict()
        apart = ("output_dir", "data_dir", "test_fold", "bf16")
        micro, steps = values.pop("per_device_train_batch_size", 1), values.pop("gradient_accumulation_steps", 1)
        batch = {"train_batch_size": values.get("train_batch_size") or micro * steps}  # two ways to say one number
        return {flag: value for flag, value in (values | batch).items() if flag not in apart}

    final = next(job for job in recipe.jobs(WEIGHTS) if job.name == f"{model}: {recipe.SHIPPED[model]}")
    words = " ".join(final.words).replace("--validation none", "").split()
    assert resolved(words) == resolved([str(tables.ROOT / "configs" / f"{name}.yaml")])


@pytest.mark.parametrize(("gpus", "hardware"), [(["NVIDIA H100"], "NVIDIA H100"), ([], "Xeon")])
def test_a_row_names_the_hardware_and_the_resampler(tmp_path, gpus, hardware):
    job = experiments.Job("CNN: plain", 3, 1, ())
    folder = write_run(job.run_folder(tmp_path), 3, parameters=1, trained_parameters=1, train_clips_per_second=1.0)
    environment = {"hardware": {"cpu": "Xeon"}, "code": {"source": "abc"}}
    receipt = {"config": {}, "gpus": gpus, "environment": environment, "data": {"resampler": "sinc"}}
    (folder / "run.json").write_text(json.dumps(receipt), encoding="utf-8")
    (row,) = experiments.gather([job], tmp_path)
    assert (row["hardware"], row["resampler"], row["code"]) == (hardware, "sinc", "abc")
    assert row["correct"].count("1") / len(row["correct"]) == pytest.approx(row["accuracy"])


def test_trainings_are_done_once_by_whoever_comes_first(tmp_path, monkeypatch, capsys):
    """Finished ones and those in another process's hands are passed over; one that fails stops none of the others."""

    from filelock import FileLock

    jobs = [experiments.Job(name, 3, 1, ()) for name in ("finished", "taken", "broken", "free")]
    trained = []

    def train(run: object) -> int:
        trained.append(run)
        if "broken" in str(run):
            raise OSError("no space left")
        return 0

    monkeypatch.setattr(
        experiments, "parse_run_config", lambda argv, _: Path(argv[argv.index("--output_dir") + 1]).name
    )
    monkeypatch.setattr(experiments, "run_experiment", train)
    monkeypatch.setattr(experiments, "finished", lambda folder: "finished" in str(folder))
    with FileLock(tmp_path / f".{jobs[1].key}.lock"):
        assert experiments.run(jobs, tmp_path) == 1
    assert trained == ["broken-fold3-seed1", "free-fold3-seed1"]
    assert "no space left" in capsys.readouterr().err
