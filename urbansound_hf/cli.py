"""The command `urbansound-hf` and its sub-commands; train.py and infer.py are two of them.

Each sub-command is a `main(argv) -> exit code` in the package that does the work, imported when it is called.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator, Sequence
from itertools import chain

from urbansound_hf.errors import UserError, exit_code

COMMANDS = {
    "train": ("urbansound_hf.cli:train", "fine-tune and evaluate a model, one run for each test fold"),
    "infer": ("urbansound_hf.cli:infer", "classify files, folders and long recordings"),
    "report": ("urbansound_hf.reports.__main__:main", "write and print the report of a run"),
    "compare": ("urbansound_hf.reports.__main__:compare_main", "compare two runs, paired by clip"),
    "crossval": ("urbansound_hf.reports.__main__:crossval_main", "gather the finished folds of one experiment"),
    "leaks": ("urbansound_hf.data.leaks:main", "report what the folds of a metadata table share"),
    "data": ("urbansound_hf.data.__main__:main", "prepare UrbanSound8K, or write the synthetic data set"),
    "figures": ("urbansound_hf.plots.__main__:main", "draw a sound, a data set or runs"),
    "models": ("urbansound_hf.models.__main__:main", "list the model families, or convert published weights"),
    "app": ("urbansound_hf.app.__main__:main", "serve the browser page that classifies sounds"),
    "hub": ("urbansound_hf.hub.__main__:main", "push a run, the data set or the page to the Hub"),
}
EXIT_CODES = "Exit code 1: some inputs unreadable; 2: all of them, or wrong usage."
DEFAULT_CONFIG = "wav2vec2_base"
CLAP = "laion/clap-htsat-unfused"  # the model of --labels where --model is not given


def _infer_arguments(argv: Sequence[str], prog: str) -> argparse.Namespace:
    from urbansound_hf.inference.output import FORMATS

    parser = argparse.ArgumentParser(prog, description="Classify sounds with a checkpoint.", epilog=EXIT_CODES)
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="file, folder (recursive), glob, or - for a sound on standard input")
    add("--model", metavar="DIR_OR_HUB_ID", help="a checkpoint (default: the newest finished run under outputs/)")
    add("--labels", metavar="A,B,...", help=f"zero-shot: score these labels with a CLAP model (default: {CLAP})")
    add("--revision", help="branch, tag or commit of a Hub id")
    add("--trust_remote_code", action="store_true", help="run the model code that comes with the checkpoint")
    add("--top_k", type=int, default=5, help="number of labels printed for each sound (default: 5)")
    add("--format", choices=FORMATS, help="default: by the suffix of --output, else table")
    add("--output", metavar="FILE", help="write the result to this file instead of standard output")
    add("--plot", metavar="PATH", help="plot sound and scores: a .png, .svg or .pdf file; a folder for several sounds")
    add("--window_seconds", type=float, help="window over longer recordings, in seconds (default: as trained)")
    add("--hop_seconds", type=float, help="step between windows, in seconds (default: half a window)")
    add("--batch_size", type=int, default=8, help="windows in one forward pass (default: 8)")
    add("--device", help="cpu, cuda, cuda:1, mps, xpu… (default: the accelerator if there is one, else cpu)")
    add("--quiet", action="store_true", help="print the result only, no progress")
    args = parser.parse_args(argv)
    if min(args.top_k, args.batch_size) < 1:
        parser.error("--top_k and --batch_size must be at least 1")
    return args


def _classify(sounds: list, args: argparse.Namespace) -> Iterator:
    from urbansound_hf.inference.classifier import SoundClassifier  # torch and transformers: seconds

    if args.labels is None:
        model = SoundClassifier.from_pretrained(args.model, args.revision, args.device, args.trust_remote_code)
    else:
        model = SoundClassifier.zero_shot(args.model, args.labels.split(","), args.revision, args.device)
    args.top_k = min(args.top_k, len(model.labels))
    return model.classify_many(sounds, args.top_k, args.window_seconds, args.hop_seconds, args.batch_size)


def infer(argv: Sequence[str], prog: str = "urbansound-hf infer") -> int:
    """Classifies files, folders, globs or standard input; writes a table, JSON lines or CSV.

    Args:
        argv: the words after the command's name.
        prog: the command's name in usage lines.

    Returns:
        0; 1 if some inputs could not be read, 2 if none could.
    """
    args = _infer_arguments(argv, prog)
    from urbansound_hf import progress
    from urbansound_hf.inference import inputs, output

    sounds, problems = inputs.find_sounds(args.inputs)
    if args.plot:
        from urbansound_hf.plots.sounds import plot_targets, plotted

        figures = plot_targets(sounds, args.plot)
    with progress.quietly(args.quiet), output.destination(args.output) as stream:
        if args.model is None:
            args.model = CLAP if args.labels is not None else inputs.newest_run()
            progress.say(f"model: {args.model}")
        results = _classify(sounds, args) if sounds else iter(())
        if args.plot:
            results = plotted(results, sounds, figures)
        results = progress.Bar(results, "Classifying", len(sounds), unit="sounds", disable=stream.isatty())
        results = chain(map(output.Classification.failed, problems), results)
        return output.write_results(results, args.format or output.format_of(args.output), args.top_k, stream)


def train(argv: Sequence[str], prog: str = "urbansound-hf train") -> int:
    """Fine-tunes and evaluates a model: `[CONFIG] [--flag value …]`.

    Args:
        argv: the words after the command's name; CONFIG is a YAML file or the name of a shipped one.
        prog: the command's name in usage lines.
    """
    from urbansound_hf.config.parse import config_path, parse_run_config

    if argv and not argv[0].startswith("-"):
        argv = [str(config_path(argv[0])), *argv[1:]]
    run_config = parse_run_config(argv, config_path(DEFAULT_CONFIG), prog)

    from urbansound_hf.training.cross_validation import run_experiment

    return run_experiment(run_config)


def overview() -> str:
    """The text of `urbansound-hf --help`: one line for each command."""
    lines = [f"  {name:<10}{about}" for name, (_, about) in COMMANDS.items()]
    usage = "usage: urbansound-hf COMMAND [ARGUMENT ...]"
    return "\n".join([usage, "", *lines, "", "`urbansound-hf COMMAND --help` lists the arguments of a command."])


def run(argv: Sequence[str]) -> int:
    """Runs one sub-command; returns its exit code."""
    from urbansound_hf import __version__

    if not argv or argv[0] in ("-h", "--help"):
        print(overview())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"urbansound-hf {__version__}")
        return 0
    if argv[0] not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(argv[0], COMMANDS, n=1)
        fix = f"did you mean {near[0]}?" if near else f"give one of {', '.join(COMMANDS)}"
        raise UserError(f"there is no command {argv[0]!r}", "urbansound-hf", fix)
    module, _, function = COMMANDS[argv[0]][0].partition(":")
    return getattr(importlib.import_module(module), function)(list(argv[1:]))


def main() -> int:
    """The entry point of the installed command."""
    return exit_code(lambda: run(sys.argv[1:]))
