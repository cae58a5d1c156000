"""Runs all cases, prints the counts and writes docs/receipts/reliability.json and docs/reliability.md.

python -m tests.reliability [KIND ...]
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import tests.conftest  # noqa: F401  (no network, a cache of its own)
from tests.conftest import ROOT
from tests.reliability import Tally
from tests.reliability.page_text import page

KINDS = {
    "audio": ("audio.cases", 150),
    "tables": ("tables.cases", 170),
    "configs": ("configs.cases", 150),
    "checkpoints": ("checkpoints.cases", 80),
    "disks": ("disks.cases", 20),
    "kills": ("kills.cases", 100),
    "page_requests": ("page.requests", 100),
    "uploads": ("page.uploads", 200),
    "slow_clients": ("page.slow_clients", 300),
    "bombs": ("page.bombs", 6),
}
"""By kind, the function with its cases in a module beside this one, and the number of cases that it must have."""
RECEIPT = ROOT / "docs/receipts/reliability.json"


def main(names: list[str]) -> int:
    receipt: dict[str, Any] = {}
    for name in names or KINDS:
        place, _, function = KINDS[name][0].partition(".")
        module, started = import_module(f"tests.reliability.{place}"), time.perf_counter()
        if why := getattr(module, "reason", str)():
            print(f"{name}: skipped: {why}")
            continue
        with tempfile.TemporaryDirectory() as folder:
            tally = Tally().run(getattr(module, function)(Path(folder)))
        seconds = round(time.perf_counter() - started)
        receipt = json.loads(RECEIPT.read_text(encoding="utf-8"))
        receipt[name] = {"tried": tally.tried, "outcomes": dict(tally.outcomes), "faults": tally.faults,
                         "seconds": seconds}  # fmt: skip
        if figures := getattr(module, "figures", {}):
            receipt[name]["figures"] = dict(figures)
            figures.clear()
        print(f"{name}: {tally.tried} tried in {seconds} s; {dict(tally.outcomes)}; {len(tally.faults)} faults")
        print(*(f"  {fault}" for fault in tally.faults), sep="\n", flush=True)
        RECEIPT.write_text(json.dumps(receipt, indent=2) + "\n", encoding="utf-8")
        (ROOT / "docs/reliability.md").write_text(page(receipt), encoding="utf-8")
    few = [name for name in names or KINDS if receipt.get(name, {}).get("tried", 0) < KINDS[name][1]]
    print(*(f"{name}: fewer than {KINDS[name][1]} cases" for name in few), sep="\n")
    return int(bool(few) or any(each["faults"] for each in receipt.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
