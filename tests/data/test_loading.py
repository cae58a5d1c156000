"""Other sounds by the same path: folders, CSVs, Parquet with splits as on the Hub, save_to_disk, the synthetic set."""

from __future__ import annotations

import io
import os
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile

from tests.data.test_urbansound8k import cache, decoded, many, tone  # noqa: F401 (fixtures)
from urbansound_hf.audio.io import read_audio
from urbansound_hf.data import synthetic
from urbansound_hf.data.hub_dataset import EXPORT, read_stored
from urbansound_hf.data.loading import SYNTHETIC_NOTE, SoundRequest, load_sounds
from urbansound_hf.data.urbansound8k import CLASSES
from urbansound_hf.errors import UserError

FEW_COLUMNS = {"input_columns": ["speaker_id", "label"]}  # so that `map` leaves the audio alone, without torchcodec
KEYWORDS = ["yes", "no", "up", "_silence_"]


def wav(rate: int = 16_000, seconds: float = 0.05, pitch: float = 440.0) -> bytes:
    buffer = io.BytesIO()
    time = np.arange(round(rate * seconds)) / rate
    soundfile.write(buffer, 0.5 * np.sin(2 * np.pi * pitch * time), rate, format="WAV")
    return buffer.getvalue()


def keywords(clips: int, rate: int = 16_000, label: object = None) -> datasets.Dataset:
    """Clips like those of Speech Commands on the Hub: audio in the table, ClassLabel, speakers."""
    sounds = [{"bytes": wav(rate, pitch=200 + 50 * n), "path": f"{n:08x}_nohash_0.wav"} for n in range(clips)]
    struct = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    features = datasets.Features(
        file=datasets.Value("string"),
        audio=struct,
        label=label or datasets.ClassLabel(names=KEYWORDS),
        is_unknown=datasets.Value("bool"),
        speaker_id=datasets.Value("string"),
    )
    labels = [KEYWORDS[n % 4] if label else n % 4 for n in range(clips)]
    columns = {
        "file": [sound["path"] for sound in sounds],
        "audio": sounds,
        "label": labels,
        "is_unknown": [False] * clips,
        "speaker_id": [f"s{n // 2}" for n in range(clips)],
    }
    table = datasets.Dataset.from_dict(columns, features=features)
    return table.cast_column("audio", datasets.Audio(sampling_rate=rate))


def parquet(folder: Path, **splits: datasets.Dataset) -> Path:
    for name, table in splits.items():
        (folder / "data").mkdir(parents=True, exist_ok=True)
        table.to_parquet(folder / "data" / f"{name}-00000-of-00001.parquet")
    return folder


def classes(folder: Path, *names: str) -> Path:
    for name in names:
        tone(folder / name)
    return folder


def labels_of(sounds) -> list[str]:
    return [sounds.labels[label] for label in sounds.dataset["label"]]


def test_keywords_with_their_own_splits(tmp_path, decoded):  # noqa: F811
    folder = parquet(tmp_path / "keywords", train=keywords(8, 22_050), validation=keywords(4), test=keywords(4))
    sounds = load_sounds(SoundRequest(str(folder)))
    assert (sounds.name, sounds.labels, sounds.notes) == ("keywords", KEYWORDS, [])
    assert sounds.dataset["split"][:] == ["train"] * 8 + ["validation"] * 4 + ["test"] * 4
    assert sounds.dataset["group"][:5] == ["s0", "s0", "s1", "s1", "s2"]
    assert sounds.dataset["label"][:8] == [0, 1, 2, 3] * 2
    assert sounds.dataset.features["audio"] == datasets.Audio(sampling_rate=16_000, decode=False)
    for row in sounds.dataset:
        waveform, rate = read_audio(row["audio"]["bytes"])
        assert (len(waveform), rate) == (800, 16_000)
    assert sounds.dataset[1]["audio"]["path"] == "train/no/00000001_nohash_0.wav", "the parts repeat the names"
    assert len(decoded) == 16
    again = load_sounds(SoundRequest(str(folder)))
    assert len(decoded) == 16 and again.fingerprint == sounds.fingerprint
    parquet(folder, test=keywords(3))
    assert len(load_sounds(SoundRequest(str(folder))).dataset) == 15


