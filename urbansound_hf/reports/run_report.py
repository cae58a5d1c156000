"""Reports of runs and cross-validations: numbers with intervals, figures, report.md, report.html and the card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from urbansound_hf import layout
from urbansound_hf.errors import UserError, printable, write_text
from urbansound_hf.evaluation import receipts
from urbansound_hf.evaluation.metrics import present_metrics
from urbansound_hf.evaluation.runs import (
    Run,
    expected_folds,
    finished_folds,
    notes,
    pooled,
    read_run,
    run_folder,
    scope,
    scope_caution,
    write_json,
)
from urbansound_hf.evaluation.summary import fold_summary, measure
from urbansound_hf.plots import evaluation
from urbansound_hf.reports import markdown
from urbansound_hf.reports.html import encode_mistakes, write_page
from urbansound_hf.reports.model_card import render_card
from urbansound_hf.text import listed

if TYPE_CHECKING:
    import datasets


def write_run(
    folder: Path, clips: datasets.Dataset | None = None, receipt: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Writes report.json (returned), report.md, report.html, the figures and the card (README.md) of a run.

    Args:
        clips: the test clips in the order of the predictions, for the sounds of report.html; without them, those of
            an earlier report are kept.
        receipt: of a run that is just ending; default: the one in the folder.
    """
    run = read_run(folder)
    own = {each.name: run.metrics[f"test_{each.name}"] for each in present_metrics(run.metrics, "test_")}
    measured = {"scope": scope([run.metrics]), "notes": notes([run]), **measure(run.predictions), **own}
    for name, draw_to in evaluation.shared(measured).items():
        draw_to(path=folder / f"{name}.png")
    if history := evaluation.plotted_history(run):
        note = scope_caution(measured["scope"])
        evaluation.learning_curves({folder.name: history}, folder / "learning_curves.png", note)
    headline = [
        f"**{measured['scope']}.** Tested on {markdown.amount(measured)}: {markdown.scores(measured)}.",
        markdown.protocol(run.metrics),
    ]
    text = markdown.page(f"Run: {folder.resolve().name}", headline, measured, learned=bool(history))
    write_json(folder / layout.REPORT_NUMBERS, measured, allow_nan=False)
    write_text(folder / layout.REPORT, text)
    if clips is not None:
        write_json(folder / layout.REPORT_CLIPS, encode_mistakes(run.predictions, clips))
    if (folder / layout.MODEL_CONFIG).is_file():  # not of an ensemble, which has no weights of its own
        write_text(folder / layout.CARD, render_card(folder, receipt=receipt))
    write_page(folder, text, measured, [run], run.report_clips)
    return measured


def write_cross_validation(folder: Path, runs: Sequence[Run], cautions: Sequence[str] = ()) -> dict[str, Any]:
    """Writes metrics.json (returned), report.md, report.html and the figures of a cross-validation."""
    metrics = gather_metrics(runs, cautions)
    evaluation.folds(metrics["folds"], folder / "folds.png", scope_caution(metrics["scope"]))
    for name, draw_to in evaluation.shared(metrics).items():
        draw_to(path=folder / f"{name}.png")
    headline = [
        f"**{metrics['scope']}.** Mean ± sample standard deviation over folds (ddof=1): {markdown.spreads(metrics)}.",
        f"All {markdown.amount(metrics)} pooled: {markdown.scores(metrics, 'pooled_')}.",
    ]
    text = markdown.page(f"Cross-validation: {folder.resolve().name}", headline, metrics, metrics["folds"])
    write_text(folder / layout.REPORT, text)
    write_json(folder / layout.METRICS, metrics, allow_nan=False)
    write_page(folder, text, metrics, runs, {path: clip for run in runs for path, clip in run.report_clips.items()})
    return metrics


def gather_metrics(runs: Sequence[Run], cautions: Sequence[str] = ()) -> dict[str, Any]:
    """Computes the metrics.json of a cross-validation; `cautions` stand before the notes of its runs.

    For every metric: `mean_…` and `std_…` over folds, and `pooled_…` over all clips. `std_…` is the sample standard
    deviation (ddof=1), as the folds are a sample of possible folds; None with one fold.
    Raises UserError if a run is not of one fold, or two are of the same.
    """
    tested = [run.metrics["test_fold"] for run in runs]
    if None in tested or len(set(tested)) < len(tested):
        what = f"a cross-validation has one run for each test fold, found {listed(tested)}"
        fix = "give runs of --split official, each of another --test_fold"
        raise UserError(what, listed([run.folder for run in runs]), fix)
    measured = measure(pooled(runs))
    names = [each.name for each in present_metrics(measured)]
    of_metrics = [key for name in names for key in (name, f"{name}_interval")]
    overall = {f"pooled_{key}": measured.pop(key) for key in of_metrics}
    over_folds: dict[str, float | None] = {}
    for name in names:
        values = [run.metrics[f"test_{name}"] for run in runs if f"test_{name}" in run.metrics]
        if len(values) == len(runs):  # a run may be older than the metric
            std = float(np.std(values, ddof=1)) if len(values) > 1 else None
            over_folds |= {f"mean_{name}": float(np.mean(values)), f"std_{name}": std}
    return {
        "scope": scope([run.metrics for run in runs]),
        "complete": len(tested) == expected_folds(runs[0].metrics),
        "notes": [*cautions, *notes(runs)],
        **over_folds,
        **overall,
        **measured,
        "folds": [fold_summary(run) for run in runs],
    }


