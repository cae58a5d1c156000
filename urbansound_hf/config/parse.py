"""Config file and command line to a checked `RunConfig`."""

from __future__ import annotations

import ast
import difflib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from urbansound_hf import progress
from urbansound_hf.config import search_space
from urbansound_hf.config.arguments import BATCH_FLAGS, SCHEMA, RunConfig
from urbansound_hf.config.checks import check_settings, unused_by_dataset
from urbansound_hf.config.flags import OVERRIDES, FlagParser, Flags, keyword_pairs, read_flags, split_command_line
from urbansound_hf.errors import UserError, UserErrors
from urbansound_hf.evaluation.receipts import INCIDENTAL
from urbansound_hf.layout import CONFIGS

TRAIN = "urbansound-hf train"


def config_path(name: str) -> Path:
    """The file of a config that is named by its path or, of the shipped ones, by its stem. Raises UserError."""
    shipped = {path.stem: path for path in sorted(CONFIGS.glob("*.yaml"))}
    path = Path(name)
    if path.suffix or path.name != name:
        if path.stem in shipped and path.parent.name == CONFIGS.name and not path.exists():
            raise UserError("the config does not exist", name, f"the shipped config is called {path.stem}")
        return path
    if name not in shipped:
        near = difflib.get_close_matches(name, shipped, n=1)
        fix = f"did you mean {near[0]}?" if near else f"the shipped ones are {', '.join(shipped)}"
        raise UserError(f"there is no config {name}", "", fix)
    return shipped[name]


def parse_run_config(argv: Sequence[str], default_config: Path, prog: str = TRAIN) -> RunConfig:
    """Reads `[CONFIG.yaml] [--flag value …]`; the command line wins; `prog` is the command's name in its usage.

    Raises UserErrors: all mistakes of both, each with its place and the way out; SystemExit after `--help`.
    """
    parser = flag_parser(prog)
    if {"--help", "-h"} & set(argv):
        parser.parse_args(["--help"])
    pairs, config = split_command_line(parser, argv)
    command = (Path(sys.argv[0]).name, *sys.argv[1:])
    return _checked(parser, read_flags(parser, config or default_config, pairs), command)


def keyword_run_config(config: str | Path, keywords: Mapping[str, Any], command: Sequence[str]) -> RunConfig:
    """The same of a config's path or shipped name, and flags as keywords; the receipt has `command` as the call."""
    parser = flag_parser()
    pairs = keyword_pairs(parser, keywords)
    return _checked(parser, read_flags(parser, config_path(str(config)), pairs), command)


def _checked(parser: FlagParser, flags: Flags, command: Sequence[str]) -> RunConfig:
    defaults = vars(parser.parse_args([]))
    settings = {**defaults, **flags.values}
    for name in dropped_flags(settings, flags.origin):
        settings[name] = defaults[name]
        del flags.origin[name]
    share_batch(settings, flags.origin)
    problems = flags.problems + check_settings(settings, flags.origin)
    problems += search_space.check_search_space(parser, settings, flags.origin)
    if problems:
        raise UserErrors(problems)
    name = flags.source.stem
    settings["output_dir"] = settings["output_dir"] or f"outputs/{name}"
    if settings["validation"] == "none":  # no validation clips are left
        settings.update(eval_strategy="no", load_best_model_at_end=False)
    parts = ({each.name: settings[each.name] for each in fields(kind) if each.init} for kind in SCHEMA)
    try:
        built: Any = [kind(**part) for kind, part in zip(SCHEMA, parts, strict=True)]
    except Exception as error:  # rules of TrainingArguments, and the files and packages that flags name
        places = [place for name, place in flags.origin.items() if name in str(error)]
        raise UserErrors([UserError(str(error), " and ".join(places) or str(flags.source))]) from error
    data, model, recipe, training = built
    return RunConfig(data, model, recipe, training, flags.source, name, tuple(command))


def share_batch(settings: dict[str, Any], origin: Mapping[str, str]) -> None:
    """Lets the two batch flags of Trainer win over `train_batch_size`, in place; of the two, one makes the other."""
    given = [name for name in BATCH_FLAGS if name in origin]
    if len(given) == 1 and "train_batch_size" in origin:
        (other,) = set(BATCH_FLAGS) - set(given)
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        settings[other] = max(1, round((settings["train_batch_size"] or 0) / max(1, settings[given[0]] * processes)))
    if given:
        settings["train_batch_size"] = None


def dropped_flags(settings: Mapping[str, Any], origin: Mapping[str, str]) -> list[str]:
    """The flags of a config that do not apply to the data or the split which the command line names; says so."""
    dropped: list[str] = []
    for name in ("dataset", "split"):
        if origin.get(name, "").startswith(OVERRIDES):
            unused = unused_by_dataset(settings, origin) if name == "dataset" else []
            unused += ["test_fold"] if "test_fold" in origin and "test_fold" not in dropped else []
            if left := [each for each in unused if not origin[each].startswith(OVERRIDES)]:
                progress.say(f"note: left out, as --{name} {settings[name]} does not use it: {', '.join(left)}")
            dropped += left
    return dropped


ABOUT = """CONFIG is a YAML file, or the name of a shipped one. Every line `flag: value` of it is the flag --flag value;
the command line wins over it."""


def flag_parser(prog: str = TRAIN) -> FlagParser:
    """The parser of all flags."""
    return FlagParser(SCHEMA, prog=prog, usage="%(prog)s [CONFIG] [--flag value ...]", description=ABOUT)


DERIVED = frozenset({
    "accelerator_config", "greater_is_better", "do_train", "do_eval", "do_predict", "hub_strategy", "hub_always_push",
    "include_num_input_tokens_seen",
})  # fmt: skip
"""Values of `TrainingArguments` that follow from others."""
SELECTION = frozenset({"eval_strategy", "load_best_model_at_end", "metric_for_best_model"})  # of a checkpoint


def changed_flags(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those flags of a `RunConfig.as_dict` that determine the result of a run and differ from their defaults."""
    defaults = vars(flag_parser().parse_args([]))
    if not settings.get("train_batch_size"):  # both win over it
        defaults |= dict.fromkeys(BATCH_FLAGS)
    unused = SELECTION if settings["validation"] == "none" else frozenset()
    omitted = (INCIDENTAL | DERIVED | unused) - {"dataset", "test_fold"}
    return {
        name: value
        for name, value in settings.items()
        if name not in omitted and value != (default := defaults.get(name))
        if value or default or name == "bf16"  # an explicit false equals an absent flag, but bf16 depends on hardware
    }


def key_values(pairs: Sequence[str]) -> dict[str, Any]:
    """`["hidden_size=32", "hidden_act=relu"]`, already checked, → `{"hidden_size": 32, "hidden_act": "relu"}`."""
    values: dict[str, Any] = {}
    for key, _, text in (pair.partition("=") for pair in pairs):
        try:
            values[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[key] = {"true": True, "false": False, "null": None}.get(text, text)
    return values
