"""Downloads and unpacks an archive.

An interrupted download is resumed; its md5 is checked before anything is unpacked, and unpacking never writes outside
its folder. Unfinished files and folders end in `.part` and `.unpacking`, so those with the final name are complete.
"""

import gzip
import hashlib
import logging
import re
import shutil
import tarfile
import time
import zlib
from contextlib import ExitStack, suppress
from pathlib import Path, PurePosixPath

import requests
from filelock import FileLock
from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

from urbansound_hf.errors import UserError, check_free_space, writing
from urbansound_hf.progress import Bar

CHUNK = 1 << 16  # bytes; what a broken connection can lose
TIMEOUT_SECONDS = (10, 60)  # to connect; between two packets
LONGEST_PAUSE_SECONDS = 300.0
BY_HAND = "download the file with a browser, unpack it, and give its folder as --data_dir"
SPAN = re.compile(r"bytes (?:(?P<start>\d+)-\d+|\*)/(?P<total>\d+)")  # Content-Range: bytes 100-199/200, bytes */200
BROKEN = (requests.ConnectionError, requests.Timeout, requests.HTTPError, requests.exceptions.ChunkedEncodingError)

logger = logging.getLogger(__name__)


def fetch(url: str, target: Path, md5: str, attempts: int = 5, backoff_seconds: float = 1.0) -> Path:
    """Downloads a file once; an interrupted download is resumed, in this call or in the next.

    Args:
        target: the file to write; until it is complete and checked it is called `<target>.part`. One that exists is
            checked once: `<target>.md5` remembers its md5, size and time.
        md5: the checksum of the complete file, 32 hexadecimal digits.
        attempts: connections in a row that may bring nothing new (broken off, 429, 5xx) before giving up.
        backoff_seconds: the pause after the first of them; it doubles each time, unless `Retry-After` says otherwise.

    Raises:
        UserError: no connection, refused by the server, no space on the disk, or the wrong md5.
    """
    part, stamp = Path(f"{target}.part"), Path(f"{target}.md5")
    if not target.is_file():
        with writing(target), FileLock(f"{target}.lock"):  # two processes must not append to the same part
            if not target.is_file():
                _download(url, part, attempts, backoff_seconds)
                _check_md5(part, md5, url)
                Path(f"{part}.etag").unlink(missing_ok=True)
                part.replace(target)
                stamp.write_text(_fact(target, md5), encoding="utf-8")
    elif not stamp.is_file() or stamp.read_text(encoding="utf-8") != _fact(target, md5):
        _check_md5(target, md5, url)
        with suppress(OSError):  # a shared folder that we may only read
            stamp.write_text(_fact(target, md5), encoding="utf-8")
    return target


def unpack(archive: Path, folder: Path) -> Path:
    """Unpacks a `.tar.gz` and returns `folder`; one that exists and is not empty counts as complete.

    Absolute names land inside the folder; the litter of macOS (`.DS_Store`, `._*`) stays behind. Raises UserError for
    names that lead outside, links and devices, an archive that is missing, damaged or cut off, and a full disk.
    """
    partial = Path(f"{folder}.unpacking")
    if folder.is_dir() and any(folder.iterdir()):
        return folder
    with writing(folder), FileLock(f"{folder}.lock"):
        if not (folder.is_dir() and any(folder.iterdir())):  # nobody else unpacked it while we waited
            shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed
            try:
                _extract(archive, partial)
                partial.replace(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return folder


def _download(url: str, part: Path, attempts: int, backoff_seconds: float) -> None:
    """Downloads the rest of `part`, in as many connections as it takes."""
    idle = 0  # connections in a row that brought nothing new
    while True:
        before = _size(part)
        try:
            return _go_on(url, part)
        except BROKEN as error:
            have, status = _size(part), 0 if error.response is None else error.response.status_code
            idle = 0 if have > before else idle + 1
            if idle >= attempts or (400 <= status < 500 and status != 429):
                there = f"the {Bar.format_sizeof(have, 'B')} that are there"
                again = f"run the command again: it goes on after {there}; or " if have else ""
                raise UserError(f"the download stopped: {_reason(error)}", url, again + BY_HAND) from None
            pause_seconds = _retry_after(error) or backoff_seconds * 2 ** max(0, idle - 1)
            logger.warning("%s: %s; trying again in %.0f s", part.stem, _reason(error), pause_seconds)
            time.sleep(pause_seconds)


def _go_on(url: str, part: Path) -> None:
    """Requests the missing rest of `part` over one connection and appends it. Raises the errors of requests."""
    have, known = _size(part), Path(f"{part}.etag")
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with ExitStack() as stack:
        response = stack.enter_context(requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS))
        status, etag = response.status_code, response.headers.get("ETag", "")
        span = SPAN.fullmatch(response.headers.get("Content-Range", ""))
        if have and status == 416 and span and int(span["total"]) == have:
            return  # nothing is missing but the check
        # Compared here, not by If-Range: storage behind a proxy may not know the ETag that the proxy hands out.
        changed = status == 206 and known.is_file() and known.read_text(encoding="utf-8") != etag
        if have and (status == 416 or changed):
            logger.warning("%s: the file at the source has changed; starting over", part.stem)
            part.unlink()
            _go_on(url, part)
            return
        response.raise_for_status()
        known.write_text(etag, encoding="utf-8")
        start = int(span["start"] or 0) if span and status == 206 else 0  # the first byte that the server sends
        length = int(response.headers.get("Content-Length", 0))  # bytes still to come; 0: the server does not say
        file = stack.enter_context(part.open("ab"))
        bar = stack.enter_context(Bar(desc=part.stem, total=start + length or None, initial=start, unit="B"))
        file.truncate(start)
        check_free_space(part.parent, "--data_dir", length)
        for chunk in response.iter_content(CHUNK):  # raises if the connection ends before its length
            file.write(chunk)
            bar.update(len(chunk))


