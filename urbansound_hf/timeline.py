"""What a classifier said of a sound, drawn under the sound itself: waveform, mel spectrogram, classes over time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from urbansound_hf import audio, pictures, spectra
from urbansound_hf.audio import Source
from urbansound_hf.errors import UserError
from urbansound_hf.figures import FORMATS, LIGHT_BLUE, drawing, readable, shortened
from urbansound_hf.output import Classification, Prediction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CLASSES = 10  # rows of a timeline


def targets(sounds: Sequence[Source], target: str) -> list[Path]:
    """Where the picture of each sound goes: to `target` itself, or, if that is a folder, there under the sound's name.

    Raises:
        UserError: one picture for several sounds, a format that there is not, or no folder to write to.
    """
    wanted, where = Path(target), f"--plot {target}"
    if not wanted.suffix or wanted.is_dir():
        try:
            wanted.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the folder cannot be made: {error.strerror}", where, "give another") from None
        return [wanted / f"{name}.png" for name in distinct([Path(_name(sound)).stem for sound in sounds])]
    if wanted.suffix[1:].lower() not in FORMATS:
        found, fix = f"found {wanted.suffix[1:]}", f"give {wanted.with_suffix('.png')}, or a folder"
        raise UserError(f"a picture is {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, {found}", where, fix)
    if len(sounds) > 1:
        fix = f"give a folder, as --plot {wanted.with_suffix('')}: each gets its own there"
        raise UserError(f"one picture shows one sound, found {len(sounds)} sounds", where, fix)
    if not wanted.parent.is_dir():
        raise UserError("a picture goes to a folder that exists", where, f"mkdir -p {wanted.parent}")
    return [wanted]


def plotted(
    results: Iterable[Classification], sounds: Sequence[Source], paths: Sequence[Path]
) -> Iterator[Classification]:
    """Passes the results on, one a sound and in their order, and draws those that have a path and could be read."""
    for result, sound, path in zip_longest(results, sounds, paths):
        if path and not result.error:
            draw(*_heard(sound), result, path)
        yield result


def distinct(names: Sequence[str]) -> list[str]:
    """The names, with a number behind each that was there before: a, b, a-2."""
    taken: list[str] = []
    for name in names:
        tries = chain([name], (f"{name}-{number}" for number in count(2)))
        taken.append(next(each for each in tries if each not in taken))
    return taken


def draw(samples: np.ndarray, rate: int, result: Classification, path: Path | None = None) -> Figure:
    """Draws a sound and what it was taken for.

    Args:
        samples: `(samples,)` in [-1, 1] at `rate` Hz.
        result: a timeline gets the classes as rows under the sound's time axis; a single window, bars.
    """
    shown = _classes(result)
    rows = 0.28 * len(shown) + 0.5
    note = "grey: not among the classes asked for (--top_k)" if result.summary and _gaps(result, shown) else ""
    title = f"{shortened(Path(result.path).name, 45)}: {_verdict(result)}"
    with drawing(path, title, note, (10, 4.6 + rows)) as figure:
        wave, mel, below = figure.subplots(3, 1, height_ratios=(1.1, 2, rows))
        pictures.draw_wave(wave, samples, rate)
        mesh = pictures.draw_levels(mel, spectra.mel_spectrogram(samples, rate), "mel")
        pictures.colour_bar(mel, mesh, "level (dBFS)")
        timed = [wave, mel]
        if result.summary:
            _rows(below, result.windows, shown)
            timed.append(below)
        else:
            _bars(below, result.windows[0])
        for axes in timed:
            pictures.time_axis(axes, len(samples) / rate)
        for axes in timed[:-1]:
            axes.set_xlabel("")
            axes.tick_params(labelbottom=False)
    return figure


def _rows(axes: Axes, windows: Sequence[Prediction], shown: Sequence[str]) -> None:
    """Classes downwards, time to the right; windows that overlap share the time between their middles."""
    middles = np.array([(window.start + window.end) / 2 for window in windows])
    edges = np.concatenate([[0], (middles[1:] + middles[:-1]) / 2, [windows[-1].end]])
    scores = np.array([[dict(window.top).get(label, np.nan) for window in windows] for label in shown])
    mesh = axes.pcolormesh(edges, np.arange(len(shown) + 1) - 0.5, scores, cmap="Blues", vmin=0, vmax=1)
    axes.set_yticks(range(len(shown)), readable(shown))
    axes.set(ylim=(len(shown) - 0.5, -0.5), facecolor="#ececec")
    pictures.colour_bar(axes, mesh, "probability")


def _bars(axes: Axes, prediction: Prediction) -> None:
    top = prediction.top[:MOST_CLASSES]
    bars = axes.barh(range(len(top)), [score for _, score in top], height=0.68, color=LIGHT_BLUE)
    axes.bar_label(bars, [f"{score:.2f}" for _, score in top], padding=3, fontsize=9)
    axes.set_yticks(range(len(top)), readable([label for label, _ in top]))
    axes.set(xlabel="probability", xlim=(0, 1.08), ylim=(len(top) - 0.5, -0.5))
    axes.set_xticks((0, 0.25, 0.5, 0.75, 1))
    axes.grid(axis="x")


def _classes(result: Classification) -> list[str]:
    """The labels that the picture shows, those with the highest mean score first."""
    total: dict[str, float] = {}
    for window in result.windows:
        for label, score in window.top:
            total[label] = total.get(label, 0) + score
    return sorted(total, key=lambda label: -total[label])[:MOST_CLASSES]


def _verdict(result: Classification) -> str:
    overall = result.summary or result.windows[0]
    mean = f", mean of {len(result.windows)} windows" * (result.summary is not None)
    return f"{readable([overall.label])[0]} {overall.score:.2f}{mean}"


def _gaps(result: Classification, shown: Sequence[str]) -> bool:
    """Whether some window does not tell the score of every class that is shown."""
    return any(label not in dict(window.top) for window in result.windows for label in shown)


def _name(sound: Source) -> str:
    return str(sound) if isinstance(sound, str | Path) else "sound"


def _heard(sound: Source) -> tuple[np.ndarray, int]:
    """The sound at its own rate, once more: the classifier heard it at the model's."""
    if not isinstance(sound, str | Path | bytes):
        sound.seek(0)
    return audio.read(sound)
