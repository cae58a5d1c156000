"""What test clips share with training: recordings and times by hand, audio on made and on real clips."""

from __future__ import annotations

import io
import json

import datasets
import numpy as np
import pytest
import soundfile

from tests.conftest import OFFICIAL_CSV, REAL_DATA
from urbansound_hf.audio.io import load_audio, to_wav
from urbansound_hf.audio.resampling import resample
from urbansound_hf.data import fingerprints, splits
from urbansound_hf.data.fingerprints import NEAR, acoustic_fingerprint
from urbansound_hf.data.leaks import (
    KNOWN,
    across_folds,
    check_leaks,
    describe_leaks,
    leak_report,
    metadata_leaks,
    read_table,
    summarize_leaks,
)
from urbansound_hf.errors import UserError, UserErrors

RATE = 16_000


def split(train, test, validation=()):
    rows = (np.array(part, np.int64) for part in (train, validation, test))
    return splits.Split("fold1", *rows)


def prepared(waveforms: dict[str, np.ndarray]) -> datasets.Dataset:
    rows = [{"audio": {"bytes": to_wav(waveform), "path": name}} for name, waveform in waveforms.items()]
    schema = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    dataset = datasets.Dataset.from_list(rows, features=datasets.Features(audio=schema))
    return dataset.cast_column("audio", datasets.Audio(RATE, decode=False))


def noise(seed: int, seconds: float = 4.0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * RATE)).astype(np.float32)


def distance(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.bitwise_count(acoustic_fingerprint(one, RATE) ^ acoustic_fingerprint(other, RATE)).sum())


# ---- recordings and times


@pytest.mark.parametrize(
    ("interval", "overlaps"),
    [((4, 8), 0), ((3.999, 8), 1), ((-4, 0), 0), ((1, 2), 1), ((-1, 9), 1), ((20, 24), 0), ((30, 34), 1),
     ((2, 2), 0), ((np.nan, 3), 0)],
)  # fmt: skip
def test_overlap_in_time_has_positive_length(interval, overlaps):
    starts, ends = [0, 10, 0, interval[0]], [4, 35, 4, interval[1]]
    if interval == (20, 24):
        starts[1] = ends[1] = 20  # a training clip without length overlaps nothing
    found = metadata_leaks({"group": list("rrqr"), "start": starts, "end": ends}, np.array([0, 1, 2]), np.array([3]))
    assert found["shared_recording_clips"] == 1 and found["shared_recordings"] == ["r"]
    assert found["time_overlap_clips"] == overlaps


def test_counts_agree_with_counting_pairs():
    draw = np.random.default_rng(0)
    groups, labels = draw.choice(list("abcdefgh"), 300), draw.integers(0, 2, 300)
    starts = draw.integers(0, 100, 300) / 2
    ends = starts + draw.choice([0.5, 4.0, 30.0], 300)
    train, test = np.arange(20, 300, 7), np.arange(0, 300, 5)
    train = np.setdiff1d(train, test)
    same = groups[test, None] == groups[None, train]
    meets = same & (starts[test, None] < ends[train]) & (ends[test, None] > starts[train])
    of_class = labels[test, None] == labels[None, train]
    found = metadata_leaks({"group": groups, "start": starts, "end": ends, "label": labels}, train, test)
    assert found["shared_recording_clips"] == same.any(axis=1).sum()
    assert found["time_overlap_clips"] == meets.any(axis=1).sum() < len(test)
    assert found["time_overlap_same_class_clips"] == (meets & of_class).any(axis=1).sum() < found["time_overlap_clips"]


def test_unknown_recordings_share_nothing():
    columns = {"group": ["", "", "r", "s"], "start": [0] * 4, "end": [4] * 4}
    found = metadata_leaks(columns, np.array([0, 2]), np.array([1, 3]))
    assert found["shared_recording_clips"] == found["time_overlap_clips"] == 0
    assert metadata_leaks({"group": [None, None]}, np.array([0]), np.array([1]))["shared_recording_clips"] is None


