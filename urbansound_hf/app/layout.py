"""The components of the browser page and their event handlers; `views` computes what they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from urbansound_hf.app.views import (
    Segment,
    classify,
    classify_all,
    cut,
    explain,
    most_typical,
    overview,
    remark,
    spells,
    table,
    write_csv,
)
from urbansound_hf.audio import files
from urbansound_hf.audio.io import SAMPLING_RATE, AudioError, load_audio, to_wav
from urbansound_hf.inference.classifier import SoundClassifier
from urbansound_hf.inference.occlusion import CAVEAT
from urbansound_hf.inference.output import Classification
from urbansound_hf.text import in_markdown

TITLE = "What is this sound?"
DROP = "Drop a sound file, record a sound, or choose an example."
HEADERS = ["from", "to", "class", "score"]
FILE_COLUMNS = {"file": "25%", "length": "12%", "class": "20%", "score": "12%", "problem": "31%"}  # name: width
SUFFIXES = sorted(files.SUFFIXES)
FONTS, MONO_FONTS = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")  # no web fonts from other hosts
CSS = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
BROWSERS_PLAYER = {"show_recording_waveform": False}  # Gradio's own decodes the whole file before it plays
KEPT_SECONDS = 3600  # then uploads are deleted
PROGRESS = gr.Progress()
ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "models", "concurrency_limit": 1}  # the models share the processor
Updates = dict[Any, Any]  # component → its new value or properties


def build(models: Mapping[str, SoundClassifier], examples: Sequence[Path]) -> gr.Blocks:
    """The page, to be launched with `options()`.

    Args:
        models: classifiers by the names that the page shows.
        examples: sound files to choose from.
    """
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as page:
        gr.Markdown(f"# {TITLE}")
        with gr.Tab("One sound"):
            OneSound(models, examples)
        with gr.Tab("Many sounds"):
            ManySounds(models)
    return page


def options() -> dict[str, Any]:
    """The keyword arguments of `launch`: the theme, and nothing loaded from other hosts."""
    fonts, mono = ([gr.themes.Font(name) for name in names] for names in (FONTS, MONO_FONTS))
    theme = gr.themes.Default(font=fonts, font_mono=mono)
    return {"theme": theme, "css": CSS, "footer_links": [], "ssr_mode": False, "share": False, "quiet": True}


class ModelColumn(NamedTuple):
    """The results of one model: class scores, and the timeline of a long recording."""

    column: gr.Column
    classes: gr.Label
    timeline: gr.Dataframe

    @classmethod
    def empty(cls, name: str) -> ModelColumn:
        with gr.Column(visible=False, min_width=300) as column:
            classes = gr.Label(label=name)
            timeline = gr.Dataframe(
                headers=HEADERS,
                datatype=["number", "number", "str", "number"],
                label="Timeline in seconds: select a row to play it",
                interactive=False,
                max_height=300,
                visible=False,
                elem_classes="timeline",
            )
        return cls(column, classes, timeline)

    def showing(self, result: Classification) -> Updates:
        rows = spells(result)
        return {
            self.column: gr.Column(visible=True),
            self.classes: dict(result.overall.top),
            self.timeline: gr.Dataframe(rows or None, visible=bool(rows)),
        }


class OneSound:
    """The tab for one sound: uploaded, recorded or an example; classes, timeline and explanation of each model."""

    def __init__(self, models: Mapping[str, SoundClassifier], examples: Sequence[Path]) -> None:
        self.models, names = models, list(models)
        several = len(names) > 1
        with gr.Row():
            with gr.Column(min_width=300):
                self.sound = gr.Audio(
                    label="Sound",
                    sources=["upload", "microphone"],
                    type="filepath",
                    buttons=[],
                    editable=False,
                    waveform_options=BROWSERS_PLAYER,
                )
                self.chosen = gr.CheckboxGroup(names, value=names, label="Models", visible=several)
                labels = [path.stem.replace("_", " ") for path in examples]
                gr.Examples([[str(path)] for path in examples], self.sound, examples_per_page=12, example_labels=labels)
            with gr.Column(min_width=300):
                self.message = gr.Markdown(DROP, min_height=110, elem_classes="message")
                self.overview = hidden_figure("Waveform and mel spectrogram")
        with gr.Row():
            self.columns = {name: ModelColumn.empty(name) for name in names}
        with gr.Column(visible=False) as self.decision:
            self.segment = gr.State((0.0, 0.0))
            self.played = gr.Audio(
                label="Model input", interactive=False, buttons=["download"], waveform_options=BROWSERS_PLAYER
            )
            self.asked = gr.Radio(names, value=names[0], label="Model", visible=several)
            self.ask = gr.Button("Explain this prediction")
            self.reason = gr.Markdown()
            self.map = hidden_figure("Evidence for the predicted class")
        self._connect()

    def _connect(self) -> None:
        parts = [part for column in self.columns.values() for part in column]
        shown = [self.segment, self.played, self.asked, self.reason, self.map]
        gr.on(
            [self.sound.change, self.chosen.change],
            self.classify,
            [self.sound, self.chosen],
            [self.message, self.overview, *parts, self.decision, *shown],
            trigger_mode="always_last",
            show_progress_on=self.message,
            **ONE_AT_A_TIME,
        )
        self.ask.click(self.explain, [self.sound, self.segment, self.asked], [self.reason, self.map], **ONE_AT_A_TIME)
        for name, column in self.columns.items():
            column.timeline.select(self.play, [self.sound, gr.State(name)], shown)

    def classify(self, path: str | None, chosen: list[str], progress: gr.Progress = PROGRESS) -> Updates:
        """Shows the sound and the results of all models at once, as Gradio may lose parts of a stream."""
        if path is None or not chosen:
            return self._nothing(DROP)
        try:
            figure = overview(load_audio(path), SAMPLING_RATE)
            results = {name: classify(self.models[name], Path(path), partial(_show, progress, name)) for name in chosen}
            first, result = next(iter(results.items()))
            updates = self._nothing(remark(result)) | {self.overview: gr.Plot(figure, visible=True)}
            for name in results:
                updates |= self.columns[name].showing(results[name])
            return updates | self._decision(first, path, most_typical(result))
        except AudioError as error:
            return self._nothing(problem(error))

    def play(self, path: str, name: str, row: gr.SelectData) -> tuple[Any, ...]:
        """Plays the segment of the selected row of a timeline, and selects it and its model for the explanation."""
        start, end = map(float, row.row_value[:2])
        player = self._player(name, path, (start, end), autoplay=True)
        return (start, end), player, name, "", gr.Plot(visible=False)

    def explain(self, path: str, segment: Segment, name: str, progress: gr.Progress = PROGRESS) -> tuple[Any, ...]:
        """A sentence and a map of the evidence for a model's prediction of the selected segment."""
        track = partial(progress.tqdm, desc=f"{name}: scores with each part of the sound silenced")
        try:
            sentence, figure = explain(self.models[name], Path(path), segment, track)
        except AudioError as error:
            return problem(error), gr.Plot(visible=False)
        return f"{in_markdown(sentence)}\n\n*{CAVEAT}*", gr.Plot(figure, visible=True)

    def _decision(self, name: str, path: str, segment: Segment) -> Updates:
        return {
            self.decision: gr.Column(visible=True),
            self.segment: segment,
            self.played: self._player(name, path, segment),
            self.asked: name,
        }

    def _player(self, name: str, path: str, segment: Segment, autoplay: bool = False) -> gr.Audio:
        rate = self.models[name].sampling_rate
        label = f"Model input, {segment[0]:.1f}–{segment[1]:.1f} s: mono, {rate / 1000:g} kHz"
        wav: Any = to_wav(cut(Path(path), segment, rate), rate)  # Gradio takes bytes, but its types do not say so
        return gr.Audio(wav, label=label, autoplay=autoplay)

    def _nothing(self, message: str) -> Updates:
        hidden: Updates = {each.column: gr.Column(visible=False) for each in self.columns.values()}
        hidden |= {plot: gr.Plot(visible=False) for plot in (self.overview, self.map)}
        return hidden | {self.decision: gr.Column(visible=False), self.message: message, self.reason: ""}


