"""Search spaces: parser and checks of lines `FLAG=LOW..HIGH [log]` or `FLAG=CHOICE|CHOICE|…`.

Each line is parsed by the flag's own argparse action and checked by the rules of a config, at the ends of its range and
combined with every other line, before the search starts: no trial has values that a run would refuse.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations, product
from typing import Any

from urbansound_hf.config.arguments import RecipeArguments
from urbansound_hf.config.checks import check_settings
from urbansound_hf.config.flags import FlagParser, Pair, refused, unknown
from urbansound_hf.errors import UserError, UserErrors

SEARCHABLE = (
    "learning_rate", "num_train_epochs", "max_steps", "warmup_steps", "lr_scheduler_type", "optim", "weight_decay",
    "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "label_smoothing_factor",
    "per_device_train_batch_size", "gradient_accumulation_steps",
    "freeze", "unfreeze_last_n", "lora_rank", "weighted_layer_sum", "head_learning_rate", "layer_decay",
    *(each.name for each in fields(RecipeArguments)),
)  # fmt: skip
"""Flags of the training only, not of model, data or seed: the best of many seeds is no better recipe."""
FORM = "FLAG=LOW..HIGH, FLAG=LOW..HIGH log or FLAG=CHOICE|CHOICE"


@dataclass(frozen=True)
class SearchedFlag:
    """A line of a search space: numbers from `low` to `high`, both included, or values by their text in the space.

    Numbers are integers if both ends are `int`; `log`: on a logarithmic scale.
    """

    name: str
    low: float = 0
    high: float = 0
    log: bool = False
    choices: Mapping[str, Any] | None = None

    @property
    def extremes(self) -> tuple[Any, ...]:
        return (self.low, self.high) if self.choices is None else tuple(self.choices.values())

    def suggest(self, trial: Any) -> Any:
        """The value in an Optuna trial, running or finished; the same one in every call."""
        if self.choices is not None:
            return self.choices[trial.suggest_categorical(self.name, list(self.choices))]
        take = trial.suggest_int if isinstance(self.low, int) else trial.suggest_float
        return take(self.name, self.low, self.high, log=self.log)


Space = Sequence[SearchedFlag]


def suggest(space: Space, trial: Any) -> dict[str, Any]:
    """The values of a trial, by flag."""
    return {line.name: line.suggest(trial) for line in space}


def parse_search_space(lines: Sequence[str], parser: FlagParser, where: str = "--search_space") -> list[SearchedFlag]:
    """Reads the lines of a space. Raises UserErrors: every mistake in them, with `where` as its place."""
    space: list[SearchedFlag] = []
    problems = []
    for line in lines:
        try:
            found = _line(line, parser, where)
            if found.name in [other.name for other in space]:
                raise UserError(f"`search_space` names `{found.name}` twice", where, "keep one of its lines")
            space.append(found)
        except UserError as error:
            problems.append(error)
    if problems:
        raise UserErrors(problems)
    return space


def check_search_space(parser: FlagParser, settings: Mapping[str, Any], origin: Mapping[str, str]) -> list[UserError]:
    """Every mistake of the `search_space` in some settings, and every rule that values of it would break.

    A rule is about one flag or two, so each two lines are tried together, at their ends.
    """
    where = origin.get("search_space", "")
    try:
        space = parse_search_space(settings["search_space"] or [], parser, where)
    except UserErrors as errors:
        return errors.problems
    known = {problem.what for problem in check_settings(settings, origin)}
    broken = {
        problem.what: UserError(f"`search_space` would try what a run refuses: {problem.what}", where, problem.fix)
        for values in _corners(space)
        for problem in check_settings({**settings, **values}, origin)
        if problem.what not in known
    }
    return list(broken.values())


def _corners(space: Space) -> Iterator[dict[str, Any]]:
    """Possible values of a trial: two lines at either end of their range, the others at their first value."""
    first = {line.name: line.extremes[0] for line in space}
    for lines in [*combinations(space, 1), *combinations(space, 2)]:
        for values in product(*(line.extremes for line in lines)):
            yield first | {line.name: value for line, value in zip(lines, values, strict=True)}


def _line(line: str, parser: FlagParser, where: str) -> SearchedFlag:
    name, sign, text = (part.strip() for part in line.partition("="))
    if not sign:
        example = "for example learning_rate=1e-5..1e-3 log"
        raise UserError(f"`search_space` takes {FORM}, found {line!r}", where, example)
    action = parser.by_name.get(name)
    if action is None:
        raise unknown(Pair(name, None, where), parser.names)
    if action.dest not in SEARCHABLE:
        what = f"`search_space` takes flags of the training, with the same data and initial weights; found `{name}`"
        raise UserError(what, where, f"leave it out; flags that can be searched: {', '.join(SEARCHABLE)}")
    if "|" not in text:
        return _range(line, text, action, parser, where)
    words = [choice.strip() for choice in text.split("|")]
    if len(set(words)) < len(words):
        raise UserError(f"`search_space` has a choice twice in {line!r}", where, "keep one of the two")
    return SearchedFlag(action.dest, choices={word: _value(word, action, parser, where) for word in words})


def _range(line: str, text: str, action: argparse.Action, parser: FlagParser, where: str) -> SearchedFlag:
    """`"1e-5..1e-3 log"`; if both ends are written as integers, the values are integers: `3..12`, but `0.0..1.0`."""
    form = re.fullmatch(r"(\S+?)\.\.(\S+)(\s+log)?", text)
    if not form or action.type not in (int, float):
        rule = FORM if action.type in (int, float) else "FLAG=CHOICE|CHOICE of a flag that is no number"
        examples: dict[Any, str] = {int: "1..8", float: "0.1..0.4", str: "one|other"}
        example = "|".join(map(str, action.choices or ())) or examples.get(action.type, "true|false")
        raise UserError(f"`search_space` takes {rule}, found {line!r}", where, f"for example {action.dest}={example}")
    low, high = (_value(end, action, parser, where) for end in form.group(1, 2))
    whole, log = all(re.fullmatch(r"[+-]?\d+", end) for end in form.group(1, 2)), bool(form.group(3))
    if not low < high:
        raise UserError(f"`search_space` takes LOW..HIGH, found {line!r}", where, "the lower end comes first")
    if log and low <= 0:
        raise UserError(f"`log` needs a range above 0, found {line!r}", where, "leave log out, or raise the lower end")
    if whole and action.type is float and high - low == 1:
        what = f"a range of whole numbers must hold more than its two ends, found {line!r}"
        raise UserError(what, where, f"{low}..{high} for all numbers between; {low:.0f}|{high:.0f} for the two")
    low, high = (int(low), int(high)) if whole else (low, high)
    return SearchedFlag(action.dest, low, high, log)


def _value(text: str, action: argparse.Action, parser: FlagParser, where: str) -> Any:
    """The typed value of a text, whose words are those of a flag of several values; of an empty one, the default."""
    if not text:
        return action.default
    values = text.split() if action.nargs in ("+", "*") else [text]
    try:
        return parser.convert(action.dest, values)
    except ValueError:
        raise refused(Pair(action.dest, values, where), action) from None
