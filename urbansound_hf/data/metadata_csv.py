"""Reads a metadata CSV: its encoding, its delimiter, and every cell into a column, as cleaned text."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from urbansound_hf.data.columns import clean_text
from urbansound_hf.errors import UserError
from urbansound_hf.text import first_ten

DELIMITERS = ",;\t|"
SEPARATOR_LINE = re.compile("sep=.?")  # with which Excel may begin a CSV
BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
                    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # fmt: skip
"""What a text file can begin with, and how it is then encoded; UTF-32's marks begin with those of UTF-16."""


@dataclass(frozen=True)
class MetadataCsv:
    """A table as it was read.

    Args:
        name: what errors call it.
        columns: the names of its header, without nameless columns.
        records: for each line that is not blank its number in the file and its cells by column; a cell that the line
            lacks is "".
    """

    name: str
    columns: list[str]
    records: list[tuple[int, dict[str, str]]]


def read_csv(path: Path) -> MetadataCsv:
    """Reads a CSV in UTF-8, or in UTF-16 or UTF-32 with a byte order mark; delimited by `,`, `;`, tab or `|`.

    Raises:
        UserError: it cannot be read, has another encoding, an open quote, a column twice, or cells beyond its header.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"not a readable CSV ({error.strerror})", str(path)) from None
    name = str(path)
    lines = list(io.StringIO(_decoded(content, name), newline=""))
    reader = csv.reader(lines, delimiter=_delimiter(lines), strict=True)
    columns: list[str] = []
    records: list[tuple[int, dict[str, str]]] = []
    try:
        for cells in reader:
            cleaned = [clean_text(cell) for cell in cells]
            if not any(cleaned) or (not columns and SEPARATOR_LINE.fullmatch("".join(cleaned))):
                continue
            if columns:
                records.append((reader.line_num, _record(columns, cleaned, f"{name}, line {reader.line_num}")))
            else:
                columns = _header(cleaned, name)
    except csv.Error as error:
        fix = "close the quote, or save the table again as CSV UTF-8"
        raise UserError(f"the table is no CSV ({error})", f"{name}, line {reader.line_num}", fix) from None
    return MetadataCsv(name, [column for column in columns if column], records)


def _decoded(content: bytes, name: str) -> str:
    encoding = next((kind for mark, kind in BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line, fix = content[: error.start].count(b"\n") + 1, "save it as CSV UTF-8"
        if encoding == "utf-8":
            shown = content.splitlines()[line - 1].decode("cp1252", "replace").strip()
            fix += f"; if that line reads {shown!r}, it is Latin-1 or Windows-1252: iconv -f WINDOWS-1252 -t UTF-8"
        expected, byte = encoding.upper().removesuffix("-SIG"), content[error.start]
        what = f"this table is text in {expected}, found the byte {byte:#04x}"
        raise UserError(what, f"{name}, line {line}", fix) from None
    if "\0" in text:
        raise UserError("the table holds zero bytes, as UTF-16 without its mark has them", name, "save it as CSV UTF-8")
    return text


def _delimiter(lines: Sequence[str]) -> str:
    """The delimiter that cuts the header into most columns; a comma where none does."""
    header = next((line for line in lines if line.strip() and not SEPARATOR_LINE.fullmatch(line.strip())), "")
    return max(DELIMITERS, key=lambda delimiter: len(next(csv.reader([header], delimiter=delimiter))))


def _header(cells: Sequence[str], name: str) -> list[str]:
    columns = list(cells)
    while not columns[-1]:  # a spreadsheet ends its lines with the delimiters of empty columns
        columns.pop()
    twice = [column for column, count in Counter(columns).items() if column and count > 1]
    if twice:
        raise UserError(f"a column has one name, found {first_ten(twice)} twice", name, "rename one of them")
    return columns


def _record(columns: Sequence[str], cells: Sequence[str], where: str) -> dict[str, str]:
    """The cells by column. A nameless first column, the row numbers of pandas, is left out."""
    beyond = [cell for cell in cells[len(columns) :] if cell]
    beyond += [cell for column, cell in list(zip(columns, cells, strict=False))[1:] if cell and not column]
    if beyond:
        what = f"the line has cells that belong to no column ({first_ten(beyond)}); the header has {len(columns)}"
        raise UserError(what, where, "put a cell that holds the delimiter in quotes, or name the column")
    filled = [*cells, *[""] * (len(columns) - len(cells))]
    return {column: cell for column, cell in zip(columns, filled, strict=False) if column}