def test_many_keywords_in_two_processes_keep_their_order(tmp_path):
    folder = parquet(tmp_path, train=keywords(70))
    sounds = load_sounds(SoundRequest(str(folder), num_proc=2))
    assert [row["path"] for row in sounds.dataset["audio"]] == [f"{n:08x}_nohash_0.wav" for n in range(70)]
    assert "split" not in sounds.dataset.column_names, "a single split is no split"


def test_text_labels_are_sorted_and_the_unlabelled_left_out_with_a_note(tmp_path):
    folder = parquet(tmp_path, train=keywords(8, label=datasets.Value("string")))
    sounds = load_sounds(SoundRequest(str(folder)))
    assert sounds.labels == sorted(KEYWORDS) and labels_of(sounds) == KEYWORDS * 2
    table = keywords(8).map(lambda speaker, label: {"label": -1 if speaker == "s0" else label}, **FEW_COLUMNS)
    sounds = load_sounds(SoundRequest(str(parquet(tmp_path / "hidden", test=table))))
    assert labels_of(sounds) == ["up", "_silence_", *KEYWORDS]
    assert sounds.notes == ["2 of 8 sounds have no label and are left out"]


def test_columns_can_be_named_and_are_listed_where_they_are_wrong(tmp_path):
    table = keywords(8).rename_columns({"audio": "sound", "label": "word"})
    folder = str(parquet(tmp_path, train=table.add_column("label", ["a", "b"] * 4)))
    assert load_sounds(SoundRequest(folder)).labels == ["a", "b"]
    assert load_sounds(SoundRequest(folder, label_column="word", audio_column="sound")).labels == KEYWORDS
    with pytest.raises(UserError, match="the label column is called wort; found file, sound, word") as error:
        load_sounds(SoundRequest(folder, label_column="wort"))
    assert "--label_column" in error.value.fix
    with pytest.raises(UserError, match="does not exist"):
        load_sounds(SoundRequest(folder, audio_column="speaker_id"))
    with pytest.raises(UserError, match=r"the column is_unknown holds no audio; there are file \(Value\), sound"):
        load_sounds(SoundRequest(folder, audio_column="is_unknown"))


def test_a_split_of_another_name_is_refused(tmp_path):
    folder = parquet(tmp_path, train=keywords(4), test=keywords(4))
    saved = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "other"))
    datasets.DatasetDict(train=saved["train"], holdout=saved["test"]).save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match=r"a split is called train, training, .*found 'holdout'"):
        load_sounds(SoundRequest(str(tmp_path / "saved")))
    datasets.DatasetDict(train=saved["train"], dev=saved["test"]).save_to_disk(tmp_path / "fine")
    sounds = load_sounds(SoundRequest(str(tmp_path / "fine")))
    assert sounds.dataset["split"][:] == ["train"] * 4 + ["validation"] * 4


def test_a_configuration_of_the_parquet_branch_is_its_folder(tmp_path):
    parquet(tmp_path / "v0.01", train=keywords(4))
    parquet(tmp_path / "v0.02", train=keywords(8), test=keywords(4))
    rows, *_ = read_stored(str(tmp_path), SoundRequest(dataset_config="v0.02", dataset_revision=EXPORT))
    assert rows.columns["split"] == ["train"] * 8 + ["test"] * 4


def test_what_datasets_cannot_read_comes_with_the_way_out(tmp_path):
    folder = parquet(tmp_path / "old", train=keywords(4))
    (folder / "old.py").write_text("# a loading script, as Hub data sets used to have", encoding="utf-8")
    with pytest.raises(UserError, match="scripts are no longer supported") as error:
        load_sounds(SoundRequest(str(folder)))
    assert f"--dataset_revision {EXPORT}" in error.value.fix
    with pytest.raises(UserError, match="v9"):
        load_sounds(SoundRequest(str(parquet(tmp_path / "new", train=keywords(4))), dataset_config="v9"))


