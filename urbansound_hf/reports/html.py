"""report.html: the report of a run or a cross-validation as one file, with the sounds of its most confident mistakes.

It holds audio of the data set, so it is not among the files that are published. The sounds are encoded when a run is
trained and kept in report_clips.json, so that the page can be written again without the data.
"""

from __future__ import annotations

import io
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from urbansound_hf.audio.io import read_audio
from urbansound_hf.audio.resampling import resample
from urbansound_hf.errors import write_text
from urbansound_hf.evaluation.runs import Predictions, Run
from urbansound_hf.evaluation.summary import MAX_OF_ONE_RECORDING, select_mistakes
from urbansound_hf.layout import REPORT_PAGE
from urbansound_hf.reports.markdown import FIGURES, MISTAKES, figure, selected_on
from urbansound_hf.text import rendered, table

if TYPE_CHECKING:
    import datasets


SCROLLS = {"class": "scroll", "role": "region", "tabindex": "0"}  # sideways on a phone; also by the keyboard

EncodedClip = dict[str, str]
"""A clip in a page: data URIs of its "audio" (MP3) and of its mel spectrogram, "image" (PNG)."""


def write_page(
    folder: Path, text: str, measured: Mapping[str, Any], runs: Sequence[Run], clips: Mapping[str, EncodedClip]
) -> None:
    """Writes report.html from the report as Markdown and the result of `summary.measure`.

    A mistake that is not in `clips` is listed without its sound.
    """
    cards = [
        {**each, "classes": [*each["true"].split(";"), *each["predicted"].split(";")], **clips.get(each["path"], {})}
        for each in measured["confident_mistakes"]
    ]
    shown = {name for card in cards for name in card["classes"]}
    before, heading, uncertainty = text.rpartition("\n## Uncertainty\n")
    page = as_page(
        f"{before}\n## Protocol and leaks\n\n{protocol_table(runs)}\n{heading}{uncertainty}",
        folder,
        mistakes=cards,
        wrong=measured["wrong"],
        of_one_recording=MAX_OF_ONE_RECORDING,
        silent=sum("audio" not in card for card in cards),
        clip_seconds=CLIP_SECONDS,
        classes=[name for name in measured["labels"] if name in shown],
        folds=sorted({card["fold"] for card in cards}),
    )
    write_text(folder / REPORT_PAGE, page)


def as_page(text: str, folder: Path, mistakes: Sequence[Mapping[str, Any]] = (), silent: int = 0, **values: Any) -> str:
    """A page of HTML from Markdown with a title and sections; `values` are those of its section of mistakes."""
    head, *parts = text.split("\n## ")
    title, _, lead = head.partition("\n")
    sections = [(re.sub(r"\\(\W)", r"\1", name), body) for name, _, body in (part.partition("\n") for part in parts)]
    return rendered(
        Path(__file__).parent / "templates/report.html.jinja",
        title=re.sub(r"\\(\W)", r"\1", title.removeprefix("# ")),
        lead=to_html(lead, folder),
        sections=[(name, to_html(body, folder)) for name, body in sections],
        mistakes_section=MISTAKES,
        mistakes=mistakes,
        silent=silent,
        **values,
    )


def protocol_table(runs: Iterable[Run]) -> str:
    """A line per run: its training and validation data, and what test clips share with training clips."""
    header = ("test fold", "trained on", "checkpoint selected on", "test clips", "of a recording in training",
              "overlapping a training clip in time", "identical to one", "nearly identical")  # fmt: skip
    keys = ("shared_recording_clips", "time_overlap_clips", "exact_duplicates", "near_duplicates")
    rows = []
    for run in runs:
        metrics, leaks = run.metrics, run.metrics.get("leaks", {})
        fold = metrics["split"] if metrics["test_fold"] is None else metrics["test_fold"]
        trained = ", ".join(map(str, metrics["train_folds"])) or f"{metrics['clips']['train']:,} clips"
        counts = ["not known" if leaks.get(key) is None else f"{leaks[key]:,}" for key in keys]
        rows.append((fold, trained, selected_on(metrics) or "none: the last", f"{metrics['clips']['test']:,}", *counts))
    return table(header, rows, texts=3)


