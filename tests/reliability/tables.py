"""Broken and unusual metadata tables: every cell of a table replaced by awkward values, lines and encodings damaged."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.reliability import Case
from tests.reliability.audio import encoded
from urbansound_hf.data.folder import read_folder

HEADER = ["file", "label", "fold", "group"]
ROWS = [[f"{number}.wav", "ab"[number % 2], str(number % 3 + 1), f"g{number}"] for number in range(6)]
VALUES = [
    "",
    " ",
    "nan",
    "-1",
    "1e9",
    "9" * 30,
    "1.5",
    "x" * 5000,
    "../../etc/passwd",
    "/etc/passwd",
    "a\0b",
    "\x1b[31m",
    "=cmd()",
    "![x](/etc/passwd)",
    '"',
    "a\nb",
    "\ufeff",
    "\u202e",
    "Ha\u0308hne",
    "0.wav",
    "None",
    "∞",
]
CONTENTS = {
    "empty": b"",
    "a line break": b"\n",
    "no rows": b"file,label\n",
    "NUL bytes": b"\0" * 100,
    "UTF-16": None,
    "Latin-1": "file,label\n0.wav,H\u00e4hne\n1.wav,b\n".encode("latin-1"),
    "binary": bytes(range(256)) * 4,
    "an open quote": b'file,label\n"0.wav,a\n1.wav,b\n',
    "semicolons": b"file;label\n0.wav;a\n1.wav;b\n",
    "tabs": b"file\tlabel\n0.wav\ta\n1.wav\tb\n",
    "old Mac lines": b"file,label\r0.wav,a\r1.wav,b\r",
    "one column": b"file\n0.wav\n1.wav\n",
    "no label": b"file,fold\n0.wav,1\n",
    "no file": b"label,fold\na,1\n",
    "a column twice": b"file,label,label\n0.wav,a,b\n1.wav,b,a\n",
    "a huge field": b"file,label\n0.wav," + b"a" * 200_000,
    "JSON": b'{"file": "0.wav", "label": "a"}\n',
    "a short line": b"file,label,fold\n0.wav,a\n1.wav,b,1\n",
    "a long line": b"file,label\n0.wav,a,1,2,3\n1.wav,b\n",
    "upper case": b"FILE,LABEL\n0.wav,a\n1.wav,b\n",
    "spaces": b"file , label\n 0.wav , a \n1.wav,b\n",
    "a byte order mark": b"\xef\xbb\xbffile,label\n0.wav,a\n1.wav,b\n",
}


def read(folder: Path, content: bytes) -> str:
    (folder / "metadata.csv").write_bytes(content)
    rows, _ = read_folder(folder)
    assert rows, "no rows and no error"
    for row in rows:
        source = Path(row["source"]).resolve()
        absolute = str(source) in content.decode("utf-8", "replace")  # a table may name any sound of its reader's
        assert absolute or source.is_relative_to(folder.resolve()), f"leak: {source} is outside of the data"
        assert str(row["label"]).strip(), "an empty label"
    assert len({row["path"] for row in rows}) == len(rows), "a file is listed twice"
    return "answered"


def written(header: list[str], rows: list[list[str]]) -> bytes:
    return "\n".join(",".join(row) for row in [header, *rows]).encode("utf-8", "surrogatepass")


def cases(root: Path) -> Iterator[Case]:
    for number in range(len(ROWS)):
        (root / f"{number}.wav").write_bytes(encoded("WAV", "PCM_16"))
    yield "intact", partial(read, root, written(HEADER, ROWS))
    for column, name in enumerate(HEADER):
        for value in VALUES:
            rows = [list(row) for row in ROWS]
            rows[2][column] = value
            yield f"{name} is {value[:30]!r}", partial(read, root, written(HEADER, rows))
            if value:
                rows[2][column] = '"' + value.replace('"', '""') + '"'
                yield f"{name} is {value[:30]!r} in quotes", partial(read, root, written(HEADER, rows))
    for name, content in CONTENTS.items():
        content = written(HEADER, ROWS).decode().encode("utf-16") if content is None else content
        yield name, partial(read, root, content)