@pytest.mark.skipif(datasets.config.TORCHCODEC_AVAILABLE, reason="with torchcodec, datasets reads them itself")
def test_raw_files_on_the_hub_are_to_be_downloaded_as_a_folder(tmp_path):
    classes(tmp_path / "raw", "owl/1.wav", "wren/1.wav")
    with pytest.raises(UserError, match="torchcodec") as error:
        read_stored(str(tmp_path / "raw"))  # as load_dataset does with an id on the Hub
    assert "--repo-type dataset --local-dir DIR, then --dataset DIR" in error.value.fix
    assert load_sounds(SoundRequest(str(tmp_path / "raw"))).labels == ["owl", "wren"]


def test_unreadable_sounds_in_a_table_are_named(tmp_path):
    table = datasets.Dataset.from_dict({"audio": [wav(), b"mp3?"], "label": ["a", "b"]})
    with pytest.raises(UserError, match="not a sound that libsndfile can read"):
        load_sounds(SoundRequest(str(parquet(tmp_path, train=table))))


def test_classes_as_folders(tmp_path):
    folder = classes(tmp_path / "birds", "owl/1.wav", "owl/deep/2.wav", "wren/1.flac.wav", "wren/.hidden.wav")
    (folder / "wren/notes.txt").write_text("no sound", encoding="utf-8")
    sounds = load_sounds(SoundRequest(str(folder)))
    assert (sounds.name, sounds.labels, labels_of(sounds)) == ("birds", ["owl", "wren"], ["owl", "owl", "wren"])
    assert sounds.dataset.column_names == ["audio", "label"]
    assert sounds.dataset[1]["audio"]["path"] == "owl/deep/2.wav"


def test_classes_within_splits(tmp_path):
    files = [f"{split}/{name}/1.wav" for split in ("training", "val", "test") for name in ("10", "9")]
    sounds = load_sounds(SoundRequest(str(classes(tmp_path, *files))))
    assert sounds.labels == ["9", "10"], "numbers in the order of their values"
    by_file = {row["audio"]["path"]: row["split"] for row in sounds.dataset}
    assert by_file["training/9/1.wav"] == "train" and by_file["val/10/1.wav"] == "validation"


@pytest.mark.parametrize("header", ["file,label,fold,group,split", "File_Name,CLASS,Fold,fsID,subset"])
def test_a_csv_with_folds_groups_and_splits(tmp_path, header):
    classes(tmp_path, "sounds/a.wav", "sounds/b.wav")
    lines = [header, "sounds/a.wav,rain,3,r1,train", "b.wav,wind,4,r2,dev"]  # with its folder, or by name alone
    (tmp_path / "list.csv").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    sounds = load_sounds(SoundRequest(str(tmp_path)))
    assert labels_of(sounds) == ["rain", "wind"]
    columns = sounds.dataset.remove_columns(["audio", "label"]).to_dict()
    assert columns == {"fold": [3, 4], "group": ["r1", "r2"], "split": ["train", "validation"]}


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("name,label\na.wav,x", "the audio column is called audio, file, .* or slice_file_name; found name, label"),
        ("file,label\na.wav,x\nb.wav,y\ngone.wav,y", "1 of 3 have none: gone.wav"),
        ("file,label\na.wav,\nb.wav,y", "a.wav has no label\n.*line 2"),
        ("file,label,fold\na.wav,x,1\nb.wav,y,two", "fold is a whole number, found 'two'\n.*line 3"),
        ("file,label,split\na.wav,x,train\nb.wav,y,mine", "found 'mine'\n.*line 3"),
        ("file,label\na.wav,x\nsame.wav,y", "same.wav is the name of 2 files"),
        ("file,label\n", "the table lists no sounds"),
    ],
)
def test_a_csv_that_does_not_fit(tmp_path, table, said):
    classes(tmp_path, "a.wav", "b.wav", "1/same.wav", "2/same.wav")
    (tmp_path / "metadata.csv").write_text(table, encoding="utf-8")
    (tmp_path / "other.csv").write_text("metadata.csv comes first", encoding="utf-8")
    with pytest.raises(UserError, match=said):
        load_sounds(SoundRequest(str(tmp_path)))
    (tmp_path / "metadata.csv").write_text("file,label\na.wav,x\nb.wav,y\n1/same.wav,y", encoding="utf-8")
    assert len(load_sounds(SoundRequest(str(tmp_path))).dataset) == 3


