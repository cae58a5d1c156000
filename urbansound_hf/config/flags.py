"""Parser of config files and command lines: typed values with their places, and all mistakes at once.

A line `key: value` of a config is read as the flag `--key value`, by the same argparse action.
"""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml
from transformers.hf_argparser import HfArgumentParser, string_to_bool

from urbansound_hf.errors import SECRETS, UserError

KINDS: dict[Any, str] = {int: "a whole number", float: "a number", string_to_bool: "true or false", str: "text"}
METAVARS: dict[Any, str] = {int: "INT", float: "FLOAT", string_to_bool: "BOOL", str: "TEXT"}
OVERRIDES = ("command line", "keyword")  # how the place of a flag begins that wins over the config
COMMA_LISTS = frozenset({"test_fold", "report_to"})  # several values reach them as one text, "1,3,5"
OTHER_NAMES = {
    "batch_size": "per_device_train_batch_size", "epochs": "num_train_epochs", "evaluation_strategy": "eval_strategy",
    "fold": "test_fold", "group_by_length": "train_sampling_strategy", "lr": "learning_rate",
    "model": "model_name_or_path", "overwrite_output_dir": "overwrite", "warmup_ratio": "warmup_steps",
}  # fmt: skip
"""Flag names of earlier Transformers versions and other tools, for suggestions that difflib would not find."""


class Flags(NamedTuple):
    """The flags that were given, by name: their values and their places; and all mistakes."""

    source: Path
    values: dict[str, Any]
    origin: dict[str, str]
    problems: list[UserError]


class Pair(NamedTuple):
    """A flag as written: its name, values as text (None: the default), place, and the prefix of names there."""

    name: str
    values: list[str] | None
    where: str
    sign: str = ""


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Help with one spelling of each flag, the type of its value, and its default."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        spelling = next(name for name in action.option_strings if name.startswith("--"))
        shown = argparse.Action([spelling], action.dest, action.nargs, metavar=action.metavar)
        shown.choices, shown.type = action.choices, action.type
        return super()._format_action_invocation(shown)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return METAVARS.get(action.type, "JSON")


class FlagParser(HfArgumentParser):
    """Parser of the flags of dataclasses; raises `ValueError` for a mistake instead of exiting."""

    def __init__(self, dataclass_types: Iterable[Any], **kwargs: Any) -> None:
        kwargs.setdefault("prog", "urbansound-hf train")  # argparse would ask sys.argv
        super().__init__(dataclass_types, allow_abbrev=False, formatter_class=Help, **kwargs)
        self.by_name = {name[2:]: action for action in self._actions[1:] for name in action.option_strings}  # 0: --help
        self.names = [action.dest for action in self._actions[1:]]

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)

    def convert(self, name: str, values: list[str]) -> Any:
        """The typed value of a flag; raises `ValueError` if its argparse action refuses it.

        `none` is the default of a flag of several values, so that the command line can drop the list of a config.
        """
        if values == ["none"] and self.by_name[name].nargs == "+" and self.by_name[name].default is None:
            return None
        if values and name in COMMA_LISTS:
            values = [",".join(values)]
        tokens = [f"--{name}={values[0]}"] if len(values) == 1 else [f"--{name}", *values]  # "=", for values like -1e5
        return getattr(self.parse_args(tokens), self.by_name[name].dest)


def read_flags(parser: FlagParser, config: Path, pairs: Iterable[Pair | UserError]) -> Flags:
    """Reads a config, then `pairs` of the command line or of keywords, which win over it."""
    flags = Flags(config, {}, {}, [])
    for pair in chain(read_yaml(config, parser), pairs):
        if isinstance(pair, UserError):
            flags.problems.append(pair)
            continue
        action = parser.by_name.get(pair.name)
        if pair.name.endswith("token"):
            SECRETS.update(pair.values or [])
        if action is None or (action.nargs == 0 and not pair.sign):  # `--no_x` is `x: false` in a file
            flags.problems.append(unknown(pair, parser.names))
        elif pair.values is None:
            flags.values.pop(action.dest, None)
            flags.origin.pop(action.dest, None)
        else:
            try:
                flags.values[action.dest] = parser.convert(pair.name, pair.values)
                flags.origin[action.dest] = pair.where
            except ValueError:
                flags.problems.append(refused(pair, action))
    return flags


def split_command_line(parser: FlagParser, argv: Sequence[str]) -> tuple[list[Pair | UserError], Path | None]:
    """Splits a command line into `--flag value …` and `--flag=value` pairs and the path of the config, if any."""
    pairs: list[Pair | UserError] = []
    config: Path | None = None
    values: list[str] | None = None  # of the last flag
    waits = False  # whether the last flag still needs a value
    for token in argv:
        if token.startswith("--"):
            name, equals, value = token[2:].partition("=")
            values = [value] if equals else []
            pairs.append(Pair(name, values, f"command line, --{name}", "--"))
            waits = not equals and name in parser.by_name and parser.by_name[name].nargs in (None, "+")
        elif token.endswith((".yaml", ".yml")) and config is None and not waits:
            config = Path(token)
        elif values is not None:
            values.append(token)
            waits = False
        else:
            what = f"{token!r} is neither a config nor a flag"
            pairs.append(UserError(what, "command line", "a config ends in .yaml, a flag begins with --"))
    return pairs, config