class ManySounds:
    """The tab for many sounds: a table of their classes, to download as CSV."""

    def __init__(self, models: Mapping[str, SoundClassifier]) -> None:
        self.models, names = models, list(models)
        self.files = gr.File(label="Sounds", file_count="multiple", file_types=SUFFIXES, type="filepath")
        self.asked = gr.Radio(names, value=names[0], label="Model", visible=len(names) > 1)
        self.ask = gr.Button("Classify", variant="primary")
        self.table = gr.Dataframe(
            headers=list(FILE_COLUMNS),
            column_widths=list(FILE_COLUMNS.values()),
            label="Classes; lengths in seconds",
            interactive=False,
            wrap=True,
            visible=False,
        )
        self.download = gr.DownloadButton("Download as CSV", visible=False)
        self.ask.click(self.classify, [self.files, self.asked], [self.table, self.download], **ONE_AT_A_TIME)

    def classify(self, paths: list[str] | None, name: str, progress: gr.Progress = PROGRESS) -> tuple[Any, ...]:
        if not paths:
            return gr.Dataframe(visible=False), gr.DownloadButton(visible=False)
        found = classify_all(self.models[name], [Path(path) for path in paths])
        results = list(progress.tqdm(found, desc=name, total=len(paths), unit="files"))
        file = gr.DownloadButton(value=str(write_csv(results)), visible=True)
        return gr.Dataframe(table(results), visible=True), file


def hidden_figure(label: str) -> gr.Plot:
    """A component for a figure, hidden until there is one; the figure has its own title."""
    return gr.Plot(label=label, show_label=False, visible=False, elem_classes="figure")


def problem(error: AudioError) -> str:
    """An error as Markdown, with the file's name instead of its path on the server."""
    fix = f" ({error.fix})" if error.fix else ""
    return f"**{in_markdown(Path(error.where).name)}**: {in_markdown(error.what + fix)}"


def _show(progress: gr.Progress, name: str, done: int, total: int) -> None:
    progress((done, total), desc=name, unit="windows")
