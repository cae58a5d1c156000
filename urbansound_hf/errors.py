"""Errors for the user: the rule, what was found, where, and the fix; file errors and Ctrl-C among them."""

from __future__ import annotations

import argparse
import difflib
import errno
import json
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from _thread import interrupt_main, start_new_thread
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn


class UserError(Exception):
    """A mistake that the user can fix; shown without a traceback, exit code 2.

    Args:
        what: the rule that was broken and what was found instead.
        where: the file, line, flag or clip concerned ("" if there is none).
        fix: what to do about it, nearest valid name included ("" if there is nothing to add).

    Examples:
        >>> try:
        ...     ush.load_audio("clop.wav")
        ... except ush.UserError as error:
        ...     print(error.what, error.where, sep=": ")
        does not exist: clop.wav
    """

    def __init__(self, what: str, where: str = "", fix: str = "") -> None:
        super().__init__(what, where, fix)  # the arguments, so that the error survives pickling between processes
        self.what, self.where, self.fix = what, where, fix

    def __str__(self) -> str:
        where, fix = self.where and f"  where: {self.where}", self.fix and f"  fix:   {self.fix}"
        return "\n".join(filter(None, [self.what, where, fix]))


class UserErrors(UserError):
    """Several mistakes, reported together."""

    def __init__(self, problems: Sequence[UserError]) -> None:
        super().__init__(f"{len(problems)} problem{'' if len(problems) == 1 else 's'}")
        self.problems = list(problems)

    def __reduce__(self) -> tuple[type[UserErrors], tuple[list[UserError]]]:
        return type(self), (self.problems,)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class NotFiniteError(UserError):
    """A loss, a weight or a score is NaN or infinite."""


def joined(problems: Sequence[UserError]) -> UserError:
    """The error to raise for one or more problems: a single one stays as it is."""
    return problems[0] if len(problems) == 1 else UserErrors(problems)


def printable(text: str) -> str:
    """The text with control characters, among them those that turn the direction of writing, as escapes (`\\x1b`)."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def printable_lines(text: str) -> str:
    """The same for a text of several lines."""
    return "\n".join(map(printable, text.split("\n")))


CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
SECRETS: set[str] = set()  # tokens that flags of this process gave


def redacted(text: str) -> str:
    """The text without the tokens of this process: those of flags, HF_TOKEN and the file of `hf auth login`."""
    home = os.environ.get("HF_HOME") or Path.home() / ".cache/huggingface"
    stored = Path(os.environ.get("HF_TOKEN_PATH") or Path(home) / "token")
    secrets = {*SECRETS, os.environ.get("HF_TOKEN", ""), os.environ.get("HUGGING_FACE_HUB_TOKEN", "")}
    with suppress(OSError, ValueError):
        secrets.add(stored.read_text(encoding="utf-8"))
    for secret in sorted((secret.strip() for secret in secrets), key=len, reverse=True):
        if len(secret) >= 6:  # a shorter one is no secret
            text = text.replace(secret, "$HF_TOKEN").replace(json.dumps(secret)[1:-1], "$HF_TOKEN")
    return text


@contextmanager
def redacting_logs() -> Iterator[None]:
    """Redacts what all loggers write within."""
    before = logging.getLogRecordFactory()

    def make(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = before(*args, **kwargs)
        with suppress(TypeError, ValueError):  # a message that does not fit its arguments is logging's own to report
            record.msg, record.args = redacted(record.getMessage()), ()
        return record

    logging.setLogRecordFactory(make)
    try:
        yield
    finally:
        logging.setLogRecordFactory(before)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with a message on what is kept and how to continue."""


class Terminated(Interrupted):
    """The same for SIGTERM, which a scheduler sends before it takes the machine away: exit code 143."""


def interruption(error: KeyboardInterrupt, message: str) -> Interrupted:
    """The interruption to raise for another one, of its kind, with a message."""
    return Terminated(message) if isinstance(error, Terminated) else Interrupted(message)


