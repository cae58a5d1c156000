"""The command `urbansound-hf` and its sub-commands; train.py and infer.py are two of them.

Each sub-command is a `main(argv) -> exit code` in the package that does the work, imported when it is called.
"""

from __future__ import annotations

import argparse
import difflib
import gc
import hashlib
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from urbansound_hf.errors import CommandParser, UserError, exit_code
from urbansound_hf.layout import TRACE
from urbansound_hf.profiling import profiling, stage

if TYPE_CHECKING:
    from urbansound_hf.audio.io import AudioError, Source
    from urbansound_hf.inference.classifier import SoundClassifier
    from urbansound_hf.inference.formats import WriteOptions
    from urbansound_hf.inference.output import Classification
    from urbansound_hf.inference.results import ResultFile

COMMANDS = {
    "train": ("urbansound_hf.cli:train", "fine-tune and evaluate a model, one run for each test fold"),
    "infer": ("urbansound_hf.cli:infer", "classify files, folders and long recordings"),
    "report": ("urbansound_hf.reports.__main__:main", "write and print the report of a run"),
    "compare": ("urbansound_hf.reports.__main__:compare_main", "compare two runs, paired by clip"),
    "leaderboard": ("urbansound_hf.reports.leaderboard:main", "rank finished runs, each protocol on its own"),
    "crossval": ("urbansound_hf.reports.__main__:crossval_main", "gather the finished folds of one experiment"),
    "ensemble": ("urbansound_hf.reports.__main__:ensemble_main", "combine runs of the same folds, and compare"),
    "leaks": ("urbansound_hf.data.leaks:main", "report what the folds of a metadata table share"),
    "data": ("urbansound_hf.data.__main__:main", "prepare UrbanSound8K, write shards or the synthetic data set"),
    "figures": ("urbansound_hf.plots.__main__:main", "draw a sound, a data set or runs"),
    "export": ("urbansound_hf.models.onnx_export:main", "write a checkpoint as ONNX, to serve it without torch"),
    "models": ("urbansound_hf.models.catalogue:main", "list the model families, or convert published weights"),
    "app": ("urbansound_hf.app.__main__:main", "serve the browser page that classifies sounds"),
    "hub": ("urbansound_hf.hub.__main__:main", "push a run, the data set or the page to the Hub"),
}
GROUPS = {
    "Train and compare": ("train", "crossval", "report", "compare", "ensemble", "leaderboard"),
    "Classify": ("infer", "app", "export", "figures"),
    "Data, models, sharing": ("data", "leaks", "models", "hub"),
}
EXIT_CODES = "Exit code 1: some inputs unreadable; 2: all of them, or wrong usage."
DEFAULT_CONFIG = "wav2vec2_base"
CLAP = "laion/clap-htsat-unfused"  # the model of --labels where --model is not given


