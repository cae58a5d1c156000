"""UrbanSound8K: its table is checked, every format decoded, once, and downloaded from a loopback server."""

from __future__ import annotations

import csv
import hashlib
import http.server
import io
import math
import os
import tarfile
import threading
import zlib
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet
import pytest
import soundfile

from tests.conftest import OFFICIAL_CSV, REAL_DATA
from urbansound_hf.audio.files import AudioFiles
from urbansound_hf.audio.io import load_audio
from urbansound_hf.data import builder, urbansound8k
from urbansound_hf.data.__main__ import main
from urbansound_hf.data.loading import SoundRequest, load_sounds, load_urbansound8k
from urbansound_hf.data.urbansound8k import UrbanSound8K, obtain
from urbansound_hf.errors import UserError, exit_code

FORMATS = [  # rate (Hz), channels, subtype, seconds: what the uploads are like, and the shortest clip of all
    (44_100, 2, "PCM_16", 0.5), (48_000, 2, "PCM_24", 0.4), (96_000, 2, "PCM_24", 0.3), (192_000, 2, "PCM_32", 0.2),
    (44_100, 2, "FLOAT", 0.3), (22_050, 1, "PCM_U8", 0.5), (11_025, 1, "IMA_ADPCM", 0.5), (44_100, 2, "MS_ADPCM", 0.5),
    (8_000, 1, "ULAW", 0.5), (16_000, 1, "PCM_16", 0.5), (44_100, 2, "PCM_16", 0.0545),
]  # fmt: skip
COLUMNS = list(urbansound8k.CSV_COLUMNS)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Every test has a cache of `datasets` of its own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def tone(path: Path, rate: int = 16_000, channels: int = 1, subtype: str = "PCM_16", seconds: float = 0.05) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(rate * seconds)) / rate
    left = 0.5 * np.sin(2 * np.pi * (300 + zlib.crc32(path.name.encode()) % 500) * time)
    soundfile.write(path, np.stack([left, 0.5 * left][:channels], axis=1), rate, subtype=subtype, format="WAV")
    return path


def record(number: int) -> dict:
    """A line of the metadata: every class and every fold comes up."""
    label = number % 10
    return {"slice_file_name": f"{1000 + number}-{label}-0-0.wav", "fsID": 1000 + number, "start": 0.5, "end": 4.5,
            "salience": 1 + number % 2, "fold": 1 + number % 7, "classID": label,
            "class": urbansound8k.CLASSES[label]}  # fmt: skip


def write_csv(root: Path, records: list[dict], columns: list[str] = COLUMNS) -> None:
    path = root / urbansound8k.METADATA_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(records)


def official(root: Path, formats: list[tuple] = FORMATS) -> Path:
    """A small data set in the official layout, one clip a format."""
    records = [record(number) for number in range(len(formats))]
    for line, form in zip(records, formats, strict=True):
        tone(root / f"audio/fold{line['fold']}" / line["slice_file_name"], *form)
    write_csv(root, records)
    return root


def many(root: Path, clips: int = 70) -> Path:
    return official(root, [(16_000, 1, "PCM_16", 0.05)] * clips)


@pytest.fixture
def decoded(monkeypatch):
    """Counts the sounds that are decoded in this process."""
    seen = []
    read = load_audio
    monkeypatch.setattr(builder, "load_audio", lambda *args: seen.append(args[0]) or read(*args))
    return seen


def test_every_format_becomes_16_khz_mono_float(tmp_path):
    root = official(tmp_path / "data")
    table = load_urbansound8k(root)
    assert len(table) == len(FORMATS)
    for number, (row, (_, _, _, seconds)) in enumerate(zip(table, FORMATS, strict=True)):
        stored = soundfile.SoundFile(io.BytesIO(row["audio"]["bytes"]))
        assert (stored.samplerate, stored.channels, stored.subtype) == (16_000, 1, "FLOAT")
        heard = load_audio(root / row["audio"]["path"])
        assert len(heard) == pytest.approx(16_000 * seconds, rel=0.03)  # ADPCM fills its last block
        np.testing.assert_array_equal(load_audio(row["audio"]["bytes"]), heard)
        said = record(number)
        assert {name: row[name] for name in ("fold", "fsID", "class", "salience", "start", "end")} == {
            name: said[name] for name in ("fold", "fsID", "class", "salience", "start", "end")
        }
        assert (row["label"], row["group"]) == (said["classID"], str(said["fsID"]))
    assert table.features["label"].names == list(urbansound8k.CLASSES)


