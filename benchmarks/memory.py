"""Memory of `infer.py` over the length of a recording and over the number of clips, and the real-time factor.

    python -m benchmarks.memory --model CHECKPOINT --clips FOLDER [--hours 0.0167 1 10] [--counts 680 68000]

Recordings are 96-kHz stereo FLAC, written for the purpose (about 0.6 GB an hour) and deleted afterwards; many clips are
links to those of FOLDER. Each case is a process of its own; memory is above that of one second of sound, which is the
model and the libraries. Prints a table, writes docs/receipts/memory.json, and draws docs/memory.png of it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.measure import RECEIPTS, ROOT, cost
from urbansound_hf.audio.files import find_audio_files
from urbansound_hf.text import table

RATE = 96_000
RECEIPT = RECEIPTS / "memory.json"
HEADER = ("input", "sound, s", "seconds", "CPU seconds", "real-time factor", "peak, MiB", "above the model, MiB")


def write_recording(path: Path, seconds: float) -> None:
    """Writes a second of quiet stereo noise over and over, with a level that changes."""
    noise = np.random.default_rng(0).normal(0, 300, (RATE, 2))
    with soundfile.SoundFile(path, "w", RATE, 2, "PCM_16") as file:
        for second in range(round(seconds)):
            file.write((noise * (1 + second % 7)).astype(np.int16))


def measured(name: str, inputs: Path, seconds: float, model: str) -> dict[str, Any]:
    """One call of `infer.py`."""
    with tempfile.TemporaryDirectory() as folder:
        output = ["--output", f"{folder}/labels.jsonl", "--quiet"]
        spent = cost([sys.executable, ROOT / "infer.py", inputs, "--model", model, "--device", "cpu", *output])
    taken = {"seconds": round(spent.seconds, 1), "cpu_seconds": round(spent.cpu_seconds, 1), "peak_mib": spent.peak_mib}
    return {"input": name, "sound_seconds": seconds, **taken}


def cases(arguments: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """The second of sound, then each length, then each number of clips."""
    for seconds in (1, *(3600 * hours for hours in arguments.hours)):
        recording = folder / "recording.flac"
        write_recording(recording, seconds)
        yield measured("one recording", recording, round(seconds), arguments.model)
        recording.unlink()
    clips = find_audio_files(arguments.clips).sounds if arguments.counts else []
    lengths = {clip: soundfile.info(clip).duration for clip in clips}
    for count in arguments.counts:
        links = folder / f"{count}"
        links.mkdir()
        chosen = list(islice(cycle(clips), count))
        for number, clip in enumerate(chosen):
            (links / f"{number:06}{clip.suffix}").symlink_to(clip.resolve())
        yield measured(f"{count:,} clips", links, round(sum(lengths[clip] for clip in chosen)), arguments.model)


def shown(rows: list[dict[str, Any]]) -> str:
    """The table of a receipt."""
    first = rows[0]["peak_mib"]
    return table(
        HEADER,
        [(row["input"], f"{row['sound_seconds']:,}", f"{row['seconds']:,.0f}", f"{row['cpu_seconds']:,.0f}",
          f"{row['seconds'] / row['sound_seconds']:.4f}", f"{row['peak_mib']:,.0f}", f"{row['peak_mib'] - first:,.0f}")
         for row in rows], texts=1,
    )  # fmt: skip


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Memory above the model over the seconds of sound, for recordings and for clips."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for kind in ("recording", "clips"):
        points = [row for row in rows[1:] if row["input"].endswith(kind)]
        above = [row["peak_mib"] - rows[0]["peak_mib"] for row in points]
        axes.plot([row["sound_seconds"] / 3600 for row in points], above, "o-", label=f"{kind}")
    axes.axhline(600, color="grey", linestyle=":", label="600 MiB")
    axes.set(xscale="log", xlabel="sound (h)", ylabel="peak above the model (MiB)", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measures, prints, stores and draws."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--clips", type=Path, help="needed for --counts")
    parser.add_argument("--hours", type=float, nargs="*", default=[1 / 60, 1, 10])
    parser.add_argument("--counts", type=int, nargs="*", default=[680, 68_000])
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for row in cases(arguments, Path(folder)):
            rows.append(row)
            print(row, file=sys.stderr, flush=True)
            RECEIPT.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(shown(rows))
    draw(rows, ROOT / "docs" / "memory.png")


if __name__ == "__main__":
    main()
