"""Preparing UrbanSound8K against reading the same clips through `datasets`' own decoding Audio feature, on the same
cores; and the memory of preparing ten times as many clips.

    python benchmarks/preparation.py --data_dir DIR [--rounds 5]

Ours is the whole way, from finding the files to the finished Arrow table in a fresh cache, with its processes started
inside the time. The stock side only reads: paths in a column cast to `Audio(sampling_rate=16000)`, its processes
started, its libraries imported and a clip decoded before the clock starts; it needs torchcodec and FFmpeg. The sides
take turns; each figure is the median of the rounds, the ratio the median of their ratios.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import datasets

from urbansound_hf.data import urbansound8k
from urbansound_hf.data.builder import processes
from urbansound_hf.data.urbansound8k import UrbanSound8K, find_root
from urbansound_hf.evaluation.receipts import Stopwatch


def ours(data_dir: Path, num_proc: int) -> float:
    """Clips a second of preparing the data set in a fresh cache."""
    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        clips = len(UrbanSound8K(data_dir, cache_dir=cache).load(num_proc))
        return clips / (time.perf_counter() - started)


def read(paths: Sequence[str]) -> int:
    """Reads clips as `datasets` does, in one process; how many samples there were."""
    import torch

    torch.set_num_threads(1)
    table = datasets.Dataset.from_dict({"audio": paths}).cast_column("audio", datasets.Audio(sampling_rate=16_000))
    return sum(row["audio"].get_all_samples().data.shape[-1] for row in table)


class Stock:
    """The stock way in `num_proc` processes that are started, and have read a clip, before anything is timed."""

    def __init__(self, paths: Sequence[str], num_proc: int) -> None:
        self.shards = [paths[number::num_proc] for number in range(num_proc)]
        self.pool = ProcessPoolExecutor(num_proc, mp_context=get_context("spawn"))
        list(self.pool.map(read, [paths[:1]] * num_proc * 8))

    def __call__(self) -> float:
        """Clips a second."""
        started = time.perf_counter()
        list(self.pool.map(read, self.shards))
        return sum(map(len, self.shards)) / (time.perf_counter() - started)


def compare(data_dir: Path, num_proc: int, rounds: int) -> None:
    """Prints one line: both sides in `num_proc` processes."""
    rows = urbansound8k.read_metadata(find_root(data_dir) or data_dir)
    stock = Stock([row["source"] for row in rows], num_proc) if importlib.util.find_spec("torchcodec") else None
    pairs = [(ours(data_dir, num_proc), stock() if stock else 0.0) for _ in range(rounds)]
    prepared, stocks = (median(speeds) for speeds in zip(*pairs, strict=True))
    line = f"{num_proc} processes: prepared {prepared:,.0f} clips/s"
    if stock:
        ratios = [mine / theirs for mine, theirs in pairs]
        line += (
            f", stock reading {stocks:,.0f} clips/s, ratio {median(ratios):.1f} ({min(ratios):.1f}–{max(ratios):.1f})"
        )
        stock.pool.shutdown()
    print(line if stock else f"{line}; no torchcodec here, so no stock side")


def repeat(data_dir: Path, target: Path, times: int) -> Path:
    """The data set `times` over under other names, in symbolic links."""
    root = find_root(data_dir) or data_dir
    records = [record for _, record in urbansound8k.read_records(root / urbansound8k.METADATA_FILE)]
    lines = [",".join(urbansound8k.CSV_COLUMNS)]
    for copy in range(times):
        for record in records:
            name = record["slice_file_name"].replace(".wav", f"{copy:03d}.wav")
            link = target / f"audio/fold{record['fold']}" / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((root / f"audio/fold{record['fold']}" / record["slice_file_name"]).resolve())
            lines.append(",".join((record | {"slice_file_name": name})[column] for column in urbansound8k.CSV_COLUMNS))
    (target / urbansound8k.METADATA_FILE).parent.mkdir(parents=True)
    (target / urbansound8k.METADATA_FILE).write_text("\n".join(lines), encoding="utf-8")
    return target


def memory(data_dir: Path, num_proc: int) -> None:
    """Prints, as JSON, the peak memory of preparing a data set in this fresh process and its children."""
    with tempfile.TemporaryDirectory() as cache, Stopwatch() as watch:
        clips = len(UrbanSound8K(data_dir, cache_dir=cache).load(num_proc))
    print(json.dumps({"clips": clips, "mib": watch.peak_memory_gib * 1024, "seconds": watch.seconds}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="UrbanSound8K or a part of it, official layout")
    parser.add_argument("--rounds", type=int, default=5, help="how often each side runs (default: %(default)s)")
    parser.add_argument("--only_memory", type=int, metavar="NUM_PROC", help=argparse.SUPPRESS)
    options = parser.parse_args()
    datasets.disable_progress_bars()
    if options.only_memory:
        return memory(options.data_dir, options.only_memory)
    cores = processes(10**9)
    for num_proc in sorted({1, cores}):
        compare(options.data_dir, num_proc, options.rounds)
    for times in (1, 10):
        with tempfile.TemporaryDirectory() as folder:
            data = repeat(options.data_dir, Path(folder), times)
            command = [sys.executable, __file__, "--data_dir", str(data), "--only_memory", str(cores)]
            told = json.loads(subprocess.run(command, check=True, capture_output=True, env=os.environ).stdout)
            print(f"{told['clips']:,} clips: peak memory {told['mib']:,.0f} MiB in {told['seconds']:.1f} s")
    return None


if __name__ == "__main__":
    main()