def test_two_processes_prepare_the_same_table_as_one(tmp_path):
    root = many(tmp_path / "data")
    one = UrbanSound8K(root, cache_dir=tmp_path / "one").load(num_proc=1)
    two = UrbanSound8K(root, cache_dir=tmp_path / "two").load(num_proc=2)
    assert len(two.cache_files) == 2
    assert one.to_list() == two.to_list()


def test_nothing_is_decoded_twice_until_something_changes(tmp_path, decoded):
    root = many(tmp_path / "data", 5)
    first = load_urbansound8k(root)
    assert len(decoded) == 5
    assert load_urbansound8k(root).to_list() == first.to_list()
    assert len(decoded) == 5
    changed = next((root / "audio").rglob("*.wav"))
    os.utime(changed, ns=(0, changed.stat().st_mtime_ns + 1))
    load_urbansound8k(root)
    assert len(decoded) == 10
    load_urbansound8k(root, sampling_rate=8_000)
    assert len(decoded) == 15


def test_the_fingerprint_is_the_datas_own(tmp_path):
    here, there = many(tmp_path / "here", 5), many(tmp_path / "there", 5)
    builders = [UrbanSound8K(here), UrbanSound8K(there)]
    for each in builders:
        each.load()
    assert builders[0].fingerprint() == builders[1].fingerprint()
    assert builders[0].hash != builders[1].hash, "written at another time: prepared anew"
    write_csv(there, [record(number) | {"salience": 1} for number in range(5)])
    changed = UrbanSound8K(there)
    changed.load()
    assert changed.fingerprint() != builders[0].fingerprint()


def test_the_fingerprint_is_of_the_samples_and_computed_once(tmp_path, monkeypatch):
    root = many(tmp_path / "data", 3)
    first = load_sounds(SoundRequest(data_dir=str(root)))
    path = root / "audio/fold1/1000-0-0-0.wav"
    times, size = path.stat(), path.stat().st_size
    sound, rate = soundfile.read(path)
    soundfile.write(path, sound[::-1], rate)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as an archive with fixed times leaves it
    assert path.stat().st_size == size
    second = load_sounds(SoundRequest(data_dir=str(root)))
    np.testing.assert_array_equal(load_audio(second.dataset[0]["audio"]["bytes"]), sound[::-1].astype(np.float32))
    assert second.fingerprint != first.fingerprint
    monkeypatch.setattr("urbansound_hf.progress.Bar", lambda *_, **__: pytest.fail("computed again"))
    assert load_sounds(SoundRequest(data_dir=str(root))).fingerprint == second.fingerprint
    replaced = path.with_suffix(".new")
    soundfile.write(replaced, sound, rate, format="WAV")
    os.utime(replaced, ns=(times.st_atime_ns, times.st_mtime_ns))
    replaced.replace(path)  # another inode
    monkeypatch.undo()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    assert load_sounds(SoundRequest(data_dir=str(root))).fingerprint == first.fingerprint


