"""Label tracks and selection tables as labelled segments, unlabelled stretches, and maps of labels."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from urbansound_hf.audio.io import load_audio
from urbansound_hf.data.folder import read_folder
from urbansound_hf.data.loading import SoundRequest, load_sounds
from urbansound_hf.errors import UserError
from urbansound_hf.inference.formats import FORMATS, WriteOptions

RATE = 8_000
EVENTS = {"dawn.wav": [(0.0, 2.0, "dog bark"), (2.0, 3.5, "siren"), (5.0, 8.0, "dog bark")],
          "sub/dusk.flac": [(1.0, 1.5, "siren"), (4.0, 6.0, "dog bark")]}  # fmt: skip
RAVEN = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\tSpecies\n"


@pytest.fixture
def recordings(tmp_path) -> Path:
    """Two recordings of 8 s, whose samples count the half seconds."""
    for name in EVENTS:
        path = tmp_path / "recordings" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.repeat(np.arange(16) / 16, RATE // 2), RATE)
    return tmp_path / "recordings"


def written(form: str, events: list[tuple[float, float, str]]) -> str:
    """What infer.py writes of these events."""
    stream = io.StringIO()
    records = [{"path": "x", "start": a, "end": b, "label": c, "score": 0.9, "silence": False} for a, b, c in events]
    FORMATS[form]([records], stream, WriteOptions(events=True))
    return stream.getvalue()


@pytest.mark.parametrize(("form", "suffix"), [("audacity", ".txt"), ("raven", ".selections.txt")])
@pytest.mark.parametrize("beside", [True, False])
def test_what_infer_writes_comes_back_as_segments(recordings, tmp_path, form, suffix, beside):
    for name, events in EVENTS.items():
        sound = recordings / name
        target = (sound.parent if beside else tmp_path / "labels") / (sound.stem + suffix)
        target.parent.mkdir(exist_ok=True)
        target.write_text(written(form, events), encoding="utf-8")
    annotations = None if beside else str(tmp_path / "labels")
    sounds = load_sounds(SoundRequest(str(recordings), annotations=annotations, sampling_rate=RATE))
    assert sounds.labels == ["dog bark", "siren"]
    rows = sounds.dataset[:]
    found = [(group, start, end, sounds.labels[label]) for group, start, end, label in zip(
        rows["group"], rows["start"], rows["end"], rows["label"], strict=True)]  # fmt: skip
    assert sorted(found) == sorted((name, *event) for name, events in EVENTS.items() for event in events)
    for (_, start, end, _), clip in zip(found, rows["audio"], strict=True):
        wanted = np.repeat(np.arange(16) / 16, RATE // 2)[int(start * RATE) : int(end * RATE)]
        np.testing.assert_allclose(load_audio(clip["bytes"], RATE), wanted, atol=1e-4)


def test_the_files_of_other_programs(recordings):
    """BirdNET's name, Raven's two views a selection, Audacity's lines of frequencies, a recording without labels."""
    lines = ["1\tWaveform 1\t1\t0\t2\t0\t9\tRobin", "1\tSpectrogram 1\t1\t0\t2\t0\t9\tRobin"]
    (recordings / "dawn.BirdNET.selection.table.txt").write_text(RAVEN + "\n".join(lines), encoding="utf-8")
    rows, notes = read_folder(recordings)
    assert [(row["path"], row["label"]) for row in rows] == [("dawn.wav#0.0-2.0", "Robin")]
    assert "1 sound without a label file, left out: sub/dusk.flac" in notes
    (recordings / "sub/dusk.txt").write_text("\ufeff1.0\t2\twren\n\\\t200\t4000\n", encoding="utf-8")
    (recordings / "readme.txt").write_text("not a label file", encoding="utf-8")
    assert [row["label"] for row in read_folder(recordings)[0]] == ["Robin", "wren"]
    table = (
        RAVEN.replace("Species", "Begin File\tFile Offset (s)\tAnnotation") + "1\tS\t1\t9\t11\t0\t9\tdusk.flac\t3\towl"
    )
    (recordings.parent / "all.txt").write_text(table, encoding="utf-8")
    (row,) = read_folder(recordings, SoundRequest(annotations=str(recordings.parent / "all.txt")))[0]
    assert (row["path"], row["segment"]) == ("sub/dusk.flac#3.0-5.0", (3.0, 5.0))


