"""Plain-text formatting: tables, counted lists and templates."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

from urbansound_hf.errors import complete_file, printable


def first_ten(names: Sequence[str], most: int = 10) -> str:
    """Lists the first ten (`most`) names and the number of the others: "a, b, c and 3 more"."""
    return ", ".join(map(printable, names[:most])) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def listed(values: Sequence[object]) -> str:
    """Joins values by commas: "1, 2, 3"."""
    return ", ".join(str(value) for value in values)


def counted(count: int, noun: str) -> str:
    """The number and the noun, in the plural unless there is one: "2 sounds"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def distinct(names: Sequence[str]) -> list[str]:
    """The names made unique by a number behind each repeated one: a, b, a-2."""
    taken: dict[str, None] = {}
    for name in names:
        tries = chain([name], (f"{name}-{number}" for number in count(2)))
        taken[next(each for each in tries if each not in taken)] = None
    return list(taken)


def alternatives(names: Sequence[str]) -> str:
    """Joins names as "a, b or c"."""
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def shortened(text: str, most: int) -> str:
    """At most `most` characters; the middle is left out, since names often differ at their ends."""
    text = printable(text)
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def in_markdown(text: str) -> str:
    """A label, name or path as Markdown that shows it as it is: no image, link, HTML, emphasis or heading.

    `|` is left to `table`; an underscore within a word stays.
    """
    return MARKDOWN.sub(r"\\\g<0>", printable(text))


MARKDOWN = re.compile(r"[\\`*\[\]<>&~$#]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.|@(?=\w)|^[-+=]|(?<=^\d)[.)]")


def in_csv(cell: Any) -> Any:
    """A text that a spreadsheet would run as a formula, behind an apostrophe, as OWASP advises on CSV injection."""
    return f"'{cell}" if isinstance(cell, str) and FORMULA.match(cell) else cell


def from_csv(cell: str) -> str:
    """The text that `in_csv` has written."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


FORMULA = re.compile(r"'*[=+\-@\t\r]")


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Writes a CSV file completely or not at all, its cells as by `in_csv`."""
    how: dict[str, Any] = {"newline": "", "encoding": "utf-8", "errors": "backslashreplace"}
    with complete_file(path) as partial, partial.open("w", **how) as file:
        csv.writer(file).writerows(map(in_csv, row) for row in rows)


def table(header: Sequence[str], rows: Iterable[Sequence[object]], note: str = "", texts: int = 1) -> str:
    """Formats a Markdown table with aligned columns, below a `note` in italics.

    The first columns, so many as `texts`, are aligned left; the others are numbers and aligned right.
    """
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in [header, *rows]]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(header))]
    lines = [[f"{cell:{'<' if i < texts else '>'}{widths[i]}}" for i, cell in enumerate(row)] for row in cells]
    rule = ["-" * width if i < texts else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    body = "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])
    return (f"*{note}*\n\n" if note else "") + body


def rendered(template: Path, **values: Any) -> str:
    """Fills in a Jinja template; one for HTML escapes the values."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=".html" in template.suffixes,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template.name).render(**values)
