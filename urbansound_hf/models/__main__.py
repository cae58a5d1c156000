"""Lists the model families: recommended checkpoint, licence, pretraining, size, input, published results."""

import argparse
import importlib
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from transformers.utils import logging

from urbansound_hf.errors import CommandParser, exit_code
from urbansound_hf.models.catalogue import HEADER, NOTES, family_cells, list_families
from urbansound_hf.models.loading import library_messages
from urbansound_hf.models.registry import Conversion, conversions
from urbansound_hf.text import table

WIDTH = 120  # columns


def _convert(conversion: Conversion, argv: Sequence[str]) -> int:
    module = importlib.import_module(conversion.module)
    raw = argparse.RawDescriptionHelpFormatter
    parser = CommandParser(f"urbansound-hf models {conversion.name}", description=module.__doc__, formatter_class=raw)
    about = f"{conversion.source} → checkpoint folder"
    command = parser.add_subparsers(required=True).add_parser("convert", help=about)
    command.add_argument("source", type=Path, metavar=conversion.source, help="the published weights")
    command.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="the folder to write")
    chosen = parser.parse_args(argv)
    with library_messages():
        conversion.write(chosen.source, chosen.out_dir)
    print(f"wrote {chosen.out_dir}: urbansound-hf infer CLIP.wav --model {chosen.out_dir}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in conversions():
        return _convert(conversions()[argv[0]], argv[1:])
    commands = " · ".join(conversion.command() for conversion in conversions().values())
    parser = CommandParser("urbansound-hf models", description=__doc__, epilog=f"conversions: {commands}")
    parser.add_argument("--format", choices=("table", "markdown", "json"), default="table", help="default: table")
    chosen = parser.parse_args(argv).format
    logging.set_verbosity_error()
    rows = list(list_families())
    if chosen == "json":
        print(json.dumps(rows, indent=2))
        return 0
    if chosen == "markdown":
        print(table(HEADER, map(family_cells, rows), texts=len(HEADER)))
    else:  # two lines for each family; the second describes the recommended checkpoint
        lines: list[tuple[str, ...]] = []
        for cells in (HEADER, *map(family_cells, rows)):
            name, start_from, licence, pretraining, parameters, inputs, environmental = cells
            lines += [(name, parameters, inputs, environmental), (f"  {start_from}", licence, pretraining, "")]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        lines.insert(2, ("-" * WIDTH,))
        for line in lines:
            print("  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=False)).rstrip())
    print("", *(textwrap.fill(note, WIDTH, break_on_hyphens=False) for note in NOTES), sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