def test_the_builder_alone_gives_a_data_set_that_plays_on_the_hub(tmp_path):
    builder = UrbanSound8K(data_dir=many(tmp_path / "UrbanSound8K", 4).parent)  # the folder, or the one above it
    builder.download_and_prepare()
    table = builder.as_dataset(split="train")
    assert table.features["audio"] == datasets.Audio(sampling_rate=16_000)
    assert table.info.license == urbansound8k.LICENCE and "Salamon" in table.info.citation
    table.to_parquet(tmp_path / "pushed.parquet")
    (tmp_path / "UrbanSound8K").rename(tmp_path / "gone")
    pushed = pyarrow.parquet.read_table(tmp_path / "pushed.parquet")
    assert datasets.Features.from_arrow_schema(pushed.schema) == table.features
    sounds = pushed["audio"].to_pylist()
    assert [len(load_audio(sound["bytes"])) for sound in sounds] == [800] * 4
    embedded = datasets.table.embed_table_storage(table.data.table)["audio"].to_pylist()  # as push_to_hub does
    assert [sound["bytes"] for sound in embedded] == [sound["bytes"] for sound in sounds]
    assert embedded[0]["path"] == "1000-0-0-0.wav"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fsID": 7}, "fsID agrees with the file name; 1 found: line 3: 1001-1-0-0.wav says 1001, fsID 7"),
        ({"classID": 2}, "classID agrees with the file name; 1 found: line 3: 1001-1-0-0.wav says 1, classID 2"),
        ({"class": "siren"}, "class agrees with classID; 1 found: line 3: 1001-1-0-0.wav: 1 is car_horn, class says"),
        ({"fold": 11}, "fold is one of 1 to 10; 1 found: line 3: 1001-1-0-0.wav: 11"),
        ({"salience": 3}, "salience is 1 (foreground) or 2 (background); 1 found: line 3"),
        ({"end": 0.5}, "a clip ends after it starts; 1 found: line 3: 1001-1-0-0.wav: 0.5 to 0.5 s"),
        ({"end": "late"}, "end is a number; 1 found: line 3: 'late'"),
        ({"slice_file_name": "bark.wav"}, "is called [fsID]-[classID]-[occurrenceID]-[sliceID].wav; 1 found: line 3"),
        (record(0), "a clip is listed once; 1 found: 1000-0-0-0.wav: 2 times"),
    ],
)
def test_a_contradiction_in_the_table_is_told_with_its_line(tmp_path, change, said):
    root = many(tmp_path, 3)
    assert len(urbansound8k.read_metadata(root)) == 3
    write_csv(root, [record(0), record(1) | change, record(2)])
    with pytest.raises(UserError) as error:
        urbansound8k.read_metadata(root)
    assert said in str(error.value)
    assert str(root / urbansound8k.METADATA_FILE) in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace(",", ";"),
        lambda text: text.replace(",", "\t"),
        lambda text: text.replace(",", " , ").replace("slice_file_name", "Slice_File_Name").replace("fsID", "FSID"),
        lambda text: text.replace("\n", ",,\n"),
    ],
)  # fmt: skip
def test_the_table_as_a_spreadsheet_saves_it(tmp_path, change):
    root = many(tmp_path, 3)
    table = root / urbansound8k.METADATA_FILE
    expected = urbansound8k.read_metadata(root)
    table.write_text(change(table.read_text(encoding="utf-8")), encoding="utf-8")
    assert urbansound8k.read_metadata(root) == expected


def test_all_contradictions_are_told_at_once_the_first_ten_of_a_kind(tmp_path):
    write_csv(tmp_path, [record(number) | {"fold": 0, "end": 0} for number in range(12)])
    with pytest.raises(UserError) as error:
        urbansound8k.read_metadata(tmp_path)
    assert "fold is one of 1 to 10; 12 found: line 2: 1000-0-0-0.wav: 0, line 3" in str(error.value)
    assert "a clip ends after it starts; 12 found" in str(error.value)
    assert str(error.value).count("and 2 more") == 2


def test_a_missing_column_is_named_with_the_nearest_there_is(tmp_path):
    columns = ["class_id" if column == "classID" else column for column in COLUMNS]
    write_csv(tmp_path, [], columns)
    with pytest.raises(UserError, match="the column classID must be there, found slice_file_name, fsID") as error:
        urbansound8k.read_metadata(tmp_path)
    assert error.value.fix == "rename 'class_id' to 'classID'"
    write_csv(tmp_path, [])
    with pytest.raises(UserError, match="lists no clips"):
        urbansound8k.read_metadata(tmp_path)


def test_missing_files_are_named_or_allowed_and_then_said(tmp_path):
    root = many(tmp_path, 20)
    (root / "audio/fold1/.DS_Store").write_bytes(b"macOS")
    (root / "audio/fold1/._1000-0-0-0.wav").write_bytes(b"macOS")
    tone(root / "audio/fold1/9999-0-0-0.wav")
    for number in range(12):
        (root / f"audio/fold{record(number)['fold']}" / record(number)["slice_file_name"]).unlink()
    with pytest.raises(UserError) as error:
        UrbanSound8K(root)
    assert "12 of 20 have none: audio/fold1/1000-0-0-0.wav, audio/fold2/1001" in str(error.value)
    assert "and 2 more" in str(error.value) and "--allow_missing_files" in error.value.fix
    builder = UrbanSound8K(root, allow_missing_files=True)
    assert len(builder.load()) == 8
    subset, unlisted = builder.notes
    assert subset.startswith("subset: 8 of 8,732 official clips (folds 1, 2, 3, 4, 5, 6, 7); scores are not comparable")
    assert unlisted == "1 sound not listed in UrbanSound8K.csv, left out: fold1/9999-0-0-0.wav"


