"""Fuzzes one reader with Atheris, which is not among the requirements (`pip install atheris`).

    python -m tests.fuzz {audio,tables,configs,checkpoints} [-max_total_time=600] [FOLDER for the corpus]

It starts from the intact inputs of `readers` and the corpus beside this file, which the tests replay. A `UserError` is
right; anything else that is raised is a fault, whose input Atheris writes to `crash-…`. What is covered in
urbansound_hf and PyYAML guides the search; decoders in C are run, but do not guide it.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

atheris = importlib.import_module("atheris")
INSTRUMENTED = ["urbansound_hf", "yaml"]
with atheris.instrument_imports(include=INSTRUMENTED):
    from tests.fuzz import readers
    from urbansound_hf.errors import UserError

TOKENS = ["null", "NaN", "1e400", "-1", "[]", "{}", "''", "&a", "*a", "!!python/name:os.system", "../", "\\x1b["]
"""In the notation of a dictionary of libFuzzer's."""


def main(name: str, options: list[str]) -> None:
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    for folder in ("files", "seeds"):
        (root / folder).mkdir()

    def once(content: bytes) -> None:
        with suppress(UserError):
            read(content)

    with atheris.instrument_imports(include=INSTRUMENTED):  # also what is imported once a file is read
        read, seeds = readers.reader(root / "files", name)
        once(seeds[0])
    for number, content in enumerate(seeds):
        (root / f"seeds/{number}").write_bytes(content)
    (root / "tokens").write_text("".join(f'"{token}"\n' for token in TOKENS), encoding="utf-8")

    own = [each for each in options if not each.startswith("-")] or [str(root / "new")]
    flags = [f"-dict={root / 'tokens'}", "-keep_seed=1", "-len_control=0"]
    flags += [each for each in options if each.startswith("-")]
    Path(own[0]).mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    folders = [*own, str(root / "seeds"), str(Path(__file__).with_name("corpus") / name)]
    atheris.Setup([sys.argv[0], *flags, *folders], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
