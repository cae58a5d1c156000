"""Fuzzes one reader with Atheris, which is not among the requirements (`pip install atheris`).

    python -m tests.fuzz {audio,tables,configs,checkpoints} [-max_total_time=600] [FOLDER for the corpus]

It starts from the intact files of `tests.reliability`; of checkpoints it changes the config. A `UserError` is right;
anything else that is raised is a fault, whose input Atheris writes to `crash-…`.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

atheris = importlib.import_module("atheris")
with atheris.instrument_imports(include=["urbansound_hf.audio", "urbansound_hf.data", "urbansound_hf.config"]):
    import tests.conftest
    from tests.reliability import audio, checkpoints, configs, tables
from tests.helpers import tiny  # noqa: E402
from urbansound_hf.errors import UserError  # noqa: E402


def readers(root: Path, name: str) -> tuple[Callable[[bytes], object], list[bytes]]:
    """The function under test, which gets the bytes of a file, and the files to start from."""
    if name == "audio":
        seeds = [audio.encoded(form, subtype, 8_000) for form, subtype in audio.FORMATS]
        return partial(audio.damaged, root / "sound.wav"), seeds
    if name == "tables":
        for number in range(len(tables.ROWS)):
            (root / f"{number}.wav").write_bytes(audio.encoded("WAV", "PCM_16"))
        return partial(tables.read, root), [tables.written(tables.HEADER, tables.ROWS)]
    if name == "configs":
        seeds = [tests.conftest.TINY.encode(), *(text.encode() for text in configs.TEXTS.values() if len(text) < 500)]
        return lambda content: configs.parse(root / "run.yaml", content.decode("utf-8", "replace")), seeds
    intact = tiny.save("yamnet", root / "intact", clip_seconds=1.0)

    def serve(content: bytes) -> None:
        def change(folder: Path) -> None:
            (folder / "config.json").write_bytes(content)

        checkpoints.serve(intact, root / "changed", change, [], False)

    return serve, [(intact / "config.json").read_bytes()]


def main(name: str, options: list[str]) -> None:
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    (root / "files").mkdir()
    (root / "corpus").mkdir()
    read, seeds = readers(root / "files", name)
    for number, content in enumerate(seeds):
        (root / f"corpus/{number}").write_bytes(content)

    def once(content: bytes) -> None:
        with suppress(UserError):
            read(content)

    flags = [each for each in options if each.startswith("-")]
    folders = [each for each in options if not each.startswith("-")]
    sys.stderr.flush()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    atheris.Setup([sys.argv[0], *flags, *folders, str(root / "corpus")], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