def test_only_the_official_counts_have_nothing_to_say(tmp_path):
    classes = [name for name, clips in urbansound8k.CLIPS_PER_CLASS.items() for _ in range(clips)]
    folds = [fold for fold, clips in urbansound8k.CLIPS_PER_FOLD.items() for _ in range(clips)]
    rows = [{"class": name, "fold": fold, "source": ""} for name, fold in zip(classes, folds, strict=True)]
    assert urbansound8k.dataset_notes(rows, AudioFiles(tmp_path)) == []
    assert urbansound8k.dataset_notes(rows[1:], AudioFiles(tmp_path))[0].startswith(
        "subset: 8,731 of 8,732 official clips"
    )
    (said,) = urbansound8k.dataset_notes([*rows[1:], rows[-1]], AudioFiles(tmp_path))
    assert said.startswith(
        "not the official table: 8,732 clips (street_music has 1,001 instead of 1,000, fold 10 has 838 instead of 837)"
    )


@pytest.mark.parametrize("num_proc", [1, 2])
def test_unreadable_clips_are_all_named_from_any_process(tmp_path, capsys, num_proc):
    root = many(tmp_path / "data")
    bad = [root / f"audio/fold{record(number)['fold']}" / record(number)["slice_file_name"] for number in (3, 40, 41)]
    for path in bad:
        path.write_bytes(b"not a sound")
    assert exit_code(lambda: load_urbansound8k(root, num_proc=num_proc) and 0) == 2
    told = capsys.readouterr().err
    heard = [path.name in told for path in bad]
    assert heard == [True] * 3 if num_proc == 1 else any(heard)
    assert "not a sound that libsndfile can read" in told
    for path in bad:
        tone(path)
    assert len(load_urbansound8k(root, num_proc=num_proc)) == 70, "mended: nothing half-done is left in the cache"


@pytest.fixture
def served(tmp_path):
    """Serves an archive in the official layout on loopback: `(url, md5, requests so far)`."""
    archive = tmp_path / "web" / "UrbanSound8K.tar.gz"
    root = many(tmp_path / "source", 6)
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        for path in sorted(path for path in root.rglob("*") if path.is_file()):  # audio first, then the CSV
            tar.add(path, f"UrbanSound8K/{path.relative_to(root)}")
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=archive.parent)

        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield (
            f"http://127.0.0.1:{server.server_port}/{archive.name}",
            hashlib.md5(archive.read_bytes()).hexdigest(),
            asked,
        )
        server.shutdown()


def test_an_absent_data_set_is_announced_downloaded_and_then_found(tmp_path, served, capsys):
    url, md5, asked = served
    root = obtain(tmp_path / "data", True, url, md5)
    said = capsys.readouterr().err
    assert "about 6 GB" in said and "CC BY-NC 3.0" in said and url in said
    assert len(urbansound8k.read_metadata(root)) == 6
    assert obtain(tmp_path / "data", True, url, md5) == root
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("lies", "given"),
    [
        ("UrbanSound8K", "UrbanSound8K"),
        ("UrbanSound8K", "."),
        ("UrbanSound8K/UrbanSound8K", "."),
        ("us8k", "."),
        ("UrbanSound8K", "UrbanSound8K/audio"),
        ("UrbanSound8K", "UrbanSound8K/audio/fold1"),
        ("anything", "anything/metadata"),
        ("URBANSOUND8K", "."),
    ],
)
def test_the_data_set_is_found_one_level_off(tmp_path, lies, given):
    root = many(tmp_path / "sets" / lies, 3)
    assert obtain(tmp_path / "sets" / given).resolve() == root


@pytest.mark.parametrize("rename", [str.upper, str.lower, str.title])
def test_the_case_of_letters_does_not_matter(tmp_path, rename):
    root = many(tmp_path / "UrbanSound8K", 3)
    for path in sorted(root.rglob("*"), reverse=True):  # from the leaves to the root
        path.rename(path.with_name(rename(path.name)))
    root.rename(root.with_name(rename(root.name)))
    sounds = load_sounds(SoundRequest(data_dir=str(tmp_path)))
    assert len(sounds.dataset) == 3 and sounds.dataset[0]["audio"]["path"] == "audio/fold1/1000-0-0-0.wav"


