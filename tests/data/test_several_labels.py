"""Sounds with several labels: a `labels` column, and list columns of stored data sets."""

from __future__ import annotations

import dataclasses

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from urbansound_hf.audio.io import to_float_wav
from urbansound_hf.data.loading import SoundRequest, load_sounds
from urbansound_hf.data.splits import Split, split_notes
from urbansound_hf.errors import UserError


def write_folder(folder, lines, header="file,labels"):
    for line in lines:
        (folder / line.split(",")[0]).write_bytes(to_float_wav(np.ones(800, np.float32) / 2, 16_000))
    (folder / "metadata.csv").write_text("\n".join([header, *lines]), encoding="utf-8")
    return load_sounds(str(folder), num_proc=1)


def test_a_labels_column_with_semicolons_gives_several_labels(tmp_path):
    sounds = write_folder(tmp_path, ["a.wav,siren; dog", "b.wav,dog", "c.wav,", "d.wav,rain;;dog;dog"])
    assert sounds.labels == ["dog", "rain", "siren"] and sounds.multi_label
    assert sounds.targets.tolist() == [[1, 0, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0]]
    assert "1 of 4 sounds have none of the labels" in sounds.notes


@pytest.mark.parametrize("header, second", [("file,labels", "dog"), ("file,label", "a;b")])
def test_other_columns_hold_one_label(tmp_path, header, second):
    sounds = write_folder(tmp_path, ["a.wav,cat", f"b.wav,{second}"], header)
    assert not sounds.multi_label and sounds.targets.tolist() == sorted(
        sounds.targets.tolist(), reverse=second == "a;b"
    )


def write_parquet(folder, label, cells):
    """A data set with a list column of labels, whose sounds differ."""
    features = datasets.Features(audio=datasets.Audio(decode=False), labels=datasets.List(label))
    sounds = [np.full(800, (n + 1) / 8, np.float32) for n in range(len(cells))]
    audio = [{"bytes": to_float_wav(each, 16_000), "path": "x.wav"} for each in sounds]
    table = pa.table({"audio": audio, "labels": cells}, schema=features.arrow_schema)
    pq.write_table(table, folder / "train.parquet")
    return SoundRequest(str(folder), num_proc=1)


@pytest.mark.parametrize("kind", ["ids", "text"])
def test_list_columns_of_a_stored_data_set(tmp_path, kind):
    names, lists = ["siren", "dog"], [[0, 1], [1], [], None, [0]]
    label = datasets.ClassLabel(names=names) if kind == "ids" else datasets.Value("string")
    cells = lists if kind == "ids" else [None if each is None else [names[i] for i in each] for each in lists]
    sounds = load_sounds(write_parquet(tmp_path, label, cells))
    assert sounds.labels == (names if kind == "ids" else sorted(names))  # the order of the ids, else of the alphabet
    first = [sounds.labels.index(name) for name in names]
    assert sounds.targets[:, first].tolist() == [[1, 1], [0, 1], [0, 0], [1, 0]]
    assert any("1 of 5 sounds have no label" in note for note in sounds.notes)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_label_with_a_semicolon_is_refused_in_lists(tmp_path, streaming):
    request = write_parquet(tmp_path, datasets.Value("string"), [["a;b"], ["c", "d"]])
    with pytest.raises(UserError, match=r"separated by ; in predictions.csv, and these names have one: a;b"):
        load_sounds(dataclasses.replace(request, streaming=streaming))


def test_the_notes_name_labels_that_a_part_lacks():
    split = Split("mine", np.array([0, 1]), np.array([], int), np.array([2]))
    labels = np.array([[1, 0], [0, 0], [1, 1]])
    assert split_notes(split, labels, ["dog", "siren"]) == ["the training part has no clip of siren"]
