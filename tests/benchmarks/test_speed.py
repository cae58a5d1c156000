"""The frame of the speed benchmarks: sides in turn, receipts, what is left out, and the tables made of it."""

from __future__ import annotations

import importlib
import json
import sys
from types import SimpleNamespace

import pytest

import benchmarks.__main__ as command
from benchmarks import measure, speed_tables
from benchmarks.measure import LeftOut, Row


def test_both_sides_take_turns_and_the_ratio_is_that_of_a_round():
    calls: list[str] = []
    speeds = {"ours": iter((10.0, 30.0, 20.0)), "stock": iter((5.0, 10.0, 20.0))}
    sides = [lambda name=name: (calls.append(name), next(speeds[name]))[1] for name in ("ours", "stock")]
    row = measure.compared("case", *sides, 3)
    assert calls == ["ours", "stock"] * 3
    assert row == Row("case", 20.0, 10.0, 2.0, "clips/s")
    assert measure.compared("alone", lambda: 3.0, None, 2, "s") == Row("alone", 3.0, None, None, "s")


def test_the_command_stores_rows_and_says_what_is_left_out(tmp_path, monkeypatch, capsys):
    def rows(options):
        yield Row("one", 2.0, 1.0, 2.0, "clips/s")
        yield LeftOut("two: no weights")
        options.clips()

    monkeypatch.setitem(sys.modules, "benchmarks.cnn", SimpleNamespace(rows=rows))
    words = ["--receipts", str(tmp_path), "--data_dir", str(tmp_path / "none")]
    assert command.main(["--only", "cnn", *words]) == 0
    printed = capsys.readouterr().out
    assert "| cnn       | one  | clips/s | 2.00 |  1.00 |  2.00 |" in printed
    assert "left out: cnn: two: no weights" in printed
    assert f"left out: cnn: no real clips: give --data_dir ({tmp_path / 'none'} does not exist)" in printed
    (path,) = tmp_path.glob("speed_*.json")
    (entry,) = json.loads(path.read_text(encoding="utf-8"))
    assert entry["rows"] == [
        {"benchmark": "cnn", "case": "one", "ours": 2.0, "stock": 1.0, "ratio": 2.0, "unit": "clips/s"}
    ]
    assert {"date", "load", "environment", "gpus"} < set(entry) and "torch" in entry["environment"]["packages"]
    monkeypatch.setattr(speed_tables, "path_of", lambda kind: path if kind == "cpu" else tmp_path / "none.json")
    assert "| cnn       | one  |" in speed_tables.shortest() and "load average" in speed_tables.every_row("cpu")
    assert speed_tables.every_row("gpu") == measure.NONE


def test_a_process_is_measured_with_its_children():
    spent = measure.cost(measure.python("sum(range(10**6)); bytearray(50 << 20)"))
    assert spent.cpu_seconds > 0 and spent.seconds > 0 and spent.peak_mib > 50
    with pytest.raises(RuntimeError, match="no such thing"):
        measure.cost(measure.python("raise SystemExit('no such thing')"))


@pytest.mark.parametrize("name", command.NAMES)
def test_every_benchmark_has_rows(name):
    assert callable(importlib.import_module(f"benchmarks.{name}").rows)
