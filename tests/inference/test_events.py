"""Events: one label a moment or overlapping labels, their score, smoothing, silence; each format by another reader."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import soundfile

from urbansound_hf.errors import UserError
from urbansound_hf.inference.classifier import SoundClassifier
from urbansound_hf.inference.output import Classification, Event, Prediction

RATE = 16_000
LABELS = ("dog", "siren")


def recording(scores, hop: float = 1.0, window: float = 2.0, multi_label: bool = False, levels=None) -> Classification:
    """A result whose windows have the given scores of `LABELS`."""
    levels = levels or [0.0] * len(scores)
    windows = [Prediction(n * hop, n * hop + window, ((LABELS[np.argmax(row)], max(row)),), level)
               for n, (row, level) in enumerate(zip(scores, levels, strict=True))]  # fmt: skip
    return Classification(
        "x.wav",
        tuple(windows),
        None,
        "",
        LABELS,
        np.array(scores, np.float32),
        [0.5] * len(LABELS) if multi_label else None,
    )


def found(events: list[Event]) -> list[tuple]:
    return [(event.start, event.end, event.label, round(event.score, 3)) for event in events]


def test_overlapping_windows_are_averaged_and_one_label_is_given_to_each_moment():
    result = recording([(0.9, 0.1), (0.7, 0.3), (0.0, 1.0)])
    # cells 0-1: 0.9; 1-2: mean of 0.9, 0.7; 2-3: mean of 0.3, 1.0 for the siren; 3-4: 1.0
    assert found(result.events()) == [(0, 2, "dog", 0.85), (2, 4, "siren", 0.825)]
    above = [(0, 1, "dog", 0.9), (1, 3, "unknown", 0.725), (3, 4, "siren", 1.0)]
    assert found(result.events(min_score=0.82)) == above
    assert found(result.events(min_seconds=2.5)) == []


def test_labels_of_a_multi_label_model_overlap():
    result = recording([(0.9, 0.6), (0.9, 0.2), (0.1, 0.9)], hop=2.0, multi_label=True)
    assert found(result.events()) == [(0, 4, "dog", 0.9), (0, 2, "siren", 0.6), (4, 6, "siren", 0.9)]
    assert found(result.events(min_score=0.7)) == [(0, 4, "dog", 0.9), (4, 6, "siren", 0.9)]


def test_a_median_takes_single_cells_out():
    result = recording([(0.9, 0.1), (0.9, 0.1), (0.2, 0.8), (0.9, 0.1), (0.9, 0.1)], hop=2.0)
    assert [event.label for event in result.events()] == ["dog", "siren", "dog"]
    assert found(result.events(smooth=3)) == [(0, 10, "dog", 0.9)]
    with pytest.raises(UserError, match="odd number of cells, found 2"):
        result.events(smooth=2)


def test_silence_is_a_mark_beside_the_label():
    result = recording([(0.9, 0.1)] * 3, levels=[-20.0, -70.0, -80.0])
    assert [(e.start, e.end, e.label, e.silence, e.text) for e in result.events()] == [
        (0, 2, "dog", False, "dog"), (2, 4, "dog", True, "silence")  # the second cell has a loud window
    ]  # fmt: skip
    assert not any(event.silence for event in result.events(silence_db=-90))


def test_windows_that_are_no_multiple_of_the_hop_leave_no_slivers():
    rate, hop, window = 16_000, 7_999, 15_999
    scores = np.tile([[0.9, 0.1], [0.1, 0.9]], (4, 1))
    windows = [Prediction(n * hop / rate, (n * hop + window) / rate, (("dog", 0.9),)) for n in range(8)]
    result = Classification("x.wav", tuple(windows), None, "", LABELS, scores)
    ends = [0.0, *(event.end for event in result.events())]
    assert ends[-1] == windows[-1].end and np.diff(ends).min() > 0.4


@pytest.fixture
def long(sounds) -> Path:
    """Noise with a silent second between."""
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 5 * RATE).astype(np.float32)
    noise[2 * RATE : 4 * RATE] *= 1e-4
    soundfile.write("noise.wav", noise, RATE, subtype="FLOAT")
    return Path("noise.wav")


def test_events_and_windows_agree_in_every_format(long, run, model):
    flags = (str(long), "--hop_seconds", "0.5", "--events", "--smooth", "3", "--format")
    events = SoundClassifier.from_pretrained(model, device="cpu").classify(long, hop_seconds=0.5).events(smooth=3)
    assert any(event.silence for event in events)
    expected = [(event.start, event.end, event.text, round(event.score, 6)) for event in events]
    lines = [json.loads(line) for line in run(*flags, "jsonl")[1].splitlines()]
    as_written = [(e["start"], e["end"], "silence" if e["silence"] else e["label"], e["score"]) for e in lines]
    assert as_written == expected

    code, track, _ = run(*flags, "audacity")  # Audacity's manual: start, tab, end, tab, label; seconds; no header
    rows = list(csv.reader(track.splitlines(), delimiter="\t"))
    assert code == 0 and [(float(start), float(end), label) for start, end, label in rows] == [e[:3] for e in expected]

    code, _, _ = run(*flags, "raven", "--output", "noise.selections.txt")
    raven = pd.read_csv("noise.selections.txt", sep="\t")
    assert list(raven)[:7] == ["Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)",
                               "High Freq (Hz)"]  # fmt: skip
    rows = zip(raven["Begin Time (s)"], raven["End Time (s)"], raven["Label"], raven["Score"], strict=True)
    assert list(rows) == expected and list(raven["Selection"]) == list(range(1, len(expected) + 1))
    assert set(raven["Low Freq (Hz)"]) == {0} and set(raven["High Freq (Hz)"]) == {8000}

    run(*flags, "csv", "--output", "events.csv")
    pd.testing.assert_frame_equal(pd.read_csv("events.csv")[list(lines[0])], pd.DataFrame(lines))
    run(*flags, "parquet", "--output", "events.parquet")
    rows = pyarrow.parquet.read_table("events.parquet").to_pylist()
    assert [{name: row[name] for name in lines[0]} for row in rows] == lines


def test_a_table_gives_each_moment_one_label_and_names_silence(long, run):
    out = run(str(long), "--min_score", "2")[1]
    times = [tuple(map(float, line.split(" s ")[0].split("–"))) for line in out.splitlines() if "–" in line]
    assert times == [(0.0, 2.5), (2.5, 3.5), (3.5, 5.0)], "where every window is silent"
    assert "2.5–3.5 s  unknown" in out and out.count("silence") == 1 and "unknown: no score reaches 2" in out


def test_windows_in_parquet_are_those_of_json_lines(sounds, run):
    name = "odd\udcff.wav"
    Path(name).write_bytes(Path("a.wav").read_bytes())
    run(name, "long.wav", "gone.wav", "--output", "labels.parquet")
    lines = [json.loads(line) for line in run(name, "long.wav", "gone.wav", "--format", "jsonl")[1].splitlines()]
    lines[0]["path"] = "odd\\xff.wav"
    rows = pyarrow.parquet.read_table("labels.parquet").to_pylist()
    assert [{key: value for key, value in row.items() if value is not None} for row in rows] == lines


def test_several_sounds_give_a_folder_of_label_files(sounds, run):
    arguments = ("a.wav", "deep/c.WAV", "broken.wav", "--format", "audacity")
    code, _, err = run(*arguments)
    assert code == 2 and "one file of audacity holds the labels of one sound, found 3" in err and "--output" in err
    assert run(*arguments, "--output", "track.txt")[0] == 2
    code, _, err = run(*arguments, "--output", "tracks/")
    assert code == 1 and "broken.wav: not a sound" in err
    assert sorted(path.name for path in Path("tracks").iterdir()) == ["a.txt", "c.txt"]


def test_a_name_runs_no_formula_and_moves_no_cursor(sounds, run):
    names = ["=HYPERLINK(1).wav", "\x1b[2Jgone\n.wav", "@x.wav", "-1+1.wav"]
    for name in names:
        Path(name).write_bytes(Path("a.wav").read_bytes())
    Path(names[1]).write_text("no sound", encoding="utf-8")
    inputs = [f"./{names[1]}", *names[:1], *names[2:3]]
    rows = list(csv.DictReader(run(*inputs, "--format", "csv")[1].splitlines()))
    assert [row["path"] for row in rows[-2:]] == ["'=HYPERLINK(1).wav", "'@x.wav"]
    code, out, err = run(*inputs)
    assert code == 1 and "\x1b" not in out + err and r"\x1b[2Jgone\n.wav: not a sound" in err
