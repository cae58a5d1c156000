"""Prepared clips are read without a copy and as `datasets` reads them; on the device, batches are the same."""

from __future__ import annotations

import pickle

import datasets
import numpy as np
import pytest
import torch

from urbansound_hf.features.dataset import OnDevice, PreparedClips, collate_evaluation, collate_training

LENGTHS = (5, 3, 5, 1, 4, 5)
COLUMNS = {
    "values": datasets.List(datasets.Value("float32")),
    "fixed": datasets.List(datasets.Value("float32"), length=3),
    "levels": datasets.Array2D((None, 2), "float32"),
    "patches": datasets.Array3D((None, 2, 3), "float32"),
}


def prepared(lengths: tuple[int, ...] = LENGTHS) -> datasets.Dataset:
    draw = np.random.default_rng(0).standard_normal
    rows = {
        "labels": [n % 3 for n in range(len(lengths))], "clip": list(range(len(lengths))),
        "values": [draw(n) for n in lengths], "fixed": [draw(3) for _ in lengths],
        "levels": [draw((n, 2)) for n in lengths], "patches": [draw((n, 2, 3)) for n in lengths],
    }  # fmt: skip
    whole = {"labels": datasets.Value("int64"), "clip": datasets.Value("int64"), **COLUMNS}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(whole)).with_format("numpy")


@pytest.mark.parametrize("change", [
    lambda rows: rows, lambda rows: rows.select([4, 0, 3]), lambda rows: rows.select(range(2, 6)),
    lambda rows: datasets.concatenate_datasets([rows, rows]).select([7, 1, 11]),
])  # fmt: skip
def test_rows_are_those_of_datasets(change):
    rows = change(prepared())
    for clips in (PreparedClips(rows), pickle.loads(pickle.dumps(PreparedClips(rows)))):
        assert len(clips) == len(rows)
        for index in range(len(rows)):
            assert clips[index].keys() == rows[index].keys()
            for name, values in rows[index].items():
                np.testing.assert_array_equal(clips[index][name], values)


def test_evaluation_takes_the_longest_first_and_rows_of_one_length_together():
    assert PreparedClips(prepared().select([3, 0, 1, 2, 4])).by_size() == [1, 3, 4, 2, 0]


def test_a_batch_on_the_device_is_the_collated_one():
    stored = PreparedClips(prepared((4,) * 300), torch.arange(300.0)[:, None].bfloat16())
    batch, resident = collate_training([stored[7], stored[299]]), OnDevice(stored, torch.device("cpu"))
    assert len(resident) == 300
    torch.testing.assert_close(collate_training(resident.__getitems__([7, 299])), batch, rtol=0, atol=0)
    assert collate_evaluation([stored[7]])["groups"][0]["frozen"].tolist() == [[7.0]]
