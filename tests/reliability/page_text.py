"""docs/reliability.md, from the receipt of `python -m tests.reliability`."""

from __future__ import annotations

from typing import Any

from urbansound_hf.text import table

HEAD = """# Reliability

Written by `python -m tests.reliability`, which tries awkward input by the hundred and writes
[the receipt](receipts/reliability.json). "Refused" is one line that names what was found, where, and the way out.

## For users

Promised:

- A sound file, table, config or checkpoint that cannot be used is refused before work starts, and other files go on.
- A damaged checkpoint does not answer: its missing, NaN, wrongly shaped or integer weights are errors.
- A full, read-only or missing disk is one line with the path and, if full, the free space. Files of results appear
  when they are complete; the same command continues once there is space. The space for a run's weights and one
  checkpoint is checked before each run.
- SIGTERM saves a checkpoint, of several processes too, and exits with 143. The same command continues to the same
  weights. An interrupted search gives the trials of an uninterrupted one.

Not promised:

- A decoder reads what a damaged file still holds: a changed byte within the samples is not noticed.
- A config value within its range, but other than in training, changes scores without a word.
- A power cut may lose what the operating system had not written yet.
- The exit code of the launcher (torchrun, accelerate) is theirs; that of each process is 143.
"""


def page(receipt: dict[str, Any]) -> str:
    """The page: what is promised, what is not, and the counts of the receipt."""
    rows = []
    for name, found in receipt.items():
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in found["outcomes"].items())
        rows.append([name, outcomes, found["tried"], len(found["faults"])])
    counts = table(["kind", "outcome", "tried", "faults"], rows, texts=2)
    return f"{HEAD}\n## What was tried\n\n{counts}\n"
