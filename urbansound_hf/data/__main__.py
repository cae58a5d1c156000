"""Prepares UrbanSound8K and prints its clips per class and fold: `python -m urbansound_hf.data`."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from urbansound_hf import progress
from urbansound_hf.data import shards, synthetic
from urbansound_hf.data.loading import SoundRequest, find_builder
from urbansound_hf.data.urbansound8k import UrbanSound8K, fold_table
from urbansound_hf.errors import CommandParser, exit_code
from urbansound_hf.text import counted


def main(argv: Sequence[str] | None = None) -> int:
    """Prepares the data set and prints what there is; `synthetic` and `shard` write data sets."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and (command := {"synthetic": synthetic.main, "shard": shard}.get(argv[0])):
        return command(argv[1:])
    parser = CommandParser(prog="urbansound-hf data", description=main.__doc__)
    parser.add_argument("--data_dir", default="data", help="folder of UrbanSound8K, downloaded there if it is missing")
    parser.add_argument("--allow_missing_files", action="store_true", help="leave out clips without a file")
    parser.add_argument("--num_proc", type=int, help="processes (default: one a core)")
    parser.add_argument("--quiet", action="store_true", help="print nothing but the result")
    options = parser.parse_args(argv)
    with progress.quietly(options.quiet):
        builder = UrbanSound8K(options.data_dir, allow_missing_files=options.allow_missing_files, download=True)
        started, was_there = time.perf_counter(), Path(builder.cache_dir).is_dir()
        dataset = builder.load(options.num_proc)
    seconds = time.perf_counter() - started
    print(fold_table(dataset["label"], dataset["fold"]))
    print(f"{len(dataset):,} clips", *(f"note: {note}" for note in builder.notes), sep="\n")
    speed = "found prepared" if was_there else f"{seconds:.1f} s, {len(dataset) / seconds:,.0f} clips/s"
    print(f"{speed}: {builder.cache_dir}")
    return 0


def shard(argv: Sequence[str]) -> int:
    """Writes a data set as Parquet shards, each sound as its file is, for `--streaming` and for the Hub."""
    parser = CommandParser(prog="urbansound-hf data shard", description=shard.__doc__)
    parser.add_argument("source", metavar="SOURCE", help="urbansound8k, synthetic, or a folder, as --dataset takes it")
    parser.add_argument("folder", type=Path, metavar="DIR", help="where to write")
    parser.add_argument("--clips_per_shard", type=int, default=shards.CLIPS_PER_SHARD, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the clips (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="print nothing but the result")
    options = parser.parse_args(argv)
    if options.clips_per_shard < 1:
        parser.error("--clips_per_shard must be at least 1")
    with progress.quietly(options.quiet):
        builder = find_builder(SoundRequest(options.source))
        written = shards.write_shards(builder, options.folder, options.clips_per_shard, options.seed)
    print(f"{builder.title}: {len(builder.rows):,} clips in {counted(written, 'shard')}: {options.folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
