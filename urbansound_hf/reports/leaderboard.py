"""A leaderboard of one's own runs: `urbansound-hf leaderboard outputs`, as Markdown, CSV and HTML.

Only results on the same data under the same protocol are ranked together: each such set has a table of its own. In it,
every model is compared with the best one, paired by clip, by a bootstrap over recordings.
"""

from __future__ import annotations

import csv
import html
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from urbansound_hf.errors import CommandParser, UserError, complete_file, write_text
from urbansound_hf.evaluation import confidence
from urbansound_hf.evaluation.runs import Predictions, Run, by_fold, pooled, read_run, scope
from urbansound_hf.layout import RECEIPT
from urbansound_hf.progress import say
from urbansound_hf.reports import markdown
from urbansound_hf.reports.comparison import paired
from urbansound_hf.text import counted, in_csv, in_markdown, table

HEADER = ("model", "accuracy", "pooled, 95 % interval", "against the best", "folds", "parameters", "clips/s", "GiB",
          "receipt")  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One experiment: a run, or the runs of its folds, in `folder`."""

    folder: Path
    runs: list[Run]

    @property
    def receipt(self) -> dict[str, Any]:
        return self.runs[0].receipt or {}

    @property
    def protocol(self) -> tuple[str, ...]:
        """What entries that are ranked together share: the data with their fingerprint, and the clips tested on."""
        data = self.receipt["data"]
        metrics = [run.metrics for run in self.runs]
        validated = "validated" if metrics[0]["clips"]["validation"] else "without validation"
        tested = ", ".join(str(each["test_fold"]) for each in metrics if each["test_fold"] is not None)
        clips = f"{counted(sum(each['clips']['test'] for each in metrics), 'test clip')}"
        return data["name"], data["fingerprint"], scope(metrics), tested, clips, validated

    @cached_property
    def predictions(self) -> Predictions:
        return pooled(self.runs)

    @cached_property
    def accuracy(self) -> float:
        """The mean over folds."""
        return float(np.mean([run.metrics["test_accuracy"] for run in self.runs]))

    def cells(self, best: Entry) -> tuple[str, ...]:
        """The cells under `HEADER`."""
        first, own = self.runs[0].metrics, self.predictions
        std = float(np.std([run.metrics["test_accuracy"] for run in self.runs], ddof=1)) if len(self.runs) > 1 else None
        ends = confidence.mean_interval(own.correct, own.groups)
        speed = np.mean([run.metrics["train_clips_per_second"] for run in self.runs])
        memory = max(run.metrics["train_peak_memory_gib"] for run in self.runs)
        against = "–"
        if self is not best:
            a, b = paired(best.predictions, own)
            gain, *bounds = confidence.paired_difference(a.correct, b.correct, a.groups)
            against = markdown.signed(gain, bounds)
        parameters = f"{first['parameters']:,}" if "parameters" in first else "–"
        pool = markdown.score(float(own.correct.mean()), ends)
        receipt = str(self.runs[0].folder / RECEIPT)
        return (str(self.folder), markdown.spread(self.accuracy, std), pool, against, str(len(self.runs)), parameters,
                f"{speed:,.0f}", f"{memory:.1f}", receipt)  # fmt: skip


def find_entries(folder: Path) -> list[Entry]:
    """The finished experiments below a folder; runs of a fold in one folder are one experiment.

    Raises:
        UserError: there is none, or one of them is damaged.
    """
    groups: dict[tuple[Path, bool, Path | None], list[Run]] = defaultdict(list)
    for path in sorted(folder.rglob(RECEIPT)):
        run = read_run(path.parent)
        single = run.metrics["test_fold"] is None
        groups[path.parent.parent, single, path.parent if single else None].append(run)
    if not groups:
        raise UserError("there is no finished run below this folder", str(folder), "give the folder of some runs")
    return [Entry(alone or parent, by_fold(runs)) for (parent, _, alone), runs in groups.items()]


def leaderboards(entries: Sequence[Entry]) -> list[tuple[tuple[str, ...], list[tuple[str, ...]]]]:
    """For each protocol, the lines of its entries under `HEADER`, the best first."""
    groups: dict[tuple[str, ...], list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[entry.protocol].append(entry)
    boards = []
    for protocol, group in groups.items():
        ranked = sorted(group, key=lambda entry: -entry.accuracy)
        boards.append((protocol, [entry.cells(ranked[0]) for entry in ranked]))
    return boards


def published(name: str) -> list[str]:
    """The published results of a known data set, which stand beside a table and are not ranked in it."""
    from urbansound_hf.data.known import KNOWN  # `datasets` takes a second

    for known in KNOWN:
        for variant in ("", *known.variants):
            if name == known.title(variant):
                results = [f"{each.model} {each.score} ({each.source})" for each in known.published.get(variant, ())]
                return [f"Published, not ranked here: {'; '.join(results)}. Protocol: {known.protocol}."]
    return []


def leaderboard(folder: str | Path) -> str:
    """The leaderboard of the finished runs below a folder as Markdown; writes it there as .md, .csv and .html too.

    Raises:
        UserError: there is no finished run, or one is damaged.
    """
    folder = Path(folder)
    boards = leaderboards(find_entries(folder))
    parts = ["# Leaderboard"]
    if len(boards) > 1:
        parts.append(f"{len(boards)} tables: results on other data or under another protocol are not ranked together.")
    pages, rows = [], []
    for (name, fingerprint, *protocol), lines in boards:
        title = f"{name}: {', '.join(filter(None, protocol))}"
        parts += [f"## {in_markdown(title)}", f"Data {fingerprint}.", *map(in_markdown, published(name))]
        parts.append(table(HEADER, [(in_markdown(line[0]), *line[1:]) for line in lines]))
        cells = [[html.escape(cell) for cell in line] for line in (HEADER, *lines)]
        shown = "\n".join(f"<tr><td>{'</td><td>'.join(line)}</td></tr>" for line in cells)
        pages.append(f"<h2>{html.escape(title)}</h2>\n<p>Data {fingerprint}</p>\n<table border=1>\n{shown}\n</table>")
        rows += [(name, fingerprint, ", ".join(filter(None, protocol)), *line) for line in lines]
    text = "\n\n".join([*parts, markdown.UNCERTAINTY]) + "\n"
    write_text(folder / "leaderboard.md", text)
    head = '<!doctype html>\n<meta charset="utf-8">\n<title>Leaderboard</title>\n<h1>Leaderboard</h1>'
    write_text(folder / "leaderboard.html", "\n".join([head, *pages, ""]))
    with complete_file(folder / "leaderboard.csv") as part, part.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("data", "fingerprint", "protocol", *HEADER), *(map(in_csv, row) for row in rows)])
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Gathers the finished runs below a folder into leaderboard.md, .csv and .html, and prints it."""
    parser = CommandParser("urbansound-hf leaderboard", description=main.__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("outputs"), help="default: %(default)s")
    args = parser.parse_args(argv)
    print(leaderboard(args.folder), end="")
    say(f"written: {args.folder / 'leaderboard.md'}, .csv and .html")
    return 0
