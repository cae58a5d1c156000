"""The command `urbansound-hf models`: lists the model families, or converts published weights.

Licences and pretraining are those that the checkpoints' cards state; parameters and input are asked of the classes.
That speech models do not carry over to other sounds: arXiv:2111.12124.
"""

import argparse
import importlib
import json
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForAudioClassification
from transformers.utils import logging

from urbansound_hf.errors import CommandParser
from urbansound_hf.models.loading import library_messages, load_feature_extractor
from urbansound_hf.models.registry import Conversion, conversions, families, register
from urbansound_hf.text import table

WIDTH = 120  # columns

NOTES = (
    "Parameters: in millions, of the checkpoint with a head for ten classes. Fixed lengths of AST, Whisper and cnn are "
    "cut to --clip_seconds.",
    "Percentages are published, on the ten official folds unless it says otherwise; 'expected': speech is the wrong "
    "domain, and no figure is known here.",
    "Unknown licences: the cards only point to the LICENSE of github.com/microsoft/UniSpeech. YAMNet's licence is "
    "Google's, who trained it; Qualcomm's card of the ONNX export says 'other'. Weights trained on UrbanSound8K were "
    "trained on CC BY-NC sounds, whatever their own licence.",
    "yamnet and ecapa-tdnn are converted first: "
    f"{', '.join(conversion.command() for conversion in conversions().values())}.",
)
KEYS = ("family", "start_from", "licence", "pretrained_on", "parameters", "input", "environmental_sound")
HEADER = ("family", "start from", "licence", "pretrained on", "parameters", "input", "on environmental sound")


def list_families() -> Iterator[dict[str, Any]]:
    """The model families: recommended checkpoint, licence, pretraining, size, input, results on environmental sound.

    `parameters` is a number, of the checkpoint with a head for ten classes; it and `input` are None where a family's
    extra is not installed. Licences and pretraining are those of the checkpoints' model cards.

    Examples:
        >>> {row["family"]: row["start_from"] for row in ush.list_families()}["wav2vec2"]
        'facebook/wav2vec2-base'
    """
    register()
    for family in families():
        texts = (family.model_type, family.start_from, family.licence, family.pretraining, None, None)
        row: dict[str, Any] = dict(zip(KEYS, (*texts, family.environmental), strict=True))
        with suppress(ImportError):  # ecapa-tdnn without SpeechBrain
            config = AutoConfig.for_model(family.model_type, num_labels=10, **family.sizes)
            with torch.device("meta"):
                model = AutoModelForAudioClassification.from_config(config)
            extractor: Any = load_feature_extractor(family.model_type, clip_seconds=None)
            seconds = family.lengths.longest_seconds(extractor)
            length = "any length" if seconds is None else f"fixed {round(seconds, 2):g} s"
            row["parameters"] = sum(parameter.numel() for parameter in model.parameters())
            row["input"] = f"{extractor.sampling_rate // 1000} kHz {family.input}, {length}"
        yield row


def family_cells(row: dict[str, Any]) -> list[str]:
    """A row as text, in the order of `HEADER`."""
    parameters, inputs = row["parameters"], row["input"]
    size = "–" if parameters is None else f"{parameters / 1e6:.3g}" if parameters < 1e8 else f"{parameters / 1e6:.0f}"
    return [*(row[name] for name in KEYS[:4]), size, inputs or "needs its extra", row["environmental_sound"]]


def main(argv: Sequence[str]) -> int:
    """Lists the model families: recommended checkpoint, licence, pretraining, size, input, published results."""
    if argv and argv[0] in conversions():
        return _convert(conversions()[argv[0]], argv[1:])
    commands = " · ".join(conversion.command() for conversion in conversions().values())
    parser = CommandParser("urbansound-hf models", description=main.__doc__, epilog=f"conversions: {commands}")
    parser.add_argument("--format", choices=("table", "markdown", "json"), default="table", help="default: table")
    chosen = parser.parse_args(argv).format
    logging.set_verbosity_error()
    rows = list(list_families())
    if chosen == "json":
        print(json.dumps(rows, indent=2))
        return 0
    if chosen == "markdown":
        print(table(HEADER, map(family_cells, rows), texts=len(HEADER)))
    else:  # two lines for each family; the second describes the recommended checkpoint
        lines: list[tuple[str, ...]] = []
        for cells in (HEADER, *map(family_cells, rows)):
            name, start_from, licence, pretraining, parameters, inputs, environmental = cells
            lines += [(name, parameters, inputs, environmental), (f"  {start_from}", licence, pretraining, "")]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        lines.insert(2, ("-" * WIDTH,))
        for line in lines:
            print("  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=False)).rstrip())
    print("", *(textwrap.fill(note, WIDTH, break_on_hyphens=False) for note in NOTES), sep="\n")
    return 0


def _convert(conversion: Conversion, argv: Sequence[str]) -> int:
    module = importlib.import_module(conversion.module)
    raw = argparse.RawDescriptionHelpFormatter
    parser = CommandParser(f"urbansound-hf models {conversion.name}", description=module.__doc__, formatter_class=raw)
    about = f"{conversion.source} → checkpoint folder"
    command = parser.add_subparsers(required=True).add_parser("convert", help=about)
    command.add_argument("source", type=Path, metavar=conversion.source, help="the published weights")
    command.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="the folder to write")
    chosen = parser.parse_args(argv)
    with library_messages():
        conversion.write(chosen.source, chosen.out_dir)
    print(f"wrote {chosen.out_dir}: urbansound-hf infer CLIP.wav --model {chosen.out_dir}")
    return 0
