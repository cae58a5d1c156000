"""Reading of sound files as mono float32 waveforms, for training and serving alike.

libsndfile decodes (through soundfile), and what it cannot, FFmpeg's libraries do (through PyAV); `audio.resampling`
converts the rate. Neither an FFmpeg program nor torch is needed.
"""

from __future__ import annotations

import io
import math
import os
import re
import struct
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile

from urbansound_hf.audio import ffmpeg
from urbansound_hf.audio.containers import ENDLESS_BYTES, HEADER_BYTES, Recording, TruncatedError, split
from urbansound_hf.audio.resampling import Resampler, resample
from urbansound_hf.errors import UserError

SAMPLING_RATE = 16_000  # Hz; what nearly every pretrained audio model hears

BLOCK_FRAMES = 2**20  # frames decoded at a time: 24 s at 44.1 kHz
LOWEST_RATE, HIGHEST_RATE = 1000, 4_000_000  # Hz; beyond, a header is damaged, and resampling would fill the memory

Source = str | Path | bytes | BinaryIO


class Limits(NamedTuple):
    """What is refused of sounds: lower sampling rates in Hz, longer ones in seconds, more channels."""

    min_rate: int = LOWEST_RATE
    max_seconds: float | None = None
    max_channels: int = 1024  # libsndfile has no more


LIMITS = Limits()


class AudioError(UserError):
    """A sound that cannot be read, with its name and the reason."""


class UnknownFormatError(AudioError):
    """A sound that libsndfile does not read."""


class Decoder(soundfile.SoundFile):
    """A sound file that is read from its beginning to its end; in a FLAC of unknown length, seeking would fail."""

    def seekable(self) -> bool:
        return False


def load_audio(
    source: Source,
    sampling_rate: int = SAMPLING_RATE,
    name: str = "",
    notes: list[str] | None = None,
    limits: Limits = LIMITS,
) -> np.ndarray:
    """Reads a sound as training, evaluation and serving use it: mono, at one sampling rate.

    Args:
        source: a path, an address that fsspec opens (`https://…`, `s3://…`, `hf://…`), the bytes of a sound file, or an
            open binary file.
        sampling_rate: the rate of the result, in Hz.
        name: how to call the source in an error (default: its path).
        notes: a list to which what was unusual in the sound is added: a header that was corrected, files joined end
            to end, samples beyond full scale.
        limits: what is refused; one file of a few kB may hold days of silence.

    Returns:
        `(samples,)` float32, mono (the mean of the channels), full scale 1.0, never clipped: resampling overshoots
        at the peaks of a clipped recording, and a float file may hold any values.

    Raises:
        AudioError: it does not exist, is not audio, is empty or truncated, or holds NaN or infinite samples.

    Examples:
        >>> waveform = ush.load_audio("clip.wav")
        >>> waveform.shape, waveform.dtype  # four seconds
        ((64000,), dtype('float32'))
    """
    return _read(source, sampling_rate, name, notes, limits)[0]


def read_audio(source: Source, name: str = "", notes: list[str] | None = None) -> tuple[np.ndarray, int]:
    """Decodes a sound to mono at its own rate, of joined files the first one's: `(samples,)` float32, rate in Hz.

    Arguments and errors are those of `load_audio`.
    """
    return _read(source, None, name, notes, LIMITS)


def stream_audio(
    source: Source,
    sampling_rate: int = SAMPLING_RATE,
    name: str = "",
    notes: list[str] | None = None,
    limits: Limits = LIMITS,
) -> Iterator[np.ndarray]:
    """Reads a sound in blocks, in memory that does not grow with its length; arguments and errors as of `load_audio`.

    What is wrong behind the blocks that were yielded is raised when the reading gets there; `notes` are complete at
    the end.

    Yields:
        `(samples,)` float32, at most about a million samples of the file at a time; joined, they are `load_audio`'s
        waveform.
    """
    return (block for block, _ in _stream(source, sampling_rate, name, notes, limits))


def _read(
    source: Source, rate: int | None, name: str, notes: list[str] | None, limits: Limits
) -> tuple[np.ndarray, int]:
    blocks = list(_stream(source, rate, name, notes, limits))
    waveform = blocks[0][0] if len(blocks) == 1 else np.concatenate([block for block, _ in blocks])
    return waveform, blocks[0][1]