def _extract(archive: Path, folder: Path) -> None:
    size = archive.stat().st_size
    check_free_space(folder.parent, "--data_dir", size)  # WAVs hardly shrink: nearly what comes out
    folder.mkdir()
    try:
        with (
            archive.open("rb") as file,
            Bar.wrapattr(file, "read", size, False, desc=f"Unpacking {archive.name}", unit="B") as counted,
            gzip.open(counted) as stream,
            tarfile.open(fileobj=stream, mode="r:") as tar,
        ):
            tar.extractall(folder, filter=_sounds_only)
            while stream.read(CHUNK):  # on to gzip's own checksum, at the very end
                pass
    except tarfile.FilterError as error:
        rule = "an archive may hold only files and folders inside itself; this one holds something else"
        raise UserError(rule, f"{archive}: {error.tarinfo.name}", "take the archive from its official source") from None
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        fix = f"delete {archive} to download it again"
        raise UserError(f"the archive is damaged or cut off ({error})", str(archive), fix) from None


def _sounds_only(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    """The filter of `tarfile`: no litter of macOS; links have led older Pythons' own filter out, CVE-2025-4517."""
    if PurePosixPath(member.name).name.startswith(("._", ".DS_Store")):
        return None
    if not (member.isfile() or member.isdir()):
        raise tarfile.SpecialFileError(member)
    return tarfile.data_filter(member, folder)


def _check_md5(path: Path, md5: str, url: str) -> None:
    digest, size = hashlib.md5(usedforsecurity=False), _size(path)
    with path.open("rb") as file, Bar.wrapattr(file, "read", size, False, desc="Checking", unit="B") as counted:
        while chunk := counted.read(CHUNK):
            digest.update(chunk)
    if digest.hexdigest() == md5:
        return
    found = f"{path.name} should have the md5 {md5}, but its {Bar.format_sizeof(size, 'B')} have {digest.hexdigest()}"
    if path.suffix != ".part":
        raise UserError(found, str(path), "delete it to download it again")
    path.unlink()
    raise UserError(f"{found}; it was removed", url, f"run the command again; if that does not help, {BY_HAND}")


def _retry_after(error: requests.RequestException) -> float:
    header = "" if error.response is None else error.response.headers.get("Retry-After", "")
    with suppress(InvalidHeader):
        return min(Retry().parse_retry_after(header), LONGEST_PAUSE_SECONDS)  # seconds or a date
    return 0.0


def _reason(error: requests.RequestException) -> str:
    """The message of the server or the operating system, without those of the libraries around it."""
    if error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    cause: BaseException = error
    while cause.__context__:
        cause = cause.__context__
    return str(cause)


def _fact(path: Path, md5: str) -> str:
    return f"{md5} {path.stat().st_size} {path.stat().st_mtime_ns}\n"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