def _infer_arguments(argv: Sequence[str], prog: str) -> argparse.Namespace:
    from urbansound_hf.inference.backend import BACKENDS, DTYPES
    from urbansound_hf.inference.formats import ANNOTATIONS, FORMATS, format_of

    parser = CommandParser(prog, description="Classify sounds with a checkpoint.", epilog=EXIT_CODES)
    add = parser.add_argument
    sources = "file, folder (recursive), glob, address (https, s3, hf), or - for stdin"
    add("inputs", nargs="*", metavar="INPUT", help=sources)
    add("--manifest", metavar="FILE", help="further inputs: a path or an address a line")
    add("--shard", metavar="I/N", help="classify one of N parts of the inputs; its number is added to --output")
    add("--microphone", nargs="?", const="", metavar="DEVICE", help="classify live sound, a line a hop")
    add("--raw", type=int, metavar="RATE", help="live sound as raw PCM on standard input: 16 bit, mono, RATE in Hz")
    models = "a checkpoint, or several of the same labels: an ensemble (default: the newest finished run in outputs/)"
    add("--model", nargs="+", metavar="DIR_OR_HUB_ID", help=models)
    add("--labels", metavar="A,B,...", help=f"zero-shot: score these labels with a CLAP model (default: {CLAP})")
    add("--revision", help="branch, tag or commit of a Hub id")
    add("--trust_remote_code", action="store_true", help="run the model code that comes with the checkpoint")
    add("--top_k", type=int, default=5, help="number of labels printed for each sound (default: 5)")
    add("--format", choices=FORMATS, help="default: by the suffix of --output, else table")
    add("--output", metavar="FILE", help="write to this file; audacity and raven: a folder for several sounds")
    add("--embeddings", metavar="FILE.parquet", help="write windows with their labels and embeddings to this file")
    add("--resume", action="store_true", help="continue FILE.part, which a call that did not finish has left")
    add("--events", action="store_true", help="merge the windows to events: start, end, label, score")
    add("--min_score", type=float, help="events and table: below it a sound is unknown (multi-label: no event; 0.5)")
    add("--min_seconds", type=float, default=0.0, help="leave shorter events out (default: 0)")
    add("--smooth", type=int, default=1, metavar="N", help="events: median of the scores over N steps (default: 1)")
    add("--silence_db", type=float, default=-60.0, help="mark windows below this RMS level, in dBFS (default: -60)")
    add("--plot", metavar="PATH", help="plot sound and scores: a .png, .svg or .pdf file; a folder for several sounds")
    add("--window_seconds", type=float, help="window over longer recordings, in seconds (default: as trained)")
    add("--hop_seconds", type=float, help="step between windows, in seconds (default: half a window)")
    add("--max_seconds", type=float, help="refuse longer sounds (default: none; memory does not grow with the length)")
    add("--min_rate", type=int, default=1000, help="refuse sounds of a lower sampling rate, in Hz (default: 1000)")
    add("--batch_size", type=int, help="windows in one forward pass (default: 8 on a CPU, 64 on an accelerator)")
    add("--device", help="cpu, cuda, cuda:1, mps, xpu… (default: the accelerator if there is one, else cpu)")
    add("--backend", choices=BACKENDS, default="auto", help="default: auto, an ONNX export on a CPU, else torch")
    add("--dtype", choices=DTYPES, help="precision of the model (default: as saved); int8 needs export --int8")
    add("--profile", action="store_true", help=f"print where the time goes, and write it to {TRACE} (chrome://tracing)")
    add("--quiet", action="store_true", help="print the result only, no progress")
    args = parser.parse_args(argv)
    args.inputs, args.model = _inputs_and_model(args.inputs, args.model or ())
    written = {args.format or "parquet", format_of(args.embeddings or ".parquet")} - {"parquet"}
    misused = bool(args.embeddings and (args.output or args.events or written))
    args.output = args.embeddings or args.output
    args.format = args.format or format_of(args.output)
    args.events |= args.format in ANNOTATIONS
    live = args.microphone is not None or args.raw is not None
    taken = (args.inputs, args.manifest, args.shard, args.output, args.plot, args.events, args.format == "parquet")
    ruled = any(getattr(args, name) != parser.get_default(name) for name in ("min_score", "min_seconds", "smooth"))
    mistakes = {
        "--embeddings FILE.parquet replaces --output, in one format, without --events": misused,
        "--top_k and --batch_size must be at least 1":
            args.top_k < 1 or (args.batch_size is not None and args.batch_size < 1),
        "--min_rate must be at least 1, and --max_seconds above 0":
            args.min_rate < 1 or (args.max_seconds is not None and not args.max_seconds > 0),
        "--smooth must be odd, and --min_seconds at least 0":
            args.smooth % 2 == 0 or min(args.smooth, args.min_seconds) < 0,
        "live sound goes line by line to standard output, without other inputs, --shard, --plot or --events":
            live and any(taken),
        "required: INPUT, --manifest FILE, --microphone or --raw RATE": not (live or args.inputs or args.manifest),
        "--resume and --format parquet need --output FILE":
            args.output is None and (args.resume or args.format == "parquet"),
        "--min_score, --min_seconds and --smooth apply to events: add --events":
            ruled and not args.events and args.format != "table",
    }  # fmt: skip
    for rule in (rule for rule, broken in mistakes.items() if broken):
        parser.error(rule)
    return args


