"""The readers that are fuzzed, each with intact inputs to start from; and inputs that once were faults."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import tests.conftest
from tests.helpers import tiny
from tests.reliability import audio, checkpoints, configs, tables

NAMES = ("audio", "tables", "configs", "checkpoints")


def reader(root: Path, name: str) -> tuple[Callable[[bytes], object], list[bytes]]:
    """The function under test, which gets the bytes of an input, and inputs to start from.

    An input is the content of a file; for checkpoints see `changed`.
    """
    if name == "audio":
        return partial(audio.damaged, root / "sound.wav"), [audio.encoded(*form, 8_000) for form in audio.FORMATS]
    if name == "tables":
        for number in range(len(tables.ROWS)):
            (root / f"{number}.wav").write_bytes(audio.encoded("WAV", "PCM_16"))
        return partial(tables.read, root), [tables.written(tables.HEADER, tables.ROWS)]
    if name == "configs":
        texts = [tests.conftest.TINY, *(text for text in configs.TEXTS.values() if len(text) < 500)]
        read = partial(configs.parse, root / "run.yaml")
        return lambda content: read(content.decode("utf-8", "replace")), [text.encode() for text in texts]
    intact = tiny.save("yamnet", root / "intact", clip_seconds=1.0)
    weights, config, extractor = ((intact / each).read_bytes() for each in checkpoints.FILES)
    seeds = [b"0" + weights[8 : 8 + int.from_bytes(weights[:8], "little")]]
    for number, content in ((b"1", config), (b"2", extractor)):
        seeds += [number + json.dumps({key: value}).encode() for key, value in json.loads(content).items()]
    serve = partial(checkpoints.serve, intact, root / "changed", expected=[], same=False)
    return lambda content: serve(change=partial(changed, content or b"1")), seeds


def changed(content: bytes, folder: Path) -> None:
    """Changes one file of a checkpoint: which, the first byte says; the rest is the header of the weights, keys of a
    config, or, if it is no JSON, a config's content.
    """
    path, rest = folder / checkpoints.FILES[content[0] % 3], content[1:]
    before = path.read_bytes()
    if path.suffix == ".safetensors":
        path.write_bytes(len(rest).to_bytes(8, "little") + rest + before[8 + int.from_bytes(before[:8], "little") :])
        return
    with suppress(ValueError, TypeError, RecursionError):
        rest = json.dumps(json.loads(before) | json.loads(rest)).encode()
    path.write_bytes(rest)