def test_missing_files_of_a_csv_can_be_allowed_and_are_said(tmp_path):
    classes(tmp_path, "a.wav", "b.wav")
    (tmp_path / "metadata.csv").write_text("file,label\na.wav,x\nb.wav,z\ngone.wav,y", encoding="utf-8")
    sounds = load_sounds(SoundRequest(str(tmp_path), allow_missing_files=True))
    assert sounds.notes == ["1 of 3 listed sounds have no file and are left out"]
    (tmp_path / "metadata.csv").rename(tmp_path / "one.csv")
    (tmp_path / "two.csv").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"one CSV lists the sounds, found one.csv, two.csv"):
        load_sounds(SoundRequest(str(tmp_path)))


def test_a_folder_without_labelled_sounds(tmp_path):
    (tmp_path / "readme.txt").write_text("nothing here", encoding="utf-8")
    with pytest.raises(UserError, match=r"one folder of sounds a class .* found readme.txt") as error:
        load_sounds(SoundRequest(str(tmp_path)))
    assert ".flac" in error.value.fix


def test_a_folder_in_the_official_layout_is_urbansound8k(tmp_path):
    sounds = load_sounds(SoundRequest(str(many(tmp_path, 10))))
    assert sounds.name == "UrbanSound8K" and sounds.notes[0].startswith("subset: 10 of 8,732")
    same = load_sounds(SoundRequest(data_dir=str(tmp_path)))
    assert same.fingerprint == sounds.fingerprint and same.dataset["fsID"][:3] == [1000, 1001, 1002]


def test_the_synthetic_set_says_that_it_is_synthetic(monkeypatch):
    monkeypatch.setattr(
        synthetic, "synthetic_dataset", partial(synthetic.synthetic_dataset, clips_per_class_and_fold=1)
    )
    monkeypatch.setattr(synthetic, "CLASSES", CLASSES[:2])
    sounds = load_sounds(SoundRequest("synthetic", sampling_rate=8_000))
    assert sounds.notes == [SYNTHETIC_NOTE]
    assert len(sounds.dataset) == 20 and sorted(set(sounds.dataset["fold"])) == list(range(1, 11))
    assert read_audio(sounds.dataset[0]["audio"]["bytes"])[1] == 8_000


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("urbansound-8k", "did you mean urbansound8k"),
        ("./no/such/folder", "there is no folder ./no/such/folder"),
        ("owner/name", "cannot be read: .*Hub.*\n.*owner/name\n.*network"),
        ("not a name", "cannot be read"),
    ],
)
def test_a_data_set_that_is_not_there(name, said):
    with pytest.raises(UserError, match=said):
        load_sounds(SoundRequest(name))


def test_what_a_table_must_not_do(tmp_path):
    classes(tmp_path, "a.wav", "b.wav")
    (tmp_path / "metadata.csv").write_text("file,label\na.wav,x\nb.wav,y\na.wav,y", encoding="utf-8")
    with pytest.raises(UserError, match=r"a.wav is listed 2 times\n  where: .*metadata.csv, lines 2, 4"):
        load_sounds(SoundRequest(str(tmp_path)))
    (tmp_path / "metadata.csv").write_text("file,label\na.wav,x\nb.wav,x", encoding="utf-8")
    with pytest.raises(UserError, match="a classifier tells classes apart, found"):
        load_sounds(SoundRequest(str(tmp_path)))


# ---- stored data: class ids are compared by name, names are unique


