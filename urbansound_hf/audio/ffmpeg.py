"""Sound of the formats that libsndfile does not read (m4a, mp4, webm, wma …), decoded by FFmpeg through PyAV.

The samples are those that FFmpeg plays: an encoder's padding is left out where the container gives its length.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, BinaryIO

import numpy as np

SUFFIXES = frozenset({
    ".3ga", ".3gp", ".aac", ".ac3", ".adts", ".alac", ".amr", ".ape", ".asf", ".avi", ".awb", ".dts", ".eac3", ".flv",
    ".m4a", ".m4b", ".m4r", ".m4v", ".mka", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ogx", ".tta", ".weba",
    ".webm", ".wma", ".wmv", ".wv",
})  # fmt: skip
"""Suffixes of files that PyAV decodes, in lower case."""
FIX = "convert it to WAV or FLAC, or let FFmpeg decode it: pip install 'urbansound-hf[formats]'"
# FFmpeg's other formats include playlists, which make it open any file or address.
FORMATS = "mov,matroska,webm,aac,ac3,eac3,asf,avi,flv,amr,ape,dts,mpeg,mpegts,mp3,ogg,tta,wv"
LEAST_SHARE = 0.95  # of the length that a container gives; less is a truncated file


class CannotDecode(Exception):
    """Why FFmpeg does not decode a file."""


def available() -> bool:
    """Whether PyAV, the extra `formats`, is installed."""
    return find_spec("av") is not None


def decode(file: BinaryIO) -> tuple[int, Iterator[np.ndarray]]:
    """Opens the first audio stream of a file.

    Returns:
        its sampling rate in Hz, and its samples in blocks: `(samples,)` float32, the mean of the channels, full
        scale 1.0.

    Raises:
        CannotDecode: FFmpeg finds no sound in it, then or in the blocks; or the file is truncated.
    """
    import av

    try:
        file.seek(0)
        container = av.open(file, options={"format_whitelist": FORMATS})
    except (av.FFmpegError, ValueError) as error:
        raise CannotDecode(_reason(error)) from None
    if not container.streams.audio:
        container.close()
        raise CannotDecode("there is no sound in it")
    stream = container.streams.audio[0]
    return int(stream.rate), _blocks(container, stream)


def _blocks(container: Any, stream: Any) -> Iterator[np.ndarray]:
    import av

    rate, samples = int(stream.rate), 0
    promised = _promised_seconds(container, stream) * rate
    try:
        with container:
            for frame in container.decode(stream):
                if frame.sample_rate != rate:
                    raise CannotDecode(f"its sampling rate changes from {rate:,} to {frame.sample_rate:,} Hz")
                samples += frame.samples
                yield _mono(frame)
    except (av.FFmpegError, ValueError) as error:
        raise CannotDecode(f"{_reason(error)} after {samples / rate:.1f} s") from None
    if samples < LEAST_SHARE * promised:
        raise CannotDecode(f"it is truncated: {samples / rate:.1f} of {promised / rate:.1f} s can be decoded")


def _promised_seconds(container: Any, stream: Any) -> float:
    """The length of the stream by its container; 0.0 where that gives none, or only an estimate."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
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


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