@pytest.mark.parametrize(
    ("make", "given", "said"),
    [
        (
            lambda root: root.mkdir(),
            "data",
            "UrbanSound8K is not there, nor one folder below or above; found no folder",
        ),
        (lambda root: many(root / "a/b/c", 2), "data", "found a\n.*--data_dir .*data\n.*--download"),
        (lambda root: many(root, 2), "data/nowhere", "there is no such folder"),
        (lambda root: many(root, 2), "data/other", "UrbanSound8K is not there"),
        (lambda root: many(root / "one", 2) and many(root / "two", 2), "data", "lies here 2 times: one, two"),
        (lambda root: root.write_text("a file"), "data", "there is no such folder"),
    ],
)
def test_a_data_dir_without_the_data_set_is_an_error_not_a_download(tmp_path, monkeypatch, make, given, said):
    monkeypatch.setattr(urbansound8k, "fetch", lambda *_: pytest.fail("a download began"))
    make(tmp_path / "data")
    if given.endswith("other"):
        (tmp_path / given).mkdir()
    for load in (
        lambda: load_sounds(SoundRequest(data_dir=str(tmp_path / given))),
        lambda: load_urbansound8k(tmp_path / given),
    ):
        with pytest.raises(UserError, match=said):
            load()


def test_only_download_or_no_data_dir_at_all_downloads(tmp_path, monkeypatch):
    fetched = []

    def fetch(url: str, target: Path, md5: str) -> Path:
        fetched.append(target.parent.name)
        raise UserError("no network")

    monkeypatch.setattr(urbansound8k, "fetch", fetch)
    monkeypatch.chdir(tmp_path)
    requests = (SoundRequest(), SoundRequest(data_dir="other", download=True))
    for load in (*(lambda request=request: load_sounds(request) for request in requests), lambda: main(["--quiet"])):
        with pytest.raises(UserError, match="no network"):
            load()
    assert fetched == ["data", "other", "data"]


def test_a_part_of_the_data_set_is_not_downloaded_over(tmp_path):
    tone(tmp_path / "audio/fold1/1000-0-0-0.wav")
    with pytest.raises(UserError, match=r"a part of UrbanSound8K is here, but not metadata/UrbanSound8K.csv"):
        obtain(tmp_path, True, "http://127.0.0.1:9/never", "")


def test_the_command_prints_clips_per_fold_and_class(tmp_path, capsys):
    arguments = ["--data_dir", str(many(tmp_path / "data", 10))]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("|")[1].strip() == "class" and lines[0].split("|")[-2].strip() == "all"
    assert lines[2].replace("|", " ").split() == ["air_conditioner", "1", "0", "0", "0", "0", "0", "0", "1"]
    assert lines[-3] == "10 clips" and lines[-2].startswith("note: subset") and "clips/s" in lines[-1]
    main(arguments)
    assert "found prepared" in capsys.readouterr().out


@pytest.mark.real
def test_the_official_table_passes_every_check(tmp_path):
    target = tmp_path / urbansound8k.METADATA_FILE
    target.parent.mkdir()
    target.write_bytes(OFFICIAL_CSV.read_bytes())
    for fold in urbansound8k.CLIPS_PER_FOLD:
        (tmp_path / f"audio/fold{fold}").mkdir(parents=True)
    for _, line in urbansound8k.read_records(target):
        (tmp_path / f"audio/fold{line['fold']}" / line["slice_file_name"]).touch()
    rows = urbansound8k.read_metadata(tmp_path)
    assert len(rows) == urbansound8k.TOTAL_CLIPS
    assert urbansound8k.dataset_notes(rows, AudioFiles(tmp_path)) == []


@pytest.mark.real
def test_real_clips(tmp_path):
    builder = UrbanSound8K(REAL_DATA)
    assert builder.notes == [
        "subset: 680 of 8,732 official clips (folds 1, 2, 3); scores are not comparable with published ones"
    ]
    table = builder.load()
    assert Counter(table["fold"]) == {1: 250, 2: 250, 3: 180}
    for row in table.select(range(0, 680, 97)):
        heard = load_audio(row["audio"]["bytes"])
        assert len(heard) / 16_000 == pytest.approx(row["end"] - row["start"], abs=0.02)
        assert 0 < np.abs(heard).max() <= 1 and math.isfinite(heard.sum())
