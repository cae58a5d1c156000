"""The components of the browser page and their event handlers; `views` computes what they show."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from gradio.exceptions import InvalidPathError
from starlette.middleware import Middleware

from urbansound_hf.app import views
from urbansound_hf.app.limits import OwnSite, PageLimits, Report, Result, is_ours, watched
from urbansound_hf.app.views import Live, Segment, clock
from urbansound_hf.audio import files
from urbansound_hf.audio.io import HIGHEST_RATE, LOWEST_RATE, SAMPLING_RATE, to_wav
from urbansound_hf.errors import UserError
from urbansound_hf.inference.classifier import SoundClassifier
from urbansound_hf.inference.occlusion import CAVEAT
from urbansound_hf.inference.output import Classification
from urbansound_hf.text import in_markdown

TITLE = "What is this sound?"
DROP = "Drop a sound file, record a sound, or choose an example."
EVENT_COLUMNS = {"from": "22%", "to": "22%", "class": "36%", "score": "20%"}  # name: width
FILE_COLUMNS = {"file": "25%", "length": "12%", "class": "20%", "score": "12%", "problem": "31%"}  # name: width
SUFFIXES = sorted(files.SUFFIXES)
FONTS = (("system-ui", "sans-serif"), ("ui-monospace", "monospace"))  # no web fonts from other hosts
CSS = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
BROWSERS_PLAYER = {"show_recording_waveform": False}  # Gradio's own decodes the whole file before it plays
KEPT_SECONDS = 3600  # then uploads are deleted
TOP = 5  # classes in sight
IS_DARK = "() => document.body.classList.contains('dark')"
Updates = dict[Any, Any]  # component → its new value or properties
Listeners = dict[str, Any]  # the options of all event listeners


class Page(gr.Blocks):
    """Blocks that refuse values which do not fit their components without a traceback in the log."""

    async def process_api(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        try:
            return await super().process_api(*args, **kwargs)
        except gr.Error as error:  # a message for the visitor
            error.print_exception = False
            raise
        except Exception as error:
            if is_ours(error):
                raise
            logging.getLogger(__name__).warning("a call is refused: %r", error)
            names_a_folder = isinstance(error, OSError | InvalidPathError)
            reason = "there is no such file for visitors" if names_a_folder else str(error)
            raise gr.Error(reason, print_exception=False) from None


def build(
    models: Mapping[str, SoundClassifier], examples: Sequence[Path], limits: PageLimits, api: bool = False
) -> gr.Blocks:
    """The page, to be launched with `options()`, of classifiers by their names and sounds to choose from."""
    # The models share the processor.
    one_at_a_time: Listeners = {"concurrency_id": "models", "concurrency_limit": 1}
    one_at_a_time["api_visibility"] = "public" if api else "private"
    with Page(title=TITLE, analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as page:
        gr.Markdown(f"# {TITLE}")
        with gr.Tab("One sound"):
            OneSound(models, examples, limits.request_seconds, one_at_a_time)
        with gr.Tab("Many sounds"):
            ManySounds(models, limits.request_seconds, one_at_a_time)
        with gr.Tab("Live"):
            LiveSound(models, one_at_a_time)
    return page.queue(max_size=limits.queue, api_open=False)


def options(limits: PageLimits, host: str, names: Sequence[str], api: bool) -> dict[str, Any]:
    """The keyword arguments of `launch`: the theme, the limits, and nothing loaded from other hosts."""
    fonts, mono = ([gr.themes.Font(name) for name in names] for names in FONTS)
    looks = {"theme": gr.themes.Default(font=fonts, font_mono=mono), "css": CSS, "footer_links": []}
    site = Middleware(OwnSite, host=host, names=names, max_bytes=limits.upload_mb * 10**6, api=api)
    served = {"app_kwargs": {"middleware": [site]}, "max_file_size": limits.upload_mb * 10**6, "show_error": True}
    return {**looks, **served, "ssr_mode": False, "share": False, "quiet": True}


def reported(
    message: gr.Markdown, work: Callable[[Report], Result], seconds: float
) -> Generator[Updates, None, Result]:
    """Shows in `message` what `work` reports, and returns its result. Raises UserError as `watched` does."""
    return watched(work, seconds, lambda text: {message: gr.Markdown(in_markdown(text), visible=True)})


class ModelColumn(NamedTuple):
    """The results of one model: class scores, and the strip and the events of a long recording."""

    column: gr.Column
    classes: gr.Label
    more: gr.Accordion
    rest: gr.Dataframe
    strip: gr.Plot
    timeline: gr.Dataframe

    @classmethod
    def empty(cls, name: str) -> ModelColumn:
        table: dict[str, Any] = {"interactive": False, "max_height": 300, "elem_classes": "timeline"}
        with gr.Column(visible=False, min_width=300) as column:
            classes = gr.Label(label=name, num_top_classes=TOP)
            with gr.Accordion("More classes", open=False) as more:
                rest = gr.Dataframe(headers=["class", "score"], show_label=False, **table)
            strip = hidden_figure("Scores over time")
            label = "Events: select a row to play it"
            widths: dict[str, Any] = {"headers": list(EVENT_COLUMNS), "column_widths": list(EVENT_COLUMNS.values())}
            timeline = gr.Dataframe(datatype="str", label=label, visible=False, **widths, **table)
        return cls(column, classes, more, rest, strip, timeline)

    def showing(self, result: Classification, dark: bool) -> Updates:
        rows, rest = views.spells(result), result.overall.top[TOP:]
        return {
            self.column: gr.Column(visible=True),
            self.classes: dict(result.overall.top[:TOP]),
            self.more: gr.Accordion(visible=bool(rest), open=False),
            self.rest: [[label, f"{score:.4f}"] for label, score in rest],
            self.strip: gr.Plot(views.strip(result, dark) if rows else None, visible=bool(rows)),
            self.timeline: gr.Dataframe(rows or None, visible=bool(rows)),
        }


class OneSound:
    """The tab for one sound: uploaded, recorded or an example; classes, timeline and explanation of each model."""

    def __init__(
        self, models: Mapping[str, SoundClassifier], examples: Sequence[Path], seconds: float, listeners: Listeners
    ) -> None:
        self.models, self.seconds, names = models, seconds, list(models)
        with gr.Row(elem_classes="one-sound"):
            with gr.Column(min_width=300):
                self.sound = gr.Audio(
                    label="Sound",
                    sources=["upload", "microphone"],
                    type="filepath",
                    buttons=[],
                    editable=False,
                    waveform_options=BROWSERS_PLAYER,
                )
                self.chosen = gr.CheckboxGroup(names, value=names, label="Models", visible=len(names) > 1)
            with gr.Column(min_width=300, elem_classes="answer"):
                self.message = gr.Markdown(DROP, elem_classes="message")
                with gr.Row():
                    self.columns = {name: ModelColumn.empty(name) for name in names}
                self._add_decision(names)
            with gr.Column(min_width=300):
                labels = [path.stem.replace("_", " ") for path in examples]
                chosen = [[str(path)] for path in examples]
                gr.Examples(chosen, self.sound, examples_per_page=12, example_labels=labels, api_visibility="private")
                self.overview = hidden_figure("Waveform and mel spectrogram")
        self.dark = gr.Checkbox(visible="hidden")
        self._connect(listeners)

    def _add_decision(self, names: Sequence[str]) -> None:
        with gr.Column(visible=False) as self.decision:
            self.segment = gr.State((0.0, 0.0))
            self.played = gr.Audio(
                label="Model input", interactive=False, buttons=["download"], waveform_options=BROWSERS_PLAYER
            )
            self.asked = gr.Radio(names, value=names[0], label="Model", visible=len(names) > 1)
            self.ask = gr.Button("How did you decide?")
            self.reason = gr.Markdown()
            self.map = hidden_figure("Evidence for the predicted class")

    def _connect(self, listeners: Listeners) -> None:
        parts = [part for column in self.columns.values() for part in column]
        shown = [self.segment, self.played, self.asked, self.reason, self.map]
        gr.on(
            [self.sound.change, self.chosen.change],
            self.classify,
            [self.sound, self.chosen, self.dark],
            [self.message, self.overview, *parts, self.decision, *shown],
            trigger_mode="always_last",
            show_progress_on=self.message,
            js=f"(sound, chosen) => [sound, chosen, ({IS_DARK})()]",
            **listeners,
        )
        asked = [self.sound, self.segment, self.asked, self.dark]
        js = f"(sound, segment, asked) => [sound, segment, asked, ({IS_DARK})()]"
        self.ask.click(self.explain, asked, [self.reason, self.map], js=js, **listeners)
        for name, column in self.columns.items():
            column.timeline.select(self.play, [self.sound, gr.State(name)], shown, api_visibility="private")

    def classify(self, path: str | None, chosen: list[str], dark: bool = False) -> Iterator[Updates]:
        """Shows progress, then the results of all models at once, as Gradio may lose parts of a stream."""
        if path is None or not chosen:
            yield self._nothing(DROP)
            return
        models = {name: self.models[name] for name in chosen}
        try:
            work = partial(views.classify_by_all, models, Path(path))
            waveform, results = yield from reported(self.message, work, self.seconds)
        except UserError as error:
            yield self._nothing(problem(error, path))
            return
        first, result = next(iter(results.items()))
        figure = views.overview(waveform, SAMPLING_RATE, dark)
        updates = self._nothing(views.remark(result)) | {self.overview: gr.Plot(figure, visible=True)}
        for name in results:
            updates |= self.columns[name].showing(results[name], dark)
        segment = views.most_typical(result)
        yield updates | {
            self.decision: gr.Column(visible=True),
            self.segment: segment,
            self.played: self._player(first, path, segment),
            self.asked: gr.Radio(chosen, value=first, visible=len(chosen) > 1),
        }

    def play(self, path: str, name: str, row: gr.SelectData) -> tuple[Any, ...]:
        """Plays the segment of the selected row of a timeline, and selects it and its model for the explanation."""
        start, end = map(views.seconds_of, row.row_value[:2])
        player = self._player(name, path, (start, end), autoplay=True)
        return (start, end), player, name, "", gr.Plot(visible=False)

    def explain(self, path: str | None, segment: Segment, name: str, dark: bool = False) -> Iterator[Updates]:
        """A sentence and a map of the evidence for a model's prediction of the selected segment."""
        if path is None:
            raise gr.Error(DROP)
        try:
            work = partial(views.explain, self.models[name], Path(path), segment, dark)
            sentence, figure = yield from reported(self.reason, work, self.seconds)
        except UserError as error:
            yield {self.reason: problem(error, path), self.map: gr.Plot(visible=False)}
            return
        yield {self.reason: f"{in_markdown(sentence)}\n\n*{CAVEAT}*", self.map: gr.Plot(figure, visible=True)}

    def _player(self, name: str, path: str, segment: Segment, autoplay: bool = False) -> gr.Audio:
        model = self.models[name]
        label = f"Model input, {clock(segment[0])}–{clock(segment[1])}: mono, {model.sampling_rate / 1000:g} kHz"
        wav: Any = to_wav(views.cut(Path(path), segment, model), model.sampling_rate)  # Gradio's types know no bytes
        return gr.Audio(wav, label=label, autoplay=autoplay)

    def _nothing(self, message: str) -> Updates:
        hidden: Updates = {each.column: gr.Column(visible=False) for each in self.columns.values()}
        hidden |= {plot: gr.Plot(visible=False) for plot in (self.overview, self.map)}
        shown = gr.Markdown(message, visible=bool(message))
        return hidden | {self.decision: gr.Column(visible=False), self.message: shown, self.reason: ""}


