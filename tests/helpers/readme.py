"""The generated parts of the documents: `python -m tests.helpers.readme` renews them, a test fails if stale."""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from benchmarks import recipe_table, speed_tables, tables
from tests.conftest import ROOT
from tests.test_architecture import drawing
from urbansound_hf.config import arguments
from urbansound_hf.config.arguments import DataArguments, ModelArguments, OwnRunArguments, RecipeArguments, RunArguments
from urbansound_hf.config.parse import parse_run_config
from urbansound_hf.errors import exit_code
from urbansound_hf.text import table

README = ROOT / "README.md"
MISTAKES = """model_name_or_path: facebook/wav2vec2-base
lerning_rate: 3e-5
split: oficial
"""


def layout() -> str:
    """The packages, top first, each with a sentence and what it imports."""
    return fenced(drawing())


def mistake() -> str:
    """What a config with mistakes is answered: the real answer."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("my.yaml").write_text(MISTAKES, encoding="utf-8")
        answer = io.StringIO()
        with contextlib.redirect_stderr(answer):
            code = exit_code(lambda: parse_run_config(["my.yaml"], Path("my.yaml")))
    if code != 2:
        raise AssertionError(f"the mistakes were not found: exit code {code}")
    return fenced(f"$ python train.py my.yaml\n{answer.getvalue().rstrip()}")


def flags() -> str:
    """The flags that Transformers does not have, and the defaults that differ from its own."""
    rows = []
    for part in (DataArguments, ModelArguments, RecipeArguments, OwnRunArguments):
        kinds = get_type_hints(part)
        rows += [[f"`--{flag.name}`", values(flag, kinds[flag.name]), flag.metadata["help"]] for flag in fields(part)]
    stock, ours = (kind.__dataclass_fields__ for kind in (arguments.TrainingArguments, RunArguments))
    own = [ours[name] for name in RunArguments.__annotations__ if name in stock]
    changed = [f"`{flag.name}` {flag.default}" for flag in own if flag.default not in (None, stock[flag.name].default)]
    after = f"All flags of `TrainingArguments` are there as well; with other defaults: {', '.join(changed)}."
    after = textwrap.fill(after, 120, break_on_hyphens=False, break_long_words=False)
    return f"{table(['flag', 'values (default)', 'what it does'], rows, texts=3)}\n\n{after}"


def values(flag: Field, kind: Any) -> str:
    """What a flag takes, and its default: `official`, `grouped`, `random` (`official`)."""
    kinds = get_args(kind) or (kind,)
    names = {bool: "true, false", int: "whole number", float: "number", str: "text"}
    choices = [f"`{choice}`" for choice in kinds if isinstance(choice, str)]
    taken = ", ".join(choices) or names.get(kinds[0], "several texts")
    default = flag.default if not isinstance(flag.default, bool) else str(flag.default).lower()
    return taken if default is None else f"{taken} (`{default}`)"


def fenced(text: str) -> str:
    return f"```\n{text}\n```"


BLOCKS: dict[str, Callable[[], str]] = {
    "mistake": mistake,
    "outcome": recipe_table.outcome,
    "speed": speed_tables.shortest,
}
PAGES: dict[Path, Mapping[str, Callable[[], str]]] = {
    README: BLOCKS,
    ROOT / "docs" / "commands.md": {"flags": flags},
    ROOT / "CONTRIBUTING.md": {"layout": layout},
    tables.PAGE: tables.BLOCKS,
    recipe_table.PAGE: recipe_table.BLOCKS,
    speed_tables.PAGE: {"accuracy": recipe_table.accuracies, **speed_tables.BLOCKS},
}


def rewrite(text: str, blocks: Mapping[str, Callable[[], str]] = BLOCKS) -> str:
    """The text of a page with every generated block as it should be.

    Raises:
        ValueError: a block has no place between `<!-- begin NAME -->` and `<!-- end NAME -->`.
    """
    for name, render in blocks.items():
        begin, end = f"<!-- begin {name} -->\n", f"\n<!-- end {name} -->"
        pattern = re.compile(f"(?<={re.escape(begin)}).*?(?={re.escape(end)})", re.DOTALL)
        block = render()
        text, places = pattern.subn(lambda _, block=block: block, text)
        if places != 1:
            raise ValueError(f"the page has {places} places for {name}: it needs one, {begin.strip()} … {end.strip()}")
    return text


if __name__ == "__main__":
    for page, blocks in PAGES.items():
        page.write_text(rewrite(page.read_text(encoding="utf-8"), blocks), encoding="utf-8")
