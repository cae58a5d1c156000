"""Preparing UrbanSound8K against reading the same clips with the stock library, on the same cores.

Ours is the whole way, from finding the files to the finished Arrow table in a fresh cache, with its processes started
inside the time. The stock side only reads: through `datasets`' own decoding `Audio(sampling_rate=16000)` where
torchcodec is installed, else by `librosa.load(path, sr=16000)`; its processes are started, its libraries imported and a
clip read before the clock starts. The formats of the full data set are made from the real clips.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import datasets
import numpy as np
import soundfile

from benchmarks.measure import LeftOut, Options, Row, compared, cost, python
from urbansound_hf.audio.io import read_audio
from urbansound_hf.audio.resampling import resample
from urbansound_hf.data import urbansound8k
from urbansound_hf.data.urbansound8k import UrbanSound8K, find_root

FORMATS = {
    "16 bit 44.1 kHz stereo": (44_100, "PCM_16"),
    "24 bit 48 kHz stereo": (48_000, "PCM_24"),
    "24 bit 96 kHz stereo": (96_000, "PCM_24"),
}
"""What most of the clips as uploaded are; the real ones here are 16-bit mono at 22.05 kHz."""
PREPARE = """
import sys, datasets
from urbansound_hf.data.urbansound8k import UrbanSound8K
datasets.disable_progress_bars()
UrbanSound8K(sys.argv[1], cache_dir=sys.argv[2]).load(int(sys.argv[3]))
"""


def ours(data_dir: Path, num_proc: int) -> float:
    """Clips a second of preparing the data set in a fresh cache."""
    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        clips = len(UrbanSound8K(data_dir, cache_dir=cache).load(num_proc))
        return clips / (time.perf_counter() - started)


def read_stock(paths: Sequence[str]) -> int:
    """Reads clips in one process; how many samples there were."""
    if importlib.util.find_spec("torchcodec"):
        import torch

        torch.set_num_threads(1)
        table = datasets.Dataset.from_dict({"audio": paths}).cast_column("audio", datasets.Audio(sampling_rate=16_000))
        return sum(row["audio"].get_all_samples().data.shape[-1] for row in table)
    import librosa

    return sum(len(librosa.load(path, sr=16_000)[0]) for path in paths)


class Stock:
    """The stock library in `num_proc` processes that are started, and have read a clip, before anything is timed."""

    def __init__(self, paths: Sequence[str], num_proc: int) -> None:
        self.shards = [paths[number::num_proc] for number in range(num_proc)]
        self.pool = ProcessPoolExecutor(num_proc, mp_context=get_context("spawn"))
        list(self.pool.map(read_stock, [paths[:1]] * num_proc * 8))

    def __call__(self) -> float:
        """Clips a second."""
        started = time.perf_counter()
        list(self.pool.map(read_stock, self.shards))
        return sum(map(len, self.shards)) / (time.perf_counter() - started)


def copied(data_dir: Path, target: Path, rate: int = 0, subtype: str = "", times: int = 1) -> Path:
    """The data set in another format, or `times` over under other names in symbolic links."""
    root = find_root(data_dir) or data_dir
    lines = [",".join(urbansound8k.CSV_COLUMNS)]
    for copy in range(times):
        for _, record in urbansound8k.read_records(root / urbansound8k.METADATA_FILE):
            name = record["slice_file_name"].replace(".wav", f"{copy:03d}.wav")
            source, path = (f / f"audio/fold{record['fold']}" for f in (root, target))
            path.mkdir(parents=True, exist_ok=True)
            if rate:
                waveform = resample(*read_audio(source / record["slice_file_name"]), rate)
                soundfile.write(path / name, np.stack([waveform, waveform / 2], axis=1), rate, subtype)
            else:
                (path / name).symlink_to((source / record["slice_file_name"]).resolve())
            lines.append(",".join((record | {"slice_file_name": name})[column] for column in urbansound8k.CSV_COLUMNS))
    (target / urbansound8k.METADATA_FILE).parent.mkdir(parents=True)
    (target / urbansound8k.METADATA_FILE).write_text("\n".join(lines), encoding="utf-8")
    return target


def compare(data_dir: Path, kind: str, rounds: int) -> Iterator[Row]:
    """Both sides in one process and in two, then the two processes against the one."""
    paths = [row["source"] for row in urbansound8k.read_metadata(find_root(data_dir) or data_dir)]
    stocks = has_stock()
    for num_proc in (1, 2):
        stock = Stock(paths, num_proc) if stocks else None
        case = f"{kind}, {num_proc} process{'es' * (num_proc > 1)}"
        yield compared(case, partial(ours, data_dir, num_proc), stock, rounds)
        if stock:
            stock.pool.shutdown()
    yield compared(f"{kind}, 2 processes against 1", partial(ours, data_dir, 2), partial(ours, data_dir, 1), rounds)


def has_stock() -> bool:
    return any(map(importlib.util.find_spec, ("torchcodec", "librosa")))


def rows(options: Options) -> Iterator[Row | LeftOut]:
    data_dir = options.clips()
    datasets.disable_progress_bars()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes of both sides
    if not has_stock():
        yield LeftOut("stock reading: torchcodec or librosa is not installed")
    yield from compare(data_dir, "16 bit 22.05 kHz mono", options.rounds)
    for kind, (rate, subtype) in FORMATS.items():
        with tempfile.TemporaryDirectory() as folder:
            yield from compare(copied(data_dir, Path(folder), rate, subtype), kind, options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        peaks = []
        for times in (10, 1):
            data = copied(data_dir, Path(folder) / f"data{times}", times=times)
            peaks.append(cost(python(PREPARE, data, Path(folder) / f"cache{times}", "2")).peak_mib)
        yield Row("peak memory, ten times the clips against once", *peaks, peaks[0] / peaks[1], "MiB")
