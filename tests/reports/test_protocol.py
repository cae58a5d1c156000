"""The sentence on what trained, what selected the checkpoint, and what was tested."""

from __future__ import annotations

import pytest

from urbansound_hf.reports.markdown import protocol


@pytest.mark.parametrize(
    ("split", "fold", "validation", "checkpoint", "text"),
    [
        ("random", None, 54, "best", "the checkpoint was selected on 54 clips"),
        ("grouped", None, 54, "best", "the checkpoint was selected on 54 clips"),
        ("split", None, 1234, "best", "the checkpoint was selected on 1,234 clips"),
        ("random", None, 54, "last", "the last checkpoint was used"),
        ("random", None, 0, "best", "the last checkpoint was used"),
        ("fold3", 4, 54, "best", "the checkpoint was selected on fold 4"),
        ("fold3", 4, 54, "last", "the last checkpoint was used"),
        ("fold3", None, 0, "last", "the last checkpoint was used"),
    ],
)
def test_what_selected_the_checkpoint(split, fold, validation, checkpoint, text):
    metrics = {
        "split": split, "test_fold": 3 if split == "fold3" else None, "validation_fold": fold, "train_folds": [1, 2],
        "checkpoint": checkpoint, "clips": {"train": 100, "validation": validation, "test": 10},
    }  # fmt: skip
    sentence = protocol(metrics)
    assert text in sentence
    assert ("trained on folds 1, 2" in sentence) == (split == "fold3")
    assert ("trained on 100 clips" in sentence) == (split != "fold3")
    assert sentence.startswith("Split: the train, validation and test parts of the data; ") == (split == "split")
