"""Reports of runs that are written here as training writes them: metrics.json and predictions.csv."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.helpers.runs import finish, rewrite, write_run
from urbansound_hf import cli
from urbansound_hf.data.urbansound8k import CLASSES
from urbansound_hf.errors import UserError, exit_code
from urbansound_hf.evaluation.runs import find_runs, read_predictions, read_run, scope
from urbansound_hf.evaluation.summary import measure
from urbansound_hf.plots import evaluation
from urbansound_hf.reports import markdown, run_report
from urbansound_hf.reports.__main__ import main
from urbansound_hf.reports.comparison import compare_runs
from urbansound_hf.reports.run_report import (
    gather_folds,
    gather_metrics,
    report,
    run_summary,
    write_cross_validation,
)

pytestmark = pytest.mark.usefixtures("plain_reports")

FIGURES = ["confusion_matrix.png", "per_class.png", "reliability.png"]
TOLD = ["group", "salience", "seconds"]


@pytest.fixture(scope="module")
def ten(tmp_path_factory):
    """A whole cross-validation, reported."""
    root = tmp_path_factory.mktemp("runs") / "base"
    for fold in (10, *range(1, 10)):
        finish(write_run(root / f"fold{fold}", fold), test_fold=str(fold))
    gather_folds(root)
    return root


# ---- what a run left


def test_predictions_are_read_as_written(tmp_path):
    predictions = read_predictions(write_run(tmp_path / "run", 4) / "predictions.csv")
    assert predictions.labels == list(CLASSES)
    assert predictions.probabilities.shape == (60, 10)
    assert set(predictions.folds) == {4}
    assert set(predictions.salience) == {1, 2}
    assert set(predictions.seconds) == {0.4, 1.5, 3.2, 4.0}
    assert predictions.recordings_known
    assert (predictions.probabilities.argmax(axis=1) == predictions.predicted).all()


@pytest.mark.parametrize("absent", [True, False])
def test_unknown_recordings_salience_and_length_are_not_guessed(tmp_path, absent):
    """Empty cells, or no such columns: each clip is its own recording, with a note; no tables by condition."""
    folder = write_run(tmp_path / "run")

    def without(rows):
        at = [rows[0].index(name) for name in TOLD]
        if absent:
            return [[cell for i, cell in enumerate(row) if i not in at] for row in rows]
        return [rows[0], *([("" if i in at else cell) for i, cell in enumerate(row)] for row in rows[1:])]

    rewrite(folder / "predictions.csv", without)
    measured = run_report.write_run(folder)
    assert measured["recordings"] == measured["clips"] == 60
    assert measured["by_salience"] == measured["by_length"] == {}
    assert "unknown" in measured["notes"][0] and measured["notes"][0] in (folder / "report.md").read_text(
        encoding="utf-8"
    )
    assert "## Conditions" not in (folder / "report.md").read_text(encoding="utf-8")
    assert not (folder / "conditions.png").exists()


def test_a_damaged_line_is_named(tmp_path):
    path = write_run(tmp_path / "run") / "predictions.csv"
    rewrite(path, lambda rows: [*rows[:7], rows[7][:-1], *rows[8:]])
    with pytest.raises(UserError, match="9 scores for 10 classes") as error:
        read_predictions(path)
    assert error.value.where == f"{path}:8"
    rewrite(path, lambda rows: [rows[0], [*rows[1][:5], "street_musik", *rows[1][6:]], *rows[2:7]])
    with pytest.raises(UserError, match="street_musik is not one of the classes in the header"):
        read_predictions(path)
    rewrite(path, lambda rows: [[cell.replace("predicted", "guess") for cell in rows[0]], *rows[1:]])
    with pytest.raises(UserError, match="has no column predicted"):
        read_predictions(path)
    path.write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="has no column path, fold, true, predicted"):
        read_predictions(path)


def test_predictions_of_another_run_are_refused(tmp_path):
    folder = write_run(tmp_path / "run")
    rewrite(folder / "predictions.csv", lambda rows: rows[:31])
    with pytest.raises(UserError, match=r"are not of one run: accuracy .* over the 30 clips"):
        read_run(folder)


def test_an_empty_folder_is_neither_run_nor_cross_validation(tmp_path):
    with pytest.raises(UserError, match=r"neither a run .* nor a cross-validation"):
        find_runs(tmp_path)


def test_runs_are_found_in_the_order_of_their_folds(ten):
    assert [run.metrics["test_fold"] for run in find_runs(ten)] == list(range(1, 11))
    assert [run.folder.name for run in find_runs(ten / "fold10")] == ["fold10"]


def test_what_stands_beside_the_number(tmp_path):
    folders = [write_run(tmp_path / str(fold), fold) for fold in range(1, 11)]
    metrics = [json.loads((folder / "metrics.json").read_text(encoding="utf-8")) for folder in folders]
    assert scope(metrics) == "10 of 10 folds"
    assert scope(metrics[:3]) == "3 of 10 folds, not comparable"
    assert scope([metrics[0], metrics[0]]) == "1 of 10 folds, not comparable"
    five = [run | {"labels": ["rain", "wind"], "validation_fold": 2, "train_folds": [3, 4, 5]} for run in metrics[:1]]
    assert scope(five) == "1 of 5 folds, not comparable"  # other data, of five folds
    assert scope([metrics[0] | {"test_fold": None, "split": "random"}]) == "random split, not comparable"
    assert scope([metrics[0] | {"test_fold": None, "split": "split"}]) == "the data's own test part"


# ---- one run


def test_a_run_is_told_in_numbers_pages_and_figures(tmp_path, plain_reports, monkeypatch):
    monkeypatch.setattr(Figure, "savefig", plain_reports)
    folder = write_run(tmp_path / "run", 3, notes=["synthetic sounds"])
    measured = run_report.write_run(folder)
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert json.loads((folder / "report.json").read_text(encoding="utf-8")) == measured
    assert measured["accuracy"] == pytest.approx(metrics["test_accuracy"])
    assert measured["macro_f1"] == pytest.approx(metrics["test_macro_f1"])
    assert measured["confusion_matrix"] == metrics["confusion_matrix"]
    for name, row in metrics["per_class"].items():
        assert {key: measured["per_class"][name][key] for key in row} == pytest.approx(row)
    for name in [*FIGURES, "conditions.png"]:
        assert (folder / name).read_bytes().startswith(b"\x89PNG") and (folder / name).stat().st_size > 5000
    card, page = (folder / "README.md").read_text(encoding="utf-8"), (folder / "report.md").read_text(encoding="utf-8")
    assert f"]** ({metrics['test_accuracy']:.3f}), " in card and f"accuracy **{metrics['test_accuracy']:.3f} [" in page
    for text in (card, page):
        assert "> synthetic sounds" in text
        assert "**1 of 10 folds, not comparable.** Tested on 60 clips of" in text
        assert "trained on folds 1, 2, 5, 6, 7, 8, 9, 10; the checkpoint was selected on fold 4" in text
    assert all(f"({name})" in page for name in [*FIGURES, "conditions.png"])
    assert "trust_remote_code" not in card
    one_length = {"by_length": dict([*measured["by_length"].items()][:1]), "by_salience": {}}
    assert "conditions" not in evaluation.shared(measured | one_length), "no chart of a single bar"


def test_the_card_of_a_family_of_ours_says_that_its_code_comes_along(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "config.json").write_text(
        json.dumps({"model_type": "cnn", "auto_map": {"AutoConfig": "cnn.Config"}}), encoding="utf-8"
    )
    run_report.write_run(folder)
    assert 'model=".", trust_remote_code=True)' in (folder / "README.md").read_text(encoding="utf-8")


def test_accuracy_by_condition_is_over_those_clips(tmp_path):
    folder = write_run(tmp_path / "run")
    measured, told = run_report.write_run(folder), read_predictions(folder / "predictions.csv")
    assert list(measured["by_length"]) == ["< 1 s", "1–2 s", "2–4 s", "≥ 4 s"]
    assert list(measured["by_salience"]) == ["foreground", "background"]
    assert measured["by_length"]["≥ 4 s"]["accuracy"] == told.correct[told.seconds == 4].mean()
    background = measured["by_salience"]["background"]
    assert background["clips"] == (told.salience == 2).sum()
    assert background["recordings"] == len(set(told.groups[told.salience == 2]))
    low, high = background["accuracy_interval"]
    assert low <= background["accuracy"] <= high


def test_the_most_confident_mistakes_come_first(tmp_path):
    told = read_predictions(write_run(tmp_path / "run") / "predictions.csv")
    mistakes = measure(told)["confident_mistakes"]
    assert mistakes[0]["score"] == told.probabilities[~told.correct].max()
    first = told.paths.tolist().index(mistakes[0]["path"])
    assert mistakes[0]["true"] == CLASSES[told.true[first]] != mistakes[0]["predicted"]
    assert measure(told.select(told.correct))["confident_mistakes"] == []


def test_a_faultless_run_of_one_class_can_be_reported(tmp_path):
    """No mistakes, classes that never occur, certain scores: nothing to divide by, and JSON without NaN."""
    folder = write_run(tmp_path / "run", clips=3)
    header = (folder / "predictions.csv").read_text(encoding="utf-8").splitlines()[0]
    rows = [f"{i}.wav,1,r{i},1,4.0,siren,siren,0,0,0,0,0,0,0,0,1,0" for i in range(3)]
    (folder / "predictions.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8")) | {
        "test_accuracy": 1.0,
        "test_macro_f1": 1.0,
    }
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    measured = run_report.write_run(folder)
    assert measured["accuracy_interval"] == [1, 1]
    assert measured["per_class"]["siren"]["f1"] == 1
    assert measured["per_class"]["car_horn"]["recall_interval"] is None
    assert "Most confident mistakes" not in (folder / "report.md").read_text(encoding="utf-8")
    assert "NaN" not in (folder / "report.json").read_text(encoding="utf-8")


def test_the_summary_names_the_scope(tmp_path, capsys):
    folder = write_run(tmp_path / "run", 2)
    text = run_summary(json.loads((folder / "metrics.json").read_text(encoding="utf-8")), folder)
    assert "(60 clips; 1 of 10 folds, not comparable)" in text
    assert f"urbansound-hf infer CLIP.wav --model {folder}" in text and f"{folder / 'report.html'}" in text
    assert main([str(folder)]) == 0
    assert text.strip() in capsys.readouterr().out
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    metrics["per_class"] = {name: row | {"f1": 1.0} for name, row in metrics["per_class"].items()}
    assert "hardest" in text and "hardest" not in run_summary(metrics, folder)


# ---- a cross-validation


def test_ten_folds_are_gathered(ten):
    metrics = json.loads((ten / "metrics.json").read_text(encoding="utf-8"))
    runs = [json.loads((ten / f"fold{fold}" / "metrics.json").read_text(encoding="utf-8")) for fold in range(1, 11)]
    scores = [run["test_accuracy"] for run in runs]
    assert metrics["complete"] is True
    assert metrics["scope"] == "10 of 10 folds"
    assert [fold["test_fold"] for fold in metrics["folds"]] == list(range(1, 11))
    assert metrics["mean_accuracy"] == pytest.approx(np.mean(scores))
    assert metrics["std_accuracy"] == pytest.approx(np.std(scores, ddof=1))
    assert metrics["pooled_accuracy"] == pytest.approx(np.mean(scores))  # the folds are equally large here
    assert metrics["confusion_matrix"] == np.sum([run["confusion_matrix"] for run in runs], axis=0).tolist()
    assert metrics["clips"] == 600
    low, high = metrics["pooled_accuracy_interval"]
    assert low < metrics["pooled_accuracy"] < high
    page = (ten / "report.md").read_text(encoding="utf-8")
    assert f"accuracy **{np.mean(scores):.3f} ± {np.std(scores, ddof=1):.3f}**, macro-F1 " in page
    assert "not comparable" not in page
    assert all((ten / name).is_file() and f"({name})" in page for name in [*FIGURES, "folds.png", "conditions.png"])


def test_three_folds_say_so_wherever_a_number_stands(tmp_path):
    runs = [read_run(write_run(tmp_path / f"fold{fold}", fold, notes=["subset: 180 clips"])) for fold in (1, 2, 3)]
    metrics = write_cross_validation(tmp_path, runs, cautions=["gathered by force"])
    assert metrics["complete"] is False
    assert metrics["notes"] == ["gathered by force", "subset: 180 clips"]
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert page.count("*3 of 10 folds, not comparable*\n\n|") == page.count("\n\n|") == 5
    assert page.index("> subset: 180 clips") < page.index("**3 of 10 folds, not comparable.** Mean")


def test_tables_are_tidy(ten):
    """Every line of a table is as wide as its header, with as many columns."""
    lines = (ten / "report.md").read_text(encoding="utf-8").splitlines()
    inside = [pair for pair in pairwise(lines) if pair[0].startswith("|") and pair[1].startswith("|")]
    assert len(inside) > 40
    for before, line in inside:
        assert (len(line), line.count("|")) == (len(before), before.count("|"))


def test_one_fold_has_no_standard_deviation(tmp_path):
    metrics = write_cross_validation(tmp_path, [read_run(write_run(tmp_path / "fold1"))])
    assert metrics["std_accuracy"] is None
    assert f"(ddof=1): accuracy **{metrics['mean_accuracy']:.3f}**, macro-F1 " in (tmp_path / "report.md").read_text(
        encoding="utf-8"
    )


def test_folds_of_different_experiments_say_so(tmp_path):
    for fold, rate in ((1, 1e-4), (2, 3e-5)):
        finish(write_run(tmp_path / f"fold{fold}", fold), learning_rate=rate)
    with pytest.raises(UserError, match=r"not of one experiment: learning_rate is 0.0001 in fold1 and 3e-05 in fold2"):
        report(tmp_path)
    page = report(tmp_path, force=True)
    assert "> gathered by force: learning_rate is 0.0001 in fold1 and 3e-05 in fold2" in page


@pytest.mark.parametrize("folds", [(1, 1), (1, None)])
def test_only_different_folds_can_be_gathered(tmp_path, folds):
    folders = [write_run(tmp_path / str(i), fold) for i, fold in enumerate(folds)]
    with pytest.raises(UserError, match="one run for each test fold, found"):
        gather_metrics([read_run(folder) for folder in folders])


def test_runs_of_other_classes_or_of_the_same_clips_are_not_pooled(tmp_path):
    one = write_run(tmp_path / "1", 1)
    with pytest.raises(UserError, match=r"these runs have different classes: .* in 1, .* rain in 2"):
        gather_metrics([read_run(one), read_run(write_run(tmp_path / "2", 2, labels=[*CLASSES[:-1], "rain"]))])
    three = write_run(tmp_path / "3", 3)
    renamed = (three / "predictions.csv").read_text(encoding="utf-8").replace("audio/fold3/", "audio/fold1/")
    (three / "predictions.csv").write_text(renamed, encoding="utf-8")
    with pytest.raises(UserError, match=r"60 clips were tested more than once, first audio/fold1/0.wav"):
        gather_metrics([read_run(one), read_run(three)])


# ---- two against each other


def test_a_model_against_itself_is_no_better(ten):
    page = compare_runs(ten, ten)
    assert "+0.000 [+0.000, +0.000]" in page
    assert "do not show which is better" in page
    assert "Only A is right on 0 clips, only B on 0; McNemar's exact test: p = 1.0000" in page


def test_two_runs_are_compared_clip_by_clip(tmp_path):
    a, b = write_run(tmp_path / "a" / "fold1", seed=1), write_run(tmp_path / "b" / "fold1", seed=2)
    rewrite(b / "predictions.csv", lambda rows: [rows[0], *rows[:0:-1]])  # the order of the lines is of no account
    told_a, told_b = (read_predictions(folder / "predictions.csv") for folder in (a, b))
    backwards = told_b.correct[::-1]
    page = compare_runs(a, b)
    gain = told_b.correct.mean() - told_a.correct.mean()
    assert page.startswith("# b/fold1 against a/fold1")
    assert f"| accuracy | {told_a.correct.mean():.3f} | {told_b.correct.mean():.3f} | {gain:+.3f} [" in page
    only_a, only_b = (told_a.correct & ~backwards).sum(), (backwards & ~told_a.correct).sum()
    assert f"Only A is right on {only_a} clips, only B on {only_b};" in page
    assert "*1 of 10 folds, not comparable*\n\n|" in page
    assert "## Folds" not in page
    assert f"{-gain:+.3f} [" in compare_runs(b, a)


def test_a_clear_winner_is_called_one(tmp_path, ten):
    for fold in range(1, 11):
        rewrite(
            write_run(tmp_path / f"fold{fold}", fold) / "predictions.csv",
            lambda rows: [rows[0], *([*row[:6], row[5], *row[7:]] for row in rows[1:])],  # always right
        )
        metrics = json.loads((tmp_path / f"fold{fold}" / "metrics.json").read_text(encoding="utf-8")) | {
            "test_accuracy": 1.0
        }
        (tmp_path / f"fold{fold}" / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    page = compare_runs(ten, tmp_path)
    assert "**B is better: the interval of the difference excludes 0.** Only A is right on 0 clips" in page
    assert "p < 0.0001" in page
    row = next(line for line in page.splitlines() if line.startswith("| accuracy"))
    assert row.count("+0.") == 3  # the difference and both ends of its interval
    assert "## Folds" in page and "not comparable" not in page
    assert "**A is better" in compare_runs(tmp_path, ten)


def test_the_order_of_the_classes_is_of_no_account(tmp_path):
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    rewrite(b / "predictions.csv", lambda rows: [[*row[:7], *row[10:], *row[7:10]] for row in rows])
    assert "+0.000 [+0.000, +0.000]" in compare_runs(a, b)


def test_other_clips_are_counted_and_refused(tmp_path, ten):
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", clips=50)
    with pytest.raises(UserError, match="share 50: A was tested on 60, B on 50; 10 only in A, 0 only in B") as error:
        compare_runs(a, b)
    assert "--common" in error.value.fix
    assert "over the 50 clips" in compare_runs(a, b, common=True)
    with pytest.raises(UserError, match="share 0") as error:
        compare_runs(a, ten / "fold2", common=True)
    assert error.value.fix == "compare runs of the same test fold"
    with pytest.raises(UserError, match="only A has street_music, only B rain"):
        compare_runs(a, write_run(tmp_path / "c", labels=[*CLASSES[:-1], "rain"]))


def test_the_command_line(tmp_path, ten, capsys):
    def command(*arguments: object) -> tuple[int, str, str]:
        code = exit_code(lambda: cli.run([*map(str, arguments)]))
        return code, *capsys.readouterr()

    code, alone, _ = command("report", write_run(tmp_path / "run"))
    assert code == 0
    assert alone.startswith("test accuracy  0.5500   macro-F1 0.4298") and "report.html" in alone
    assert (tmp_path / "run" / "report.html").is_file()
    code, whole, _ = command("report", ten)
    assert code == 0 and "10 folds" in whole and f"{ten / 'report.html'}" in whole
    code, _, refused = command("compare", tmp_path / "run", ten)
    assert code == 2 and "540 only in B" in refused
    assert "over the 60 clips" in command("compare", tmp_path / "run", ten, "--common")[1]


def test_reading_reports_needs_neither_torch_nor_matplotlib():
    code = (
        "import sys, urbansound_hf.reports.__main__; print({'torch', 'transformers', 'matplotlib'} & set(sys.modules))"
    )
    call = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert call.stdout == "set()\n"


def test_the_protocol_says_which_checkpoint_was_taken():
    metrics = {"test_fold": 3, "validation_fold": 1, "train_folds": [2], "split": "fold3", "clips": {"validation": 9}}
    assert markdown.protocol(metrics | {"checkpoint": "best"}).endswith("the checkpoint was selected on fold 1.")
    assert markdown.protocol(metrics | {"checkpoint": "last"}).endswith("the last checkpoint was used.")