def to_html(text: str, folder: Path) -> Markup:
    """Converts Markdown to HTML with the `FIGURES` of `folder` embedded; first cells are headers.

    Other images and links stay text, since names of classes and files are part of a report.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "link", "autolink"])
    figures = {figure(name): name for name in FIGURES}
    tokens = parser.parse(text)
    for number, inside in enumerate(tokens):
        if inside.type == "inline":
            before, opened, closed = tokens[max(0, number - 2)], tokens[number - 1], tokens[number + 1]
            if before.type == "tr_open" and opened.type == "td_open":
                opened.tag = closed.tag = "th"
            if opened.tag == "th":
                opened.attrs["scope"] = "col" if opened.type == "th_open" else "row"
            if name := figures.get(inside.content):
                source, alt = data_uri("image/png", (folder / name).read_bytes()), [Token("text", "", 0)]
                alt[0].content = FIGURES[name]
                inside.children = [Token("image", "img", 0, {"src": source, "alt": ""}, children=alt)]
                opened.tag = closed.tag = "div"
                opened.attrs |= SCROLLS | {"aria-label": FIGURES[name]}
    rendered = parser.renderer.render(tokens, parser.options, {})  # what looked like HTML in the text is escaped
    attributes = " ".join(f'{name}="{value}"' for name, value in (SCROLLS | {"aria-label": "table"}).items())
    return Markup(rendered.replace("<table>", f"<div {attributes}><table>").replace("</table>", "</table></div>"))


CLIP_SECONDS = 10.0  # of a longer sound, the beginning
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # Hz


def encode_mistakes(predictions: Predictions, clips: datasets.Dataset) -> dict[str, EncodedClip]:
    """The encoded sounds of the mistakes on a page by their paths; `clips` are in the order of the predictions."""
    rows = select_mistakes(predictions)
    return {str(predictions.paths[row]): encoded(clips[row]["audio"]["bytes"]) for row in rows}


def encoded(sound: bytes) -> EncodedClip:
    """Encodes the first `CLIP_SECONDS` of a sound file as an MP3 and a PNG of its mel spectrogram."""
    waveform, rate = read_audio(sound)
    if rate not in MP3_RATES:
        waveform, rate = resample(waveform, rate, MP3_RATES[-1]), MP3_RATES[-1]
    waveform = waveform[: round(CLIP_SECONDS * rate)]
    file, options = io.BytesIO(), {"format": "MP3", "bitrate_mode": "VARIABLE", "compression_level": 0.3}
    soundfile.write(file, waveform, rate, "MPEG_LAYER_III", **options)
    image = data_uri("image/png", spectrogram_png(waveform, rate))
    return {"audio": data_uri("audio/mpeg", file.getvalue()), "image": image}


def spectrogram_png(waveform: np.ndarray, rate: int) -> bytes:
    """The mel spectrogram of a `(samples,)` waveform as a PNG: a pixel per band and frame, low bands at the bottom."""
    from matplotlib import colormaps
    from PIL import Image

    from urbansound_hf.audio.spectrogram import FLOOR, mel_spectrogram
    from urbansound_hf.plots.sounds import COLOURS, RANGE

    levels = mel_spectrogram(waveform, rate).levels  # (bands, frames) dB
    shades = np.clip(1 + (levels - levels.max()) / RANGE, 0, 1) * (levels > FLOOR)
    image = Image.fromarray(np.rint(255 * shades[::-1]).astype(np.uint8)).convert("P")
    image.putpalette(colormaps[COLOURS](np.arange(256), bytes=True)[:, :3].tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def data_uri(media_type: str, content: bytes) -> str:
    """`data:<media type>;base64,…`"""
    return f"data:{media_type};base64,{b64encode(content).decode()}"
