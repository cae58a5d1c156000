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

import tests.conftest  # noqa: F401  (no network, a cache of its own)
from tests.conftest import ROOT
from tests.reliability import Tally
from tests.reliability.page_text import page

KINDS = {"audio": 150, "tables": 170, "configs": 150, "checkpoints": 80, "disks": 20}
"""The modules with cases, and the number of cases that each must have."""
RECEIPT = ROOT / "docs/receipts/reliability.json"


def main(names: list[str]) -> int:
    receipt = json.loads(RECEIPT.read_text(encoding="utf-8")) if RECEIPT.is_file() else {}
    for name in names or KINDS:
        module, started = import_module(f"tests.reliability.{name}"), time.perf_counter()
        if why := getattr(module, "reason", str)():
            print(f"{name}: skipped: {why}")
            continue
        with tempfile.TemporaryDirectory() as folder:
            tally = Tally().run(module.cases(Path(folder)))
        seconds = round(time.perf_counter() - started)
        receipt[name] = {"tried": tally.tried, "outcomes": dict(tally.outcomes), "faults": tally.faults,
                         "seconds": seconds}  # fmt: skip
        print(f"{name}: {tally.tried} tried in {seconds} s; {dict(tally.outcomes)}; {len(tally.faults)} faults")
        print(*(f"  {fault}" for fault in tally.faults), sep="\n", flush=True)
        RECEIPT.write_text(json.dumps(receipt, indent=2) + "\n", encoding="utf-8")
    (ROOT / "docs/reliability.md").write_text(page(receipt), encoding="utf-8")
    few = [name for name in names or KINDS if receipt.get(name, {}).get("tried", 0) < KINDS[name]]
    print(*(f"{name}: fewer than {KINDS[name]} cases" for name in few), sep="\n")
    return int(bool(few) or any(each["faults"] for each in receipt.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
