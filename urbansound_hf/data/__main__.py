"""Prepares UrbanSound8K and prints its clips per class and fold: `python -m urbansound_hf.data`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from urbansound_hf import progress
from urbansound_hf.data import synthetic
from urbansound_hf.data.urbansound8k import UrbanSound8K, fold_table
from urbansound_hf.errors import exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """Prepares the data set and prints what there is; `synthetic DIR` writes the synthetic one."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["synthetic"]:
        return synthetic.main(argv[1:])
    parser = argparse.ArgumentParser(prog="urbansound-hf data", description=main.__doc__)
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


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
