"""Public data sets are recognised as they unpack, with their folds, parts and groups."""

from __future__ import annotations

import pytest

from tests.helpers import miniatures
from urbansound_hf.data.known import ESC50, FSD50K, KNOWN
from urbansound_hf.data.loading import SoundRequest, find_builder, load_sounds
from urbansound_hf.data.splits import wanted_splits
from urbansound_hf.errors import UserError


def split_of(sounds) -> list:
    columns = {name: sounds.dataset[name][:] for name in ("label", "fold", "group", "split")
               if name in sounds.dataset.column_names}  # fmt: skip
    return wanted_splits(columns)


def test_esc50_and_esc10(tmp_path):
    root = str(miniatures.esc50(tmp_path))
    sounds = load_sounds(SoundRequest(root))
    assert (sounds.name, len(sounds.dataset), len(sounds.labels)) == ("ESC-50", 60, 12)
    assert sounds.dataset["group"][:2] == ["100001", "100002"], "the Freesound recording"
    assert [(split.kind, split.test_fold) for split in split_of(sounds)] == [("official", 5)]
    ten = load_sounds(SoundRequest(root, dataset_variant="esc10"))
    assert (ten.name, len(ten.dataset), len(ten.labels)) == ("ESC-50 (esc10)", 50, 10)
    assert sounds.known == ten.known == ESC50
    with pytest.raises(UserError, match="has the variants esc10, found esc5"):
        load_sounds(SoundRequest(root, dataset_variant="esc5"))


def test_speech_commands(tmp_path):
    root = str(miniatures.speech_commands(tmp_path))
    sounds = load_sounds(SoundRequest(root))
    assert (sounds.labels, len(sounds.dataset)) == (["backward", "yes"], 20)
    (split,) = split_of(sounds)
    assert split.kind == "split" and [len(part) for part in (split.train, split.validation, split.test)] == [16, 2, 2]
    assert {sounds.dataset["group"][int(row)] for row in split.test} == {"00000001"}
    assert any("_background_noise_ is left out" in note for note in sounds.notes)
    quiet = load_sounds(SoundRequest(root, background_class="silence"))
    assert quiet.labels == ["backward", "silence", "yes"] and len(quiet.dataset) == 20 + 3 * 3
    noise = [(row["audio"]["path"].split("#")[0], row["split"]) for row in quiet.dataset if row["label"] == 1]
    assert set(noise) == {(f"_background_noise_/{name}.wav", part) for name, part in (
        ("running_tap", "test"), ("pink_noise", "validation"), ("doing_the_dishes", "train"))}  # fmt: skip


def test_fsd50k(tmp_path):
    root = miniatures.fsd50k(tmp_path)
    rows, _ = FSD50K.read(root, SoundRequest())
    assert rows[0]["label"] == ["Electric_guitar", "Guitar", "Music"] and rows[0]["path"] == "dev/64760.wav"
    assert [row["split"] for row in rows] == ["train", "validation"] * 2 + ["test"] * 2
    sounds = load_sounds(SoundRequest(str(root)))
    assert sounds.multi_label and sounds.labels == ["Bark", "Electric_guitar", "Guitar", "Music"]
    assert sorted(sounds.targets.sum(axis=1).tolist()) == [1, 1, 1, 3, 3, 3]


def test_every_record_is_complete(tmp_path):
    for known in KNOWN:
        assert all((known.protocol, known.licence, known.citation, known.homepage.startswith("https://")))
        assert known.published and set(known.published) <= {"", *known.variants}
        (tmp_path / "a").mkdir(exist_ok=True)
        assert known.root(tmp_path) is None


def test_a_folder_of_that_name_alone_is_not_recognised(tmp_path):
    own = miniatures.speech_commands(tmp_path / "own").rename(tmp_path / "ESC-50")
    (own / "testing_list.txt").unlink()
    builder = find_builder(SoundRequest(str(own)))
    assert builder.title == "ESC-50" and builder.known is None
