"""Sound that FFmpeg decodes, through PyAV: MP3, and what libsndfile does not read (m4a, mp4, webm, wma …).

The samples are those that FFmpeg plays: an encoder's padding is left out where the file gives its length. A file is
read to its end, whatever length a first frame promises, and however many MP3s were joined in it.
"""

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any, BinaryIO

import numpy as np

SUFFIXES = frozenset({
    ".3ga", ".3gp", ".aac", ".ac3", ".adts", ".alac", ".amr", ".ape", ".asf", ".avi", ".awb", ".dts", ".eac3", ".flv",
    ".m4a", ".m4b", ".m4r", ".m4v", ".mka", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ogx", ".tta", ".weba",
    ".webm", ".wma", ".wmv", ".wv",
})  # fmt: skip
"""Suffixes of files that only FFmpeg decodes, in lower case."""
MP3 = re.compile(rb"ID3|\xff[\xe0-\xff]")
"""How an MP3 begins; libsndfile stops at a length that it estimates from the first frame."""
# FFmpeg's other formats include playlists, which make it open any file or address.
FORMATS = "mov,matroska,webm,aac,ac3,eac3,asf,avi,flv,amr,ape,dts,mpeg,mpegts,mp3,ogg,tta,wv"
LEAST_SHARE = 0.95  # of the length that a container gives; less is a truncated file


class CannotDecode(Exception):
    """Why FFmpeg does not decode a file."""


def decode(file: BinaryIO, notes: list[str]) -> Iterator[tuple[int, Iterator[np.ndarray]]]:
    """Decodes the first audio stream of a file; `notes` gets a sentence if parts of an MP3 are damaged.

    Yields once, and again where the sampling rate changes (as in joined files), the rate in Hz, and the samples in
    blocks, which must be taken before going on: `(samples,)` float32, the mean of the channels, full scale 1.0. Raises
    CannotDecode if FFmpeg finds no sound in it, then or in the blocks, or the file is truncated.
    """
    import av

    try:
        described = _mp3_is_described(file)
        file.seek(0)
        with av.open(_Seekable(file), options={"format_whitelist": FORMATS}, metadata_errors="replace") as container:
            if not container.streams.audio:
                raise CannotDecode("there is no sound in it")
            frames = _frames(container, container.streams.audio[0], described, notes)
            for rate, of_rate in groupby(frames, lambda frame: frame.sample_rate):
                yield rate, map(_mono, of_rate)
    except (av.FFmpegError, ValueError) as error:
        raise CannotDecode(str(getattr(error, "strerror", None) or error)) from None


class _Seekable:
    """A file for PyAV, which prints the traceback of a seek that is refused, such as one to before the start."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.read, self.tell = file, file.read, file.tell

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self.file.seek(offset, whence)
        except (OSError, ValueError):
            return -1


def _mp3_is_described(file: BinaryIO) -> bool:
    """Whether the first frame of an MP3, behind its ID3 tag, gives the number of frames."""
    file.seek(0)
    head = file.read(10)
    tag = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=False))
    file.seek(10 + tag if head[:3] == b"ID3" else 0)
    return re.search(rb"Xing|Info|VBRI", file.read(1024)) is not None


def _frames(container: Any, stream: Any, described: bool, notes: list[str]) -> Iterator[Any]:
    import av

    promised, seconds, damaged = _promised_seconds(container, stream, described), 0.0, 0
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.InvalidDataError:  # other data between the frames
            if container.format.name != "mp3":
                raise
            frames, damaged = [], damaged + 1
        seconds += sum(frame.samples / frame.sample_rate for frame in frames)
        yield from frames
    if seconds < LEAST_SHARE * promised:
        raise CannotDecode(f"it is truncated: {seconds:.1f} of {promised:.1f} s can be decoded")
    if damaged:
        notes.append(f"{damaged:,} parts of it are no MP3 frames and are not read")


def _promised_seconds(container: Any, stream: Any, described: bool) -> float:
    """The length of the stream by its container; 0.0 where that gives none, or only an estimate."""
    if stream.duration:
        seconds = stream.duration * stream.time_base
        # FFmpeg also estimates where an MP3 is larger than described; an estimate is no whole number of samples.
        known = container.format.name != "mp3" or (described and (seconds * stream.rate).denominator == 1)
        return float(seconds) if known else 0.0
    if "matroska" in container.format.name and len(container.streams) == 1 and container.duration:
        return container.duration / 1e6
    return 0.0


def _mono(frame: Any) -> np.ndarray:
    """The mean of a frame's channels, `(samples,)` float32; integers are brought to full scale 1.0."""
    values = frame.to_ndarray()  # (channels, samples), or (1, samples * channels)
    if not frame.format.is_planar:
        values = values.reshape(-1, len(frame.layout.channels)).T
    if values.dtype == np.uint8:
        values = (values.astype(np.float32) - 128) / 128
    elif values.dtype.kind == "i":
        values = values.astype(np.float32) / np.float32(-float(np.iinfo(values.dtype).min))
    return np.asarray(values, np.float32).mean(axis=0, dtype=np.float32)
