"""The contents of the browser page as plain functions, which need no browser."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import to_rgb

from urbansound_hf.audio import spectrogram
from urbansound_hf.audio.io import SAMPLING_RATE, load_audio, to_wav, window_bounds
from urbansound_hf.data import synthetic
from urbansound_hf.data.urbansound8k import CLASSES, CLIP_SECONDS
from urbansound_hf.errors import UserError
from urbansound_hf.inference import occlusion
from urbansound_hf.inference.classifier import SoundClassifier
from urbansound_hf.inference.events import SILENCE_DB
from urbansound_hf.inference.formats import WriteOptions
from urbansound_hf.inference.inputs import find_sounds
from urbansound_hf.inference.output import Classification
from urbansound_hf.inference.results import write_results
from urbansound_hf.plots.sounds import colour_bar, draw_levels, draw_wave, time_axis
from urbansound_hf.plots.style import BLUE, ORANGE, drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MOST_EXAMPLES = 30
SIZE = (6.4, 4.0)  # inches; narrow, so that the text is legible on a phone
TOP = 5  # labels per window in a table of many files, as in infer.py
Report = Callable[[int, int], None]  # finished windows, all windows
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
    """The first sounds of a folder, or without one a synthetic sound of each class and a sequence of all ten.

    Raises:
        UserError: the folder does not exist or holds no sound.
    """
    if folder is None:
        return _synthetic(Path(tempfile.mkdtemp(prefix="urbansound-examples-")))
    if not folder.is_dir():
        raise UserError("the examples must be a folder of sounds", f"--examples {folder}", "give an existing folder")
    sounds, problems = find_sounds([str(folder)])
    for problem in problems:
        raise problem
    return [Path(str(sound)) for sound in islice(sounds, MOST_EXAMPLES)]


def _synthetic(folder: Path) -> list[Path]:
    draw = np.random.default_rng(0)
    sounds = {name: 0.5 * synthetic.waveform(name, draw, CLIP_SECONDS, SAMPLING_RATE) for name in CLASSES}
    sounds["all_ten"] = np.concatenate(list(sounds.values()))
    for name, waveform in sounds.items():
        (folder / f"{name}.wav").write_bytes(to_wav(waveform))
    return [folder / f"{name}.wav" for name in sounds]


def classify(classifier: SoundClassifier, path: Path, report: Report) -> Classification:
    """The scores of all classes of a sound, the same that `infer.py` prints.

    Args:
        report: called after every batch with the numbers of finished and of all windows.

    Raises:
        AudioError: the sound cannot be read.
    """
    window = round(classifier.window_seconds * classifier.sampling_rate)
    total = len(window_bounds(len(load_audio(path, classifier.sampling_rate)), window, window // 2))
    done = 0

    def count(windows: int) -> None:
        nonlocal done
        done = min(done + windows, total)
        report(done, total)

    return classifier.classify(path, top_k=len(classifier.labels), track=count)


def spells(result: Classification) -> list[list[float | str]]:
    """The events of a long recording as rows of start and end in seconds, class and mean score; [] for a clip."""
    events = result.events() if result.summary else ()
    return [[round(each.start, 3), round(each.end, 3), each.text, round(each.score, 4)] for each in events]


def remark(result: Classification) -> str:
    """What to know about the scores of a silent sound; "" for others."""
    if result.overall.level_db >= SILENCE_DB:
        return ""
    return f"**Silence**: the level stays below {SILENCE_DB:g} dBFS. The scores say little."


def most_typical(result: Classification) -> Segment:
    """The window with the highest score of the recording's overall class."""
    label = result.overall.label
    best = max(result.windows, key=lambda window: dict(window.top)[label])
    return best.start, best.end


def cut(path: Path, segment: Segment, rate: int) -> np.ndarray:
    """A segment of a recording as the model's input: `(samples,)` float32 at `rate` Hz."""
    start, end = (round(second * rate) for second in segment)
    return load_audio(path, rate)[start:end]


def explain(classifier: SoundClassifier, path: Path, segment: Segment, track: occlusion.Track) -> tuple[str, Figure]:
    """A sentence and a map of the evidence for the prediction of a segment, or of a long one's most certain window."""
    waveform = cut(path, segment, classifier.sampling_rate)
    window = round(classifier.window_seconds * classifier.sampling_rate)
    windows = window_bounds(len(waveform), window, window // 2)
    scores = classifier.probabilities([waveform[start:end] for start, end in windows])
    start, end = windows[scores.max(axis=1).argmax()]
    found = occlusion.occlusion(classifier, waveform[start:end], track=track)
    seconds = segment[0] + start / classifier.sampling_rate
    where = f"From {seconds:.1f} s on: " if seconds else ""
    return where + found.sentence(), evidence_map(waveform[start:end], classifier.sampling_rate, found)


def overview(waveform: np.ndarray, rate: int) -> Figure:
    """Draws waveform and mel spectrogram under one time axis."""
    with drawing(None, "Waveform and mel spectrogram", "", SIZE) as figure:
        top, bottom = figure.subplots(2, sharex=True, height_ratios=(1, 1.8))
        draw_wave(top, waveform, rate)
        mesh = draw_levels(bottom, spectrogram.mel_spectrogram(waveform, rate), "mel")
        time_axis(bottom, len(waveform) / rate)
        colour_bar(bottom, mesh, "level (dBFS)")
    return figure


def evidence_map(waveform: np.ndarray, rate: int, found: occlusion.Occlusion) -> Figure:
    """Draws the mel spectrogram in grey under its tiles: orange supports the predicted class, blue another one."""
    reach = max(float(np.abs(found.evidence).max()), 1.0)  # weak evidence stays pale
    colours = np.where(found.evidence[..., None] > 0, to_rgb(ORANGE), to_rgb(BLUE))  # (bands, steps, 3)
    opacity = 0.85 * np.abs(found.evidence) / reach
    with drawing(None, f"Evidence: orange for {found.label}, blue against", "", SIZE) as figure:
        axes = figure.add_subplot()
        mesh = draw_levels(axes, spectrogram.mel_spectrogram(waveform, rate), "mel")
        mesh.set(cmap="gray_r", alpha=0.6)
        axes.pcolormesh(found.times, found.hertz, np.dstack([colours, opacity]))
        time_axis(axes, len(waveform) / rate)
    return figure


def classify_all(classifier: SoundClassifier, paths: Sequence[Path]) -> Iterator[Classification]:
    """The result of each file, under its name without the folder."""
    for result in classifier.classify_many(paths, top_k=TOP):
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
    path = Path(tempfile.mkdtemp(prefix="urbansound-table-")) / "labels.csv"
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        write_results(results, "csv", WriteOptions(TOP), stream)
    return path