class Signals:
    """The state of this process's signals.

    Attributes:
        received: the number of the first one that asked it to stop.
        saving: SIGTERM waits for a checkpoint, which the training writes after its step.
    """

    received: int | None = None
    saving = False
    handler: Callable[[int, Any], None] | None = None  # the one that `catching_signals` has installed


@contextmanager
def catching_signals() -> Iterator[None]:
    """Lets SIGTERM end a command as Ctrl-C does, and a second signal end it at once.

    Python drops what is raised in a `__del__` or the callback of a weak reference: a signal that comes there is sent
    again a moment later.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def stop(number: int, frame: object) -> None:
        again = Signals.received == number == signal.SIGTERM and Signals.saving and "RANK" in os.environ
        if again:  # of the scheduler, and of the launcher, which forwards it and kills after 30 s
            return
        if Signals.received or os.getpid() != owner:  # a second one, or in a worker process
            os._exit(128 + number)
        Signals.received = number
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if not Signals.saving:
            raise Terminated

    def send_again(number: int) -> None:
        time.sleep(0.01)
        Signals.received = None
        interrupt_main(signal.Signals(number))

    def dropped(what: Any) -> None:
        if Signals.received and issubclass(what.exc_type, KeyboardInterrupt):
            start_new_thread(send_again, (Signals.received,))  # which takes no lock
        else:
            report_dropped(what)

    report_dropped, sys.unraisablehook = sys.unraisablehook, dropped
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    Signals.handler = stop
    try:
        yield
    finally:
        Signals.handler = None
        sys.unraisablehook = report_dropped
        for number, handler in before.items():
            signal.signal(number, handler)
        Signals.received, Signals.saving = None, False


def _end_at_once() -> None:
    """In a forked worker SIGTERM acts as usual: a handler in Python may never run where the worker waits for a lock."""
    if Signals.handler and signal.getsignal(signal.SIGTERM) is Signals.handler:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_end_at_once)


@contextmanager
def writing(place: str | Path) -> Iterator[None]:
    """Turns a refusal of the operating system inside the block into a `UserError` that names the path, or `place`."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, UserError) and (problem := storage_problem(error, place)):
            raise problem from error
        raise


