"""Reading of sound files as mono float32 waveforms, for training and serving alike.

libsndfile decodes (through soundfile), `audio.resampling` converts the rate: neither FFmpeg nor torch is needed.
"""

from __future__ import annotations

import io
import re
import struct
import wave
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from urbansound_hf.audio.resampling import resample
from urbansound_hf.errors import UserError

SAMPLING_RATE = 16_000  # Hz; what nearly every pretrained audio model hears

Source = str | Path | bytes | BinaryIO


class AudioError(UserError):
    """A sound that cannot be read, with its name and the reason."""


def load_audio(source: Source, sampling_rate: int = SAMPLING_RATE, name: str = "") -> np.ndarray:
    """Reads a sound as training, evaluation and serving use it: mono, at one sampling rate.

    Args:
        source: a path, the bytes of a sound file, or an open binary file.
        sampling_rate: the rate of the result, in Hz.
        name: how to call the source in an error (default: its path).

    Returns:
        `(samples,)` float32, mono (the mean of the channels), full scale 1.0, never clipped: resampling overshoots
        at the peaks of a clipped recording, and a float file may hold any values.

    Raises:
        AudioError: it does not exist, is not audio, is empty or truncated, or holds NaN or infinite samples.

    >>> waveform = ush.load_audio("clip.wav")
    >>> waveform.shape, waveform.dtype  # four seconds
    ((64000,), dtype('float32'))
    """
    waveform, native_rate = read_audio(source, name)
    return resample(waveform, native_rate, sampling_rate)


def read_audio(source: Source, name: str = "") -> tuple[np.ndarray, int]:
    """Decodes a sound to mono at its own rate: `(samples,)` float32, rate in Hz. Raises as `load` does."""
    name = name or (str(source) if isinstance(source, (str, Path)) else getattr(source, "name", "") or "<bytes>")
    if isinstance(source, (str, Path)) and not Path(source).is_file():
        reason = "is a folder, not a file" if Path(source).is_dir() else "does not exist"
        if Path(source).exists() and not Path(source).is_dir():
            reason = "is a device, not a file"
        raise AudioError(reason, name)
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with soundfile.SoundFile(file) as sound:
            promised, header = sound.frames, sound.extra_info
            asked = -1 if sound.seekable() else sound.frames  # GSM 6.10 and G.72x know their length but cannot seek
            kind = "int16" if sound.subtype == "PCM_16" else "float32"  # libsndfile is slow at 16-bit to float
            frames = sound.read(asked, dtype=kind, always_2d=True)  # (samples, channels)
            rate = sound.samplerate
    except soundfile.LibsndfileError as error:
        reason = str(error.error_string).strip().rstrip(".")
        what = f"not a sound that libsndfile can read ({reason})"
        raise AudioError(what, name, "convert it to WAV or FLAC") from None
    except (OSError, RuntimeError, ValueError) as error:
        raise AudioError(f"cannot be read ({error})", name) from None
    _check(frames, promised, header, name)
    full_scale = 32768 if frames.dtype == np.int16 else 1
    weights = np.full(frames.shape[1], 1 / (frames.shape[1] * full_scale), np.float32)
    return frames.astype(np.float32, copy=False) @ weights, rate  # five times as fast as mean()


def audio_seconds(source: bytes) -> float:
    """The length of an encoded sound, from its header."""
    return soundfile.info(io.BytesIO(source)).duration


def to_float_wav(waveform: np.ndarray, sampling_rate: int = SAMPLING_RATE) -> bytes:
    """A `(samples,)` float32 waveform as the bytes of a 32-bit float WAV file, which `load_audio` reads bit by bit."""
    samples = waveform.astype("<f4", copy=False).tobytes()
    fmt = struct.pack("<HHIIHHH", 3, 1, sampling_rate, 4 * sampling_rate, 4, 32, 0)  # 3: IEEE float; no extension
    chunks = ((b"fmt ", fmt), (b"fact", struct.pack("<I", len(waveform))), (b"data", samples))
    content = b"WAVE" + b"".join(name + struct.pack("<I", len(chunk)) + chunk for name, chunk in chunks)
    return b"RIFF" + struct.pack("<I", len(content)) + content


def to_wav(waveform: np.ndarray, sampling_rate: int = SAMPLING_RATE) -> bytes:
    """A `(samples,)` waveform, full scale 1.0, as the bytes of a 16-bit WAV file; values beyond it are clipped."""
    scaled = np.clip(np.rint(waveform * np.float32(32768)), -32768, 32767)  # the exact inverse of load
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, sampling_rate, len(scaled), "NONE", "not compressed"))
        file.writeframes(scaled.astype("<i2").tobytes())
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


# How libsndfile notes it: WAV and CAF, AIFF, AU, W64, RF64. Not WAV's "RIFF": that size is often wrong in a whole file.
TOO_SHORT = r"^ *(?:data|SSND|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)"
ENDLESS_BYTES = 0x7FFF0000  # a header written to a pipe promises the whole 2 or 4 GiB of its field: no damage


def _check(frames: np.ndarray, promised: int, header: str, name: str) -> None:
    if not len(frames):
        raise AudioError("holds no samples", name)
    chunk = re.search(TOO_SHORT, header, re.MULTILINE)
    cut = chunk and int(chunk[2]) < int(chunk[1]) < ENDLESS_BYTES
    if cut or len(frames) < 0.95 * promised:  # an MP3 without a full header only estimates its length
        found = f"{chunk[2]} of {chunk[1]} bytes" if chunk else f"{len(frames)} of {promised} samples"
        raise AudioError(f"is truncated: {found} are there", name, "copy or download it again")
    if not np.isfinite(frames).all():
        raise AudioError("holds NaN or infinite samples", name, "write it again from its source")
