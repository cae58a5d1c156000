"""Ten procedural sounds in ten folds, in the official layout: a data set for the demo and the tests, made in seconds.

A recording draws its own pitch, pace, room, noise and file format, and is cut into several slices that stay together
in one fold, as in UrbanSound8K. Scores on it prove that the machinery works and say nothing about real sound.

    python -m urbansound_hf.synthetic DIR [--clips 4] [--seed 0]
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import numpy as np
import soundfile
from filelock import FileLock
from numpy.random import Generator

from urbansound_hf.audio import resample
from urbansound_hf.errors import UserError, exit_code
from urbansound_hf.labels import CLASSES, CLIP_SECONDS
from urbansound_hf.procedural import filtered, lowpass, noise, waveform
from urbansound_hf.progress import Bar, quietly

VERSION = 1  # part of the marker: count it up when the sounds change, so that old copies are written anew
SYNTHESIS_RATE = 22_050  # Hz; files of higher rates hold nothing above 11 kHz, as many uploads do
FULL_LENGTH = 0.84  # share of clips of the whole 4 s, as in UrbanSound8K
FOREGROUND = 0.65  # share of recordings of salience 1, as in UrbanSound8K

README = """Synthetic sounds in the layout of UrbanSound8K, written by urbansound_hf.synthetic.

Procedural: nothing here was recorded, and no sound is from UrbanSound8K. For demos and tests only; a score on it
says nothing about real sound.

