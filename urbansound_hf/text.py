"""Plain-text formatting: tables and counted lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def first_ten(names: Sequence[str]) -> str:
    """Ten of the names, and how many more there are."""
    return ", ".join(names[:10]) + f" and {len(names) - 10:,} more" * (len(names) > 10)


def listed(values: Sequence[object]) -> str:
    return ", ".join(str(value) for value in values)


def counted(count: int, noun: str) -> str:
    """The number and the noun, in the plural unless there is one: "2 sounds"."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def alternatives(names: Sequence[str]) -> str:
    """Joins names as "a, b or c"."""
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def table(header: Sequence[str], rows: Iterable[Sequence[object]], note: str = "", texts: int = 1) -> str:
    """A table with columns of even width, the first `texts` of them to the left; `note` stands above it."""
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in [header, *rows]]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(header))]
    lines = [[f"{cell:{'<' if i < texts else '>'}{widths[i]}}" for i, cell in enumerate(row)] for row in cells]
    rule = ["-" * width if i < texts else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    body = "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])
    return (f"*{note}*\n\n" if note else "") + body