# ---- audio


def test_identical_and_nearly_identical_clips_are_found():
    clips = {"a": noise(0), "b": noise(1), "silence": np.zeros(RATE, np.float32), "hum": np.full(RATE, 0.1, np.float32)}
    copies = {"a again": noise(0), "b quieter": 0.3 * noise(1), "c": noise(2)}
    copies |= {"silence again": clips["silence"], "hum again": 0.5 * clips["hum"]}
    heard = fingerprints.audio_fingerprints(prepared(clips | copies))
    assert heard.names[4] == "a again" and heard.bits.shape == (9, 4) and heard.hashes[0] == heard.hashes[4]
    report = leak_report(split(range(4), range(4, 9)), {}, heard)
    assert report["exact_duplicate_pairs"] == [["a again", "a"]]
    assert report["near_duplicate_pairs"] == [["b quieter", "b"]] and report["shared_recording_clips"] is None
    assert "identical to a training clip: 1 (20.0%): a again ~ a" in describe_leaks(report)


def test_processes_agree_and_the_step_is_cached(tmp_path):
    prepared({str(seed): noise(seed, 0.3) for seed in range(130)}).save_to_disk(tmp_path)
    one, two = (fingerprints.audio_fingerprints(datasets.load_from_disk(tmp_path), processes) for processes in (1, 2))
    assert one.names == two.names and (one.hashes == two.hashes).all() and (one.bits == two.bits).all()
    assert list(tmp_path.glob("cache-*.arrow"))


def test_one_copy_among_millions_of_pairs():
    bits = np.random.default_rng(0).integers(0, 2**63, (8000, 4)).astype(np.uint64)
    bits[7999] = bits[5]
    heard = fingerprints.Fingerprints([""] * 8000, np.arange(8000).astype(str), bits)
    found = fingerprints.audio_leaks(heard, np.arange(7000), np.arange(7200, 8000))
    assert found["near_duplicate_pairs"] == [["row 7999", "row 5"]]


def encoded(waveform: np.ndarray, **kind: str) -> np.ndarray:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, RATE, **kind)
    return load_audio(buffer.getvalue(), RATE)