version {version}, {clips} clips per class and fold, seed {seed}
"""
TITLE = README.partition("\n")[0]

FORMATS = (  # Hz, subtype, channels, share of recordings: the mixture of uploads that the real data set is
    (22_050, "PCM_16", 1, 0.40), (44_100, "PCM_16", 2, 0.25), (44_100, "PCM_16", 1, 0.10), (48_000, "PCM_24", 2, 0.10),
    (96_000, "PCM_24", 1, 0.03), (44_100, "PCM_32", 1, 0.03), (44_100, "FLOAT", 2, 0.03),
    (22_050, "IMA_ADPCM", 1, 0.03), (8_000, "PCM_U8", 1, 0.03),
)  # fmt: skip
ADPCM_BLOCK = 1017  # samples in a block at 22,050 Hz, mono; libsndfile fills the last one up with silence


def write(root: Path, clips_per_class_and_fold: int = 4, seed: int = 0) -> Path:
    """Writes the data set: `audio/fold1`…`fold10`, `metadata/UrbanSound8K.csv` (last: it marks completion), README.txt.

    Does nothing if the same set is there already; replaces another synthetic set. Same arguments, same bytes. Safe to
    call from several processes at once.

    Args:
        root: the folder to make; about 0.5 MB a clip.
        clips_per_class_and_fold: from 1.
        seed: from 0.

    Returns:
        `root`.

    Raises:
        UserError: an argument is out of range, or `root` holds something else.
    """
    if clips_per_class_and_fold < 1 or seed < 0:
        raise UserError(f"clips must be at least 1 and seed at least 0, not {clips_per_class_and_fold} and {seed}")
    marker = README.format(version=VERSION, clips=clips_per_class_and_fold, seed=seed)
    if not _complete(root, marker):
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".lock"):
            if not _complete(root, marker):  # while this process waited, another may have written it
                _clear(root, marker)
                _write_clips(root, clips_per_class_and_fold, seed)
    return root


def _complete(root: Path, marker: str) -> bool:
    readme, metadata = root / "README.txt", root / "metadata/UrbanSound8K.csv"
    return metadata.is_file() and readme.is_file() and readme.read_text(errors="replace") == marker


def _clear(root: Path, marker: str) -> None:
    """Removes what another or an interrupted set left, and nothing else."""
    readme, metadata = root / "README.txt", root / "metadata/UrbanSound8K.csv"
    ours = readme.is_file() and readme.read_text(errors="replace").startswith(TITLE)
    if not ours and any(path.name != ".lock" for path in root.iterdir()):
        raise UserError("holds files that are not a synthetic data set", str(root), "name a new or an empty folder")
    for old in (metadata, *root.glob("audio/fold*/*.wav")):
        old.unlink(missing_ok=True)
    readme.write_text(marker)


def _write_clips(root: Path, clips_per_class_and_fold: int, seed: int) -> None:
    rows = ["slice_file_name,fsID,start,end,salience,fold,classID,class"]
    for fold in Bar(range(1, 11), "Making the synthetic sounds", unit="folds"):
        (root / f"audio/fold{fold}").mkdir(parents=True, exist_ok=True)
        for class_id in range(len(CLASSES)):
            slices = (row for number in count() for row in _recording(root, fold, class_id, number, seed))
            rows += islice(slices, clips_per_class_and_fold)
    part = root / "metadata/UrbanSound8K.part"
    part.parent.mkdir(exist_ok=True)
    part.write_text("\n".join(rows) + "\n")
    part.replace(part.with_suffix(".csv"))


def _recording(root: Path, fold: int, class_id: int, number: int, seed: int) -> Iterator[str]:
    """Makes one recording, writes its slices one by one and yields their rows of the CSV."""
    fs_id = 1_000_000 + 100 * number + 10 * (fold - 1) + class_id  # above the real ones
    draw = np.random.default_rng([seed, fs_id])
    rate, subtype, channels, _ = FORMATS[draw.choice(len(FORMATS), p=[share for *_, share in FORMATS])]
    slices, hop = draw.integers(2, 4), draw.choice([2.0, 4.0])  # adjacent, or overlapping by half
    salience = 1 if draw.random() < FOREGROUND else 2
    sound = _scene(draw, CLASSES[class_id], (slices - 1) * hop + CLIP_SECONDS, salience)
    sound = resample(sound, SYNTHESIS_RATE, rate)
    pan = draw.uniform(-0.3, 0.3)
    gains = np.array([1 + pan, 1 - pan] if channels == 2 else [1.0])  # their mean is the sound itself
    for number_of_slice in range(slices):
        start, samples = int(number_of_slice * hop * rate), int(CLIP_SECONDS * rate)
        if draw.random() > FULL_LENGTH:  # a short one is cut where the sound is loudest
            loudest = start + int(np.abs(sound[start : start + samples]).argmax())
            samples = int(rate * draw.uniform(0.1, 1) * draw.choice([1, 4]))
            start = min(max(start, loudest - rate // 50), len(sound) - samples)
        samples -= samples % ADPCM_BLOCK if subtype == "IMA_ADPCM" else 0
        name = f"{fs_id}-{class_id}-0-{number_of_slice}.wav"
        frames = sound[start : start + samples, None] * gains  # (samples, channels)
        (root / f"audio/fold{fold}" / name).write_bytes(_encode(frames, rate, subtype))
        times = f"{start / rate:.6f},{(start + samples) / rate:.6f}"
        yield f"{name},{fs_id},{times},{salience},{fold},{class_id},{CLASSES[class_id]}"


def _scene(draw: Generator, class_name: str, seconds: float, salience: int) -> np.ndarray:
    """A sound in a room, before a background, at some level: `(samples,)` float32 in [-0.75, 0.75]."""
    sound = waveform(class_name, draw, seconds, SYNTHESIS_RATE)
    time = np.arange(len(sound)) / SYNTHESIS_RATE
    echo = noise(draw, len(sound), SYNTHESIS_RATE, lowpass(4000)) * np.exp(-time / draw.uniform(0.02, 0.1))
    wet = filtered(sound, SYNTHESIS_RATE, lambda _: np.fft.rfft(echo))
    sound = sound / sound.std() + draw.uniform(0.05, 0.4) * wet / wet.std()
    decibels = draw.uniform(18, 35) if salience == 1 else draw.uniform(12, 18)  # above the background
    street = noise(draw, len(sound), SYNTHESIS_RATE, lambda hertz: 1 / np.sqrt(hertz + 50))  # pink
    sound += 10 ** (-decibels / 20) * street
    return (draw.uniform(0.2, 0.75) * sound / np.abs(sound).max()).astype(np.float32)


def _encode(frames: np.ndarray, rate: int, subtype: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, frames, rate, format="WAV", subtype=subtype)
    data = bytearray(file.getvalue())
    peak = data.find(b"PEAK", 0, 100)
    if peak >= 0:  # of float files: holds the time of writing, which would make every run differ
        data[peak + 12 : peak + 16] = bytes(4)
    return bytes(data)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m urbansound_hf.synthetic", description=TITLE)
    parser.add_argument("folder", type=Path, metavar="DIR", help="where to write; about 0.5 MB a clip")
    parser.add_argument("--clips", type=int, default=4, help="per class and fold (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other recordings (default %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="print nothing but the result")
    options = parser.parse_args()
    with quietly(options.quiet):
        root = write(options.folder, options.clips, options.seed)
    print(f"{100 * options.clips} synthetic clips in {root}")
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