class LiveSound:
    """The tab for the microphone: the classes of the last window, every half window."""

    def __init__(self, models: Mapping[str, SoundClassifier], listeners: Listeners) -> None:
        self.models, names = models, list(models)
        sound = gr.Audio(label="Microphone", sources=["microphone"], streaming=True, type="numpy")
        asked = gr.Radio(names, value=names[0], label="Model", visible=len(names) > 1)
        live = gr.State(None, time_to_live=KEPT_SECONDS)
        self.message = gr.Markdown(f"Record: every {models[names[0]].window_seconds / 2:g} s, the sound is classified.")
        self.classes = gr.Label(label="Now", num_top_classes=TOP, visible=False)
        shown = [live, self.message, self.classes]
        sound.stream(self.listen, [sound, live, asked], shown, show_progress="hidden", **listeners)
        sound.start_recording(lambda: None, None, live, api_visibility="private")

    def listen(self, block: tuple[int, np.ndarray] | None, live: Live | None, name: str) -> tuple[Any, ...]:
        """Adds a block of sound; shows the classes of the last window when there is a new one."""
        if block is None or not len(block[1]):
            return live, gr.skip(), gr.skip()
        if not LOWEST_RATE <= block[0] <= HIGHEST_RATE:
            raise gr.Error(f"a sampling rate of {block[0]:,} Hz is none of sound")
        live, prediction = views.score_block(self.models[name], live, *block)
        if prediction is None:
            return live, gr.skip(), gr.skip()
        silence = " **silence**" if prediction.level_db < views.SILENCE_DB else ""
        text = f"{clock(prediction.start)}–{clock(prediction.end)}: {prediction.level_db:.0f} dBFS{silence}"
        return live, text, gr.Label(dict(prediction.top), visible=True)