COPIES = {
    "resampled to 8 kHz": lambda w: resample(resample(w, RATE, 8000), 8000, RATE),
    "-6 dB": lambda w: w / 2,
    "ADPCM": lambda w: encoded(w, format="WAV", subtype="MS_ADPCM"),
    "MP3": lambda w: encoded(w, format="MP3"),
    "padded": lambda w: np.pad(w, (RATE, RATE // 2)),
    "10 ms later": lambda w: w[RATE // 100 :],
}


@pytest.fixture(scope="module")
def sounds(synthetic_root):
    waveforms = [load_audio(path) for path in sorted(synthetic_root.glob("audio/fold*/*.wav"))[::2]]
    return [waveform for waveform in waveforms if len(waveform) > RATE]


@pytest.mark.parametrize("copy", COPIES)
def test_copies_are_closer_than_the_threshold(sounds, copy):
    known = [waveform for waveform in sounds if acoustic_fingerprint(waveform, RATE).any()]
    near = [distance(waveform, COPIES[copy](waveform)) < NEAR for waveform in known]
    assert len(near) > 25 and np.mean(near) > 0.85


@pytest.mark.real
def test_real_clips_match_their_copies_and_no_others():
    table = read_table(REAL_DATA / "metadata" / "UrbanSound8K.csv")
    waveforms = [load_audio(path) for path in sorted(REAL_DATA.glob("audio/fold*/*.wav"))]
    groups = np.array([path.name.split("-")[0] for path in sorted(REAL_DATA.glob("audio/fold*/*.wav"))])
    bits = np.stack([acoustic_fingerprint(waveform, RATE) for waveform in waveforms])
    differ = sum(np.bitwise_count(bits[:, None, word] ^ bits[None, :, word]).astype(int) for word in range(4))
    unrelated = differ[groups[:, None] != groups]
    assert len(waveforms) == len(table["fold"]) == 680 and bits.any(axis=1).all()
    assert unrelated.min() > NEAR + 8 and unrelated.mean() == pytest.approx(128, abs=1)
    for name, least in {"resampled to 8 kHz": 0.98, "-6 dB": 0.99, "ADPCM": 0.9, "10 ms later": 0.9}.items():
        near = [distance(waveform, COPIES[name](waveform)) < NEAR for waveform in waveforms[::7]]
        assert np.mean(near) >= least, name


# ---- the report and its verdict


COLUMNS = {"group": ["r", "q", "77751", "77751"], "label": [0, 1, 2, 3], "start": [0] * 4, "end": [4] * 4}


def test_the_known_recordings_pass_where_their_classes_differ():
    found = leak_report(split([0, 2], [1, 3]), COLUMNS)
    check_leaks(found, "official", KNOWN)
    assert found["shared_recordings"] == ["77751"] and found["time_overlap_clips"] == 1
    said = describe_leaks(found)
    assert "1 (50.0%), always under another class there; 1 recording of UrbanSound8K's own five: 77751" in said
    assert json.loads(json.dumps(found)) == found and 3 <= len(said.splitlines()) <= 6
    with pytest.raises(UserError, match="found 1 recording in training and test: 77751"):
        check_leaks(leak_report(split([0, 2], [1, 3]), COLUMNS | {"label": [0, 1, 2, 2]}), "official", KNOWN)
    with pytest.raises(UserError, match="77751"):
        check_leaks(found, "official")  # no data set but UrbanSound8K may have them


def test_a_sixth_recording_stops_an_official_run_only():
    found = leak_report(split([0, 2], [1, 3], [1]), COLUMNS | {"group": ["r", "r", "77751", "77751"]})
    with pytest.raises(UserError) as error:
        check_leaks(found, "official", KNOWN)
    assert "in training and test: r; 2 test clips overlap" in str(error.value) and "--split grouped" in error.value.fix
    assert found["validation"]["shared_recording_clips"] == 1 and found["validation"]["clips"] == 1
    assert found["validation_test"]["shared_recording_clips"] == 1 and found["validation_test"]["clips"] == 2
    check_leaks(found, "random", KNOWN)


def test_identical_clips_stop_where_they_are_more_than_a_chance_meeting():
    clips = {"train.wav": noise(0, 0.1)} | {f"{i}.wav": noise(i, 0.1) for i in range(200)}
    heard = fingerprints.audio_fingerprints(prepared(clips))
    once = leak_report(split([0], range(1, 201)), {}, heard)
    assert once["exact_duplicate_pairs"] == [["0.wav", "train.wav"]]
    check_leaks(once, "official", KNOWN)  # half a per cent of UrbanSound8K
    for known, report in ((frozenset(), once), (KNOWN, leak_report(split([0], range(1, 60)), {}, heard))):
        with pytest.raises(UserError, match=r"1 test clip with the samples of a training clip: 0\.wav = train\.wav"):
            check_leaks(report, "official", known)


def test_all_problems_are_told_at_once():
    heard = fingerprints.audio_fingerprints(prepared({"a.wav": noise(0, 0.1), "b.wav": noise(0, 0.1)}))
    with pytest.raises(UserErrors) as error:
        check_leaks(leak_report(split([0], [1]), {"group": ["r", "r"], "label": [0, 0]}, heard), "official")
    assert len(error.value.problems) == 2


@pytest.mark.real
def test_the_official_folds_share_five_recordings_and_overlap_only_there():
    table = read_table(OFFICIAL_CSV)
    found = across_folds(table)
    assert {row["recording"] for row in found["shared_recordings"]} == KNOWN
    assert found["shared_recording_clips"] == sum(row["clips"] for row in found["shared_recordings"]) == 152
    assert all(len(row["labels_by_fold"]) == 2 for row in found["shared_recordings"])
    assert found["shared_same_class_clips"] == found["time_overlap_same_class_clips"] == 0
    assert found["time_overlap_clips"] == 66  # all of the five, under another class; without them there are none:
    others = ~np.isin(table["group"], list(KNOWN))
    assert across_folds({name: column[others] for name, column in table.items()})["time_overlap_clips"] == 0


@pytest.mark.real
@pytest.mark.parametrize("fold", [1, 9, 10])
def test_official_runs_pass(fold):
    table = read_table(OFFICIAL_CSV)
    check_leaks(leak_report(splits.official(table["fold"], fold), table), "official", KNOWN)


@pytest.mark.parametrize(
    ("groups", "recordings", "overlaps"),
    [
        (["r", "q", "r", "t"], 0, 0),
        (["a", "r", "r", "r"], 2, 1),
        (["a", "b", "c", "d"], 0, 0),
        (["", "", "x", "y"], 0, 0),
    ],
)
def test_test_clips_that_share_a_recording_with_validation_are_counted(groups, recordings, overlaps):
    """The checkpoint is chosen on the validation clips, so they too should be strangers to the test."""
    columns = {"group": groups, "start": [0, 0, 2, 6], "end": [4, 4, 5, 8]}
    found = leak_report(split([0], [2, 3], [1]), columns)
    beside = found["validation_test"]
    assert (beside["clips"], beside["shared_recording_clips"], beside["time_overlap_clips"]) == (
        2,
        recordings,
        overlaps,
    )
    share = f"{recordings} (100.0%)" if recordings else "none"
    assert f"test clips from a recording also in validation: {share}" in describe_leaks(found)


def test_audio_that_validation_and_test_share_is_counted():
    clips = {name: noise(seed, 0.1) for name, seed in (("a", 0), ("b", 1), ("c", 1), ("d", 2))}
    heard = fingerprints.audio_fingerprints(prepared(clips))
    found = leak_report(split([0], [2, 3], [1]), {}, heard)
    assert found["validation_test"]["exact_duplicates"] == 1 and found["exact_duplicates"] == 0
    assert "also in validation: not known" in describe_leaks(found), "without recordings nothing is claimed"


@pytest.mark.parametrize(
    ("groups", "shared", "said"),
    [
        ([""] * 4, None, "from a recording also in training: not known; the recording of 2 test clips is not known"),
        ([None] * 4, None, "from a recording also in training: not known"),
        (["r", "", "r", ""], 1, "1 (50.0%); 1 recording: r; the recording of 1 test clip is not known"),
        (["r", "", "q", ""], 0, "from a recording also in training: none; the recording of 1 test clip is not known"),
        (["r", "", "q", "t"], 0, "from a recording also in training: none\n"),
    ],
)
def test_of_unknown_recordings_nothing_is_claimed(groups, shared, said):
    columns = {"group": groups, "label": [0, 1, 0, 1], "start": [np.nan] * 4, "end": [np.nan] * 4}
    found = leak_report(split([0, 1], [2, 3]), columns)
    assert found["shared_recording_clips"] == shared and found["time_overlap_clips"] is None
    assert summarize_leaks(found).startswith("2 test clips against 2 training clips")
    assert ("no leak found" in summarize_leaks(found)) == said.endswith("\n")
    assert summarize_leaks(leak_report(split([0, 1], [2, 3]), {"label": [0, 1, 0, 1]})).endswith("leaks not known")
    assert said in describe_leaks(found) and json.loads(json.dumps(found)) == found
    table = across_folds(columns | {"fold": [1, 1, 2, 2]})
    assert table["recordings"] == len(set(groups) - {"", None}), "an unknown one is none"
    assert table["leaking_recordings"] == (["r"] if shared else [])
