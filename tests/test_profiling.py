"""`--profile`: the seconds of the stages, nested and in threads, in serving and in training."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

from urbansound_hf import profiling
from urbansound_hf.profiling import profiling as profiled
from urbansound_hf.profiling import stage
from urbansound_hf.training.cross_validation import run_experiment


def stages(printed: str) -> dict[str, float]:
    """The seconds of a printed table, by stage."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if line[:1] == "|"]
    return {name: float(seconds) for name, seconds, _ in cells[2:]}


def test_the_inner_stage_counts_and_threads_run_beside(monkeypatch, capsys, tmp_path):
    clock = [0.0]

    def work(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(profiling, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    with stage("nobody measures"), profiled(trace=tmp_path / "trace.json"), ThreadPoolExecutor(1) as pool:
        with stage("write"):
            work(1)
            with stage("forward"):
                work(2)
            work(4)
        work(8)

        def decode() -> None:
            with stage("decode"):
                work(16)

        with stage("wait"):
            pool.submit(decode).result()
    found = stages(capsys.readouterr().err)
    assert found == {"wait": 16, "forward": 2, "write": 5, "decode (in threads)": 16, "other": 8, "all": 31}
    events = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    assert [(event["name"], event["ts"], event["dur"]) for event in events] == [
        ("write", 0, 1e6), ("forward", 1e6, 2e6), ("write", 3e6, 4e6), ("decode (in threads)", 15e6, 16e6),
        ("wait", 15e6, 16e6),
    ]  # fmt: skip


def test_a_training_says_where_its_time_goes(configure, tmp_path, synthetic_root, capsys):
    config = configure(
        "--profile",
        "--max_steps",
        8,
        "--eval_steps",
        8,
        "--save_steps",
        8,
        "--data_dir",
        synthetic_root,
        "--output_dir",
        tmp_path,
    )
    assert run_experiment(config) == 0
    found = stages(capsys.readouterr().err)
    assert {"extract", "wait", "forward", "backward", "optimiser", "evaluate", "write", "other", "all"} <= set(found)
    assert json.loads(next(tmp_path.glob("*/trace.json")).read_text(encoding="utf-8"))["traceEvents"]