class ManySounds:
    """The tab for many sounds: a table of their classes, to download as CSV."""

    def __init__(self, models: Mapping[str, SoundClassifier], seconds: float, listeners: Listeners) -> None:
        self.models, self.seconds, names = models, seconds, list(models)
        self.files = gr.File(label="Sounds", file_count="multiple", file_types=SUFFIXES, type="filepath")
        self.asked = gr.Radio(names, value=names[0], label="Model", visible=len(names) > 1)
        self.ask = gr.Button("Classify", variant="primary")
        self.message = gr.Markdown(visible=False)
        self.table = gr.Dataframe(
            headers=list(FILE_COLUMNS),
            column_widths=list(FILE_COLUMNS.values()),
            label="Classes; lengths in seconds",
            interactive=False,
            wrap=True,
            visible=False,
        )
        self.download = gr.DownloadButton("Download as CSV", visible=False)
        self.ask.click(self.classify, [self.files, self.asked], [self.message, self.table, self.download], **listeners)

    def classify(self, paths: list[str] | None, name: str) -> Iterator[Updates]:
        """Shows progress, then the table; of what takes too long, what is finished."""
        results: list[Classification] = []
        sounds = [Path(path) for path in paths or ()]
        work = partial(views.classify_all, self.models[name], sounds)
        text = ""
        try:
            yield from reported(self.message, lambda report: results.extend(work(report)), self.seconds)
        except UserError as error:
            text = f"**Only {len(results):,} of {len(sounds):,} files:** {in_markdown(error.what)}"
        file = gr.DownloadButton(value=str(views.write_csv(results)) if results else None, visible=bool(results))
        yield {
            self.message: gr.Markdown(text, visible=bool(text)),
            self.table: gr.Dataframe(views.table(results) or None, visible=bool(results)),
            self.download: file,
        }


def hidden_figure(label: str) -> gr.Plot:
    """A component for a figure, hidden until there is one; the figure has its own title."""
    return gr.Plot(label=label, show_label=False, visible=False, elem_classes="figure")


def problem(error: UserError, path: str) -> str:
    """An error as Markdown, with the file's name instead of its path on the server."""
    fix = f" ({error.fix})" if error.fix else ""
    return f"**{in_markdown(Path(path).name)}**: {in_markdown(error.what + fix)}"
