"""Events of long recordings made of known clips, against the true borders of the clips.

    python -m benchmarks.events --model CHECKPOINT --data_dir DIR --fold 3 [--recordings 6] [--clips 30]

Each recording is a row of clips of the fold that the checkpoint was not trained on, in random order, end to end. An
event counts as right if a true stretch has its label and both borders lie within half a second.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from urbansound_hf.audio.io import load_audio, to_float_wav
from urbansound_hf.data.urbansound8k import metadata_path
from urbansound_hf.inference.classifier import SoundClassifier
from urbansound_hf.inference.output import Event
from urbansound_hf.text import table

TOLERANCE = 0.5  # seconds
CUTS = ((4.0, 2.0), (4.0, 1.0), (2.0, 0.5), (1.0, 0.25))  # seconds of the window and of the hop
RULES = (
    {},
    {"smooth": 3},
    {"smooth": 5},
    {"smooth": 7},
    {"smooth": 5, "min_seconds": 0.5},
    {"smooth": 5, "min_score": 0.5},
)
HEADER = ("window, s", "hop, s", "smooth", "min_seconds", "min_score", "precision", "recall", "F1", "time right")


def recording(clips: Sequence[tuple[str, str]], rate: int) -> tuple[np.ndarray, list[Event]]:
    """The clips end to end, `(samples,)`, and the true stretches; neighbours of one class are one."""
    waveforms, truth, seconds = [], [], 0.0
    for path, label in clips:
        waveforms.append(load_audio(path, rate))
        end = seconds + len(waveforms[-1]) / rate
        if truth and truth[-1].label == label:
            truth[-1] = Event(truth[-1].start, end, label, 1.0)
        else:
            truth.append(Event(seconds, end, label, 1.0))
        seconds = end
    return np.concatenate(waveforms), truth


def matches(found: Sequence[Event], truth: Sequence[Event]) -> int:
    """The number of events that a true stretch agrees with; each stretch counts once."""
    free = list(truth)
    for event in found:
        for true in free:
            near = max(abs(event.start - true.start), abs(event.end - true.end)) <= TOLERANCE
            if near and event.label == true.label:
                free.remove(true)
                break
    return len(truth) - len(free)


def time_right(found: Sequence[Event], truth: Sequence[Event]) -> float:
    """The share of the time that has its true label."""
    shared = sum(
        max(0.0, min(event.end, true.end) - max(event.start, true.start))
        for event in found
        for true in truth
        if event.label == true.label
    )
    return shared / truth[-1].end


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--fold", type=int, required=True, help="that the checkpoint was not trained on")
    parser.add_argument("--recordings", type=int, default=6)
    parser.add_argument("--clips", type=int, default=30, help="in a recording")
    arguments = parser.parse_args()
    model = SoundClassifier.from_pretrained(arguments.model)
    clips = clips_of(arguments.data_dir, arguments.fold)
    draw = np.random.default_rng(0)
    chosen = [draw.choice(len(clips), arguments.clips, replace=False) for _ in range(arguments.recordings)]
    made = [recording([clips[number] for number in numbers], model.sampling_rate) for numbers in chosen]
    rows = []
    for window, hop in CUTS:
        sounds = [to_float_wav(waveform, model.sampling_rate) for waveform, _ in made]
        results = list(model.classify_many(sounds, window_seconds=window, hop_seconds=hop, batch_size=32))
        for rule in RULES:
            found = [result.events(**rule) for result in results]
            pairs = list(zip(found, (truth for _, truth in made), strict=True))
            right = sum(matches(*pair) for pair in pairs)
            precision = right / max(sum(len(events) for events, _ in pairs), 1)
            recall = right / sum(len(truth) for _, truth in pairs)
            f1 = 2 * precision * recall / max(precision + recall, 1e-9)
            time = np.mean([time_right(*pair) for pair in pairs])
            named = [rule.get(name, "") for name in ("smooth", "min_seconds", "min_score")]
            rows.append([window, hop, *named, *(f"{value:.2f}" for value in (precision, recall, f1, time))])
    print(table(HEADER, rows, texts=0))


def clips_of(root: Path, fold: int) -> list[tuple[str, str]]:
    """Path and class of each clip of a fold."""
    with metadata_path(root).open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["fold"]) == fold]
    paths = [(root / "audio" / f"fold{fold}" / row["slice_file_name"], row["class"]) for row in rows]
    return [(str(path), label) for path, label in paths if path.is_file()]


if __name__ == "__main__":
    main()
