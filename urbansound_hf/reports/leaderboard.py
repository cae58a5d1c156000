"""A leaderboard of one's own runs: `urbansound-hf leaderboard outputs`, as Markdown, CSV and HTML.

Only results on the same data under the same protocol are ranked together: each such set has a table of its own. In it,
every model is compared with the best one, paired by clip, by a bootstrap over recordings.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from urbansound_hf.errors import CommandParser, UserError, write_text
from urbansound_hf.evaluation import confidence
from urbansound_hf.evaluation.metrics import ALL_METRICS, Metric
from urbansound_hf.evaluation.runs import Predictions, Run, by_fold, pooled, read_run, scope
from urbansound_hf.layout import RECEIPT
from urbansound_hf.progress import say
from urbansound_hf.reports import markdown
from urbansound_hf.reports.comparison import paired
from urbansound_hf.reports.html import as_page
from urbansound_hf.text import counted, in_markdown, listed, table, write_csv

HEADER = ("model", "score", "pooled accuracy, 95 % interval", "against the best", "folds", "parameters", "clips/s",
          "GiB", "receipt")  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One experiment: a run, or the runs of its folds, in `folder`."""

    folder: Path
    runs: list[Run]

    @cached_property
    def protocol(self) -> tuple[str, ...]:
        """What entries that are ranked together share: the data with their fingerprint, and the clips tested on."""
        data, metrics = (self.runs[0].receipt or {})["data"], [run.metrics for run in self.runs]
        tested = [each["test_fold"] for each in metrics if each["test_fold"] is not None]
        folds = [f"fold{'s' if tested[1:] else ''} {listed(tested)}"] if tested else []
        clips = counted(sum(each["clips"]["test"] for each in metrics), "test clip")
        validated = "validated" if metrics[0]["clips"]["validation"] else "without validation"
        return data["name"], data["fingerprint"], ", ".join([scope(metrics), *folds, clips, validated])

    @cached_property
    def predictions(self) -> Predictions:
        return pooled(self.runs)

    @cached_property
    def ranked_by(self) -> Metric:
        """Accuracy; of clips with several labels, the mean average precision."""
        return next(each for each in ALL_METRICS.values() if f"test_{each.name}" in self.runs[0].metrics)

    @cached_property
    def scores(self) -> list[float]:
        """That metric, of each fold."""
        return [run.metrics[f"test_{self.ranked_by.name}"] for run in self.runs]

    def cells(self, best: Entry) -> tuple[str, ...]:
        """The cells under `HEADER`."""
        metrics, own = [run.metrics for run in self.runs], self.predictions
        std = float(np.std(self.scores, ddof=1)) if len(metrics) > 1 else None
        against = "–"
        if self is not best:
            a, b = paired(best.predictions, own)
            gain, *bounds = confidence.paired_difference(a.correct, b.correct, a.groups)
            against = markdown.signed(gain, bounds)
        return (
            str(self.folder),
            markdown.spread(float(np.mean(self.scores)), std),
            markdown.score(float(own.correct.mean()), confidence.mean_interval(own.correct, own.groups)),
            against,
            str(len(metrics)),
            f"{metrics[0]['parameters']:,}" if "parameters" in metrics[0] else "–",
            f"{np.mean([each['train_clips_per_second'] for each in metrics]):,.0f}",
            f"{max(each['train_peak_memory_gib'] for each in metrics):.1f}",
            str(self.runs[0].folder / RECEIPT),
        )


def find_entries(folder: Path) -> list[Entry]:
    """The finished experiments below a folder; runs of a fold in one folder are one experiment. Raises UserError."""
    groups: dict[Path, list[Run]] = defaultdict(list)
    for path in sorted(folder.rglob(RECEIPT)):
        run = read_run(path.parent)
        groups[run.folder if run.metrics["test_fold"] is None else run.folder.parent].append(run)
    if not groups:
        raise UserError("there is no finished run below this folder", str(folder), "give the folder of some runs")
    return [Entry(place, by_fold(runs)) for place, runs in groups.items()]


def published(name: str) -> list[str]:
    """The published results of a known data set, which stand beside a table and are not ranked in it."""
    from urbansound_hf.data.known import known_dataset  # `datasets` takes a second

    known, variant = known_dataset(name)
    if known is None:
        return []
    results = [f"{each.model} {each.score} ({each.source})" for each in known.published.get(variant, ())]
    return [f"Published, not ranked here: {'; '.join(results)}. Protocol: {known.protocol}."]


def leaderboard(folder: str | Path) -> str:
    """The leaderboard of the finished runs below a folder as Markdown; writes it there as .md, .csv and .html too."""
    folder, groups = Path(folder), defaultdict(list)
    for entry in sorted(find_entries(folder), key=lambda entry: -np.mean(entry.scores)):
        groups[entry.protocol].append(entry)
    parts, rows = ["# Leaderboard"], []
    if len(groups) > 1:
        parts.append(f"{len(groups)} tables: results on other data or under another protocol are not ranked together.")
    for (name, fingerprint, protocol), ranked in groups.items():
        lines = [entry.cells(ranked[0]) for entry in ranked]
        recognised = "homepage" in (ranked[0].runs[0].receipt or {})["data"]  # and not one's own, under its name
        results = published(name) if recognised else []
        parts += [f"## {in_markdown(f'{name}: {protocol}')}\n\nData {fingerprint}.", *map(in_markdown, results)]
        header = ("model", ranked[0].ranked_by.title, *HEADER[2:])
        parts.append(table(header, [(in_markdown(line[0]), *line[1:-1], in_markdown(line[-1])) for line in lines]))
        rows += [(name, fingerprint, protocol, *line) for line in lines]
    text = "\n\n".join([*parts, "## Uncertainty", markdown.UNCERTAINTY]) + "\n"
    write_text(folder / "leaderboard.md", text)
    write_text(folder / "leaderboard.html", as_page(text, folder))
    write_csv(folder / "leaderboard.csv", [("data", "fingerprint", "protocol", *HEADER), *rows])
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Gathers the finished runs below a folder into leaderboard.md, .csv and .html, and prints it."""
    parser = CommandParser("urbansound-hf leaderboard", description=main.__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("outputs"), help="default: %(default)s")
    args = parser.parse_args(argv)
    print(leaderboard(args.folder), end="")
    say(f"written: {args.folder / 'leaderboard.md'}, .csv and .html")
    return 0
