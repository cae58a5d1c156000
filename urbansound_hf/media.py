"""Sounds and pictures inside an HTML page, as data URIs, and out of it again."""

from __future__ import annotations

import io
from base64 import b64encode
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from urbansound_hf import audio

HEARD_SECONDS = 10.0  # of a longer sound
Media = dict[str, str]
"""What a page has of a clip, by tag: the data URIs of its "audio" and of its picture, "img"; empty if it has none."""

MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # Hz


def encoded(sound: bytes) -> Media:
    """The bytes of a sound file as an MP3 and as a PNG of its mel spectrogram; of a long one, the beginning."""
    import soundfile

    waveform, rate = audio.read(sound)
    if rate not in MP3_RATES:
        waveform, rate = audio.resample(waveform, rate, MP3_RATES[-1]), MP3_RATES[-1]
    waveform = waveform[: round(HEARD_SECONDS * rate)]
    file = io.BytesIO()
    soundfile.write(
        file, waveform, rate, "MPEG_LAYER_III", format="MP3", bitrate_mode="VARIABLE", compression_level=0.3
    )
    return {"audio": data_uri("audio/mpeg", file.getvalue()), "img": data_uri("image/png", picture(waveform, rate))}


def picture(waveform: np.ndarray, rate: int) -> bytes:
    """The mel spectrogram of a `(samples,)` waveform as a PNG: a pixel for each band and frame, low bands below."""
    from matplotlib import colormaps
    from PIL import Image

    from urbansound_hf.pictures import COLOURS, RANGE
    from urbansound_hf.spectra import FLOOR, mel_spectrogram

    levels = mel_spectrogram(waveform, rate).levels  # (bands, frames) dB
    shades = np.clip(1 + (levels - levels.max()) / RANGE, 0, 1) * (levels > FLOOR)
    image = Image.fromarray(np.rint(255 * shades[::-1]).astype(np.uint8)).convert("P")
    image.putpalette(colormaps[COLOURS](np.arange(256), bytes=True)[:, :3].tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{b64encode(content).decode()}"


class Collector(HTMLParser):
    """Collects the sounds and pictures of a page by the names of their clips."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, Media] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        if "data-clip" in told:
            self.found.setdefault(str(told["data-clip"]), {})[tag] = str(told["src"])


def media_of(page: Path) -> dict[str, Media]:
    """The sounds and pictures in a page by the names of their clips; nothing where there is no page."""
    collector = Collector()
    if page.is_file():
        collector.feed(page.read_text(encoding="utf-8"))
    return collector.found