def _inputs_and_model(inputs: list[str], models: Sequence[str] = ()) -> tuple[list[str], Any]:
    """Tells the sounds that follow `--model A B` from its checkpoints; one checkpoint is a text, several are a list."""
    from urbansound_hf.audio.files import SUFFIXES
    from urbansound_hf.layout import ENSEMBLE, MODEL_CONFIG

    def is_sound(word: str) -> bool:
        path = Path(word)
        no_model = path.exists() and not any((path / name).is_file() for name in (MODEL_CONFIG, ENSEMBLE))
        return no_model or word == "-" or any(mark in word for mark in "*?:") or path.suffix.lower() in SUFFIXES

    named = [*models[:1], *(word for word in models[1:] if not is_sound(word))]
    return [*inputs, *filter(is_sound, models[1:])], named if len(named) > 1 else named[0] if named else None


def _model(args: argparse.Namespace) -> SoundClassifier:
    from urbansound_hf.audio.io import Limits
    from urbansound_hf.inference.classifier import SoundClassifier

    gc.disable()  # torch and Transformers make millions of objects on import that all stay: a tenth of the start
    try:
        with stage("load"):
            if args.labels is None:
                how = (args.revision, args.device, args.trust_remote_code, args.backend, args.dtype)
                model = SoundClassifier.from_pretrained(args.model, *how)
            else:
                labels = args.labels.split(",")
                model = SoundClassifier.zero_shot(args.model, labels, args.revision, args.device, args.dtype)
            model.limits = Limits(args.min_rate, args.max_seconds)
            return model
    finally:
        gc.enable()
        gc.freeze()


def _listen(args: argparse.Namespace, options: WriteOptions) -> int:
    from urbansound_hf.inference import formats, live

    if args.raw is None:
        rate, blocks = live.microphone(args.microphone or None)
    else:
        rate, blocks = args.raw, live.raw_pcm(sys.stdin.buffer, args.raw)
    model = _model(args)
    top_k = min(args.top_k, len(model.labels))
    predictions = live.listen(model, blocks, rate, top_k, args.window_seconds, args.hop_seconds)
    formats.write_live(predictions, args.format, replace(options, top_k=top_k), sys.stdout)
    return 0


def _classify(
    model: SoundClassifier, sounds: Iterable[Source], args: argparse.Namespace, **options: Any
) -> Iterator[Classification]:
    cut = {"window_seconds": args.window_seconds, "hop_seconds": args.hop_seconds, "batch_size": args.batch_size}
    return model.classify_many(sounds, args.top_k, embeddings=bool(args.embeddings), **cut, **options)


def _open_alone(args: argparse.Namespace) -> Callable[[Source], Classification]:
    model = _model(args)
    return lambda sound: next(_classify(model, [sound], args))


def _results(
    sounds: list[Source],
    problems: list[AudioError],
    figures: list[Path],
    args: argparse.Namespace,
    model: SoundClassifier | None,
    file: ResultFile | None,
) -> Iterator[Classification]:
    """The results of what led to no sound, then of the sounds, from the first that `file` does not hold."""
    from urbansound_hf.inference.output import Classification
    from urbansound_hf.inference.results import classify_alone
    from urbansound_hf.progress import Bar

    done = file.done if file else 0
    failed = map(Classification.failed, problems[done:])
    first = max(done - len(problems), 0)
    sounds, suspects = sounds[first:], file.suspects if file else 0
    if model is None or not sounds:
        return failed
    following = file.begun(sounds[suspects:]) if file else sounds
    results = _classify(model, following, args, **({"on_window": file.add_window} if file else {}))
    if suspects:
        results = chain(classify_alone(partial(_open_alone, args), sounds[:suspects]), results)
    if args.plot:
        from urbansound_hf.plots.sounds import plotted

        results = plotted(results, sounds, figures[first:])
    silent = file is None and sys.stdout.isatty()
    return chain(failed, Bar(results, "Classifying", len(sounds), unit="sounds", disable=silent))


def _made_with(args: argparse.Namespace, form: str, names: list[str]) -> dict[str, Any]:
    """What results depend on, for `--resume`."""
    models = args.model if isinstance(args.model, list) else [args.model]
    weights = [path.stat().st_mtime for model in models for path in Path(model).glob("*.safetensors")]
    flags = ("revision", "labels", "top_k", "window_seconds", "hop_seconds", "events", "min_score", "min_seconds",
             "smooth", "silence_db", "backend", "dtype", "embeddings")  # fmt: skip
    listed = hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    own = {"model": str(args.model), "weights of": max(weights, default=None), "format": form}
    return own | {flag: getattr(args, flag) for flag in flags} | {"inputs": f"{len(names)} ({listed})"}


