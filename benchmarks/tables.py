"""The generated parts of docs/choosing_a_model.md: our measurements, from the receipts, and the catalogue of families.

`python -m tests.helpers.readme` writes them into the page; a test fails where they are stale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

from benchmarks import families
from benchmarks.experiments import load
from benchmarks.measure import ROOT
from urbansound_hf.text import table

PAGE = ROOT / "docs" / "choosing_a_model.md"
PLACES = {"whisper": "WHISPER_DIR", "yamnet": "outputs/yamnet_audioset"}
"""What stands in the commands for the folders of whoever ran them."""


def results() -> str:
    """The table of the committed receipts."""
    return measured(load(families.FILE))


def measured(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line a training, the most accurate first, over its seeds; then the commands.

    Args:
        rows: of docs/receipts/families.jsonl, one a training and seed.

    Raises:
        ValueError: a row of a training that benchmarks/families.py does not list, so that nobody could repeat it.
    """
    if not rows:
        return "*No receipts yet.*"
    runs: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        runs.setdefault(row["name"], []).append(row)
    if unknown := sorted(runs.keys() - families.RUNS.keys()):
        raise ValueError(f"benchmarks/families.py lists no {unknown[0]!r}: take its rows out of {families.FILE.name}")
    ranked = sorted(runs, key=lambda name: -fmean(row["accuracy"] for row in runs[name]))
    header = ("model", "seeds", "accuracy", "trained parameters", "seconds", "clips/s", "peak memory")
    body = table(header, [(name, *_line(runs[name])) for name in ranked])
    return "\n\n".join([body, "\n".join(["```bash", *map(_command, ranked), "```"])])


def _line(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Accuracy as mean and range; what one machine took for it as median."""
    accuracies = [row["accuracy"] for row in rows]
    seconds, speed, memory = (
        median(row[fact] for row in rows)
        for fact in ("train_seconds", "train_clips_per_second", "train_peak_memory_gib")
    )
    return (
        str(len(rows)),
        f"{fmean(accuracies):.3f} ({min(accuracies):.3f}–{max(accuracies):.3f})",
        f"{rows[0]['trained_parameters']:,}",
        f"{seconds:,.0f}" if seconds >= 10 else f"{seconds:.1f}",
        f"{speed:,.0f}" if speed >= 10 else f"{speed:.1f}",
        f"{memory:.1f} GiB",
    )


def _command(name: str) -> str:
    words = families.RUNS[name].format(**PLACES)
    return f"python train.py {words} --data_dir DIR --test_fold 3 --validation none --seed 1  # {name}"


def catalogue() -> str:
    """The families, and what the words in their table mean."""
    from urbansound_hf.models.catalogue import HEADER, NOTES, family_cells, list_families  # torch: only when asked for

    return "\n\n".join([table(HEADER, map(family_cells, list_families()), texts=len(HEADER)), *NOTES])


BLOCKS: dict[str, Callable[[], str]] = {"results": results, "catalogue": catalogue}
