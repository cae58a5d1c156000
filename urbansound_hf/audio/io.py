"""Reading of sound files as mono float32 waveforms, for training and serving alike.

libsndfile decodes (through soundfile), and what it cannot, FFmpeg's libraries do (through PyAV); `audio.resampling`
converts the rate. Neither an FFmpeg program nor torch is needed.
"""

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
from urbansound_hf.audio.resampling import resample, resample_blocks
from urbansound_hf.errors import UserError

SAMPLING_RATE = 16_000  # Hz; the input of nearly every pretrained audio model

BLOCK_FRAMES = 2**20  # frames decoded at a time: 24 s at 44.1 kHz
LOWEST_RATE, HIGHEST_RATE = 1000, 4_000_000  # Hz; beyond, a header is damaged, and resampling would fill the memory

Source = str | Path | bytes | BinaryIO


class Limits(NamedTuple):
    """Limits of accepted sounds: lower sampling rates in Hz, longer ones in seconds, more channels."""

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
    return _Sound(source, sampling_rate, name, notes, limits).waveform()


def read_audio(source: Source, name: str = "", notes: list[str] | None = None) -> tuple[np.ndarray, int]:
    """A sound as `load_audio` reads it, but at its own rate (the first one's of joined files), and that rate in Hz."""
    sound = _Sound(source, 0, name, notes, LIMITS)
    return sound.waveform(), sound.rate


def stream_audio(
    source: Source,
    sampling_rate: int = SAMPLING_RATE,
    name: str = "",
    notes: list[str] | None = None,
    limits: Limits = LIMITS,
) -> Iterator[np.ndarray]:
    """Yields the waveform of `load_audio` in blocks, in memory that does not grow with the length of the sound.

    A block is `(samples,)` float32, of at most about a million samples of the file. What is wrong behind it is raised
    when the reading gets there, and `notes` are complete at the end.
    """
    return _Sound(source, sampling_rate, name, notes, limits).blocks()


