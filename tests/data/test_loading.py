"""Other sounds by the same path: folders, CSVs, Parquet with splits as on the Hub, save_to_disk, the synthetic set."""

from __future__ import annotations

import io
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
    assert sounds.dataset[1]["audio"]["path"] == "00000001_nohash_0.wav"
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
    with pytest.raises(UserError, match="the column is_unknown holds no audio; there are is_unknown"):
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
    rows = read_stored(str(tmp_path), "v0.02", EXPORT).rows
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
    sounds = load_sounds(SoundRequest("synthetic", sampling_rate=8_000))
    assert sounds.notes == [SYNTHETIC_NOTE]
    assert len(sounds.dataset) == 100 and sorted(set(sounds.dataset["fold"])) == list(range(1, 11))
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
