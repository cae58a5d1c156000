#!/usr/bin/env python
"""Says what sounds are: files, folders, globs or standard input in; a table, JSON lines or CSV out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import chain

from urbansound_hf.errors import exit_code

CLAP = "laion/clap-htsat-unfused"  # which --labels asks where no --model is given


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, epilog="Exit 1: some inputs unreadable; 2: all, or misuse")
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="file, folder (recursive), glob, or - for a sound on standard input")
    add("--model", metavar="DIR_OR_HUB_ID", help="a checkpoint (default: the newest finished run under outputs/)")
    add("--labels", metavar="A,B,...", help=f"choose from these, untrained, with a CLAP for --model (default: {CLAP})")
    add("--revision", help="branch, tag or commit of a Hub id")
    add("--trust_remote_code", action="store_true", help="run the model code that comes with the checkpoint")
    add("--top_k", type=int, default=5, help="labels for each sound (default: 5)")
    add("--format", choices=("table", "jsonl", "csv"), help="default: by the suffix of --output, else table")
    add("--output", metavar="FILE", help="write there, once complete, instead of standard output")
    add("--plot", metavar="PATH", help="draw the sound and its classes: a .png, .svg or .pdf; of several, a folder")
    add("--window_seconds", type=float, help="a longer recording becomes a timeline of windows (default: as trained)")
    add("--hop_seconds", type=float, help="from window to window (default: half a window)")
    add("--batch_size", type=int, default=8, help="windows that go through the model together (default: 8)")
    add("--device", help="cpu, cuda, cuda:1… (default: the GPU if there is one)")
    add("--quiet", action="store_true", help="print nothing but the result")
    args = parser.parse_args()
    if min(args.top_k, args.batch_size) < 1:
        parser.error("--top_k and --batch_size are at least 1")
    return args


def classify(sounds: list, args: argparse.Namespace) -> Iterator:
    from urbansound_hf.predict import SoundClassifier  # torch and transformers: seconds

    if args.labels is None:
        model = SoundClassifier.from_pretrained(args.model, args.revision, args.device, args.trust_remote_code)
    else:
        model = SoundClassifier.zero_shot(args.model, args.labels.split(","), args.revision, args.device)
    args.top_k = min(args.top_k, len(model.labels))
    return model.classify_many(sounds, args.top_k, args.window_seconds, args.hop_seconds, args.batch_size)


def main() -> int:
    args = parse()
    from urbansound_hf import inputs, output, progress, timeline

    sounds, problems = inputs.find_sounds(args.inputs)
    pictures = timeline.targets(sounds, args.plot) if args.plot else []
    with progress.quietly(args.quiet), output.destination(args.output) as stream:
        if args.model is None:
            args.model = CLAP if args.labels is not None else inputs.newest_run()
            progress.say(f"model: {args.model}")
        found = timeline.plotted(classify(sounds, args), sounds, pictures) if sounds else ()
        found = progress.Bar(found, "Classifying", len(sounds), unit="sounds", disable=stream.isatty())
        results = chain(map(output.Classification.failed, problems), found)
        return output.write(results, args.format or output.format_of(args.output), args.top_k, stream)


if __name__ == "__main__":
    sys.exit(exit_code(main))
