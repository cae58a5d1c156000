"""The contents of the browser page as plain functions, which need no browser."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgb

from urbansound_hf.app.limits import Report
from urbansound_hf.audio import spectrogram
from urbansound_hf.audio.io import SAMPLING_RATE, stream_audio, to_wav, window_bounds
from urbansound_hf.audio.resampling import resample
from urbansound_hf.data import synthetic
from urbansound_hf.data.urbansound8k import CLASSES, CLIP_SECONDS
from urbansound_hf.errors import UserError
from urbansound_hf.inference import occlusion
from urbansound_hf.inference.classifier import SoundClassifier
from urbansound_hf.inference.formats import WriteOptions
from urbansound_hf.inference.inputs import find_sounds
from urbansound_hf.inference.live import score_window
from urbansound_hf.inference.output import SILENCE_DB, Classification, Prediction
from urbansound_hf.inference.results import write_results
from urbansound_hf.plots.sounds import colour_bar, draw_levels, draw_scores, draw_wave, shown_classes, time_axis
from urbansound_hf.plots.style import BLUE, LIGHT_BLUE, ORANGE, drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MOST_EXAMPLES = 30
SIZE = (6.4, 4.0)  # inches; narrow, so that the text is legible on a phone
TOP = 5  # labels per window in a table of many files, as in infer.py
Segment = tuple[float, float]  # start and end in seconds


def open_models(names: Sequence[str], trust_remote_code: bool = False) -> dict[str, SoundClassifier]:
    """The classifiers by the names that the page shows. Raises UserError if a checkpoint cannot be opened."""
    wanted = list(dict.fromkeys(names))
    short = [short_name(name) for name in wanted]
    shown = short if len(set(short)) == len(short) else wanted
    models = [SoundClassifier.from_pretrained(name, trust_remote_code=trust_remote_code) for name in wanted]
    return dict(zip(shown, models, strict=True))


def short_name(model: str) -> str:
    """The last two parts of a folder (demo/fold10), or a Hub id."""
    return "/".join(Path(model).resolve().parts[-2:]) if Path(model).is_dir() else model


def examples(folder: Path | None) -> list[Path]:
    """The first sounds of a folder, or without one a synthetic sound of each class and all in turn. Or UserError."""
    if folder is None:
        (made := temporary_folder() / "examples").mkdir(exist_ok=True)
        draw = np.random.default_rng(0)
        waveforms = {name: 0.5 * synthetic.waveform(name, draw, CLIP_SECONDS, SAMPLING_RATE) for name in CLASSES}
        waveforms["all_ten"] = np.concatenate(list(waveforms.values()))
        for name, waveform in waveforms.items():
            (made / f"{name}.wav").write_bytes(to_wav(waveform))
        return [made / f"{name}.wav" for name in waveforms]
    if not folder.is_dir():
        raise UserError("the examples must be a folder of sounds", f"--examples {folder}", "give an existing folder")
    sounds, problems = find_sounds([str(folder)])
    for problem in problems:
        raise problem
    return [Path(str(sound)) for sound in islice(sounds, MOST_EXAMPLES)]


@cache
def temporary_folder() -> Path:
    """The folder of all files of the pages of this process: uploads, tables, examples; it is removed at its end."""
    folder = tempfile.mkdtemp(prefix="urbansound-app-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def classify(
    classifier: SoundClassifier, path: Path, report: Report, name: str = "", samples: int = 0
) -> Classification:
    """The scores of all classes of a sound of so many samples at `SAMPLING_RATE`, by a model. Raises AudioError."""
    window = round(classifier.window_seconds * SAMPLING_RATE)
    total, done = len(window_bounds(samples, window, window // 2)), 0

    def count(windows: int) -> None:
        nonlocal done
        done += windows
        report(f"{name}: {min(done, total):,} of {total:,} windows")

    return classifier.classify(path, top_k=len(classifier.labels), track=count)


def classify_by_all(
    models: Mapping[str, SoundClassifier], path: Path, report: Report
) -> tuple[np.ndarray, dict[str, Classification]]:
    """A sound, `(samples,)` at `SAMPLING_RATE`, and its result of each model. Raises AudioError."""
    blocks, samples = [], 0
    for block in stream_audio(path, limits=next(iter(models.values())).limits):
        blocks.append(block)
        samples += len(block)
        report(f"reading: {clock(samples / SAMPLING_RATE)}")
    waveform = np.concatenate(blocks)
    return waveform, {name: classify(each, path, report, name, len(waveform)) for name, each in models.items()}


def clock(seconds: float) -> str:
    """A time as minutes and seconds: 65.25 → "1:05.2"."""
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{minutes:.0f}:{rest:04.1f}"


def seconds_of(time: str) -> float:
    """The seconds of a `clock`."""
    minutes, rest = time.split(":")
    return 60 * int(minutes) + float(rest)


def spells(result: Classification) -> list[list[str]]:
    """The events of a long recording as rows of start and end (`clock`), class and mean score; [] for a clip."""
    events = result.events() if result.summary else ()
    return [[clock(each.start), clock(each.end), each.text, f"{each.score:.2f}"] for each in events]


class Live(NamedTuple):
    """The latest sound of a microphone: up to a window of `samples`, `new` of them since the last prediction."""

    samples: np.ndarray
    new: int = 0
    total: int = 0


def score_block(
    classifier: SoundClassifier, live: Live | None, rate: int, block: np.ndarray
) -> tuple[Live, Prediction | None]:
    """Adds a block of a microphone, int16 `(samples[, channels])` at `rate` Hz; every hop there is a prediction."""
    block = block.reshape(len(block), -1).mean(axis=1, dtype=np.float32) / 32768
    old = live or Live(np.zeros(0, np.float32))
    window = round(classifier.window_seconds * rate)
    now = Live(np.concatenate([old.samples, block])[-window:], old.new + len(block), old.total + len(block))
    if len(now.samples) < window or now.new < window // 2:
        return now, None
    waveform = resample(now.samples, rate, classifier.sampling_rate)
    end = round(now.total / rate * classifier.sampling_rate)
    return now._replace(new=0), score_window(classifier, end - len(waveform), end, waveform, TOP)


def remark(result: Classification) -> str:
    """A warning about the scores of a silent sound; "" for others."""
    if result.overall.level_db >= SILENCE_DB:
        return ""
    return f"**Silence**: the level stays below {SILENCE_DB:g} dBFS. The scores say little."


def most_typical(result: Classification) -> Segment:
    """The window with the highest score of the recording's overall class."""
    label = result.overall.label
    best = max(result.windows, key=lambda window: dict(window.top)[label])
    return best.start, best.end


