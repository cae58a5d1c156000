"""Inputs of inference: files, folders, globs and standard input, read and cut into windows."""

from __future__ import annotations

import glob
import io
import os
import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from urbansound_hf import progress
from urbansound_hf.audio.files import SOUND_NAMES, find_audio_files
from urbansound_hf.audio.io import LIMITS, AudioError, Limits, Source, cut_windows, is_address, stream_audio
from urbansound_hf.audio.spectrogram import loudness
from urbansound_hf.errors import UserError
from urbansound_hf.layout import MODEL_CONFIG, RECEIPT, expand_user
from urbansound_hf.profiling import stage

THREADS = min(4, progress.worker_count())  # decoding and resampling release the GIL
AHEAD_SECONDS = 60  # of a sound, read before its turn comes


class Window(NamedTuple):
    """A section of an input: number and name of the input, start and end in samples, RMS level in dBFS."""

    sound: int
    name: str
    start: int
    end: int
    level_db: float = 0.0


Cut = tuple[Window, np.ndarray | AudioError]


class Cutting(NamedTuple):
    """How sounds are read and cut: the new sampling rate in Hz, window and hop in its samples, what is refused."""

    sampling_rate: int
    window: int
    hop: int
    limits: Limits = LIMITS


class StandardInput(io.BytesIO):
    """A sound from a pipe, read to its end because libsndfile has to seek in it."""

    def __init__(self, content: bytes, name: str = "-") -> None:
        super().__init__(content)
        self.name = name


def find_sounds(inputs: Iterable[str]) -> tuple[list[Source], list[AudioError]]:
    """The sounds in the order of the inputs (names sorted within a folder or glob), and what led to no sound at all.

    Inputs are files, addresses (`https://…`, `s3://…`, `hf://…`), folders with all below them, globs that the shell
    left alone, and `-` for standard input.
    """
    sounds: list[Source] = []
    problems: list[AudioError] = []
    for name in inputs:
        try:
            sounds += _expand(name, problems)
        except AudioError as problem:
            problems.append(problem)
    return sounds, problems


def listed(manifest: str) -> list[str]:
    """The inputs of a manifest: a path or an address a line, empty lines left out. Raises UserError."""
    try:
        if Path(manifest).is_char_device():  # /dev/zero has no end
            raise OSError(0, "it is a device")
        lines = Path(manifest).read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    except OSError as error:
        what = f"the manifest cannot be read ({error.strerror})"
        raise UserError(what, f"--manifest {manifest}", "a text file with a path or an address a line") from None
    return [line for line in lines if line.strip()]


class Shard(NamedTuple):
    """Part `part` of `parts` of the inputs, counted from 0."""

    part: int = 0
    parts: int = 1

    @classmethod
    def of(cls, text: str | None) -> Shard:
        """The shard that `--shard I/N` names, divided further among the processes of `accelerate launch`.

        Raises:
            UserError: the text is not I/N with I from 1 to N.
        """
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text or "1/1")
        number, count = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= number <= count:
            raise UserError("a shard is I/N, with I from 1 to N", f"--shard {text}", "such as 1/4, 2/4, 3/4 and 4/4")
        rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        return cls((number - 1) * processes + rank, count * processes)

    def name(self, path: str | None) -> str | None:
        """The file of this shard: `labels.parquet` → `labels-00000-of-00004.parquet`."""
        if path is None or self.parts == 1:
            return path
        whole = Path(path)
        return str(whole.with_name(f"{whole.stem}-{self.part:05}-of-{self.parts:05}{whole.suffix}"))


def newest_run(root: Path = Path("outputs")) -> Path:
    """The newest finished run under `root`: a checkpoint folder with a receipt, which training writes last."""
    receipts = [receipt for receipt in root.rglob(RECEIPT) if (receipt.parent / MODEL_CONFIG).is_file()]
    if not receipts:
        fix = "train one (urbansound-hf train demo) or give --model FOLDER_OR_HUB_ID"
        raise UserError("no model was named and no finished run was found", f"{root}/", fix)
    return max(receipts, key=lambda receipt: receipt.stat().st_mtime).parent


