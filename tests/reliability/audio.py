"""Awkward sound files: every format and depth, then each cut off, with bytes changed, with lies in its header.

An intact file must have its length and its level; a damaged one is refused, or read as finite samples in range.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from tests.reliability import Case
from urbansound_hf.audio.io import load_audio

RATE, SECONDS = 16_000, 0.5
FORMATS = [("WAV", each) for each in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW",
                                      "IMA_ADPCM", "MS_ADPCM")]  # fmt: skip
FORMATS += [("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("OGG", "VORBIS"),
            ("CAF", "PCM_16"), ("W64", "PCM_16"), ("RF64", "PCM_16"), ("MP3", "MPEG_LAYER_III")]  # fmt: skip


def encoded(form: str, subtype: str, rate: int = RATE, channels: int = 1, level: float = 0.5) -> bytes:
    times = np.arange(round(rate * SECONDS)) / rate
    tone = level * np.sin(2 * np.pi * 440 * times)
    file = io.BytesIO()
    soundfile.write(file, np.repeat(tone[:, None], channels, 1), rate, format=form, subtype=subtype)
    return file.getvalue()


def intact(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    samples = load_audio(path, RATE)
    assert abs(len(samples) / RATE - SECONDS) < 0.15, f"{len(samples) / RATE:.3f} s instead of {SECONDS} s"
    level = float(np.sqrt(np.mean(samples**2)))
    assert 0.25 < level < 0.45, f"RMS {level:.3f} instead of 0.35"
    return "answered"


def damaged(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    samples = load_audio(path, RATE)
    assert samples.dtype == np.float32 and samples.ndim == 1, f"{samples.dtype} {samples.shape}"
    assert len(samples) and np.isfinite(samples).all(), "samples that are not finite, or none"
    assert len(samples) < 60 * RATE, f"{len(samples) / RATE:.0f} s out of half a second"
    return "answered"


def cases(root: Path) -> Iterator[Case]:
    for form, subtype in FORMATS:
        name, content = f"{form} {subtype}", encoded(form, subtype)
        path = root / f"sound.{form.lower()}"
        yield name, partial(intact, path, content)
        for share in (0.0, 0.001, 0.02, 0.3, 0.9):
            yield f"{name}, {share:.1%} of it", partial(damaged, path, content[: int(share * len(content))])
        draw = np.random.default_rng(0)
        for flips in (1, 8, 64):
            changed = np.frombuffer(content, np.uint8).copy()
            changed[draw.integers(0, min(64, len(changed)), flips)] ^= draw.integers(1, 256, flips, dtype=np.uint8)
            yield f"{name}, {flips} bytes of the header changed", partial(damaged, path, changed.tobytes())
    for rate in (8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000):
        for channels in (1, 2, 6):
            path, content = root / "sound.wav", encoded("WAV", "PCM_16", rate, channels)
            yield f"{rate} Hz, {channels} channels", partial(intact, path, content)
    for value in (np.nan, np.inf, -np.inf, 1e30):
        content = encoded("WAV", "FLOAT")
        spoiled = content[:-4] + np.float32(value).tobytes()
        yield f"a last sample of {value}", partial(damaged, root / "sound.wav", spoiled)
    for offset in (4, 16, 22, 24, 28, 32, 34, 40):  # the fields of a WAV header
        for lie in (0, 1, 0x7FFF, 0xFFFF):
            content = bytearray(encoded("WAV", "PCM_16"))
            content[offset : offset + 2] = lie.to_bytes(2, "little")
            yield f"WAV header, byte {offset} is {lie}", partial(damaged, root / "sound.wav", bytes(content))