class _Sound:
    """A sound that is read once, as the arguments of `load_audio` say; `rate` 0 becomes that of its first recording."""

    def __init__(self, source: Source, rate: int, name: str, notes: list[str] | None, limits: Limits) -> None:
        is_path = isinstance(source, str | Path)
        self.name = name or (str(source) if is_path else getattr(source, "name", "") or "<bytes>")
        self.source, self.path = source, source if is_path and not is_address(source) else None
        self.rate, self.limits, self.notes = rate, limits, [] if notes is None else notes
        self.decoded = self.samples = self.beyond = 0  # samples of the recording; of the result; beyond full scale
        self.peak = 0.0

    def waveform(self) -> np.ndarray:
        blocks = list(self.blocks())
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)

    def blocks(self) -> Iterator[np.ndarray]:
        with _opened(self.source, self.name) as file:
            for block in self._decoded(file):
                if len(block):
                    self._measure(block)
                    yield block
        if not self.samples:
            raise AudioError("holds no samples", self.name)
        if self.beyond > 0.5 * self.samples:  # the values of a float file in the scale of integers
            share = f"{self.beyond / self.samples:.0%} of its samples lie beyond full scale (peak {self.peak:,.6g})"
            self.notes.append(f"{share}; they are used as they are")

    def _measure(self, block: np.ndarray) -> None:
        """Counts the samples of a block. Raises AudioError for NaN or infinite ones, and where they are too many."""
        peak = max(float(block.max()), -float(block.min()))  # NaN if there is one
        if not math.isfinite(peak):
            raise AudioError("holds NaN or infinite samples", self.name, "write it again from its source")
        self.samples, self.peak = self.samples + len(block), max(self.peak, peak)
        self.beyond += int(np.count_nonzero(np.abs(block) > 1)) if peak > 1 else 0
        if self.limits.max_seconds and self.samples > self.limits.max_seconds * self.rate:
            fix = "cut it, or raise --max_seconds"
            raise AudioError(f"is longer than {self.limits.max_seconds:g} s", self.name, fix)

    def _decoded(self, file: BinaryIO) -> Iterator[np.ndarray]:
        """Blocks of all recordings in a file, by FFmpeg where it is an MP3 or libsndfile does not know the format."""
        file.seek(0)
        if ffmpeg.MP3.match(start := file.read(3)):
            try:
                yield from self._by_ffmpeg(file)
                return
            except UnknownFormatError:
                if start != b"ID3":  # the tag may stand before other formats
                    raise
        try:
            recordings = split(file, self.notes)
        except TruncatedError as error:
            raise AudioError(f"is truncated: {error}", self.name, "copy or download it again") from None
        for number, recording in enumerate(recordings, start=1):
            part = f"part {number} of {len(recordings)} in it " if len(recordings) > 1 else ""
            try:
                yield from self._by_libsndfile(recording, recording.content is file, part)
            except UnknownFormatError as error:
                if part:
                    raise
                yield from self._by_ffmpeg(file, error)
        if len(recordings) > 1:
            self.notes.append(f"it holds {len(recordings)} sounds joined end to end; they are read as one")

    def _by_libsndfile(self, recording: Recording, is_file: bool, part: str) -> Iterator[np.ndarray]:
        recording.content.seek(0)
        self.decoded, content = 0, self.path if is_file and self.path else recording.content
        if isinstance(content, str | Path) and sys.platform != "win32":
            content = os.fsencode(content)  # type: ignore[assignment] # soundfile cannot encode names that are no text
        try:
            with Decoder(content) as sound:
                promised, header = sound.frames, sound.extra_info
                self._check_format(sound.samplerate, sound.channels, part)
                yield from self._resampled(_blocks(sound), sound.samplerate)
        except soundfile.LibsndfileError as error:
            reason = str(error.error_string).strip().rstrip(".")
            what = f"{f'{part}is ' if part else ''}not a sound that libsndfile can read ({reason})"
            kind = AudioError if self.decoded else UnknownFormatError
            raise kind(what, self.name, "convert it to WAV or FLAC") from None
        except (RuntimeError, ValueError) as error:
            raise AudioError(f"{part}cannot be read ({error})", self.name) from None
        chunk = re.search(TOO_SHORT, header, re.MULTILINE)
        cut = chunk and int(chunk[1]) - int(chunk[2]) > HEADER_BYTES and int(chunk[1]) < ENDLESS_BYTES
        if not recording.checked and self.decoded and (cut or self.decoded < 0.95 * promised):
            found = f"{chunk[2]} of {chunk[1]} bytes" if chunk else f"{self.decoded} of {promised} samples"
            raise AudioError(f"is truncated: {found} are there", self.name, "copy or download it again")

    def _by_ffmpeg(self, file: BinaryIO, refused: UserError | None = None) -> Iterator[np.ndarray]:
        """Blocks of a file that FFmpeg decodes; `refused` is why libsndfile does not."""
        self.decoded = 0
        try:
            for rate, blocks in ffmpeg.decode(file, self.notes):  # FFmpeg has no file of more than 64 channels
                self._check_format(rate, 1, "")
                yield from self._resampled(blocks, rate)
        except ffmpeg.CannotDecode as error:
            if self.decoded:
                raise AudioError(f"is damaged: {error}", self.name, "copy or download it again") from None
            if refused:
                raise AudioError(f"{refused.what}, nor can FFmpeg ({error})", self.name, refused.fix) from None
            raise UnknownFormatError(f"not a sound that FFmpeg can read ({error})", self.name) from None

    def _check_format(self, rate: int, channels: int, part: str) -> None:
        if not self.limits.min_rate <= rate <= HIGHEST_RATE:
            fix = f"--min_rate {rate} accepts it" if 0 < rate <= HIGHEST_RATE else ""
            raise AudioError(f"{part}has a sampling rate of {rate:,} Hz, which is none of sound", self.name, fix)
        if channels > self.limits.max_channels:
            what = f"{part}has {channels} channels, more than {self.limits.max_channels}"
            raise AudioError(what, self.name, "mix it down")

    def _resampled(self, blocks: Iterator[np.ndarray], from_rate: int) -> Iterator[np.ndarray]:
        first, second = next(blocks, np.zeros(0, np.float32)), next(blocks, None)
        self.rate = self.rate or from_rate
        if second is None:
            yield resample(self._counted(first), from_rate, self.rate)
        else:
            yield from resample_blocks(map(self._counted, chain((first, second), blocks)), from_rate, self.rate)

    def _counted(self, block: np.ndarray) -> np.ndarray:
        self.decoded += len(block)
        return block


# How libsndfile notes a size in a header: CAF, and the others where their chunks cannot be followed.
TOO_SHORT = r"^ *(?:data|SSND|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)"


@contextmanager
def _opened(source: Source, name: str) -> Iterator[BinaryIO]:
    if is_address(source):
        import fsspec

        try:
            with fsspec.open(str(source), "rb") as file:
                content = io.BytesIO(file.read())
        except ImportError as error:  # the message names the package
            raise AudioError(f"cannot be fetched ({error})", name, "install that package") from None
        except Exception as error:  # each file system has errors of its own
            raise AudioError(f"cannot be fetched ({error or type(error).__name__})", name) from None
        yield content
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


def audio_seconds(source: bytes, name: str = "") -> float:
    """The length of an encoded sound, from its header; where libsndfile does not read it, from its samples."""
    try:
        return soundfile.info(io.BytesIO(source)).duration
    except soundfile.LibsndfileError:
        waveform, rate = read_audio(source, name)
        return len(waveform) / rate


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
    starts = [*range(0, samples - window, hop), samples - window] if samples > window else [0]
    return [(start, min(start + window, samples)) for start in starts]


def cut_windows(blocks: Iterable[np.ndarray], window: int, hop: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """The windows of `window_bounds` over `(samples,)` blocks, each as soon as it is there; hop ≤ window.

    Yields start and end in samples, and the waveform between them.
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