def cut(path: Path, segment: Segment, classifier: SoundClassifier) -> np.ndarray:
    """A segment of a recording as the model's input: `(samples,)` float32 at its sampling rate."""
    start, end = (round(second * classifier.sampling_rate) for second in segment)
    parts, first = [], 0
    for block in stream_audio(path, classifier.sampling_rate, limits=classifier.limits):
        parts.append(block[max(start - first, 0) : max(end - first, 0)])
        first += len(block)
        if first >= end:
            break
    return np.concatenate(parts)


def explain(
    classifier: SoundClassifier, path: Path, segment: Segment, dark: bool, report: Report
) -> tuple[str, Figure]:
    """A sentence and a map of the evidence for the prediction of a segment, or of a long one's most certain window."""

    def track(parts: Iterable[int]) -> Iterator[int]:
        for part in parts:
            report(f"scores with each part of the sound silenced: band {part + 1}")
            yield part

    waveform = cut(path, segment, classifier)
    window = round(classifier.window_seconds * classifier.sampling_rate)
    windows = window_bounds(len(waveform), window, window // 2)
    scores = classifier.probabilities([waveform[start:end] for start, end in windows])
    start, end = windows[scores.max(axis=1).argmax()]
    found = occlusion.occlusion(classifier, waveform[start:end], track=track)
    seconds = segment[0] + start / classifier.sampling_rate
    where = f"From {clock(seconds)} on: " if seconds else ""
    return where + found.sentence(), evidence_map(waveform[start:end], classifier.sampling_rate, found, dark)


def strip(result: Classification, dark: bool = False) -> Figure:
    """Draws the class scores of a long recording over time, as `infer.py --plot` does."""
    shown = shown_classes(result)
    with drawing(None, "Scores over time", "", (SIZE[0], 1.2 + 0.28 * len(shown)), dark) as figure:
        axes = figure.add_subplot()
        mesh = draw_scores(axes, result.windows, shown)
        if dark:
            mesh.set_cmap(LinearSegmentedColormap.from_list("scores", [figure.get_facecolor(), LIGHT_BLUE]))
        time_axis(axes, result.overall.end)
    return figure


def overview(waveform: np.ndarray, rate: int, dark: bool = False) -> Figure:
    """Draws waveform and mel spectrogram under one time axis."""
    with drawing(None, "Waveform and mel spectrogram", "", SIZE, dark) as figure:
        top, bottom = figure.subplots(2, sharex=True, height_ratios=(1, 1.8))
        draw_wave(top, waveform, rate)
        mesh = draw_levels(bottom, spectrogram.mel_spectrogram(waveform, rate), "mel")
        time_axis(bottom, len(waveform) / rate)
        colour_bar(bottom, mesh, "level (dBFS)")
    return figure


def evidence_map(waveform: np.ndarray, rate: int, found: occlusion.Occlusion, dark: bool = False) -> Figure:
    """Draws the mel spectrogram in grey under its tiles: orange supports the predicted class, blue another one."""
    reach = max(float(np.abs(found.evidence).max()), 1.0)  # weak evidence stays pale
    colours = np.where(found.evidence[..., None] > 0, to_rgb(ORANGE), to_rgb(BLUE))  # (bands, steps, 3)
    opacity = 0.85 * np.abs(found.evidence) / reach
    with drawing(None, f"Evidence: orange for {found.label}, blue against", "", SIZE, dark) as figure:
        axes = figure.add_subplot()
        mesh = draw_levels(axes, spectrogram.mel_spectrogram(waveform, rate), "mel")
        mesh.set(cmap="gray" if dark else "gray_r", alpha=0.6)
        axes.pcolormesh(found.times, found.hertz, np.dstack([colours, opacity]))
        time_axis(axes, len(waveform) / rate)
    return figure


def classify_all(classifier: SoundClassifier, paths: Sequence[Path], report: Report) -> Iterator[Classification]:
    """The result of each file, under its name without the folder."""
    windows = 0

    def count(more: int) -> None:
        nonlocal windows
        windows += more
        report(f"{windows:,} windows of {len(paths):,} files")

    for result in classifier.classify_many(paths, top_k=TOP, track=count):
        yield replace(result, path=Path(result.path).name)


def table(results: Iterable[Classification]) -> list[list[float | str]]:
    """A row per file: name, length in seconds, class, score, and what is wrong: the error, or silence."""
    rows: list[list[float | str]] = []
    for result in results:
        if result.error:
            rows.append([result.path, "", "", "", result.error])
            continue
        whole = result.overall
        silence = f"silence: below {SILENCE_DB:g} dBFS" if whole.level_db < SILENCE_DB else ""
        rows.append([result.path, round(whole.end, 2), whole.label, round(whole.score, 4), silence])
    return rows


def write_csv(results: Iterable[Classification]) -> Path:
    """The CSV of `infer.py --format csv`, in a new temporary file."""
    path = Path(tempfile.mkdtemp(dir=temporary_folder())) / "labels.csv"
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        write_results(results, "csv", WriteOptions(TOP), stream)
    return path
