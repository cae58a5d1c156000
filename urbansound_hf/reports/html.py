"""A run's own page, report.html: its report and figures in one file, with its most confident mistakes to hear and see.

The page needs no network and no other file. It holds audio of the data set, so it stays where it was written; it is
not among the files that are published.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Iterable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np

from urbansound_hf.audio.io import read_audio
from urbansound_hf.audio.resampling import resample
from urbansound_hf.evaluation.runs import Predictions, Run, pooled
from urbansound_hf.layout import REPORT_PAGE
from urbansound_hf.text import table

if TYPE_CHECKING:
    import datasets
    from markupsafe import Markup


MOST = 30  # mistakes on a page: 20 kB of MP3 and 15 kB of picture each
OF_ONE_RECORDING = 2  # of them: its slices sound alike, and the others are worth hearing too
SCROLLS = {"class": "scroll", "role": "region", "tabindex": "0"}  # sideways, on a phone; also by the keyboard
MISTAKES = "Most confident mistakes"  # the section of report.md in whose place the sounds stand


def write_page(folder: Path, runs: Sequence[Run], clips: datasets.Dataset | None = None) -> Path:
    """Writes report.html beside a report.md and its figures.

    Args:
        folder: the folder of a run or of a cross-validation.
        runs: the run, or those of the folds.
        clips: the sounds of a run, its test rows in the order of its predictions. Without them, sounds are taken from
            the pages that are there already: this one, or those of the folds.

    Returns:
        the page's path.
    """
    runs = sorted(runs, key=lambda run: run.metrics["test_fold"] or 0)
    predictions = pooled(runs)
    rows = draw_mistakes(predictions)
    known: dict[str, Media] = {}
    for place in (folder, *(run.folder for run in runs)):
        known |= media_of(place / REPORT_PAGE)
    if clips is not None:
        known |= {str(predictions.paths[row]): encoded(clips[row]["audio"]["bytes"]) for row in rows}
    cards = [mistake_card(predictions, row, known.get(str(predictions.paths[row]), {})) for row in rows]
    title, lead, sections = split_sections((folder / "report.md").read_text(encoding="utf-8"))
    sections.insert(-1, ("Protocol and leaks", protocol_table(runs)))  # the last says how sure all this is
    page = render_page(
        title=title,
        lead=to_html(lead, folder),
        sections=[(name, to_html(text, folder)) for name, text in sections],
        mistakes_section=MISTAKES,
        mistakes=cards,
        wrong=int((~predictions.correct).sum()),
        of_one_recording=OF_ONE_RECORDING,
        silent=sum("audio" not in each for each in cards),
        heard_seconds=HEARD_SECONDS,
        classes=[
            name for name in predictions.labels if any(name in (each["true"], each["predicted"]) for each in cards)
        ],
        folds=sorted({each["fold"] for each in cards}),
    )
    (folder / REPORT_PAGE).write_text(page, encoding="utf-8")
    return folder / REPORT_PAGE


def render_page(**values: Any) -> str:
    """The page of these values."""
    import jinja2

    loader = jinja2.PackageLoader("urbansound_hf.reports")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html.jinja").render(**values)


def draw_mistakes(predictions: Predictions) -> list[int]:
    """Rows of the wrong predictions of highest score, `OF_ONE_RECORDING` at most."""
    scores = np.where(predictions.correct, -1, predictions.probabilities.max(axis=1))
    chosen: list[int] = []
    taken: dict[str, int] = {}
    for row in np.argsort(-scores, kind="stable")[: (~predictions.correct).sum()]:
        recording = str(predictions.groups[row])
        taken[recording] = taken.get(recording, 0) + 1
        if taken[recording] <= OF_ONE_RECORDING and len(chosen) < MOST:
            chosen.append(int(row))
    return chosen


def mistake_card(predictions: Predictions, row: int, media: Media) -> dict[str, Any]:
    """What the page says of one clip; `media` as `encoded` returns it, or empty."""
    true, predicted = int(predictions.true[row]), int(predictions.predicted[row])
    return {
        "path": str(predictions.paths[row]),
        "fold": int(predictions.folds[row]),
        "seconds": float(predictions.seconds[row]),
        "true": predictions.labels[true],
        "predicted": predictions.labels[predicted],
        "score": float(predictions.probabilities[row, predicted]),
        "score_of_true": float(predictions.probabilities[row, true]),
        **media,
    }


def protocol_table(runs: Iterable[Run]) -> str:
    """What trained, what chose the checkpoint, and what the test clips share with the training clips, a line a run."""
    header = ("test fold", "trained on", "checkpoint chosen on", "test clips", "of a recording heard in training",
              "overlapping a training clip in time", "identical to one", "nearly identical")  # fmt: skip
    keys = ("shared_recording_clips", "time_overlap_clips", "exact_duplicates", "near_duplicates")
    rows = []
    for run in runs:
        told, leaks = run.metrics, run.metrics.get("leaks", {})
        fold = told["split"] if told["test_fold"] is None else told["test_fold"]
        trained = ", ".join(map(str, told["train_folds"])) or f"{told['clips']['train']:,} clips"
        chosen = told["validation_fold"] if told.get("checkpoint", "best") == "best" else None
        counts = ["not known" if leaks.get(key) is None else f"{leaks[key]:,}" for key in keys]
        chosen = "none: the last" if chosen is None else chosen
        rows.append((fold, trained, chosen, f"{told['clips']['test']:,}", *counts))
    return table(header, rows, texts=3)


def split_sections(report: str) -> tuple[str, str, list[tuple[str, str]]]:
    """The title of a Markdown report, what stands before its first section, and its sections with their names."""
    head, *parts = report.split("\n## ")
    title, _, lead = head.partition("\n")
    sections = [part.partition("\n") for part in parts]
    return title.removeprefix("# "), lead, [(name, text) for name, _, text in sections]


def to_html(text: str, folder: Path) -> Markup:
    """Markdown as HTML, with the images of `folder` inside; the first cell of a row is its header."""
    from markdown_it import MarkdownIt
    from markupsafe import Markup

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(text)
    for number, inside in enumerate(tokens):
        if inside.type == "inline":
            before, opened, closed = tokens[max(0, number - 2)], tokens[number - 1], tokens[number + 1]
            if before.type == "tr_open" and opened.type == "td_open":
                opened.tag = closed.tag = "th"
                opened.attrs["scope"] = "row"
            for image in (child for child in inside.children or () if child.type == "image"):
                image.attrs["src"] = image_uri(folder / unquote(str(image.attrs["src"])))
                opened.tag = closed.tag = "div"
                opened.attrs |= SCROLLS | {"aria-label": image.content}
    rendered = parser.renderer.render(tokens, parser.options, {})  # what looked like HTML in the text is escaped
    attributes = " ".join(f'{name}="{value}"' for name, value in (SCROLLS | {"aria-label": "table"}).items())
    return Markup(rendered.replace("<table>", f"<div {attributes}><table>").replace("</table>", "</table></div>"))


def image_uri(path: Path) -> str:
    """A figure, PNG or SVG, as a data URI."""
    return data_uri("image/svg+xml" if path.suffix == ".svg" else "image/png", path.read_bytes())


HEARD_SECONDS = 10.0  # of a longer sound
Media = dict[str, str]
"""What a page has of a clip, by tag: the data URIs of its "audio" and of its picture, "img"; empty if it has none."""

MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # Hz


def encoded(sound: bytes) -> Media:
    """The bytes of a sound file as an MP3 and as a PNG of its mel spectrogram; of a long one, the beginning."""
    import soundfile

    waveform, rate = read_audio(sound)
    if rate not in MP3_RATES:
        waveform, rate = resample(waveform, rate, MP3_RATES[-1]), MP3_RATES[-1]
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

    from urbansound_hf.audio.spectrogram import FLOOR, mel_spectrogram
    from urbansound_hf.plots.sounds import COLOURS, RANGE

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
