"""The page's layout and what its parts do when they are touched; what they say comes from `listen`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from urbansound_hf.app.views import (
    Stretch,
    classify,
    classify_all,
    cut,
    overview,
    spells,
    surest,
    table,
    why,
    write_csv,
)
from urbansound_hf.audio import files
from urbansound_hf.audio.io import SAMPLING_RATE, AudioError, load_audio, to_wav
from urbansound_hf.inference.classifier import SoundClassifier
from urbansound_hf.inference.occlusion import CAVEAT
from urbansound_hf.inference.output import Classification

TITLE = "What is this sound?"
DROP = "Drop a sound, record one, or choose an example."
HEADERS = ["from", "to", "class", "score"]
FILE_COLUMNS = {"file": "25%", "length": "12%", "class": "20%", "score": "12%", "problem": "31%"}  # and their widths
SUFFIXES = sorted(files.SUFFIXES)
FONTS, MONO_FONTS = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")  # none comes from another host
CSS = """
.gradio-container {max-width: 1100px !important; width: 100%; margin: auto}
.picture img {width: 100%; max-width: 900px; margin: auto; border-radius: 4px}
.message .wrap {background: var(--body-background-fill) !important; opacity: 1 !important}
.timeline .body-cell, .timeline .header-cell {font-size: 13px; --size-2: 5px}
"""
BROWSERS_PLAYER = {
    "show_recording_waveform": False
}  # Gradio's own decodes ten minutes before it plays the first second
KEPT_SECONDS = 3600  # uploads are deleted after an hour
PROGRESS = gr.Progress()
ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "models", "concurrency_limit": 1}  # they share the same cores
Updates = dict[Any, Any]  # component → its new value or properties


def build(models: Mapping[str, SoundClassifier], examples: Sequence[Path]) -> gr.Blocks:
    """The whole page, ready to be launched with `options()`.

    Args:
        models: by the names that the page shows.
        examples: sounds that are there to be tried.
    """
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as page:
        gr.Markdown(f"# {TITLE}")
        with gr.Tab("One sound"):
            OneSound(models, examples)
        with gr.Tab("Many sounds"):
            ManySounds(models)
    return page


def options() -> dict[str, Any]:
    """What `launch` needs, so that the page looks right and asks no other host for anything."""
    fonts, mono = ([gr.themes.Font(name) for name in names] for names in (FONTS, MONO_FONTS))
    theme = gr.themes.Default(font=fonts, font_mono=mono)
    return {"theme": theme, "css": CSS, "footer_links": [], "ssr_mode": False, "share": False, "quiet": True}


class ModelColumn(NamedTuple):
    """What one model says of the sound: its classes, and the timeline of a long recording."""

    whole: gr.Column
    classes: gr.Label
    timeline: gr.Dataframe

    @classmethod
    def empty(cls, name: str) -> ModelColumn:
        with gr.Column(visible=False, min_width=300) as whole:
            classes = gr.Label(label=name)
            timeline = gr.Dataframe(
                headers=HEADERS,
                datatype=["number", "number", "str", "number"],
                label="Timeline in seconds: click a row (or Enter) to hear it",
                interactive=False,
                max_height=300,
                visible=False,
                elem_classes="timeline",
            )
        return cls(whole, classes, timeline)

    def showing(self, result: Classification) -> Updates:
        rows = spells(result)
        return {
            self.whole: gr.Column(visible=True),
            self.classes: dict((result.summary or result.windows[0]).top),
            self.timeline: gr.Dataframe(rows or None, visible=bool(rows)),
        }


class OneSound:
    """A sound is dropped, recorded or chosen; each model says what it is, where, and why."""

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
                self.picture = picture("Waveform and mel spectrogram")
        with gr.Row():
            self.columns = {name: ModelColumn.empty(name) for name in names}
        with gr.Column(visible=False) as self.decision:
            self.stretch = gr.State((0.0, 0.0))
            self.heard = gr.Audio(
                label="As the model hears it", interactive=False, buttons=["download"], waveform_options=BROWSERS_PLAYER
            )
            self.asked = gr.Radio(names, value=names[0], label="Model", visible=several)
            self.ask = gr.Button("How did you decide?")
            self.reason = gr.Markdown()
            self.map = picture("What carried the decision")
        self._listen()

    def _listen(self) -> None:
        parts = [part for column in self.columns.values() for part in column]
        played = [self.stretch, self.heard, self.asked, self.reason, self.map]
        gr.on(
            [self.sound.change, self.chosen.change],
            self.hear,
            [self.sound, self.chosen],
            [self.message, self.picture, *parts, self.decision, *played],
            trigger_mode="always_last",
            show_progress_on=self.message,
            **ONE_AT_A_TIME,
        )
        self.ask.click(self.explain, [self.sound, self.stretch, self.asked], [self.reason, self.map], **ONE_AT_A_TIME)
        for name, column in self.columns.items():
            column.timeline.select(self.play, [self.sound, gr.State(name)], played)

    def hear(self, path: str | None, chosen: list[str], progress: gr.Progress = PROGRESS) -> Updates:
        """Shows the sound, and what each model says of it; at once: Gradio may lose parts of a stream."""
        if path is None or not chosen:
            return self._nothing(DROP)
        try:
            seen = overview(load_audio(path), SAMPLING_RATE)
            heard = {name: classify(self.models[name], Path(path), partial(_tell, progress, name)) for name in chosen}
            first, result = next(iter(heard.items()))
            updates = self._nothing("") | {self.picture: gr.Plot(seen, visible=True)}
            for name in heard:
                updates |= self.columns[name].showing(heard[name])
            return updates | self._decision(first, path, surest(result))
        except AudioError as error:
            return self._nothing(problem(error))

    def play(self, path: str, name: str, row: gr.SelectData) -> tuple[Any, ...]:
        """A row of a timeline was chosen: its stretch is heard, and can be explained by its model."""
        start, end = map(float, row.row_value[:2])
        heard = self._heard(name, path, (start, end), autoplay=True)
        return (start, end), heard, name, "", gr.Plot(visible=False)

    def explain(self, path: str, stretch: Stretch, name: str, progress: gr.Progress = PROGRESS) -> tuple[Any, ...]:
        """What carried the decision of a model in the stretch that is heard."""
        track = partial(progress.tqdm, desc=f"{name} hears the sound with one part after the other silenced")
        try:
            sentence, figure = why(self.models[name], Path(path), stretch, track)
        except AudioError as error:
            return problem(error), gr.Plot(visible=False)
        return f"{sentence}\n\n*{CAVEAT}*", gr.Plot(figure, visible=True)

    def _decision(self, name: str, path: str, stretch: Stretch) -> Updates:
        return {
            self.decision: gr.Column(visible=True),
            self.stretch: stretch,
            self.heard: self._heard(name, path, stretch),
            self.asked: name,
        }

    def _heard(self, name: str, path: str, stretch: Stretch, autoplay: bool = False) -> gr.Audio:
        rate = self.models[name].sampling_rate
        label = f"{stretch[0]:.1f}–{stretch[1]:.1f} s as the model hears it: mono, {rate / 1000:g} kHz"
        wav: Any = to_wav(cut(Path(path), stretch, rate), rate)  # Gradio takes bytes; its types don't say it
        return gr.Audio(wav, label=label, autoplay=autoplay)

    def _nothing(self, message: str) -> Updates:
        hidden: Updates = {column.whole: gr.Column(visible=False) for column in self.columns.values()}
        hidden |= {plot: gr.Plot(visible=False) for plot in (self.picture, self.map)}
        return hidden | {self.decision: gr.Column(visible=False), self.message: message, self.reason: ""}


class ManySounds:
    """Files in, a table out, to be looked at and taken away as CSV."""

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


def picture(label: str) -> gr.Plot:
    """A place for a figure that bears its own title."""
    return gr.Plot(label=label, show_label=False, visible=False, elem_classes="picture")


def problem(error: AudioError) -> str:
    """An error for the page: the file's own name instead of the folder that it was uploaded to."""
    fix = f" ({error.fix})" if error.fix else ""
    return f"**{Path(error.where).name}**: {error.what}{fix}"


def _tell(progress: gr.Progress, name: str, done: int, total: int) -> None:
    progress((done, total), desc=name, unit="windows")
