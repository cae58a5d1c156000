"""The speed tables of README.md and docs/results.md, from the receipts of `python -m benchmarks`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.measure import NONE, ROOT, load, path_of, ratio_table

PAGE = ROOT / "docs" / "results.md"


def shortest() -> str:
    """The first row of each benchmark, on a CPU and on a GPU."""
    kinds = [found for kind in ("cpu", "gpu") if (found := load(path_of(kind)))]
    first = [(machine(found[-1]), ratio_table(entry["rows"][0] for entry in found)) for found in kinds]
    return "\n\n".join(f"{where}:\n\n{figures}" for where, figures in first) or NONE


def every_row(kind: str) -> str:
    """All rows of a kind of machine, and when and with which versions each benchmark ran."""
    found = load(path_of(kind))
    if not found:
        return NONE
    runs = [f"- `{entry['benchmark']}`: {_run(entry)}" for entry in found]
    return "\n\n".join(
        [machine(found[-1]), ratio_table(row for entry in found for row in entry["rows"]), "\n".join(runs)]
    )


def machine(entry: Mapping[str, Any]) -> str:
    """ "2 cores of Intel Xeon; NVIDIA H100": the hardware of a receipt."""
    hardware = entry["environment"]["hardware"]
    return "; ".join([f"{hardware['cores']} cores of {hardware['cpu']}", *entry["gpus"]])


def _run(entry: Mapping[str, Any]) -> str:
    """Date, commit, versions and load of a benchmark, and what it left out."""
    facts = entry["environment"]
    code = facts["code"]
    commit = code.get("commit", code["source"])[:7] + " with changes" * code.get("dirty", False)
    versions = ", ".join(f"{name} {facts['packages'][name]}" for name in ("torch", "transformers", "datasets"))
    text = f"{entry['date']}, commit {commit}, {versions}, load average {entry['load']}"
    return "; ".join([text, *(f"left out: {why}" for why in entry["left_out"])])


BLOCKS: dict[str, Callable[[], str]] = {
    "speed-cpu": lambda: every_row("cpu"),
    "speed-gpu": lambda: every_row("gpu"),
}