def _stream(
    source: Source, rate: int | None, name: str, notes: list[str] | None, limits: Limits
) -> Iterator[tuple[np.ndarray, int]]:
    """Blocks of samples and their rate, that of the first recording in the file where none is given."""
    name = name or (str(source) if isinstance(source, (str, Path)) else getattr(source, "name", "") or "<bytes>")
    found: list[str] = []
    level = Level(name)
    path = source if isinstance(source, (str, Path)) and not is_address(source) else None
    with _opened(source, name) as file:
        for block, its_rate in _decoded(file, path, rate, name, found, limits):
            if len(block):
                level.add(block)
                if limits.max_seconds and level.samples > limits.max_seconds * its_rate:
                    fix = "cut it, or raise --max_seconds"
                    raise AudioError(f"is longer than {limits.max_seconds:g} s", name, fix)
                yield block, its_rate
    if not level.samples:
        raise AudioError("holds no samples", name)
    if notes is not None:
        notes += [*found, *level.notes()]


@contextmanager
def _opened(source: Source, name: str) -> Iterator[BinaryIO]:
    if is_address(source):
        yield _fetched(str(source), name)
    elif isinstance(source, (str, Path)):
        if not Path(source).is_file():
            reason = "is a device, not a file" if Path(source).exists() else "does not exist"
            raise AudioError("is a folder, not a file" if Path(source).is_dir() else reason, name)
        try:
            with Path(source).open("rb") as file:
                yield file
        except OSError as error:
            raise AudioError(f"cannot be read ({error.strerror or error})", name) from None
    elif isinstance(source, bytes):
        yield io.BytesIO(source)
    else:
        yield source if source.seekable() else io.BytesIO(source.read())


def is_address(source: object) -> bool:
    """Whether a source is an address (`https://…`, `s3://…`, `hf://…`) and not a path."""
    return isinstance(source, str) and re.match(r"[a-z][a-z0-9+.-]+://", source) is not None


def _fetched(address: str, name: str) -> BinaryIO:
    """The file behind an address, through fsspec."""
    import fsspec

    try:
        with fsspec.open(address, "rb") as file:
            return io.BytesIO(file.read())
    except ImportError as error:  # the message names the package
        raise AudioError(f"cannot be fetched ({error})", name, "install that package") from None
    except Exception as error:  # each file system has errors of its own
        raise AudioError(f"cannot be fetched ({error or type(error).__name__})", name) from None


def _decoded(
    file: BinaryIO, path: str | Path | None, rate: int | None, name: str, notes: list[str], limits: Limits
) -> Iterator[tuple[np.ndarray, int]]:
    """Blocks of all sounds in a file, by FFmpeg where it is an MP3 or libsndfile does not know the format."""
    file.seek(0)
    if ffmpeg.MP3.match(start := file.read(3)):
        try:
            yield from _by_ffmpeg(file, rate, name, notes, limits)
            return
        except UnknownFormatError:
            if start != b"ID3":  # the tag may stand before other formats
                raise
    try:
        recordings = split(file, notes)
    except TruncatedError as error:
        raise AudioError(f"is truncated: {error}", name, "copy or download it again") from None
    for number, recording in enumerate(recordings, start=1):
        part = f"part {number} of {len(recordings)} in it " * (len(recordings) > 1)
        try:
            source = path if recording.content is file else None
            for block, its_rate in _decode(recording, source, rate, part, name, limits):
                rate = its_rate  # of joined files the first one's
                yield block, rate
        except UnknownFormatError as error:
            if part:
                raise
            yield from _by_ffmpeg(file, rate, name, notes, limits, error)
    if len(recordings) > 1:
        notes.append(f"it holds {len(recordings)} sounds joined end to end; they are read as one")


def _path(content: str | Path | BinaryIO) -> bytes | str | BinaryIO:
    """A path as bytes: soundfile cannot encode names that are not text in the locale; Windows has no such names."""
    if not isinstance(content, (str, Path)):
        return content
    return str(content) if sys.platform == "win32" else os.fsencode(content)


def _decode(
    recording: Recording, path: str | Path | None, to_rate: int | None, part: str, name: str, limits: Limits
) -> Iterator[tuple[np.ndarray, int]]:
    """Blocks of one recording at `to_rate` (default: its own), and that rate, until libsndfile is at its end."""
    recording.content.seek(0)
    samples = 0
    try:
        with Decoder(_path(path or recording.content)) as sound:
            rate, promised, header = sound.samplerate, sound.frames, sound.extra_info
            _check_format(rate, sound.channels, limits, part, name)
            for block, decoded in _resampled(_blocks(sound), rate, to_rate or rate):
                samples += decoded
                yield block, to_rate or rate
    except soundfile.LibsndfileError as error:
        reason = str(error.error_string).strip().rstrip(".")
        what = f"{part + 'is ' * bool(part)}not a sound that libsndfile can read ({reason})"
        raise (AudioError if samples else UnknownFormatError)(what, name, "convert it to WAV or FLAC") from None
    except (RuntimeError, ValueError) as error:
        raise AudioError(f"{part}cannot be read ({error})", name) from None
    if not recording.checked:
        _check_length(samples, promised, header, name)


