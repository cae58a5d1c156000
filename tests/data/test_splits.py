"""The four ways to split, and the table command."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from tests.conftest import OFFICIAL_CSV
from urbansound_hf import cli
from urbansound_hf.data import splits
from urbansound_hf.data.leaks import describe_table, read_table, table_report
from urbansound_hf.data.urbansound8k import CLIPS_PER_FOLD
from urbansound_hf.errors import UserError, UserErrors, exit_code


def covers(split: splits.Split, clips: int) -> bool:
    """Every row in exactly one part."""
    return sorted(np.concatenate([split.train, split.validation, split.test]).tolist()) == list(range(clips))


@pytest.mark.parametrize(
    ("present", "test_fold", "validation_fold"),
    [(range(1, 11), 10, 1), (range(1, 11), 3, 4), ([1, 2, 7], 2, 7), ([0, 1, 2], 2, 0)],
)
def test_the_next_fold_that_is_present_validates(present, test_fold, validation_fold):
    of_row = np.repeat(list(present), 3)
    split = splits.official(of_row, test_fold)
    assert (split.name, split.test_fold, split.validation_fold) == (f"fold{test_fold}", test_fold, validation_fold)
    assert set(of_row[split.test]) == {test_fold} and set(of_row[split.validation]) == {validation_fold}
    assert split.train_folds == sorted(set(present) - {test_fold, validation_fold}) and covers(split, len(of_row))


def test_without_validation_all_the_others_train():
    split = splits.official([1, 1, 2, 3], 2, "none")
    assert split.train.tolist() == [0, 1, 3] and not len(split.validation) and split.validation_fold is None


@pytest.mark.parametrize(
    ("of_row", "test_fold", "validation", "said"),
    [
        ([1, 2, 3], 4, "next_fold", "the data has no clip of test fold 4"),
        ([1, 2], 1, "next_fold", "needs 3 folds, there are 2 (1, 2)"),
        ([1, 1], 1, "none", "needs 2 folds, there is 1 (1)"),
    ],
)
def test_too_few_folds(of_row, test_fold, validation, said):
    with pytest.raises(UserError) as error:
        splits.official(of_row, test_fold, validation)
    assert said in str(error.value) and error.value.fix
    splits.official([1, 2], 1, "none")  # the nearest legal case


def test_grouped_keeps_recordings_together_and_classes_in_proportion():
    groups = np.repeat([f"r{i}" for i in range(100)], 4)
    labels = np.repeat(np.arange(100) % 2, 4)
    split = splits.grouped(labels, groups, seed=3)
    parts = [set(groups[part]) for part in (split.train, split.validation, split.test)]
    assert covers(split, 400) and sum(map(len, parts)) == 100
    assert [len(part) for part in (split.train, split.validation, split.test)] == [320, 40, 40]
    assert labels[split.test].mean() == 0.5 and not split.warning
    assert not np.array_equal(split.test, splits.grouped(labels, groups, seed=4).test)


def test_grouped_needs_a_recording_for_each_part():
    with pytest.raises(UserError, match="need a recording each, found 2 recordings"):
        splits.grouped([0, 1] * 4, ["r", "s"] * 4)
    split = splits.grouped([0, 1] * 6, ["r", "s", "t"] * 4)
    assert [len(part) for part in (split.train, split.validation, split.test)] == [4, 4, 4]


@pytest.mark.parametrize("grouping", [1, 3])
def test_made_folds_are_stratified_also_with_several_labels_and_keep_recordings_together(grouping):
    """Shares of each label within a clip or a recording of the ideal; one fold a recording; the seed decides."""
    labels = np.random.default_rng(0).random((300, 4)) < [0.5, 0.3, 0.1, 0.05]
    groups = [f"r{row // grouping}" for row in range(300)] if grouping > 1 else None
    folds = splits.stratified_folds(labels, groups, 5, seed=1)
    shares = np.stack([labels[folds == fold].sum(axis=0) for fold in range(1, 6)])
    assert (np.abs(shares - labels.sum(axis=0) / 5) <= (2 if grouping == 1 else 4)).all(), shares
    assert np.bincount(folds)[1:].tolist() == pytest.approx([60] * 5, abs=6)
    if groups:
        assert all(len(set(folds[np.array(groups) == name])) == 1 for name in groups)
    assert not np.array_equal(folds, splits.stratified_folds(labels, groups, 5, seed=2))
    assert splits.stratified_folds([0, 0, 1], None, 3).tolist() != [1, 1, 1]
    with pytest.raises(UserError, match="5 folds need as many recordings"):
        splits.stratified_folds([0, 0, 1])


def test_random_is_stratified_repeats_and_says_what_it_is():
    labels = [0] * 50 + [1] * 150
    split, again = splits.random(labels, 7), splits.random(labels, 7)
    assert covers(split, 200) and np.array_equal(split.test, again.test)
    assert np.bincount(np.array(labels)[split.test]).tolist() == [5, 15]
    assert "do not tell which clips share a recording; if some do, the score is too high" in split.warning
    with pytest.raises(UserError, match="one class has 9"):
        splits.random([0] * 9 + [1] * 20)
    assert len(splits.random([0] * 10 + [1] * 20).test) == 3


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (None, "the data do not tell which clips share a recording"),
        ([""] * 100, "the data do not tell"),
        ([None] * 100, "the data do not tell"),
        (["one"] * 100, "10 of 10 test clips have their recording in training too"),
        ([f"r{n}" for n in range(100)], "no known one is in both"),
        ([f"r{n // 2}" if n < 90 else "" for n in range(100)], "test clips have their recording in training too"),
    ],
)
def test_a_random_split_says_of_recordings_only_what_is_known(groups, said):
    assert said in splits.random([0, 1] * 50, 0, groups).warning


def test_the_hardest_recording_is_tested_as_often_as_any_other():
    """scikit-learn deals the most one-sided recording first, always into its first part."""
    labels = [0] * 40 + [1] * 40 + [2] * 10
    groups = [f"r{n // 4}" for n in range(80)] + ["one-sided"] * 10
    tested = sum(89 in splits.grouped(labels, groups, seed).test for seed in range(60))
    assert 1 <= tested <= 14  # 6 are expected; all 60 before
    again = [splits.grouped(labels, groups, 5).test.tolist() for _ in range(2)]
    assert again[0] == again[1]


def test_grouped_parts_keep_every_class_in_proportion():
    """scikit-learn before 1.8 gave a rare class from 0 to 25 % of a tenth."""
    clips = [240, 240, 240, 240, 48, 48]
    labels = np.repeat(np.arange(6), clips)
    groups = [f"{label}-{row // 4}" for row, label in enumerate(labels)]
    for seed in range(4):
        shares = np.bincount(labels[splits.grouped(labels, groups, seed).test], minlength=6) / clips
        assert np.all(np.abs(shares - 0.1) < 0.07), shares


def test_unknown_recordings_are_their_own_and_are_counted():
    labels, groups = [0, 1] * 50, ["", None] * 5 + [f"r{n // 2}" for n in range(90)]
    assert splits.grouped(labels, groups).warning == "10 clips of an unknown recording, each taken as one of its own"


def part_notes(*lacking):
    return [f"the {part} part has no clip of {classes}" for part, classes in lacking]


@pytest.mark.parametrize(
    ("split", "lacking"),
    [
        (splits.official([1, 1, 2, 2, 3, 3], 1), [("training", "a"), ("validation", "b"), ("test", "c")]),
        (splits.official([1, 1, 2, 2, 3, 3], 1, "none"), [("test", "c")]),
        (splits.predefined(["train"] * 3 + ["validation", "test", "test"], [0] * 6), [
            ("validation", "b, c"), ("test", "a")]),
        (splits.Split("grouped", np.arange(3), np.arange(3, 6), np.array([1])), [("test", "a, c")]),
        (splits.Split("random", np.arange(3), np.arange(3), np.arange(3, 6)), []),
    ],
)  # fmt: skip
def test_the_classes_that_a_part_lacks_are_named_for_every_kind_of_split(split, lacking):
    assert splits.split_notes(split, [0, 1, 2, 0, 1, 2], ["a", "b", "c"]) == part_notes(*lacking)


def test_the_warning_of_a_split_stands_first():
    split = splits.Split("random", np.array([0]), np.array([], int), np.array([1]), warning="beware")
    assert splits.split_notes(split, [0, 0], ["a", "b"]) == [
        "beware", *part_notes(("training", "b"), ("test", "b"))
    ]  # fmt: skip


def test_the_data_sets_own_parts():
    names = ["train"] * 4 + ["validation", "test", "test"]
    split = splits.predefined(names, [0, 1] * 3 + [0])
    assert (split.train.tolist(), split.validation.tolist(), split.test.tolist()) == ([0, 1, 2, 3], [4], [5, 6])
    with pytest.raises(UserError, match="has no test part, found train"):
        splits.predefined(["train"] * 3, [0, 1, 0])


def test_a_tenth_of_train_serves_where_there_is_no_validation_part():
    names, labels = ["train"] * 40 + ["test"] * 4, [0, 1] * 22
    split = splits.predefined(names, labels)
    assert (len(split.train), len(split.validation), len(split.test)) == (36, 4, 4) and covers(split, 44)
    split = splits.predefined(["train"] * 12 + ["test"], [0, 1] * 6 + [0], groups=["r", "s", "t"] * 4 + ["u"])
    assert len(split.validation) == 4 and len(set(split.validation % 3)) == 1, "one recording serves"


FOLDS = {"label": [0, 1] * 30, "fold": [1 + row // 20 for row in range(60)]}
RECORDINGS = {"label": [0, 1] * 30, "group": [f"r{row}" for row in range(60)]}
PARTS = {"label": [0, 1] * 30, "split": ["train"] * 30 + ["validation"] * 15 + ["test"] * 15}


@pytest.mark.parametrize(
    ("columns", "asked", "names"),
    [
        (FOLDS, ("official", "2"), ["fold2"]),
        (FOLDS, ("official", "3,1"), ["fold1", "fold3"]),
        (FOLDS, ("official", "all"), ["fold1", "fold2", "fold3"]),
        (FOLDS, ("official", None), ["fold3"]),
        (PARTS, ("official", None), ["split"]),
        (RECORDINGS, ("grouped", None), ["grouped"]),
        (FOLDS, ("random", None), ["random"]),
        (FOLDS, ("auto", None), ["fold3"]),
        (PARTS, ("auto", None), ["split"]),
        (PARTS, ("auto", "2"), ["fold2"]),
        (RECORDINGS, ("auto", None), ["grouped"]),
        (RECORDINGS, ("auto", "all"), [f"fold{number}" for number in range(1, 6)]),
        ({"label": [0, 1] * 30}, ("auto", None), ["stratified"]),
        ({"label": [0, 1] * 30, "group": ["a", "b"] * 30, "split": ["train"] * 60}, ("auto", None), ["stratified"]),
        (FOLDS, ("random", "1,3"), ["fold1", "fold3"]),
    ],
)
def test_the_wanted_splits(columns, asked, names):
    assert [split.name for split in splits.wanted_splits(columns, *asked)] == names


@pytest.mark.parametrize(
    ("columns", "asked", "what", "where", "fix"),
    [
        (FOLDS, ("official", "1,7,9"), "the data has no clip of test fold 7", "--test_fold", "there are 1, 2, 3"),
        (PARTS, ("official", "all"), "needs a fold column", "--split", "leave --split out"),
        (RECORDINGS, ("auto", "6"), "the data has no clip of test fold 6", "--test_fold", "there are 1, 2, 3, 4, 5"),
        (FOLDS, ("auto", "all", "none", 0, 4), "have folds of their own", "--folds 4", "--split grouped or random"),
        (FOLDS, ("grouped", None), "the data has no group column", "--split", "give the metadata a group"),
        (RECORDINGS, ("official", None), "needs a fold column, or train/validation/test parts", "--split",
         "leave --split out"),
    ],
)  # fmt: skip
def test_splits_that_the_data_do_not_allow(columns, asked, what, where, fix):
    with pytest.raises(UserError) as error:
        splits.wanted_splits(columns, *asked)
    assert what in error.value.what and error.value.where == where and fix in error.value.fix


def test_the_flags_reach_the_split():
    (split,) = splits.wanted_splits(FOLDS, "official", "2", "none")
    assert split.validation_fold is None and split.train_folds == [1, 3]
    one, other = (splits.wanted_splits(RECORDINGS, "grouped", seed=seed)[0] for seed in (1, 2))
    assert not np.array_equal(one.test, other.test)


def test_what_was_drawn_is_named_and_says_what_is_not_known():
    asked = {
        "grouped": (RECORDINGS, ""),
        "stratified": ({"label": [0, 1] * 30}, "split by file: the data do not tell which clips share a recording"),
        "random": (FOLDS, "random split: the data do not tell which clips share a recording"),
    }
    for kind, (columns, warning) in asked.items():
        for test_fold in (None, "all"):
            wanted = splits.wanted_splits(columns, "random" if kind == "random" else "auto", test_fold, seed=3)
            assert all(split.kind == kind and split.warning.startswith(warning) for split in wanted)
            assert all(bool(split.warning) == bool(warning) and covers(split, 60) for split in wanted)
    few = {"label": [0, 1] * 30, "group": ["a", "b"] * 30}
    assert "name fewer than three recordings" in splits.wanted_splits(few)[0].warning


# ---- the table command


def write_table(path, rows, header="file,label,fold,group,start,end"):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def run(capsys):
    """Runs the command in this process: exit code, standard output, standard error."""

    def run_leaks(*arguments: object) -> tuple[int, str, str]:
        code = exit_code(lambda: cli.run(["leaks", *map(str, arguments)]))
        return code, *capsys.readouterr()

    return run_leaks


def test_a_table_that_leaks_ends_with_1_and_names_the_recording(tmp_path, run):
    rows = [(f"{i}.wav", "ab"[i % 2], 1 + i % 4 // 2, f"r{i}", 0, 4) for i in range(40)]
    code, clean, _ = run(write_table(tmp_path / "clean.csv", rows))
    assert code == 0 and "40 clips of 40 recordings in 2 folds" in clean
    rows += [("x.wav", "a", 1, "twice", 0, 4), ("y.wav", "a", 2, "twice", 3, 7)]
    code, leaky, _ = run(write_table(tmp_path / "leaky.csv", rows))
    assert code == 1 and "twice: 2 clips, a in fold 1; a in fold 2 (a leak)" in leaky
    assert "overlapping one there in time: 2 (4.8%)" in leaky
    found = json.loads(run(tmp_path / "leaky.csv", "--json")[1])
    assert found["leaking_recordings"] == ["twice"] and found["clips_per_fold"] == {"1": 21, "2": 21}


def test_times_may_be_absent_and_few_clips_have_no_random_split(tmp_path):
    table = read_table(write_table(tmp_path / "t.csv", [("a", 1, "r"), ("b", 2, "s")], "label,fold,recording"))
    found = table_report(table)
    assert found["time_overlap_clips"] is None and found["random_80_20"] is None
    assert "overlapping one there in time: not known" in describe_table(found)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("label,fold,group\n", "the table holds no clips"),
        ("label,fold,group\na,x,r\n", "fold is a whole number, found 'x'"),
        ("label,fold,group,start,end\na,1,r,0,late\n", "end is a time in seconds, found 'late'"),
        ("label,fold,group\na,1\n", None),  # an unknown recording is no mistake
    ],
)
def test_tables_that_are_wrong(tmp_path, text, said):
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    if said is None:
        assert read_table(tmp_path / "t.csv")["group"].tolist() == [""]
        return
    with pytest.raises(UserError) as error:
        read_table(tmp_path / "t.csv")
    assert said in str(error.value) and "t.csv" in error.value.where


def test_all_missing_columns_are_told_at_once(tmp_path, run):
    with pytest.raises(UserErrors) as error:
        read_table(write_table(tmp_path / "t.csv", [(1, 2)], "labels,folds"))
    assert len(error.value.problems) == 2, "labels is a name of the label column"
    said = str(error.value)
    assert "the fold column is called fold; found labels, folds" in said and "did you mean folds?" in said
    code, _, missing = run(tmp_path / "nowhere.csv")
    assert code == 2 and "not a readable CSV" in missing


@pytest.mark.real
def test_the_official_table(run):
    code, out, err = run(OFFICIAL_CSV, "--json")
    found = json.loads(out)
    assert code == 0, err
    assert (found["clips"], found["recordings"]) == (8732, 1297)
    assert {int(fold): clips for fold, clips in found["clips_per_fold"].items()} == CLIPS_PER_FOLD
    assert len(found["shared_recordings"]) == 5 and found["shared_recording_clips"] == 152
    assert found["leaking_recordings"] == [] and found["time_overlap_same_class_clips"] == 0
    compared = found["random_80_20"]
    assert compared["shared_recording_clips"] / compared["test_clips"] == pytest.approx(0.96, abs=0.015)
    assert compared["time_overlap_clips"] / compared["test_clips"] == pytest.approx(0.74, abs=0.02)


@pytest.mark.real
def test_a_sixth_recording_in_two_folds_fails(tmp_path):
    with OFFICIAL_CSV.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    moved = next(row for row in rows if row[1] == "100263")
    moved[5] = "9"
    found = table_report(read_table(write_table(tmp_path / "t.csv", rows, ",".join(header))))
    assert found["leaking_recordings"] == ["100263"]
