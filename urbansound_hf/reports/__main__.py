"""The commands `report`, `compare`, `crossval` and `ensemble`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from urbansound_hf.errors import CommandParser, exit_code
from urbansound_hf.evaluation.runs import Run
from urbansound_hf.inference.classifier import MEANS
from urbansound_hf.layout import PREDICTIONS
from urbansound_hf.reports.comparison import compare_runs
from urbansound_hf.reports.ensemble import WEIGHTS, write_ensemble
from urbansound_hf.reports.run_report import cross_validation_summary, gather_folds, run_summary, write_run


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the report of a run or of a cross-validation, and prints its summary and where it is."""
    parser = CommandParser("urbansound-hf report", description=main.__doc__)
    parser.add_argument("run", type=Path, help="folder of a run, or of a cross-validation")
    parser.add_argument("--force", action="store_true", help="report folds of different experiments, and say so")
    args = parser.parse_args(argv)
    if (args.run / PREDICTIONS).is_file():
        write_run(args.run)
        print(run_summary(Run(args.run).metrics, args.run).lstrip())
    else:
        print(cross_validation_summary(gather_folds(args.run, args.force), args.run))
    return 0


def compare_main(argv: Sequence[str] | None = None) -> int:
    """Compares two runs or cross-validations, paired by clip, and prints the comparison."""
    parser = CommandParser("urbansound-hf compare", description=compare_main.__doc__)
    parser.add_argument("run", type=Path, help="folder of a run, or of a cross-validation")
    parser.add_argument("other", type=Path, help="folder of another one")
    parser.add_argument("--common", action="store_true", help="compare only the clips on which both were tested")
    args = parser.parse_args(argv)
    print(compare_runs(args.run, args.other, args.common), end="")
    return 0


def ensemble_main(argv: Sequence[str] | None = None) -> int:
    """Combines finished runs or cross-validations of the same folds, and prints the comparison with each of them."""
    parser = CommandParser("urbansound-hf ensemble", description=ensemble_main.__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run, or of a cross-validation")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the ensemble")
    parser.add_argument("--mean", choices=MEANS, default=MEANS[0], help=f"of the probabilities (default: {MEANS[0]})")
    help_text = "of the members: equal, or fitted on the validation clips of each fold (default: equal)"
    parser.add_argument("--weights", choices=WEIGHTS, default=WEIGHTS[0], help=help_text)
    args = parser.parse_args(argv)
    command = ["urbansound-hf", "ensemble", *map(str, sys.argv[2:] if argv is None else argv)]
    print(write_ensemble(args.runs, args.output_dir, args.mean, args.weights, command), end="")
    return 0


def crossval_main(argv: Sequence[str] | None = None) -> int:
    """Gathers the finished folds of one experiment: a table, metrics.json, report and figures."""
    parser = CommandParser("urbansound-hf crossval", description=crossval_main.__doc__)
    parser.add_argument("output_dir", type=Path, help="folder that contains fold1, fold2, …")
    parser.add_argument("--force", action="store_true", help="gather folds of different experiments, and say so")
    args = parser.parse_args(argv)
    print(cross_validation_summary(gather_folds(args.output_dir, args.force), args.output_dir))
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