def _check_format(rate: int, channels: int, limits: Limits, part: str, name: str) -> None:
    if not limits.min_rate <= rate <= HIGHEST_RATE:
        fix = f"--min_rate {rate} accepts it" if 0 < rate <= HIGHEST_RATE else ""
        raise AudioError(f"{part}has a sampling rate of {rate:,} Hz, which is none of sound", name, fix)
    if channels > limits.max_channels:
        raise AudioError(f"{part}has {channels} channels, more than {limits.max_channels}", name, "mix it down")


def _by_ffmpeg(
    file: BinaryIO,
    to_rate: int | None,
    name: str,
    notes: list[str],
    limits: Limits,
    refused: UserError | None = None,
) -> Iterator[tuple[np.ndarray, int]]:
    """Blocks of a file that FFmpeg decodes; `refused` is why libsndfile does not.

    Raises UnknownFormatError, or AudioError for a file that is damaged or that both refuse.
    """
    samples = 0
    try:
        for rate, blocks in ffmpeg.decode(file, notes):  # FFmpeg has no file of more than 64 channels
            _check_format(rate, 1, limits, "", name)
            to_rate = to_rate or rate
            for block, decoded in _resampled(blocks, rate, to_rate):
                samples += decoded
                yield block, to_rate
    except ffmpeg.CannotDecode as error:
        if samples:
            raise AudioError(f"is damaged: {error}", name, "copy or download it again") from None
        if refused:
            raise AudioError(f"{refused.what}, nor can FFmpeg ({error})", name, refused.fix) from None
        raise UnknownFormatError(f"not a sound that FFmpeg can read ({error})", name) from None


def _blocks(sound: Decoder) -> Iterator[np.ndarray]:
    """Mono float32 blocks `(samples,)`; no length that the decoder gives is needed, and none is allocated at once."""
    kind = "int16" if sound.subtype == "PCM_16" else "float32"  # libsndfile is slow at 16-bit to float
    weight = 1 / (sound.channels * (32768 if kind == "int16" else 1))
    weights = np.full(sound.channels, weight, np.float32)
    remaining, size = sound.frames, BLOCK_FRAMES * 8 // max(8, sound.channels)
    while remaining > 0:  # GSM 6.10 and G.72x fail when more is asked for than they have
        frames = sound.read(min(size, remaining), dtype=kind, always_2d=True)  # (samples, channels)
        if not len(frames):
            return
        with np.errstate(over="ignore", invalid="ignore"):  # NaN is refused afterwards
            block = frames.astype(np.float32, copy=False) @ weights  # five times as fast as mean()
        yield block
        remaining -= len(frames)


def _resampled(blocks: Iterator[np.ndarray], from_rate: int, to_rate: int) -> Iterator[tuple[np.ndarray, int]]:
    """The blocks at another rate, each with the number of samples that came in for it."""
    first, second = next(blocks, np.zeros(0, np.float32)), next(blocks, None)
    if second is None:
        with np.errstate(over="ignore", invalid="ignore"):  # not around a yield: another thread may go on from there
            output = resample(first, from_rate, to_rate)
        yield output, len(first)
        return
    resampler = Resampler(from_rate, to_rate)
    for block in chain((first, second), blocks):
        with np.errstate(over="ignore", invalid="ignore"):
            output = resampler.push(block)
        yield output, len(block)
    yield resampler.finish(), 0