def labelled(
    names: list[str], order: list[str] | str | None, first: int = 0, kind: str = "ClassLabel"
) -> datasets.Dataset:
    """A clip for each name, whose ids are positions in `order` (or plain text, or plain numbers)."""
    sounds = [{"bytes": wav(pitch=200 + 10 * (first + n)), "path": f"{first + n}.wav"} for n in range(len(names))]
    values = names if kind == "string" else [order.index(name) for name in names]
    feature = datasets.ClassLabel(names=order) if kind == "ClassLabel" else datasets.Value(kind)
    table = datasets.Dataset.from_dict({"audio": sounds, "label": values})
    return table.cast_column("audio", datasets.Audio(decode=False)).cast_column("label", feature)


BIRDS = ["wren", "owl", "tit", "owl"]
ORDERS = (["wren", "owl", "tit"], ["tit", "wren", "owl"], ["owl", "tit", "wren"])
DIFFER = ["the parts of the data list the classes of label differently: mapped by name"]


@pytest.mark.parametrize("names", [("train", "test"), ("train-00000-of-00002", "train-00001-of-00002")])
def test_parquet_files_that_list_classes_in_another_order_are_mapped_by_name(tmp_path, names):
    for number, (name, order) in enumerate(zip(names, ORDERS, strict=False)):
        labelled(BIRDS, order, 10 * number).to_parquet(tmp_path / f"{name}.parquet")
    sounds = load_sounds(SoundRequest(str(tmp_path)))
    assert sounds.labels == ORDERS[0] and labels_of(sounds) == BIRDS * 2 and sounds.notes == DIFFER
    assert ("split" in sounds.dataset.column_names) == (names[1] == "test")


def test_files_with_more_classes_add_them(tmp_path):
    labelled(BIRDS, ORDERS[0]).to_parquet(tmp_path / "train.parquet")
    labelled(["crow", "owl"], ["crow", "owl"], 10).to_parquet(tmp_path / "test.parquet")
    sounds = load_sounds(SoundRequest(str(tmp_path)))
    assert sounds.labels == [*ORDERS[0], "crow"] and labels_of(sounds) == [*BIRDS, "crow", "owl"]


def test_text_beside_class_ids_is_mapped_by_name(tmp_path):
    labelled(BIRDS, ORDERS[1]).to_parquet(tmp_path / "train.parquet")
    labelled([" owl", "wren"], None, 10, "string").to_parquet(tmp_path / "test.parquet")
    sounds = load_sounds(SoundRequest(str(tmp_path)))
    assert sounds.labels == ORDERS[1] and labels_of(sounds) == [*BIRDS, "owl", "wren"]


@pytest.mark.parametrize("save", ["parquet", "disk"])
def test_ids_without_names_beside_others_with_names_are_refused(tmp_path, save):
    parts = {"train": labelled(BIRDS, ORDERS[0]), "test": labelled(BIRDS, ORDERS[1], 10, "int64")}
    if save == "disk":
        datasets.DatasetDict(parts).save_to_disk(tmp_path)
    else:
        parquet(tmp_path, **parts)
    with pytest.raises(UserError, match="class names in some files or splits, and only ids in others"):
        load_sounds(SoundRequest(str(tmp_path)))


def test_the_card_of_a_data_set_does_not_rename_the_classes_of_its_files(tmp_path):
    labelled(BIRDS, ORDERS[1]).to_parquet(tmp_path / "train.parquet")
    classes = "".join(f"\n          '{number}': {name}" for number, name in enumerate(ORDERS[0]))
    (tmp_path / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: audio\n    dtype: audio\n  - name: label\n    dtype:\n"
        f"      class_label:\n        names:{classes}\n---\n",
        encoding="utf-8",
    )
    assert labels_of(load_sounds(SoundRequest(str(tmp_path)))) == BIRDS