@contextmanager
def complete_file(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of `path` and with its suffix, which becomes `path` once the block has ended.

    What was there before stays if it cannot be written: raises `UserError`.
    """
    partial = path.with_name(f".{path.stem[:100]}.{os.getpid()}{path.suffix}")
    try:
        with writing(path):
            yield partial
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink()


def write_text(path: Path, text: str) -> None:
    """Writes a text file completely or not at all, see `complete_file`."""
    with complete_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def check_writable(folder: str | Path, flag: str) -> None:
    """Raises UserError, with the flag or variable that chose the folder, if no temporary file can be written there.

    Of a folder that does not exist, the nearest one above it is tried.
    """
    place = f"{flag} {folder}"
    try:
        if not (above := _existing(folder)).is_dir():
            raise UserError(f"the folder cannot be created: {above} is a file", place, "give another name")
        with tempfile.TemporaryFile(dir=above) as file:
            file.write(bytes(4096))
    except OSError as error:
        reason, fix = _explained(error.errno, folder)
        raise UserError(f"nothing can be written there: {reason}", place, fix) from error


def check_free_space(folder: str | Path, flag: str, needed: int) -> None:
    """Raises UserError if the disk of a folder has fewer than `needed` bytes free."""
    if (free := _free_bytes(folder)) < needed:
        what = f"the disk is full: {needed / 2**20:,.1f} MiB are needed, {free / 2**20:,.1f} MiB are free"
        raise UserError(what, f"{flag} {folder}", _explained(errno.ENOSPC, folder)[1])


def storage_problem(error: BaseException, place: str | Path = "") -> UserError | None:
    """The `UserError` for a refusal of the operating system that `error` is or was caused by; None if there is none."""
    cause: BaseException | None = error
    while cause is not None:
        number = cause.errno if isinstance(cause, OSError) else None
        path = getattr(cause, "filename2", None) or getattr(cause, "filename", None)  # 2: where a copy goes
        if number is None and (found := OS_ERROR.search(str(cause))):  # safetensors, worker processes of `datasets`
            number = int(found[1])
        if number is None and (full := SQLITE_ERROR.search(str(cause))):  # the study of a search
            number = errno.EROFS if full[1] else errno.ENOSPC
        if number is None and "PytorchStreamWriter" in str(cause):  # torch.save gives no reason
            number = errno.ENOSPC if _free_bytes(place) < 2**24 else errno.EIO
        if number in STORAGE:
            where = os.fsdecode(path) if isinstance(path, str | bytes) else str(place)
            reason, fix = _explained(number, where or ".")
            return UserError(f"a file cannot be read or written: {reason}", where, fix)
        cause = cause.__cause__
    return None


OS_ERROR = re.compile(r"(?:os error |[Ee]rrno )(\d+)")
SQLITE_ERROR = re.compile(r"database or disk is full|disk I/O error|(readonly database|unable to open database)")
FULL = (errno.ENOSPC, errno.EDQUOT)
STORAGE = {
    *FULL, errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
    errno.ENAMETOOLONG, errno.EMFILE, errno.ENFILE, errno.ELOOP, errno.EFBIG, errno.EBUSY,
}  # fmt: skip
"""Numbers of errors that are about files: not those of connections, which have messages of their own."""


def _explained(number: int | None, place: str | Path) -> tuple[str, str]:
    """The reason of an error of the operating system, and what to do about it."""
    reason = os.strerror(number or errno.EIO)
    if number in FULL:
        free = f"{_free_bytes(place) / 2**20:,.1f} MiB are free"
        return f"{reason}; {free}", f"free some space, or choose another disk ({PLACES})"
    return reason, f"choose another place ({PLACES}), or make this one writable"


PLACES = "--output, --output_dir or --data_dir; HF_DATASETS_CACHE for prepared sounds, TMPDIR for uploads"


def _free_bytes(place: str | Path) -> int:
    try:
        return shutil.disk_usage(_existing(place)).free
    except OSError:
        return 0


def _existing(place: str | Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(path for path in (Path(place), *Path(place).absolute().parents) if path.exists())


class CommandParser(argparse.ArgumentParser):
    """A parser of a command line whose mistakes are `UserError`s; an unknown flag is answered with the nearest one."""

    def error(self, message: str) -> NoReturn:
        unknown = re.findall(r"--\w+", message) if "unrecognized" in message else []
        near = [each for flag in unknown for each in difflib.get_close_matches(flag, self._option_string_actions, n=1)]
        fix = f"did you mean {', '.join(near)}?" if near else "--help lists what it takes"
        raise UserError(message, self.prog, fix)


def exit_code(main: Callable[[], int | None]) -> int:
    """Runs `main`; a `UserError` or a file error becomes a message and exit code 2, Ctrl-C 130, SIGTERM 143."""
    if hasattr(sys.stdout, "reconfigure"):
        # A label that it cannot encode is no reason to lose a result, and a pipe gets each line at once.
        sys.stdout.reconfigure(errors="replace", line_buffering=True)
    try:
        with catching_signals(), redacting_logs():
            code = main() or 0
            sys.stdout.flush()
            return code
    except UserError as error:
        return _report(error)
    except KeyboardInterrupt as interrupt:
        if os.environ.get("RANK", "0") == "0":
            print(printable_lines(str(interrupt)) or "interrupted", file=sys.stderr)
        return 143 if isinstance(interrupt, Terminated) else 130
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if problem := storage_problem(error):
            return _report(problem)
        text = traceback.format_exc()
        if redacted(text) == text:
            raise
        print(redacted(text), file=sys.stderr)
        return 1


def _report(error: UserError) -> int:
    if os.environ.get("RANK", "0") == "0":  # of several processes, the first speaks
        for problem in error.problems if isinstance(error, UserErrors) else [error]:
            print(printable_lines(redacted(f"error: {problem}")), file=sys.stderr)
    else:
        time.sleep(5)  # the launcher ends all processes with the first that fails: not before it has spoken
    return 2