class Level:
    """The level of a sound that comes in blocks; `samples` is their number so far."""

    def __init__(self, name: str) -> None:
        self.name, self.samples, self.beyond, self.peak = name, 0, 0, 0.0

    def add(self, block: np.ndarray) -> None:
        """Adds a block, `(samples,)`. Raises AudioError if a sample is NaN or infinite."""
        peak = max(float(block.max()), -float(block.min()))  # NaN if there is one
        if not math.isfinite(peak):
            raise AudioError("holds NaN or infinite samples", self.name, "write it again from its source")
        self.samples, self.peak = self.samples + len(block), max(self.peak, peak)
        if peak > 1:
            self.beyond += int(np.count_nonzero(np.abs(block) > 1))

    def notes(self) -> list[str]:
        """A note if most samples lie beyond full scale: the values of a float file in the scale of integers."""
        if self.beyond <= 0.5 * self.samples:
            return []
        share = f"{self.beyond / self.samples:.0%} of its samples lie beyond full scale (peak {self.peak:,.6g})"
        return [f"{share}; they are used as they are"]


def audio_seconds(source: bytes) -> float:
    """The length of an encoded sound, from its header."""
    return soundfile.info(io.BytesIO(source)).duration


def file_seconds(path: str | Path) -> float | None:
    """The length of a sound file by its header; None where libsndfile does not read it."""
    try:
        return soundfile.info(str(path)).duration
    except (soundfile.LibsndfileError, OSError):
        return None


def to_float_wav(waveform: np.ndarray, sampling_rate: int = SAMPLING_RATE) -> bytes:
    """A `(samples,)` float32 waveform as the bytes of a 32-bit float WAV file, which `load_audio` reads bit by bit."""
    samples = waveform.astype("<f4", copy=False).tobytes()
    fmt = struct.pack("<HHIIHHH", 3, 1, sampling_rate, 4 * sampling_rate, 4, 32, 0)  # 3: IEEE float; no extension
    chunks = ((b"fmt ", fmt), (b"fact", struct.pack("<I", len(waveform))), (b"data", samples))
    content = b"WAVE" + b"".join(name + struct.pack("<I", len(chunk)) + chunk for name, chunk in chunks)
    return b"RIFF" + struct.pack("<I", len(content)) + content


def to_wav(waveform: np.ndarray, sampling_rate: int = SAMPLING_RATE) -> bytes:
    """A `(samples,)` waveform, full scale 1.0, as the bytes of a 16-bit WAV file; values beyond it are clipped."""
    scaled = np.clip(np.rint(waveform * np.float32(32768)), -32768, 32767)  # the exact inverse of load_audio
    buffer = io.BytesIO()
    soundfile.write(buffer, scaled.astype("<i2"), sampling_rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def window_bounds(samples: int, window: int, hop: int) -> list[tuple[int, int]]:
    """Cuts a recording of `samples` into `[start, end)` windows that cover all of it.

    A recording no longer than `window` is one piece. Otherwise every piece has exactly `window` samples, one
    every `hop`, and the last one ends with the recording, so that no score ever comes from padding.
    """
    if samples <= window:
        return [(0, samples)]
    starts = list(range(0, samples - window + 1, hop))
    if starts[-1] + window < samples:
        starts.append(samples - window)
    return [(start, start + window) for start in starts]


def cut_windows(blocks: Iterable[np.ndarray], window: int, hop: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """The windows of `window_bounds` over a recording that comes in blocks, each as soon as it is there.

    Args:
        blocks: `(samples,)` each, of any size.
        window, hop: in samples; the hop is no longer than the window.

    Yields:
        start and end in samples, and the waveform between them.
    """
    held, first, start = np.zeros(0, np.float32), 0, 0  # samples from `first` on; where the next window starts
    for block in blocks:
        held = np.concatenate([held, block]) if len(held) else block
        end = first + len(held)
        while start + window <= end:
            yield start, start + window, held[start - first : start - first + window]
            start += hop
        kept = max(first, min(start, end - window))
        held, first = held[kept - first :].copy(), kept
    end = first + len(held)
    if not start:
        yield 0, end, held
    elif start - hop + window < end:
        yield end - window, end, held[-window:]


# How libsndfile notes it: CAF, and the others where their chunks cannot be followed.
TOO_SHORT = r"^ *(?:data|SSND|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)"


def _check_length(samples: int, promised: int, header: str, name: str) -> None:
    """Raises AudioError for a file that ends before its samples do, by what libsndfile says of its header."""
    chunk = re.search(TOO_SHORT, header, re.MULTILINE)
    cut = chunk and int(chunk[1]) - int(chunk[2]) > HEADER_BYTES and int(chunk[1]) < ENDLESS_BYTES
    if samples and (cut or samples < 0.95 * promised):
        found = f"{chunk[2]} of {chunk[1]} bytes" if chunk else f"{samples} of {promised} samples"
        raise AudioError(f"is truncated: {found} are there", name, "copy or download it again")
