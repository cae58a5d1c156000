# a document's lines
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

## For operators of the page

- **Limits**: `urbansound-hf app --upload_mb 500 --max_seconds 3600 --queue 256 --request_seconds 600` are the defaults:
  the largest request, the longest sound, the number of waiting requests, the longest time of one. Lower them for a page
  that strangers reach. A sound has 1 to 32 channels and 1,000 Hz or more. `infer` has `--max_seconds` and `--min_rate`.
- **Host and origin**: the page answers under the address it listens on, on a Space under the Space's; behind a proxy
  add the public name with `--allow_host`. Requests that other sites make a browser send are refused. Programs call the
  page's functions only with `--api`.
- **Temporary files**: uploads and tables are in one folder, `urbansound-app-…` below TMPDIR; uploads older than an hour
  are deleted, the folder when the page ends (not after `kill -9`). A page gives out files of that folder only.
- **Memory**: one sound at a time is classified. The figures below are of a page with a tiny model.
- **Work** ends when its visitor leaves, or after `--request_seconds`.
- **Log**: a request that makes Gradio fail, and a call whose values do not fit the page's components, is one line.

Not promised: slow connections are not cut off, and the number of connections has no limit but the system's; on the open
network, put a proxy in front that has time-outs. There is no login.
"""


def page(receipt: dict[str, Any]) -> str:
    """The page: what is promised, what is not, and the counts of the receipt."""
    rows = []
    for name, found in receipt.items():
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in found["outcomes"].items())
        rows.append([name, outcomes, found["tried"], len(found["faults"])])
    counts = table(["kind", "outcome", "tried", "faults"], rows, texts=2)
    figures = [f"- {name}: {value}" for found in receipt.values() for name, value in found.get("figures", {}).items()]
    faults = [f"- {fault.splitlines()[0]}" for found in receipt.values() for fault in found["faults"]]
    parts = [HEAD, "## What was tried", "", counts, "", *figures]
    return "\n".join([*parts, *(["", "Faults in the last run:", "", *faults] if faults else [])]) + "\n"
