"""Lists the model families: what to start from, licence, pretraining, size, input, ear for environmental sound."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterable
from typing import Any

from transformers.utils import logging

from urbansound_hf import markdown
from urbansound_hf.models import catalogue

WIDTH = 120  # columns


def as_table(rows: Iterable[dict[str, Any]]) -> str:
    """Two lines a family, in columns; the second is that of the checkpoint to start from."""
    lines: list[tuple[str, ...]] = []
    for cells in (catalogue.HEADER, *map(catalogue.cells, rows)):
        family, start_from, licence, pretraining, parameters, heard, environmental = cells
        lines += [(family, parameters, heard, environmental), (f"  {start_from}", licence, pretraining, "")]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    texts = ["  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*texts[:2], "-" * WIDTH, *texts[2:]])


def as_markdown(rows: Iterable[dict[str, Any]]) -> str:
    """A line a family."""
    return markdown.table(catalogue.HEADER, map(catalogue.cells, rows), texts=len(catalogue.HEADER))


def main() -> None:
    parser = argparse.ArgumentParser("python -m urbansound_hf.models", description=__doc__)
    parser.add_argument("--format", choices=("table", "markdown", "json"), default="table", help="default: table")
    chosen = parser.parse_args().format
    logging.set_verbosity_error()  # of the many kinds of sizes, none is of interest here
    rows = list(catalogue.rows())
    if chosen == "json":
        print(json.dumps(rows, indent=2))
        return
    print(as_table(rows) if chosen == "table" else as_markdown(rows))
    print("", *(textwrap.fill(note, WIDTH, break_on_hyphens=False) for note in catalogue.NOTES), sep="\n")


if __name__ == "__main__":
    main()
