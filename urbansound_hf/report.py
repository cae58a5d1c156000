"""What runs leave for people: numbers with their intervals, figures, and pages that say what the numbers mean.

python -m urbansound_hf.report RUN                a run or a cross-validation: writes its report and prints it
python -m urbansound_hf.report A B [--common]     compares two of them, clip by clip
python -m urbansound_hf.report figures INPUT …    draws sounds, data sets and runs; see its --help
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from urbansound_hf import card, figures, markdown, page, receipts, run_figures, statistics
from urbansound_hf.comparison import compare
from urbansound_hf.errors import UserError, exit_code
from urbansound_hf.measures import measure
from urbansound_hf.runs import METRICS, PREDICTIONS, Run, expected_folds, find_runs, notes, pooled, read_run, scope

if TYPE_CHECKING:
    import datasets


def gather(run_folders: Sequence[Path], cautions: Sequence[str] = ()) -> dict[str, Any]:
    """The metrics.json of a cross-validation; `cautions` stand before the notes of its runs.

    `std_accuracy` and `std_macro_f1` are sample standard deviations over the folds (ddof=1): the folds stand for others
    that could have been drawn. None with one fold.

    Raises:
        UserError: a run is not of one fold, or two are of the same.
    """
    runs = sorted((read_run(folder) for folder in run_folders), key=lambda run: run.metrics["test_fold"] or 0)
    tested = [run.metrics["test_fold"] for run in runs]
    if None in tested or len(set(tested)) < len(tested):
        raise UserError(
            f"a cross-validation has one run for each test fold, found {', '.join(map(str, tested))}",
            ", ".join(str(run.folder) for run in runs),
            "give runs of --split official, each of another --test_fold",
        )
    measured = measure(pooled(runs))
    overall = {f"pooled_{key}": measured.pop(key) for key in list(measured) if key.startswith(("accuracy", "macro_f1"))}
    return {
        "scope": scope([run.metrics for run in runs]),
        "complete": len(tested) == expected_folds(runs[0].metrics),
        "notes": [*cautions, *notes(runs)],
        **_over_folds(runs, "accuracy"),
        **_over_folds(runs, "macro_f1"),
        **overall,
        **measured,
        "folds": [_fold(run) for run in runs],
    }


def _over_folds(runs: Sequence[Run], key: str) -> dict[str, float | None]:
    values = [run.metrics[f"test_{key}"] for run in runs]
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {f"mean_{key}": float(np.mean(values)), f"std_{key}": std}


def _fold(run: Run) -> dict[str, Any]:
    groups = run.predictions.groups
    ends = list(statistics.mean_interval(run.predictions.correct, groups))
    return {**run.metrics, "test_accuracy_interval": ends, "recordings": len(np.unique(groups))}


def write_cross_validation(folder: Path, run_folders: Sequence[Path], cautions: Sequence[str] = ()) -> dict[str, Any]:
    """Writes metrics.json, report.md, report.html and the figures of a cross-validation; returns the metrics."""
    metrics = gather(run_folders, cautions)
    mean, std = metrics["mean_accuracy"], metrics["std_accuracy"]
    figures.folds(metrics["folds"], mean, std, folder / "folds.png", markdown.caution(metrics["scope"]))
    draw(metrics, folder)
    headline = [
        f"**{metrics['scope']}.** Accuracy **{markdown.spread(mean, std)}** "
        "(mean ± sample standard deviation over folds, ddof=1), "
        f"macro-F1 {markdown.spread(metrics['mean_macro_f1'], metrics['std_macro_f1'])}.",
        f"All {markdown.amount(metrics)} pooled: {markdown.scores(metrics, 'pooled_')}.",
    ]
    text = markdown.page(f"Cross-validation: {folder.resolve().name}", headline, metrics, metrics["folds"])
    (folder / "report.md").write_text(text, encoding="utf-8")
    _write_json(folder / METRICS, metrics)
    page.write(folder, [read_run(place) for place in run_folders])
    return metrics


def write_run(folder: Path, clips: datasets.Dataset | None = None) -> dict[str, Any]:
    """Writes report.json, report.md, report.html, the figures and the card (README.md) of a run.

    Args:
        clips: the test rows of the data, in the order of the predictions, for the sounds of report.html.

    Returns:
        what report.json holds.
    """
    run = read_run(folder)
    measured = {"scope": scope([run.metrics]), "notes": notes([run]), **measure(run.predictions)}
    draw(measured, folder)
    if history := run_figures.history(folder):
        note = markdown.caution(measured["scope"])
        run_figures.learning_curves({folder.name: history}, folder / "learning_curves.png", note)
    headline = [
        f"**{measured['scope']}.** Tested on {markdown.amount(measured)}: {markdown.scores(measured)}.",
        markdown.protocol(run.metrics),
    ]
    text = markdown.page(f"Run: {folder.resolve().name}", headline, measured, learned=bool(history))
    (folder / "report.md").write_text(text, encoding="utf-8")
    _write_json(folder / "report.json", measured)
    card.write(folder)
    page.write(folder, [run], clips)
    return measured


def draw(measured: Mapping[str, Any], folder: Path) -> None:
    """The figures that a run and a cross-validation share."""
    for name, draw_to in run_figures.shared(measured).items():
        draw_to(path=folder / f"{name}.png")


def summary(metrics: Mapping[str, Any], folder: Path) -> str:
    """The last lines that a run prints."""
    worst = sorted(metrics["per_class"].items(), key=lambda item: item[1]["f1"])[:3]
    hardest = ", ".join(f"{name} (F1 {row['f1']:.2f})" for name, row in worst)
    lines = [
        "",
        f"test accuracy  {metrics['test_accuracy']:.4f}   macro-F1 {metrics['test_macro_f1']:.4f}   "
        f"({metrics['clips']['test']} clips; {scope([metrics])})",
        f"hardest        {hardest}",
        f"training       {metrics['train_seconds']:.0f} s, {metrics['train_clips_per_second']:.1f} clips/s, "
        f"{metrics['train_peak_memory_gib']:.1f} GiB",
        f"protocol       {markdown.protocol(metrics)}",
        *[f"note           {note}" for note in metrics["notes"]],
        f"checkpoint     {folder}",
        f"try it         python infer.py CLIP.wav --model {folder}",
    ]
    return "\n".join(lines)


def write(folder: Path, force: bool = False) -> str:
    """Writes the report of a run, or of the finished folds of a cross-validation; returns the Markdown.

    Raises:
        UserError: the folds are of different experiments, and `force` does not say to report them all the same.
    """
    if (folder / PREDICTIONS).is_file():
        write_run(folder)
    else:
        folders = [run.folder for run in find_runs(folder)]
        told = [place for place in folders if receipts.finished(place)]
        differ = receipts.mismatches(told) if told else []
        refuse_mismatches(differ, folder, force)
        write_cross_validation(folder, told or folders, [f"gathered by force: {what}" for what in differ])
    return (folder / "report.md").read_text(encoding="utf-8")


def refuse_mismatches(mismatches: Sequence[str], folder: Path, force: bool) -> None:
    """Raises UserError for folds that are not of one experiment, unless they are gathered by `force`."""
    if mismatches and not force:
        raise UserError(
            f"these folds are not of one experiment: {'; '.join(mismatches)}",
            str(folder),
            "run the odd ones again, or give --force to gather all the same; the report will say so",
        )


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def main() -> int:
    if sys.argv[1:2] == ["figures"]:
        from urbansound_hf import gallery  # data sets, and models for the map of a run

        return gallery.main(sys.argv[2:])
    parser = argparse.ArgumentParser("python -m urbansound_hf.report", description="Reports a run, or compares two.")
    parser.add_argument("run", type=Path, help="the folder of a run, or of a cross-validation")
    parser.add_argument("other", type=Path, nargs="?", help="a second one: compare the two, clip by clip")
    parser.add_argument("--common", action="store_true", help="compare only the clips that both were tested on")
    parser.add_argument("--force", action="store_true", help="report folds that differ all the same, and say so")
    args = parser.parse_args()
    print(write(args.run, args.force) if args.other is None else compare(args.run, args.other, args.common), end="")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