def test_save_to_disk_with_other_orders_is_mapped_by_name(tmp_path):
    parts = {name: labelled(BIRDS, order) for name, order in zip(("train", "validation", "test"), ORDERS, strict=True)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path)
    sounds = load_sounds(SoundRequest(str(tmp_path)))
    assert labels_of(sounds) == BIRDS * 3 and sounds.notes == DIFFER
    assert [row["path"] for row in sounds.dataset["audio"]] == [
        f"{split}/{label}/{n}.wav" for split in parts for n, label in enumerate(BIRDS)
    ]


def test_folds_and_groups_that_are_class_ids_count_by_their_names(tmp_path):
    table = labelled(BIRDS, ORDERS[0])
    folds, groups = datasets.ClassLabel(names=["fold3", "fold1"]), datasets.ClassLabel(names=["b", "a"])
    table = table.add_column("fold", [0, 1, 1, 0]).cast_column("fold", folds)
    table = table.add_column("group", [0, 1, 1, 0]).cast_column("group", groups)
    dataset = load_sounds(SoundRequest(str(parquet(tmp_path, train=table)))).dataset
    assert dataset["fold"][:] == [3, 1, 1, 3] and dataset["group"][:] == ["b", "a", "a", "b"]


@pytest.mark.parametrize("fold", [1.5, None, "one"])
def test_a_fold_that_is_no_whole_number_is_refused(tmp_path, fold):
    table = labelled(BIRDS, ORDERS[0]).add_column("fold", [str(fold) if isinstance(fold, str) else fold] * 4)
    with pytest.raises(UserError, match="fold is a whole number"):
        load_sounds(SoundRequest(str(parquet(tmp_path, train=table))))


def test_parquet_replaced_with_the_same_times_is_read_again(tmp_path):
    folder = parquet(tmp_path / "birds", train=labelled(BIRDS, ORDERS[0]))
    (path,) = folder.rglob("*.parquet")
    before, times = load_sounds(SoundRequest(str(folder))), path.stat()
    labelled(BIRDS[::-1], ORDERS[0]).to_parquet(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = load_sounds(SoundRequest(str(folder)))
    assert labels_of(after) == BIRDS[::-1]
    assert after.fingerprint != before.fingerprint


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["a.wav", "b.wav", "c.wav", None], ["a.wav", "b.wav", "c.wav", "row 3"]),
        (["a.wav", "a.wav", "a.wav", "b.wav"], ["wren/a.wav", "owl/a.wav", "tit/a.wav", "owl/b.wav"]),
        (["a.wav", "a.wav", "b.wav", "a.wav"], ["0/a.wav", "1/a.wav", "2/b.wav", "3/a.wav"]),
    ],
)
def test_names_that_repeat_are_made_unique(tmp_path, paths, expected):
    table = labelled(BIRDS, ORDERS[0])
    sounds = [{"bytes": row["bytes"], "path": path} for row, path in zip(table["audio"], paths, strict=True)]
    table = datasets.Dataset.from_dict({"audio": sounds, "label": BIRDS}).cast_column(
        "audio", datasets.Audio(decode=False)
    )
    loaded = load_sounds(SoundRequest(str(parquet(tmp_path, train=table))))
    assert [row["path"] for row in loaded.dataset["audio"]] == expected


def test_what_lies_beside_a_stored_data_set_is_noted(tmp_path):
    for name in ("train-00000-of-00001", "test-00000-of-00001", "more"):
        labelled(BIRDS, ORDERS[0], len(name)).to_parquet(tmp_path / f"{name}.parquet")
    tone(tmp_path / "owl/1.wav")
    sounds = load_sounds(SoundRequest(str(tmp_path)))
    assert len(sounds.dataset) == 8
    assert sounds.notes == [
        "1 Parquet file of no split, left out: more.parquet",
        "1 sound file beside the stored data set, left out",
    ]


def test_a_stored_data_set_below_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    parquet(tmp_path / "birds", train=labelled(BIRDS, ORDERS[0]))
    assert load_sounds(SoundRequest("~/birds")).name == "birds"
    monkeypatch.chdir(tmp_path / "birds")
    assert load_sounds(SoundRequest(".")).name == "birds"
