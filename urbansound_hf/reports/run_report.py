"""What runs leave for people: numbers with their intervals, figures, and pages that say what the numbers mean.

urbansound-hf report RUN                a run or a cross-validation: writes its report and prints it
urbansound-hf compare A B [--common]     compares two of them, clip by clip
urbansound-hf figures INPUT …    draws sounds, data sets and runs; see its --help
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from urbansound_hf.errors import UserError
from urbansound_hf.evaluation import confidence, receipts
from urbansound_hf.evaluation.runs import Run, expected_folds, find_runs, notes, pooled, read_run, scope, scope_caution
from urbansound_hf.evaluation.summary import measure
from urbansound_hf.layout import METRICS, PREDICTIONS, finished
from urbansound_hf.plots import evaluation
from urbansound_hf.reports import markdown
from urbansound_hf.reports.html import write_page
from urbansound_hf.reports.model_card import write_card

if TYPE_CHECKING:
    import datasets


def gather_runs(run_folders: Sequence[Path], cautions: Sequence[str] = ()) -> dict[str, Any]:
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
    ends = list(confidence.mean_interval(run.predictions.correct, groups))
    return {**run.metrics, "test_accuracy_interval": ends, "recordings": len(np.unique(groups))}


def write_cross_validation(folder: Path, run_folders: Sequence[Path], cautions: Sequence[str] = ()) -> dict[str, Any]:
    """Writes metrics.json, report.md, report.html and the figures of a cross-validation; returns the metrics."""
    metrics = gather_runs(run_folders, cautions)
    mean, std = metrics["mean_accuracy"], metrics["std_accuracy"]
    evaluation.folds(metrics["folds"], mean, std, folder / "folds.png", scope_caution(metrics["scope"]))
    draw_figures(metrics, folder)
    headline = [
        f"**{metrics['scope']}.** Accuracy **{markdown.spread(mean, std)}** "
        "(mean ± sample standard deviation over folds, ddof=1), "
        f"macro-F1 {markdown.spread(metrics['mean_macro_f1'], metrics['std_macro_f1'])}.",
        f"All {markdown.amount(metrics)} pooled: {markdown.scores(metrics, 'pooled_')}.",
    ]
    text = markdown.page(f"Cross-validation: {folder.resolve().name}", headline, metrics, metrics["folds"])
    (folder / "report.md").write_text(text, encoding="utf-8")
    _write_json(folder / METRICS, metrics)
    write_page(folder, [read_run(place) for place in run_folders])
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
    draw_figures(measured, folder)
    if history := evaluation.history(folder):
        note = scope_caution(measured["scope"])
        evaluation.learning_curves({folder.name: history}, folder / "learning_curves.png", note)
    headline = [
        f"**{measured['scope']}.** Tested on {markdown.amount(measured)}: {markdown.scores(measured)}.",
        markdown.protocol(run.metrics),
    ]
    text = markdown.page(f"Run: {folder.resolve().name}", headline, measured, learned=bool(history))
    (folder / "report.md").write_text(text, encoding="utf-8")
    _write_json(folder / "report.json", measured)
    write_card(folder)
    write_page(folder, [run], clips)
    return measured


def draw_figures(measured: Mapping[str, Any], folder: Path) -> None:
    """The figures that a run and a cross-validation share."""
    for name, draw_to in evaluation.shared(measured).items():
        draw_to(path=folder / f"{name}.png")


def run_summary(metrics: Mapping[str, Any], folder: Path) -> str:
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
        f"try it         urbansound-hf infer CLIP.wav --model {folder}",
    ]
    return "\n".join(lines)


def write_report(folder: Path, force: bool = False) -> str:
    """Writes the report of a run, or of the finished folds of a cross-validation; returns the Markdown.

    Raises:
        UserError: the folds are of different experiments, and `force` does not say to report them all the same.
    """
    if (folder / PREDICTIONS).is_file():
        write_run(folder)
    else:
        folders = [run.folder for run in find_runs(folder)]
        told = [place for place in folders if finished(place)]
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