def keyword_pairs(parser: FlagParser, keywords: Mapping[str, Any]) -> Iterator[Pair]:
    """Flags as keyword arguments: lists for several values, mappings for KEY=VALUE or JSON, None for the default."""
    for name, value in keywords.items():
        yield Pair(name, _texts(value, parser.by_name.get(name)), f"keyword {name}")


def _texts(value: Any, action: argparse.Action | None) -> list[str] | None:
    """A Python value as the texts that the command line would have; None: the flag's default."""
    if value is None:
        return None
    if isinstance(value, bool) and action and action.const is True and action.type is str:
        return [] if value else None  # `fsdp=True` is a bare --fsdp
    if isinstance(value, Mapping):
        pairs = [f"{key}={item}" for key, item in value.items()]
        return (pairs or None) if action and action.nargs == "+" else [json.dumps(value)]
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [str(item) for item in value] or None
    return [str(value.value if isinstance(value, Enum) else value)]


def read_yaml(path: Path, parser: FlagParser) -> Iterator[Pair | UserError]:
    """The lines of a flat YAML file, and the mistakes in it, in its order."""
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError:
        near = difflib.get_close_matches(path.name, [other.name for other in path.parent.glob("*.y*ml")], n=1)
        fix = f"did you mean {path.with_name(near[0])}?" if near else "give the path of a .yaml file"
        yield UserError("the config does not exist or cannot be read", str(path), fix)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        what = f"the config is not YAML: {getattr(error, 'problem', None) or str(error).splitlines()[0]}"
        yield UserError(what, f"{path}:{mark.line + 1}" if mark else str(path), "one `flag: value` a line")
    else:
        if isinstance(root, yaml.MappingNode):
            yield from _pairs(root.value, path, parser)
        elif root is not None:
            yield UserError("the config does not consist of `flag: value` lines", f"{path}:{_line(root)}")


def _pairs(entries: Iterable[Any], path: Path, parser: FlagParser) -> Iterator[Pair | UserError]:
    first: dict[str, int] = {}
    for key, node in entries:
        name, where = str(key.value), f"{path}:{_line(key)}"
        items = node.value if isinstance(node, yaml.SequenceNode) else [node]
        action = parser.by_name.get(name)
        line = first.setdefault(action.dest if action else name, _line(key))
        if line != _line(key):
            fix = f"keep one of the lines {line} and {_line(key)}"
            yield UserError(f"`{name}` is given twice", where, fix)
        elif not all(isinstance(item, yaml.ScalarNode) for item in items):
            fix = "a flag of several values takes a list, one that takes JSON takes it in quotes"
            yield UserError(f"`{name}` holds a nested value; a config is flat", where, fix)
        elif node.tag == "tag:yaml.org,2002:null":
            yield Pair(name, None, where)
        elif node.tag == "tag:yaml.org,2002:bool" and action and action.const is True and action.type is str:
            yield Pair(name, [] if yaml.safe_load(node.value) else None, where)  # `fsdp: true` is a bare --fsdp
        else:  # the text as it stands: argparse decides what `no` and `3e-5` are, YAML would take a bool and a string
            yield Pair(name, [item.value for item in items], where)


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def unknown(pair: Pair, names: Sequence[str]) -> UserError:
    """The error of an unknown flag, with the nearest known one."""
    near = [OTHER_NAMES[pair.name]] if pair.name in OTHER_NAMES else difflib.get_close_matches(pair.name, names, n=1)
    fix = f"did you mean {pair.sign}{near[0]}?" if near else "--help lists all flags"
    return UserError(f"there is no flag `{pair.name}`", pair.where, fix)


def refused(pair: Pair, action: argparse.Action) -> UserError:
    """The error of a refused value: the rule, the value found, and the nearest allowed value or the default."""
    values, choices = pair.values or [], [str(choice) for choice in action.choices or ()]
    near = difflib.get_close_matches(" ".join(values), choices, n=1)
    fix = "leave it out for the default" + ("" if action.default in (None, "", []) else f", {action.default}")
    if action.nargs == 0:
        rule, fix = "takes no value", ""
    elif len(values) > 1 and action.nargs != "+":
        rule = "takes one value"
    elif choices:
        rule, fix = f"must be one of {', '.join(choices)}", f"did you mean {near[0]}?" if near else fix
    else:
        rule = f"must be {KINDS.get(action.type, 'JSON')}"
        with suppress(ValueError, RecursionError):
            if action.type not in KINDS and json.loads(" ".join(values)) is not None:
                rule, fix = "cannot be given as text", "leave it out"
    found = ", ".join(repr(value) for value in values) or "no value"
    return UserError(f"`{pair.name}` {rule}, found {found}", pair.where, fix)
