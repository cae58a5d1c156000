"""The commands `report` and `compare`: one run described, or two compared clip by clip."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from urbansound_hf.errors import exit_code
from urbansound_hf.reports.comparison import compare
from urbansound_hf.reports.run_report import write_report


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the report of a run or of a cross-validation, and prints it."""
    parser = argparse.ArgumentParser("urbansound-hf report", description=main.__doc__)
    parser.add_argument("run", type=Path, help="the folder of a run, or of a cross-validation")
    parser.add_argument("--force", action="store_true", help="report folds that differ all the same, and say so")
    args = parser.parse_args(argv)
    print(write_report(args.run, args.force), end="")
    return 0


def compare_main(argv: Sequence[str] | None = None) -> int:
    """Compares two runs or cross-validations, paired by clip, and prints the comparison."""
    parser = argparse.ArgumentParser("urbansound-hf compare", description=compare_main.__doc__)
    parser.add_argument("run", type=Path, help="the folder of a run, or of a cross-validation")
    parser.add_argument("other", type=Path, help="the folder of another")
    parser.add_argument("--common", action="store_true", help="compare only the clips that both were tested on")
    args = parser.parse_args(argv)
    print(compare(args.run, args.other, args.common), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
