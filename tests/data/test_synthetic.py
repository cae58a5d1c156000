"""The synthetic data set: its layout, its variety, its determinism, and that its classes can be told apart."""

from __future__ import annotations

import csv
import shutil
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LeaveOneGroupOut, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from urbansound_hf.audio.io import load_audio, read_audio
from urbansound_hf.data import synthetic
from urbansound_hf.data.urbansound8k import CLASSES
from urbansound_hf.errors import UserError, exit_code

CLIPS = 2


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return synthetic.synthetic_dataset(tmp_path_factory.mktemp("synthetic") / "set", CLIPS)


@pytest.fixture(scope="module")
def rows(root) -> list[dict[str, str]]:
    with (root / "metadata/UrbanSound8K.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def path_of(root: Path, row: dict[str, str]) -> Path:
    return root / f"audio/fold{row['fold']}" / row["slice_file_name"]


def wav_bytes(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.glob("audio/fold*/*.wav")}


# ---- the layout


def test_the_layout_is_the_official_one(root, rows):
    assert list(rows[0]) == ["slice_file_name", "fsID", "start", "end", "salience", "fold", "classID", "class"]
    assert {path_of(root, row) for row in rows} == set(root.glob("audio/*/*"))
    assert "synthetic" in (root / "README.txt").read_text(encoding="utf-8").lower()


def test_every_fold_holds_as_many_clips_of_every_class(rows):
    cells = Counter((int(row["fold"]), row["class"]) for row in rows)
    assert cells == {(fold, name): CLIPS for fold in range(1, 11) for name in CLASSES}


def test_the_rows_agree_with_the_names(rows):
    for row in rows:
        fs_id, class_id, _, _ = Path(row["slice_file_name"]).stem.split("-")
        assert (fs_id, class_id) == (row["fsID"], row["classID"])
        assert row["class"] == CLASSES[int(class_id)]
        assert row["salience"] in "12"


def test_a_recording_has_several_slices_in_one_fold_and_one_class(rows):
    homes = {row["fsID"]: set() for row in rows}
    for row in rows:
        homes[row["fsID"]].add((row["fold"], row["class"]))
    assert all(len(home) == 1 for home in homes.values())
    assert len(homes) == len(rows) / CLIPS  # no recording has fewer than two


# ---- the files


def test_every_file_is_a_sound_as_long_as_its_row_says(root, rows):
    for row in rows:
        info = soundfile.info(path_of(root, row))
        assert info.duration == pytest.approx(float(row["end"]) - float(row["start"]), abs=2e-6), row
        waveform = load_audio(path_of(root, row))
        assert 0.01 < np.abs(waveform).max() < 1.1, row


def test_lengths_rates_depths_and_channels_vary(root, rows):
    infos = [soundfile.info(path_of(root, row)) for row in rows]
    assert {info.samplerate for info in infos} >= {8000, 22050, 44100, 48000, 96000}
    assert {info.subtype for info in infos} >= {"PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "IMA_ADPCM"}
    assert {info.channels for info in infos} == {1, 2}
    seconds = np.array([info.duration for info in infos])
    assert 0.09 < seconds.min() < 0.4  # an ADPCM clip is rounded down to whole blocks
    assert seconds.max() == 4.0
    assert 0.7 < (seconds > 3.9).mean() < 0.95


def test_slices_of_a_recording_that_overlap_hold_the_same_sound(root, rows):
    def plain(row: dict[str, str]) -> bool:
        return row["end"] == f"{float(row['start']) + 4:.6f}" and soundfile.info(path_of(root, row)).subtype != "PCM_U8"

    pairs = [
        (first, second)
        for first, second in pairwise(rows)
        if first["fsID"] == second["fsID"] and float(second["start"]) - float(first["start"]) == 2
        if plain(first) and plain(second)
    ]
    assert pairs
    for first, second in pairs:
        (one, rate), (two, _) = read_audio(path_of(root, first)), read_audio(path_of(root, second))
        np.testing.assert_allclose(one[2 * rate :], two[: 2 * rate], atol=1e-6)


# ---- determinism, completion


@pytest.fixture
def two_classes(monkeypatch) -> None:
    monkeypatch.setattr(synthetic, "CLASSES", CLASSES[:2])


@pytest.fixture
def fewer(two_classes, tmp_path) -> Path:
    """A set of the first two classes."""
    return synthetic.synthetic_dataset(tmp_path / "fewer", clips_per_class_and_fold=1)


def test_a_recording_is_the_same_bytes_whatever_else_is_written_and_when(root, synthetic_root):
    """A float WAV would tell the second in which it was written."""
    whole, part = wav_bytes(root), wav_bytes(synthetic_root)
    assert len(part) == 100
    assert all(whole[name] == data for name, data in part.items())


def test_another_seed_replaces_every_sound_and_leaves_nothing_of_the_old_set(fewer, tmp_path):
    folder = Path(shutil.copytree(fewer, tmp_path / "copy"))
    (folder / "audio/fold1/1-1-0-0.wav").write_bytes(b"of an older version")
    synthetic.synthetic_dataset(folder, 1, seed=1)
    old, new = wav_bytes(fewer), wav_bytes(folder)
    assert old.keys() == new.keys()
    assert not set(old.values()) & set(new.values())


def test_a_complete_set_is_not_touched(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert synthetic.synthetic_dataset(root, CLIPS) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_an_interrupted_set_is_written_again_and_only_once_by_several_at_the_same_time(fewer, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(fewer, tmp_path / "copy"))
    (folder / "metadata/UrbanSound8K.csv").unlink()
    next(folder.glob("audio/fold3/*.wav")).write_bytes(b"RIFF")
    writers, write_clips = [], synthetic._write_clips
    monkeypatch.setattr(synthetic, "_write_clips", lambda *args: (writers.append(args), write_clips(*args)))
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(synthetic.synthetic_dataset, [folder] * 2, [1] * 2)) == [folder] * 2
    assert len(writers) == 1
    assert wav_bytes(folder) == wav_bytes(fewer)
    assert (folder / "metadata/UrbanSound8K.csv").read_bytes() == (fewer / "metadata/UrbanSound8K.csv").read_bytes()


def test_a_folder_with_something_else_is_refused_and_kept(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(UserError, match="not a synthetic data set") as caught:
        synthetic.synthetic_dataset(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "years of work"


@pytest.mark.parametrize(("clips", "seed"), [(0, 0), (1, -1)])
def test_arguments_out_of_range_are_told(tmp_path, clips, seed):
    with pytest.raises(UserError, match=f"at least 1 and seed at least 0, not {clips} and {seed}"):
        synthetic.synthetic_dataset(tmp_path / "set", clips, seed)
    assert not (tmp_path / "set").exists()


def test_the_command_writes_a_set_and_shows_mistakes_without_a_traceback(fewer, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["synthetic", str(fewer), "--clips", "1"])
    assert exit_code(synthetic.main) == 0
    assert capsys.readouterr().out == f"100 synthetic clips in {fewer}\n"
    monkeypatch.setattr(sys, "argv", ["synthetic", str(tmp_path / "set"), "--clips", "0"])
    assert exit_code(synthetic.main) == 2
    assert capsys.readouterr().err.startswith("error: clips must be at least 1")


# ---- the sounds


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize(("seconds", "rate"), [(0.1, 8000), (1.0, 16000), (4.0, 44100)])
def test_a_sound_is_drawn_from_its_generator_alone(name, seconds, rate):
    first, again, other = (synthetic.waveform(name, np.random.default_rng(seed), seconds, rate) for seed in (3, 3, 4))
    assert (first.shape, first.dtype) == ((round(seconds * rate),), np.float32)
    assert np.abs(first).max() == 1
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


def loudest_hertz(waveform: np.ndarray, rate: int = 16000, frame: int = 1024) -> np.ndarray:
    frames = waveform[: len(waveform) // frame * frame].reshape(-1, frame)
    return np.abs(np.fft.rfft(frames * np.hanning(frame))).argmax(axis=1) * rate / frame  # (frames,)


@pytest.mark.parametrize("seed", range(5))
def test_the_sounds_do_what_their_names_say(seed):
    sound = {name: synthetic.waveform(name, np.random.default_rng(seed), 4.0, 16000) for name in CLASSES}
    sweep = loudest_hertz(sound["siren"])
    assert sweep.max() > 1.3 * sweep.min()
    assert loudest_hertz(sound["engine_idling"]).max() < 250 < loudest_hertz(sound["drilling"]).min()
    level = np.square(sound["jackhammer"]).reshape(-1, 160).mean(axis=1)  # every 10 ms
    impacts = np.count_nonzero(np.diff((level > 0.2 * level.max()).astype(int)) == 1)
    assert 9 < impacts / 4 < 23  # a second
    loud = {name: np.mean(np.abs(sound[name]) > 0.05) for name in CLASSES}
    assert loud["gun_shot"] < 0.25 < loud["air_conditioner"]


def spectrum(waveform: np.ndarray) -> np.ndarray:
    """Mean and spread over time of the log power in 24 bands: `(48,)`."""
    waveform = np.pad(waveform / waveform.std(), (0, max(0, 512 - len(waveform))))
    frames = np.lib.stride_tricks.sliding_window_view(waveform, 512)[::160] * np.hanning(512)
    edges = np.unique(np.geomspace(2, 257, 25).astype(int))[:-1]
    bands = np.log(np.add.reduceat(np.abs(np.fft.rfft(frames)) ** 2, edges, axis=1) + 1e-3)
    return np.concatenate([bands.mean(axis=0), bands.std(axis=0)])


def test_a_linear_classifier_tells_the_classes_apart_in_folds_it_has_not_heard(root, rows):
    features = np.stack([spectrum(load_audio(path_of(root, row))) for row in rows])
    labels, folds = [row["class"] for row in rows], [row["fold"] for row in rows]
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    scores = cross_val_score(classifier, features, labels, groups=folds, cv=LeaveOneGroupOut())
    assert len(scores) == 10
    assert scores.mean() > 0.9