def gather_folds(folder: Path, force: bool = False) -> dict[str, Any]:
    """Gathers the finished folds in an experiment's folder into its metrics.json (returned), report and figures.

    Raises UserError without a finished fold, or if configs, data or code differ; with `force` the report says so.
    """
    runs = finished_folds(folder)
    if not runs:
        alone = f"this is a single run; give {folder.resolve().parent}" if layout.finished(folder) else ""
        raise UserError("found no finished fold", str(folder), alone or "train with --test_fold all")
    mismatches = receipts.mismatches({run.folder.name: run.receipt or {} for run in runs})
    if mismatches and not force:
        fix = "train the deviating ones again, or give --force to gather them anyway; the report will say so"
        raise UserError(f"these folds are not of one experiment: {'; '.join(mismatches)}", str(folder), fix)
    return write_cross_validation(folder, runs, [f"gathered by force: {mismatch}" for mismatch in mismatches])


def report(run: Run | str | Path, force: bool = False) -> str:
    """Writes the report of a run, or of the finished folds of a cross-validation, and returns it as Markdown.

    report.md, report.html, the figures and, for a run, the model card are written to the folder. Scores have 95 %
    intervals from a bootstrap over recordings (Efron 1979).

    Args:
        run: a run, its folder, or the folder of a cross-validation.
        force: report folds of different experiments, with a note, instead of raising.

    Raises:
        UserError: as `read_run` or `gather_folds` does.

    Examples:
        >>> text = ush.report(ush.read_run("outputs/base/fold10"))
        >>> text.splitlines()[0]
        '# Run: fold10'
    """
    folder = run_folder(run)
    if (folder / layout.PREDICTIONS).is_file():
        write_run(folder)
    else:
        gather_folds(folder, force)
    return (folder / layout.REPORT).read_text(encoding="utf-8")


def run_summary(metrics: Mapping[str, Any], folder: Path) -> str:
    """The last lines that a run prints."""
    worst = sorted(metrics["per_class"].items(), key=lambda item: item[1]["f1"])[:3]
    hardest = ", ".join(f"{printable(name)} (F1 {row['f1']:.2f})" for name, row in worst if row["f1"] < 1)
    (title, score), *others = [(each.title, metrics[f"test_{each.name}"]) for each in present_metrics(metrics, "test_")]
    scores = "   ".join([f"{score:.4f}", *(f"{name} {value:.4f}" for name, value in others)])
    lines = [
        "",
        f"{f'test {title}':<15}{scores}   ({metrics['clips']['test']} clips; {scope([metrics])})",
        *([f"hardest        {hardest}"] if hardest else []),
        f"training       {metrics['train_seconds']:.0f} s, {metrics['train_clips_per_second']:.1f} clips/s, "
        f"{metrics['train_peak_memory_gib']:.1f} GiB",
        f"protocol       {markdown.protocol(metrics)}",
        *[f"note           {note}" for note in metrics["notes"]],
        f"report         {folder / layout.REPORT_PAGE}",
        f"checkpoint     {folder}",
        f"try it         urbansound-hf infer CLIP.wav --model {folder}",
    ]
    return "\n".join(lines)


def cross_validation_summary(metrics: Mapping[str, Any], folder: Path) -> str:
    """The last lines that a cross-validation prints: a table of its folds, mean ± standard deviation, scope."""
    columns = [(each, max(8, len(each.title))) for each in present_metrics(metrics, "mean_")]
    lines = ["  ".join(["fold", *(f"{each.title:>{width}}" for each, width in columns)])]
    lines += [
        "  ".join([f"{row['test_fold']:>4}", *(f"{row[f'test_{each.name}']:{width}.4f}" for each, width in columns)])
        for row in metrics["folds"]
    ]
    mean, std, pooled_value = (metrics[f"{of}_{columns[0][0].name}"] for of in ("mean", "std", "pooled"))
    spread = "" if std is None else f" ± {std:.4f} (std over folds, ddof=1)"
    lines.append(f"mean  {mean:8.4f}{spread}; pooled {pooled_value:.4f}")
    try_it = f"try it: urbansound-hf infer CLIP.wav --model {folder}/fold{metrics['folds'][-1]['test_fold']}"
    return "\n".join([*lines, metrics["scope"], *metrics["notes"], f"report: {folder / layout.REPORT_PAGE}", try_it])