def infer(argv: Sequence[str], prog: str = "urbansound-hf infer") -> int:
    """Classifies files, folders, globs or standard input; writes a table, JSON lines, CSV, Parquet or label files.

    Returns 0; 1 if some inputs could not be read, 2 if none could.
    """
    args = _infer_arguments(argv, prog)
    with profiling(args.profile, Path(TRACE)):
        return _infer(args)


def _infer(args: argparse.Namespace) -> int:
    from urbansound_hf import progress
    from urbansound_hf.inference import inputs, results
    from urbansound_hf.inference.formats import WriteOptions

    rules = {name: getattr(args, name) for name in ("min_score", "min_seconds", "smooth", "silence_db")}
    if args.model is None:
        args.model = CLAP if args.labels is not None else inputs.newest_run()
        if not args.quiet:
            progress.say(f"model: {args.model}")
    if args.raw is not None or args.microphone is not None:
        with progress.quietly(args.quiet):
            return _listen(args, WriteOptions(args.top_k, rules=rules))
    shard = inputs.Shard.of(args.shard)
    sounds, problems = inputs.find_sounds([*args.inputs, *(inputs.listed(args.manifest) if args.manifest else ())])
    part, args.output = slice(shard.part, None, shard.parts), shard.name(args.output)
    sounds, problems = sounds[part], problems[part]
    names = [problem.where for problem in problems] + [inputs.name_of(sound) for sound in sounds]
    if args.output is None and args.format in ("audacity", "raven") and len(names) > 1:
        what = f"one file of {args.format} holds the labels of one sound, found {len(names)} sounds"
        raise UserError(what, "--format", "give a folder: --output labels")
    figures = []
    if args.plot:
        from urbansound_hf.plots.sounds import plot_targets

        figures = plot_targets(sounds, args.plot)
    with progress.quietly(args.quiet), ExitStack() as stack:
        file = None
        if args.output:
            made_with = _made_with(args, args.format, names)
            file = stack.enter_context(results.ResultFile(args.output, args.format, names, made_with, args.resume))
        model = _model(args) if sounds else None
        top_k = min(args.top_k, len(model.labels)) if model else args.top_k
        highest_hz, several = (model.sampling_rate / 2, bool(model.thresholds)) if model else (8000.0, False)
        options = WriteOptions(top_k, args.events, rules, highest_hz, bool(args.embeddings), several)
        found = _results(sounds, problems, figures, args, model, file)
        return file.write(found, options) if file else results.write_results(found, args.format, options, sys.stdout)


def train(argv: Sequence[str], prog: str = "urbansound-hf train") -> int:
    """Fine-tunes and evaluates a model: `[CONFIG] [--flag value …]`; CONFIG is a YAML file or a shipped one's name."""
    from urbansound_hf.config.parse import config_path, parse_run_config

    if argv and not argv[0].startswith("-"):
        argv = [str(config_path(argv[0])), *argv[1:]]
    run_config = parse_run_config(argv, config_path(DEFAULT_CONFIG), prog)

    from urbansound_hf.training.cross_validation import run_experiment

    return run_experiment(run_config)


def overview() -> str:
    """The text of `urbansound-hf --help`: one line for each command."""
    lines = ["usage: urbansound-hf COMMAND [ARGUMENT ...]", ""]
    for title, names in GROUPS.items():
        lines += [f"{title}:", *(f"  {name:<13}{COMMANDS[name][1]}" for name in names), ""]
    return "\n".join([*lines, "`urbansound-hf COMMAND --help` lists the arguments of a command."])


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
        near = difflib.get_close_matches(argv[0], COMMANDS, n=1)
        fix = f"did you mean {near[0]}?" if near else f"give one of {', '.join(COMMANDS)}"
        raise UserError(f"there is no command {argv[0]!r}", "urbansound-hf", fix)
    module, _, function = COMMANDS[argv[0]][0].partition(":")
    return getattr(importlib.import_module(module), function)(list(argv[1:]))


def main() -> int:
    """The entry point of the installed command."""
    return exit_code(lambda: run(sys.argv[1:]))
