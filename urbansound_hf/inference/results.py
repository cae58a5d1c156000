"""Results on their way to a file: `FILE.part` holds what is finished, and `--resume` continues it after any end.

FILE.part is JSON lines: the options first, then for each sound the mark `{"begun": number}`, its records, and
`{"done": number}`. It becomes FILE, in the format that was asked for, once all sounds are done. A sound that was begun
when the process died is a suspect: a second process classifies it alone, and if that dies too, the sound is reported.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import takewhile
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO, TypeVar

from urbansound_hf.errors import UserError, complete_file, interruption, writing
from urbansound_hf.inference.formats import ANNOTATIONS, FORMATS, WriteOptions, print_error, records
from urbansound_hf.inference.inputs import name_of
from urbansound_hf.inference.output import SILENCE_DB, Classification, Prediction, Record, window_record
from urbansound_hf.profiling import stage
from urbansound_hf.progress import Bar, say
from urbansound_hf.text import distinct

SYNC_SECONDS = 5.0  # a power cut loses no more than so long
TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
Item = TypeVar("Item")


def write_results(results: Iterable[Classification], form: str, options: WriteOptions, stream: TextIO) -> int:
    """Writes each result as soon as it is computed, and returns the exit code.

    A table and label files write errors to standard error, the other formats in place of the result. The exit code is
    0; 1 if some inputs could not be read; 2 if none could.
    """
    counts = [0, 0]  # classified, unreadable

    def counted() -> Iterator[list[Record]]:
        for result in results:
            counts[bool(result.error)] += 1
            yield records(result, form, options)

    with stage("write"):
        FORMATS[form](counted(), stream, options)
    return 2 if not counts[0] else int(counts[1] > 0)


class ResultFile:
    """FILE.part, which keeps what is finished until FILE is complete; for one label file a sound, FILE is a folder.

    `names` are those of all inputs, and `made_with` what the results depend on. `done` sounds are finished, and the
    process died in the `suspects` behind them.

    Raises:
        UserError: FILE.part is there without `resume`, or was made with something else; FILE cannot be written.
    """

    def __init__(self, path: str, form: str, names: Sequence[str], made_with: Record, resume: bool) -> None:
        self.path, self.form, self.names, self.part = str(Path(path)), form, names, Path(f"{Path(path)}.part")
        self.done = self.suspects = self.last_begun = self.windows = 0  # windows: of the next sound, in the file
        self.options: WriteOptions | None = None
        self.counts = [0, 0]  # classified, unreadable
        self.folder = _is_folder(path, form, names)
        header = json.loads(json.dumps({"made_with": made_with}))
        with writing(path):
            if self.part.exists():
                self._continue(header, resume)
            else:
                self.file = self.part.open("ab", buffering=0)
                self._write(header)
                self.end = self.file.tell()
        self.synced = time.monotonic()

    def __enter__(self) -> ResultFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None:
            self.file.truncate(self.end)  # which also makes room on a full disk
            with suppress(UserError):
                self._write({"stopped": self.done})  # what was begun is under no suspicion
        self.file.close()
        if error is None:
            return
        if not self.done:
            self.part.unlink(missing_ok=True)
        kept = f"{self.done:,} of {len(self.names):,} sounds are kept in {self.part}; --resume continues from there"
        if isinstance(error, KeyboardInterrupt):
            message = f"interrupted; {kept if self.done else 'nothing was finished'}"
            raise interruption(error, message) from error
        if isinstance(error, MemoryError):
            raise UserError("the memory is used up", kept, "give a smaller --batch_size, and --resume") from error
        if self.done:
            Bar.write(kept, file=sys.stderr)

    def begun(self, sources: Iterable[Item]) -> Iterator[Item]:
        """The sources from the first that is not done, each with its mark when it is asked for."""
        for number, source in enumerate(sources, start=self.done):
            self.last_begun = number
            self._write({"begun": number})
            yield source

    def add_window(self, path: str, prediction: Prediction) -> None:
        """Appends a window of the next sound before that is finished, where the format is one of windows."""
        if self.options and not self.options.events and self.form in ("jsonl", "csv", "parquet"):
            self.windows += 1
            self._write(window_record(path, prediction, self.options.rules.get("silence_db", SILENCE_DB)))

    def add(self, sound: list[Record]) -> None:
        """Appends the records of the next sound, through to the operating system."""
        if self.windows and "error" in sound[0]:  # it broke off
            self.file.truncate(self.end)
            self._write({"begun": self.last_begun})
            self.windows = 0
        self._write(*sound[self.windows :], {"done": self.done})
        self.windows = 0
        self.end = self.file.tell()
        self.done += 1
        self.counts[any("error" in record for record in sound)] += 1
        if time.monotonic() - self.synced > SYNC_SECONDS:
            os.fsync(self.file.fileno())
            self.synced = time.monotonic()

    def write(self, results: Iterable[Classification], options: WriteOptions) -> int:
        """Keeps each result as it comes, then writes FILE; returns the exit code, as `write_results`."""
        self.options = options
        for result in results:
            with stage("write"):
                self.add(records(result, self.form, options))
        with stage("write"), writing(self.path):
            for path, sounds in self._files():
                with complete_file(path) as partial, partial.open("w", **TEXT) as stream:
                    FORMATS[self.form](sounds, stream, options)
        self.file.close()
        self.part.unlink()
        say(f"{Path(self.path).name}: {self.counts[0]} classified, {self.counts[1]} could not be read")
        return 2 if not self.counts[0] else int(self.counts[1] > 0)

    def _files(self) -> Iterator[tuple[Path, Iterable[list[Record]]]]:
        """Each file to write, and the sounds in it."""
        if not self.folder:
            yield Path(self.path), self._sounds()
            return
        Path(self.path).mkdir(parents=True, exist_ok=True)
        for stem, sound in zip(distinct([Path(name).stem for name in self.names]), self._sounds(), strict=True):
            if sound and "error" in sound[0]:
                print_error(sound[0])
            else:
                yield Path(self.path, stem + ANNOTATIONS[self.form]), [sound]

    def _sounds(self) -> Iterator[list[Record]]:
        with self.part.open("rb") as file:
            sound: list[Record] = []
            for line in file:
                record = json.loads(line)
                if "path" in record:
                    sound.append(record)
                elif "done" in record:
                    yield sound
                    sound = []

    def _continue(self, header: Record, resume: bool) -> None:
        found: Record = {}
        begun, end, failed = 0, 0, False
        with self.part.open("rb") as lines:
            for line in takewhile(lambda line: line.endswith(b"\n"), lines):  # the last one may be torn
                record = json.loads(line)
                found = found or record  # the header
                begun = self.done if "stopped" in record else max(begun, record.get("begun", -1) + 1)
                failed |= "error" in record
                if record.keys() & {"made_with", "stopped", "done"}:
                    end = lines.tell()
                if "done" in record:
                    self.done += 1
                    self.counts[failed] += 1
                    failed = False
        way_out = f"delete {self.part} to start from the beginning"
        if not resume:
            what = f"an earlier call was not finished: {self.done:,} of {len(self.names):,} sounds are kept"
            raise UserError(what, str(self.part), f"add --resume to continue it, or {way_out}")
        before, now = found.get("made_with", {}), header["made_with"]
        changed = [f"{name} was {before.get(name)}, is {now[name]}" for name in now if before.get(name) != now[name]]
        if found and changed:
            what = f"--resume continues the same call only: {'; '.join(changed)}"
            raise UserError(what, str(self.part), f"give what it was made with, or {way_out}")
        self.suspects = max(begun - self.done, 0)
        self.file = self.part.open("ab", buffering=0)
        self.file.truncate(end)
        if not found:
            self._write(header)
        self.end = self.file.seek(0, os.SEEK_END)  # not where it was before the truncation: that would append zeros
        if self.suspects:
            self._write({"begun": begun - 1})

    def _write(self, *lines: Record) -> None:
        data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        with writing(self.part):
            while data:
                data = data[self.file.write(data) :]


def classify_alone(
    open_model: Callable[[], Callable[[Any], Classification]], sounds: Iterable[Any]
) -> Iterator[Classification]:
    """Classifies suspects one after another in a process of their own; one in which that dies, too, is a failure.

    `open_model` is called once in that process; what it returns, for each sound.
    """
    context, here = get_context("spawn"), None
    for sound in sounds:
        if here is None:
            here, there = context.Pipe()
            context.Process(target=_serve_alone, args=(there, open_model), daemon=True).start()
            there.close()
        try:
            here.send(sound)
            result = here.recv()
        except (EOFError, OSError):
            here, what = None, "the process died twice while it was classified; passed over"
            result = Classification(name_of(sound), error=what)
        if isinstance(result, Exception):
            raise result
        yield result


def _serve_alone(connection: Connection, open_model: Callable[[], Callable[[Any], Classification]]) -> None:
    """Classifies what comes, until the other process closes the connection or dies; Ctrl-C is left to that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, OSError):
        classify = open_model()
        while True:
            sound = connection.recv()
            try:
                connection.send(classify(sound))
            except UserError as error:
                connection.send(error)


def _is_folder(path: str, form: str, names: Sequence[str]) -> bool:
    """Whether there will be a folder of label files. Raises UserError if there is no place for the output."""
    wanted, where = Path(path), f"--output {path}"
    if form in ANNOTATIONS and (wanted.is_dir() or not wanted.suffix):
        return True
    if not wanted.parent.is_dir() or wanted.is_dir():
        raise UserError("the output must be a file in a folder that exists", where, f"mkdir -p {wanted.parent}")
    if form in ANNOTATIONS and len(names) > 1:
        what = f"one file of {form} holds the labels of one sound, found {len(names)} sounds"
        raise UserError(what, where, f"give a folder: --output {wanted.with_suffix('')}")
    return False
