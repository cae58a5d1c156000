"""Streaming of shards: memory over the number of clips, and the speed of training against the prepared way.

    python -m benchmarks.streaming [--counts 1000 10000 100000]      # memory
    python -m benchmarks.streaming --train CONFIG [FLAG ...]          # speed: one epoch, 100 synthetic clips of 4 s

The clips of the first are generated (noise of 0.1 s) and deleted afterwards; each count is read once and decoded,
in a process of its own. The second trains in turn from shards and from prepared features, three times each, without
data-loader workers, and prints the clips per second of CPU time, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import TrainerCallback

from benchmarks.measure import cost
from urbansound_hf.audio.io import SAMPLING_RATE, to_wav
from urbansound_hf.config.parse import config_path, parse_run_config
from urbansound_hf.data.loading import SoundRequest, find_builder, load_sounds
from urbansound_hf.data.shards import write_shards
from urbansound_hf.features.extract import Waveforms
from urbansound_hf.features.streaming import Cut, StreamedClips
from urbansound_hf.text import table
from urbansound_hf.training.experiment import prepare_experiment
from urbansound_hf.training.run import train_and_evaluate

SECONDS, SHARD, BUFFER, ROUNDS = 0.1, 1000, 1000, 3


def generate(folder: Path, clips: int) -> None:
    """Writes shards of `clips` sounds of ten classes."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    for first in range(0, clips, SHARD):
        numbers = range(first, min(first + SHARD, clips))
        noise = draw.uniform(-0.1, 0.1, (len(numbers), round(SECONDS * SAMPLING_RATE))).astype(np.float32)
        sounds = [{"bytes": to_wav(each), "path": f"{n}.wav"} for n, each in zip(numbers, noise, strict=True)]
        columns = {"audio": sounds, "label": [str(n % 10) for n in numbers], "seconds": [SECONDS] * len(numbers)}
        pq.write_table(pa.table(columns), folder / f"{first:09}.parquet", row_group_size=64)


def read(folder: Path) -> None:
    """Reads and decodes all clips once, as an epoch of training does."""
    sounds = load_sounds(str(folder), streaming=True).dataset
    window = Cut(round(SECONDS * SAMPLING_RATE))
    clips = StreamedClips(sounds, np.arange(len(sounds)), Waveforms(SAMPLING_RATE), window, BUFFER)
    assert sum(len(clips[index]["waveform"]) > 0 for index in clips.order(32, 1, 0)) == len(sounds)


def memory(counts: list[int]) -> str:
    rows = []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            shards = Path(folder, "shards")
            generate(shards, count)
            spent = cost([sys.executable, "-m", "benchmarks.streaming", "--read", shards])
        rows.append((f"{count:,}", f"{spent.peak_mib:,.0f}", f"{spent.cpu_seconds:,.0f}"))
    return table(("clips", "peak, MiB", "CPU seconds"), rows, texts=0)


class CpuTime(TrainerCallback):
    """CPU time of the training itself."""

    def on_train_begin(self, *_: object, **__: object) -> None:
        self.begun = time.process_time()

    def on_train_end(self, *_: object, **__: object) -> None:
        self.seconds = time.process_time() - self.begun


def speed(words: list[str]) -> str:
    figures: dict[str, list[float]] = {"streamed": [], "prepared": []}
    with tempfile.TemporaryDirectory() as folder:
        write_shards(find_builder(SoundRequest("synthetic")), Path(folder, "shards"))
        flags = ["--dataset", f"{folder}/shards", "--output_dir", f"{folder}/out", "--num_train_epochs", "1", "--quiet"]
        flags += ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
        flags += ["--dataloader_num_workers", "0", "--overwrite", "--use_cpu"]
        for _ in range(ROUNDS):
            for way, more in {"streamed": ["--streaming"], "prepared": []}.items():
                config = parse_run_config([*flags, *more, *words[1:]], config_path(words[0]))
                experiment, watch = prepare_experiment(config), CpuTime()
                (split,) = experiment.planned_splits()
                train_and_evaluate(config, experiment.sounds, split, Path(folder, way), callbacks=[watch])
                figures[way].append(len(split.train) / watch.seconds)
    ratios = [ours / other for ours, other in zip(figures["streamed"], figures["prepared"], strict=True)]
    rows = [(way, f"{statistics.median(each):.2f}") for way, each in figures.items()]
    return table(("way", "clips per CPU second"), [*rows, ("ratio", f"{statistics.median(ratios):.3f}")])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming", description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--train", nargs=argparse.REMAINDER, metavar="CONFIG")
    options = parser.parse_args()
    if options.read:
        read(options.read)
    else:
        print(speed(options.train) if options.train else memory(options.counts))


if __name__ == "__main__":
    main()
