"""Clips with two labels: real clips of UrbanSound8K mixed in pairs, in their official folds.

    python -m benchmarks.pairs DATA_DIR OUT_DIR [--seed 0]

Within a fold, each recording is paired with one of another class, and their clips are added at levels that differ by
at most 6 dB; so no recording is in two folds, and a pair of recordings is a group. OUT_DIR gets the sounds (16-bit,
16 kHz) and a metadata.csv with the columns file, labels, fold, group.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets
import numpy as np
import soundfile

from urbansound_hf.audio.io import load_audio
from urbansound_hf.data.loading import load_urbansound8k
from urbansound_hf.data.urbansound8k import CLASSES

RATE = 16_000
MOST_DB = 6.0  # between the levels of the two sounds
PEAK = 0.9  # of full scale


def mixture(one: np.ndarray, other: np.ndarray, difference_db: float) -> np.ndarray:
    """Both sounds from their starts, each repeated to the length of the longer, `one` louder by `difference_db`."""
    length = max(len(one), len(other))
    one, other = (np.resize(each, length) / max(1e-6, float(np.sqrt(np.mean(each**2)))) for each in (one, other))
    both = one * 10 ** (difference_db / 20) + other
    return both * PEAK / np.abs(both).max()


def pairs_of_recordings(
    clips: datasets.Dataset, generator: np.random.Generator
) -> Iterator[tuple[int, list[int], list[int]]]:
    """A fold, and the clips of two of its recordings of different classes; each recording occurs once."""
    recordings: dict[tuple[int, str], list[int]] = defaultdict(list)
    for row, key in enumerate(zip(clips["fold"], clips["group"], strict=True)):
        recordings[key].append(row)
    for fold in sorted(set(clips["fold"])):
        waiting = [rows for (of, _), rows in recordings.items() if of == fold]
        generator.shuffle(waiting)
        while waiting:
            one = waiting.pop()
            label = clips[one[0]]["label"]
            match = next((number for number, rows in enumerate(waiting) if clips[rows[0]]["label"] != label), None)
            if match is not None:
                yield fold, one, waiting.pop(match)


def write_pairs(data_dir: Path, out_dir: Path, seed: int = 0) -> Path:
    """Writes the folder; as many mixtures of two recordings as the longer list of clips has. Returns `out_dir`."""
    clips, generator = load_urbansound8k(data_dir, num_proc=1), np.random.default_rng(seed)
    waveforms = [load_audio(each["bytes"], RATE) for each in clips["audio"]]
    labels, lines = [CLASSES[label] for label in clips["label"]], []
    out_dir.mkdir(parents=True, exist_ok=True)
    for fold, ones, others in pairs_of_recordings(clips.remove_columns("audio"), generator):
        for number in range(max(len(ones), len(others))):
            rows = ones[number % len(ones)], others[number % len(others)]
            name = f"{fold}-{rows[0]}-{rows[1]}.wav"
            sound = mixture(*(waveforms[row] for row in rows), generator.uniform(-MOST_DB, MOST_DB))
            soundfile.write(out_dir / name, sound, RATE, "PCM_16")
            lines.append((name, ";".join(labels[row] for row in rows), fold, f"{fold}-{ones[0]}-{others[0]}"))
    with (out_dir / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "labels", "fold", "group"), *lines])
    return out_dir


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.pairs", description=__doc__)
    parser.add_argument("data_dir", type=Path, help="the folder of UrbanSound8K")
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    out = write_pairs(args.data_dir, args.out_dir, args.seed)
    print(f"{out}: {sum(1 for _ in out.glob('*.wav')):,} mixtures")


if __name__ == "__main__":
    main()
