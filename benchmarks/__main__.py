"""The speed benchmarks: `python -m benchmarks` runs all that this machine allows and stores what it measured.

It prints a table of ratios and what was left out, and adds both to docs/receipts/speed_cpu.json (speed_gpu.json on a
machine with a GPU), of which the tables of README.md and docs/results.md are made: `python -m tests.helpers.readme`.
Nothing else should run meanwhile; the load average before each benchmark is stored.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.measure import LeftOut, Options, Row
from urbansound_hf.errors import exit_code

NAMES = ("preparing", "second_start", "training", "cold_clip", "int8", "folder", "cnn", "short_context", "yamnet")
"""The modules with `rows(options)`, in the order of the tables."""
DATA = measure.ROOT / "../shared/data/urbansound8k"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    there = DATA if DATA.is_dir() else None
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", default=NAMES, help=", ".join(NAMES))
    parser.add_argument("--data_dir", type=Path, default=there, help="UrbanSound8K or a part of it, official layout")
    parser.add_argument("--transformers_example", type=Path, metavar="FILE", help="run_audio_classification.py")
    parser.add_argument("--whisper", type=Path, metavar="DIR", help="Whisper-tiny; absent: random weights")
    parser.add_argument("--yamnet", type=Path, metavar="MODEL.onnx", help="the published graph")
    parser.add_argument("--rounds", type=int, default=5, help="how often each side runs (default: %(default)s)")
    parser.add_argument("--receipts", type=Path, default=measure.RECEIPTS, metavar="DIR", help="where they go")
    words = vars(parser.parse_args(argv))
    names, folder = words.pop("only"), words.pop("receipts")
    measured = [run(name, Options(**words)) for name in names]
    print(measure.ratio_table(row for entry in measured for row in entry["rows"]))
    for entry in measured:
        for why in entry["left_out"]:
            print(f"left out: {entry['benchmark']}: {why}")
    measure.save(
        measure.path_of("gpu" if measure.gpus() else "cpu", folder), [entry for entry in measured if entry["rows"]]
    )
    return 0


def run(name: str, options: Options) -> dict[str, Any]:
    """The receipt of one benchmark; each row is also printed when it is known."""
    found: list[Row] = []
    left_out: list[str] = []
    load = os.getloadavg()[0]
    try:
        for item in importlib.import_module(f"benchmarks.{name}").rows(options):
            if isinstance(item, LeftOut):
                left_out.append(str(item))
            else:
                found.append(item)
                print(f"{name}: {item.case}: {measure.number(item.ours)} {item.unit}", file=sys.stderr, flush=True)
    except LeftOut as why:
        left_out.append(str(why))
    return measure.receipt(name, found, left_out, load)


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