def read_windows(pool: ThreadPoolExecutor, sources: Iterable[Source], cutting: Cutting) -> Iterator[Cut]:
    """Reads sounds in the threads of `pool` and cuts them, in order.

    Yields:
        each window with its `(samples,)` float32 waveform; an unreadable sound as one window with the reason.
    """
    pending = deque[Future[Recording]]()
    sources, numbers = iter(sources), count()
    while True:
        for source in islice(sources, THREADS + 1 - len(pending)):
            pending.append(pool.submit(Recording, source, cutting))
        if not pending:
            return
        with stage("wait"):
            recording = pending.popleft().result()
        yield from recording.windows(pool, next(numbers))


class Recording:
    """A sound of which the beginning was read: all of a clip, `AHEAD_SECONDS` of a long recording."""

    def __init__(self, source: Source, cutting: Cutting) -> None:
        self.name, self.cutting, self.complete = name_of(source), cutting, False  # complete: there is no more to read
        self.notes: list[str] = []
        self._decoded, self._read = self._decode(source), deque[np.ndarray | AudioError | None]()  # ends with no array
        samples = 0
        while not self.complete and samples < AHEAD_SECONDS * cutting.sampling_rate:
            samples += self._read_block()

    def windows(self, pool: ThreadPoolExecutor | None, number: int) -> Iterator[Cut]:
        """The windows of this sound, the `number`-th of all, as of `read_windows`; a complete one needs no `pool`."""
        start = end = 0
        try:
            for start, end, waveform in cut_windows(self._blocks(pool), self.cutting.window, self.cutting.hop):
                yield Window(number, self.name, start, end, loudness(waveform)), waveform
        except AudioError as error:
            yield Window(number, self.name, start, end), error
        for note in self.notes:
            progress.say(f"{self.name}: {note}")

    def _blocks(self, pool: ThreadPoolExecutor | None) -> Iterator[np.ndarray]:
        """The samples in blocks; what is left to read is read in `pool`, a block ahead. Raises AudioError."""
        hidden = self.complete
        with progress.Bar(desc=f"Reading {self.name}", unit="s of sound", leave=False, disable=hidden) as bar:
            while isinstance(block := self._read.popleft(), np.ndarray):
                reading = pool.submit(self._read_block) if pool and not self.complete else None
                yield block
                bar.update(round(len(block) / self.cutting.sampling_rate))
                if reading:
                    with stage("wait"):
                        reading.result()
        if block:
            raise block

    def _read_block(self) -> int:
        """Reads a block and returns its number of samples; 0 at the end."""
        with stage("decode"):
            block = next(self._decoded, None)
        self._read.append(block)
        self.complete = not isinstance(block, np.ndarray)
        return len(block) if isinstance(block, np.ndarray) else 0

    def _decode(self, source: Source) -> Iterator[np.ndarray | AudioError]:
        try:
            yield from stream_audio(source, self.cutting.sampling_rate, self.name, self.notes, self.cutting.limits)
        except Exception as error:  # one sound never ends the call, whatever it does: MemoryError above all
            reason = ": ".join(filter(None, (type(error).__name__, str(error))))
            yield error if isinstance(error, AudioError) else AudioError(f"cannot be read ({reason})", self.name)


def name_of(source: Source) -> str:
    """What a source is called in results."""
    return str(source) if isinstance(source, str | Path) else str(getattr(source, "name", "<bytes>"))


def _expand(name: str, problems: list[AudioError]) -> list[Source]:
    if name == "-":
        return [StandardInput(sys.stdin.buffer.read())]
    if not name:
        raise AudioError("has no name", '""', "give a file, a folder or a pattern")
    if is_address(name):
        return [name]
    try:
        path = expand_user(name)
        if path.is_dir():
            before, found = len(problems), find_audio_files(path, problems)
            if not found.sounds and len(problems) == before:
                raise AudioError("; ".join(["holds no sound", *found.notes()]), f"{path}", SOUND_NAMES)
            for note in found.notes():
                progress.say(f"{path}: {note}")
            return [*found.sounds]
        if path.is_fifo():  # <(command), /dev/stdin behind a pipe: libsndfile has to seek
            return [StandardInput(path.read_bytes(), name)]
        if glob.has_magic(name) and not path.exists():
            if not (matches := sorted(glob.iglob(str(path), recursive=True))):  # noqa: PTH207
                raise AudioError("matches no file", f"{path}", "check the folder and the pattern")
            return [sound for match in matches for sound in _expand(match, problems)]
    except OSError as error:  # a name that is too long, a folder without permission
        raise AudioError(f"cannot be read ({error.strerror})", name) from error
    return [path]  # if it isn't there, the decoder says so under its name