@pytest.mark.parametrize(
    ("lines", "said", "line"),
    [
        ("0\t1\ta\n3\t2\tb", "a segment ends after it starts, found 3 to 2 s", "dawn.txt, line 2"),
        ("0\t1\ta\n7\t8.5\tb", "7 to 8.5 s is not within the 8.00 s of its file dawn.wav", "dawn.txt, line 2"),
        ("0\t2\ta\n1\t3\tb", "a until 2 s overlaps b from 1 s", "dawn.txt, line 1 and .*dawn.txt, line 2"),
        ("0\t2\ta\n1\tx\tb", "end is a time in seconds, found 'x'", "dawn.txt, line 2"),
        ("0\t2\ta\n1\t3\t", "a segment has a start, an end and a label", "dawn.txt, line 2"),
    ],
)
def test_bad_lines_are_named(recordings, lines, said, line):
    (recordings / "dawn.txt").write_text(lines, encoding="utf-8")
    with pytest.raises(UserError, match=f"{said}\n.*{line}"):
        read_folder(recordings)
    (recordings / "dawn.txt").write_text("0\t2\ta\n1\t3\ta\n3\t4\tb", encoding="utf-8")
    assert len(read_folder(recordings)[0]) == 3, "of one label they may overlap"


def test_unlabelled_stretches_become_a_class(recordings):
    (recordings / "dawn.txt").write_text("1\t3\ta\n3.2\t5\tb\n", encoding="utf-8")
    rows, _ = read_folder(recordings, SoundRequest(background_class="nothing", clip_seconds=2))
    assert [row["segment"] for row in rows if row["label"] == "nothing"] == [(0.0, 1.0), (5.0, 6.5), (6.5, 8.0)]
    (recordings / "dawn.txt").unlink()
    for label in "ab":
        (recordings / label).mkdir()
        soundfile.write(recordings / label / "1.wav", np.ones(100), RATE)
    with pytest.raises(UserError, match="unlabelled stretches exist beside labelled segments"):
        read_folder(recordings, SoundRequest(background_class="nothing"))


def test_what_infer_marks_as_no_class_is_unlabelled(recordings, tmp_path):
    (recordings / "dawn.txt").write_text("0\t2\ta\n2\t3\tsilence\n3\t4\tb\n4\t8\tunknown\n", encoding="utf-8")
    rows, notes = read_folder(recordings, SoundRequest(background_class="nothing"))
    assert [(row["label"], row["segment"]) for row in rows] == [
        ("a", (0.0, 2.0)), ("b", (3.0, 4.0)), ("nothing", (2.0, 3.0)), ("nothing", (4.0, 8.0))
    ]  # fmt: skip
    assert [note[:32] for note in notes[-2:]] == [f"1 segment left out: `{name}` is" for name in ("silence", "unknown")]
    (tmp_path / "map.yaml").write_text("unknown: unknown\n", encoding="utf-8")
    mapped = SoundRequest(str(recordings), label_map=str(tmp_path / "map.yaml"))
    assert load_sounds(mapped).labels == ["a", "b", "unknown"]
    (recordings / "dawn.txt").write_text("0\t2\tunknown\n", encoding="utf-8")
    with pytest.raises(UserError, match="all segments are labelled `unknown`, which is no class"):
        load_sounds(SoundRequest(str(recordings)))


def test_a_map_renames_merges_and_drops_labels(recordings, tmp_path):
    (recordings / "dawn.txt").write_text("0\t2\ta\n1\t3\tb\n3\t4\tc\n4\t5\td\n5\t6\te", encoding="utf-8")
    mapped = tmp_path / "map.yaml"
    mapped.write_text("a: null\nb: z\nc: z\n", encoding="utf-8")
    sounds = load_sounds(SoundRequest(str(recordings), label_map=str(mapped), sampling_rate=RATE))
    assert sounds.labels == ["z", "d", "e"] and sounds.dataset["label"][:] == [0, 0, 1, 2]
    assert sounds.dataset.features["label"].names == sounds.labels
    assert "labels changed by map.yaml: 4 of 5 clips left" in sounds.notes
    (recordings / "dawn.txt").write_text("0\t2\ta\n2\t3\tb\n3\t4\tc\n4\t5\td\n5\t6\te", encoding="utf-8")
    mapped.write_text("a: null\nb: null\n", encoding="utf-8")
    assert load_sounds(SoundRequest(str(recordings), label_map=str(mapped))).fingerprint != sounds.fingerprint
    for text, said in (("f: z", "no class f"), ("- a", "lines such as"), (": :", "cannot be read")):
        mapped.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=said):
            load_sounds(SoundRequest(str(recordings), label_map=str(mapped)))
