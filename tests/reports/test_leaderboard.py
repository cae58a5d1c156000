"""The leaderboard ranks what is comparable, pairs it, and keeps the rest apart."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from tests.helpers.runs import RECEIPT, write_run
from urbansound_hf.errors import UserError
from urbansound_hf.evaluation.runs import write_json
from urbansound_hf.reports.leaderboard import HEADER, find_entries, leaderboard, main, published


def experiment(root, name, folds, seed, fingerprint="f"):
    for fold in folds:
        run = write_run(root / name / (f"fold{fold}" if fold else "random"), fold, seed)
        write_json(run / "run.json", RECEIPT | {"data": {"name": "UrbanSound8K", "fingerprint": fingerprint}})


def test_comparable_runs_are_ranked_and_paired_others_stand_apart(tmp_path, capsys):
    experiment(tmp_path, "one", (1, 2, 3), seed=0)
    experiment(tmp_path, "two", (1, 2, 3), seed=1)
    experiment(tmp_path, "fewer", (1, 2), seed=2)
    experiment(tmp_path, "other_data", (1, 2, 3), seed=3, fingerprint="g")
    experiment(tmp_path, "random_split", (None,), seed=4)
    text = leaderboard(tmp_path)
    assert "4 tables: results on other data or under another protocol are not ranked together." in text
    first = next(part for part in text.split("## ") if "/two " in part)
    rows = [line for line in first.splitlines() if line.startswith("|")][2:]
    entries = {entry.folder.name: entry for entry in find_entries(tmp_path)}
    ranked = sorted((entries["one"], entries["two"]), key=lambda entry: -np.mean(entry.scores))
    assert [row.split("|")[1].strip() for row in rows] == [str(entry.folder) for entry in ranked]
    assert f"{np.mean(ranked[0].scores):.3f} ±" in rows[0] and "| –" in rows[0].replace("   ", "")
    gain = ranked[1].predictions.correct.mean() - ranked[0].predictions.correct.mean()
    assert f"{gain:+.3f} [" in rows[1] and ranked[1].cells(ranked[0])[4] == "3"
    with (tmp_path / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 5
    page = (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
    assert page.count("<table") == 4 and page.count('scope="col"') == 4 * len(HEADER)
    assert (tmp_path / "leaderboard.md").read_text(encoding="utf-8") == text
    assert main([str(tmp_path)]) == 0 and capsys.readouterr().out == text


def test_runs_of_several_labels_are_ranked_by_their_mean_average_precision(tmp_path):
    for name, precision in {"better": 0.75, "worse": 0.25}.items():
        folder = write_run(tmp_path / name / "fold1", 1, 0, test_mean_average_precision=precision)
        write_json(folder / "run.json", RECEIPT | {"data": {"name": "Mixtures", "fingerprint": "f"}})
    lines = [line.split("|")[1:3] for line in leaderboard(tmp_path).splitlines() if line.startswith("| ")]
    assert [[cell.strip() for cell in line][1] for line in lines if "-" not in line[1]][:3] == ["mAP", "0.750", "0.250"]


def test_without_runs_and_published_results(tmp_path):
    with pytest.raises(UserError, match="no finished run below"):
        leaderboard(tmp_path)
    recognised = {"name": "ESC-50", "fingerprint": "f", "homepage": "https://github.com/karolpiczak/ESC-50"}
    for folder, data in {"own": {**recognised, "homepage": ""}, "real": recognised}.items():
        run = write_run(tmp_path / folder / "one" / "fold1", 1, 0)
        write_json(run / "run.json", RECEIPT | {"data": {key: value for key, value in data.items() if value}})
        assert ("human listeners 81.3" in leaderboard(tmp_path / folder)) == (folder == "real")
    (line,) = published("ESC-50")
    assert "human listeners 81.3 (Piczak 2015)" in line and "the mean accuracy over the five folds" in line
    assert "95.7" in published("ESC-50 (esc10)")[0] and published("mine") == []
