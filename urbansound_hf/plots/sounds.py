"""Figures of a sound: waveform, spectrograms, MFCC, before and after an effect, and its classification over time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from urbansound_hf.audio import spectrogram as spectra
from urbansound_hf.audio.dsp import from_mel, to_mel
from urbansound_hf.audio.io import AudioError, Source, read_audio
from urbansound_hf.audio.spectrogram import Spectrum
from urbansound_hf.errors import UserError, writing
from urbansound_hf.inference.output import Classification, Prediction
from urbansound_hf.plots.style import BLUE, FORMATS, drawing, readable, value_bars
from urbansound_hf.text import alternatives, distinct, shortened

COLOURS = "magma"  # perceptually uniform, also to the colour-blind
RANGE = 80.0  # dB between the darkest and the brightest colour
SIZE = (9.0, 4.0)  # inches
HERTZ = (20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)  # ticks where frequency is not linear
SECOND_STEPS = (15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)
POINTS = 2000  # of a waveform; a longer one is drawn as its envelope
MOST_CLASSES = 10  # in a timeline


def waveform(samples: np.ndarray, rate: int, title: str = "Waveform", path: str | Path | None = None) -> Figure:
    """Draws amplitude over time.

    Args:
        samples: `(samples,)` waveform in [-1, 1].
        rate: its sampling rate in Hz.
        path: where to save the figure: .png, .svg or .pdf.

    Examples:
        >>> ush.plots.waveform(ush.load_audio("clip.wav"), 16_000, path="waveform.png").axes[0].get_xlabel()
        'time (s)'
    """
    with drawing(path, title, "", (SIZE[0], 2.8)) as figure:
        axes = figure.add_subplot()
        draw_wave(axes, samples, rate)
        time_axis(axes, len(samples) / rate)
    return figure


def spectrogram(
    samples: np.ndarray, rate: int, title: str = "Spectrogram", path: str | Path | None = None, scale: str = "linear"
) -> Figure:
    """Draws the short-time spectrum in dBFS; arguments as for `waveform`.

    Args:
        scale: of the frequency axis, "linear" or "log".

    Examples:
        >>> ush.plots.spectrogram(ush.load_audio("clip.wav"), 16_000, scale="log").axes[0].get_yscale()
        'log'
    """
    return _spectrum(spectra.spectrogram(samples, rate), scale, title, path)


def mel_spectrogram(
    samples: np.ndarray, rate: int, title: str = "Mel spectrogram", path: str | Path | None = None
) -> Figure:
    """Draws the short-time spectrum in dBFS on HTK's mel scale; arguments as for `waveform`.

    Examples:
        >>> ush.plots.mel_spectrogram(ush.load_audio("clip.wav"), 16_000).axes[0].get_ylabel()
        'frequency (Hz)'
    """
    return _spectrum(spectra.mel_spectrogram(samples, rate), "mel", title, path)


def mfcc(samples: np.ndarray, rate: int, title: str = "MFCC", path: str | Path | None = None) -> Figure:
    """Draws the cepstral coefficients, each scaled by its own mean and deviation; arguments as for `waveform`.

    Examples:
        >>> ush.plots.mfcc(ush.load_audio("clip.wav"), 16_000).axes[0].get_ylabel()
        'coefficient'
    """
    spectrum = spectra.mfcc(samples, rate)
    cells = spectrum.times, spectrum.bands, spectrum.levels
    with drawing(path, title, "", SIZE) as figure:
        axes = figure.add_subplot()
        mesh = axes.pcolormesh(*cells, cmap="RdBu_r", vmin=-3, vmax=3, rasterized=True)
        axes.set(ylabel="coefficient", yticks=range(0, spectra.N_MFCC, 5))
        time_axis(axes, spectrum.times[-1])
        colour_bar(axes, mesh, "deviations from\nthe coefficient's mean")
    return figure


def before_after(
    before: np.ndarray, after: np.ndarray, rate: int, title: str, path: str | Path | None = None
) -> Figure:
    """Draws waveform and mel spectrogram before and after an effect, on the same axes and colour scale.

    Args:
        before, after: `(samples,)` waveforms in [-1, 1] at `rate` Hz; their lengths may differ.

    Examples:
        >>> clip = ush.load_audio("clip.wav")
        >>> figure = ush.plots.before_after(clip, clip / 2, 16_000, "6 dB less")
        >>> [axes.get_title(loc="left") for axes in figure.axes[:2]]
        ['before', 'after']
    """
    pair = [spectra.mel_spectrogram(samples, rate) for samples in (before, after)]
    limits = level_limits(*(spectrum.levels for spectrum in pair))
    seconds = max(len(before), len(after)) / rate
    peak = max(1e-3, *(float(np.abs(samples).max()) for samples in (before, after)))
    with drawing(path, title, "", (11, 5)) as figure:
        panels = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(1, 1.6))
        for column, samples, spectrum, name in zip(panels.T, (before, after), pair, ("before", "after"), strict=True):
            draw_wave(column[0], samples, rate, peak)
            column[0].set_title(name)
            mesh = draw_levels(column[1], spectrum, "mel", limits)
            time_axis(column[1], seconds)
        for axes in panels[:, 1]:
            axes.set_ylabel("")
        colour_bar(panels[1, 1], mesh, "level (dBFS)")
    return figure


def draw_wave(axes: Axes, samples: np.ndarray, rate: int, peak: float = 0.0) -> None:
    """Draws a waveform into `axes`, whose range is ± `peak` (0: the waveform's own); a long one as its envelope."""
    if len(samples) > 2 * POINTS:
        starts = np.linspace(0, len(samples), POINTS, endpoint=False, dtype=int)
        low, high = np.minimum.reduceat(samples, starts), np.maximum.reduceat(samples, starts)
        axes.fill_between(starts / rate, low, high, color=BLUE, linewidth=0.4)
    else:
        axes.plot(np.arange(len(samples)) / rate, samples, color=BLUE, linewidth=0.8)
    reach = 1.05 * (peak or max(1e-3, float(np.abs(samples).max())))
    axes.set(ylabel="amplitude", ylim=(-reach, reach))
    axes.grid(axis="y")


def draw_levels(axes: Axes, spectrum: Spectrum, scale: str, limits: tuple[float, float] | None = None) -> QuadMesh:
    """Draws a spectrum into `axes` on a linear, log or mel frequency `scale`; `limits` of the colours in dBFS."""
    low, high = limits or level_limits(spectrum.levels)
    cells = spectrum.times, spectrum.bands, spectrum.levels
    mesh = axes.pcolormesh(*cells, cmap=COLOURS, vmin=low, vmax=high, rasterized=True)
    options: dict[str, Any] = {"functions": (to_mel, from_mel)} if scale == "mel" else {}
    axes.set_yscale("function" if scale == "mel" else scale, **options)
    bottom, top = HERTZ[0] if scale == "log" else spectrum.bands[0], spectrum.bands[-1]
    axes.set(ylabel="frequency (Hz)", ylim=(bottom, top))
    if scale != "linear":
        ticks = [hertz for hertz in HERTZ if bottom <= hertz <= top and (scale == "log" or hertz >= 500)]
        axes.set_yticks(ticks)
        axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda hertz, _: f"{hertz / 1000:g}k" if hertz >= 1000 else f"{hertz:g}")
    return mesh


def level_limits(*levels: np.ndarray) -> tuple[float, float]:
    """The levels of the darkest and the brightest colour in dBFS; silence gets the darkest."""
    high = max(*(float(each.max()) for each in levels), spectra.FLOOR + RANGE)
    return high - RANGE, high


def time_axis(axes: Axes, seconds: float) -> None:
    """Labels the time axis; from two minutes on in minutes and seconds."""
    axes.set(xlim=(0, seconds), xlabel="time (s)")
    if seconds > 120:
        step = next((step for step in SECOND_STEPS if seconds / step <= 10), SECOND_STEPS[-1])
        axes.set_xticks(np.arange(0, seconds + 1e-9, step))
        axes.xaxis.set_major_formatter(lambda second, _: f"{second // 60:.0f}:{second % 60:02.0f}")
        axes.set_xlabel("time (min:s)")


def colour_bar(axes: Axes | Sequence[Axes], mesh: QuadMesh, label: str) -> None:
    """Adds a colour bar beside the axes."""
    figure = mesh.figure
    assert figure is not None
    figure.colorbar(mesh, ax=axes, label=label).outline.set_visible(False)


def _spectrum(spectrum: Spectrum, scale: str, title: str, path: str | Path | None) -> Figure:
    with drawing(path, title, "", SIZE) as figure:
        axes = figure.add_subplot()
        mesh = draw_levels(axes, spectrum, scale)
        time_axis(axes, spectrum.times[-1])
        colour_bar(axes, mesh, "level (dBFS)")
    return figure


def plot_targets(sounds: Sequence[Source], target: str) -> list[Path]:
    """The file for the figure of each sound: `target` itself, or files named after the sounds if it is a folder.

    Raises UserError for one file of several sounds, an unknown format, or without a folder to write to.
    """
    wanted, where = Path(target), f"--plot {target}"
    if not wanted.suffix or wanted.is_dir():
        with writing(wanted):
            wanted.mkdir(parents=True, exist_ok=True)
        names = [Path(sound).stem if isinstance(sound, str | Path) else "sound" for sound in sounds]
        return [wanted / f"{name}.png" for name in distinct(names)]
    if wanted.suffix[1:].lower() not in FORMATS:
        what = f"a figure is saved as {alternatives(FORMATS)}, found {wanted.suffix[1:]}"
        raise UserError(what, where, f"give {wanted.with_suffix('.png')}, or a folder")
    if len(sounds) > 1:
        fix = f"give a folder, as --plot {wanted.with_suffix('')}: one file for each sound"
        raise UserError(f"one file holds the figure of one sound, found {len(sounds)} sounds", where, fix)
    if not wanted.parent.is_dir():
        raise UserError("the folder of the figure does not exist", where, f"mkdir -p {wanted.parent}")
    return [wanted]


def plotted(
    results: Iterable[Classification], sounds: Sequence[Source], paths: Sequence[Path]
) -> Iterator[Classification]:
    """Yields the results, one per sound in order, and draws those that have a path; a failure becomes the error."""
    for result, sound, path in zip_longest(results, sounds, paths):
        if path and not result.error:
            try:
                if not isinstance(sound, str | Path | bytes):
                    sound.seek(0)
                waveform, rate = read_audio(sound)  # at its own rate: the classifier resampled it to the model's
                timeline(waveform, rate, result, path)
            except (AudioError, MemoryError) as error:  # a file may vanish after it was classified
                what = error.what if isinstance(error, AudioError) else "the memory is used up"
                reason = f"is {result.overall.label} {result.overall.score:.2f}, but cannot be plotted: {what}"
                result = Classification(result.path, error=reason)
        yield result


def timeline(samples: np.ndarray, rate: int, result: Classification, path: str | Path | None = None) -> Figure:
    """Draws a sound and its classification: class scores over time, or bars where it is a single window.

    Args:
        samples, rate, path: as for `waveform`.
        result: what `SoundClassifier.classify` returned for it.

    Examples:
        >>> model = ush.SoundClassifier.from_pretrained("outputs/base/fold10")
        >>> figure = ush.plots.timeline(ush.load_audio("long.wav"), 16_000, model.classify("long.wav"))
        >>> figure.axes[2].get_xlabel()
        'time (s)'
    """
    shown = shown_classes(result)
    rows = 0.28 * len(shown) + 0.5
    gaps = any(label not in dict(window.top) for window in result.windows for label in shown)
    note = "grey: not among the top classes of this window (--top_k)" if result.summary and gaps else ""
    overall, mean = result.overall, f", mean of {len(result.windows)} windows"
    title = f"{shortened(Path(result.path).name, 45)}: {readable([overall.label])[0]} {overall.score:.2f}"
    title += mean if result.summary else ""
    with drawing(path, title, note, (10, 4.6 + rows)) as figure:
        wave, mel, below = figure.subplots(3, 1, height_ratios=(1.1, 2, rows))
        draw_wave(wave, samples, rate)
        mesh = draw_levels(mel, spectra.mel_spectrogram(samples, rate), "mel")
        colour_bar(mel, mesh, "level (dBFS)")
        timed = [wave, mel, below] if result.summary else [wave, mel]
        if result.summary:
            colour_bar(below, draw_scores(below, result.windows, shown), "probability")
        else:
            top = dict(result.windows[0].top[:MOST_CLASSES])
            value_bars(below, readable(top), list(top.values()), "{:.2f}")
            below.set(xlabel="probability", xlim=(0, 1), ylim=(len(top) - 0.5, -0.5), xticks=(0, 0.25, 0.5, 0.75, 1))
        for axes in timed:
            time_axis(axes, len(samples) / rate)
        for axes in timed[:-1]:
            axes.set_xlabel("")
            axes.tick_params(labelbottom=False)
    return figure


def draw_scores(axes: Axes, windows: Sequence[Prediction], shown: Sequence[str]) -> QuadMesh:
    """Draws class scores over time; overlapping windows share the time between their centres."""
    middles = np.array([(window.start + window.end) / 2 for window in windows])
    edges = np.concatenate([[0], (middles[1:] + middles[:-1]) / 2, [windows[-1].end]])
    tops = [dict(window.top) for window in windows]
    scores = np.array([[top.get(label, np.nan) for top in tops] for label in shown])
    mesh = axes.pcolormesh(edges, np.arange(len(shown) + 1) - 0.5, scores, cmap="Blues", vmin=0, vmax=1)
    axes.set_yticks(range(len(shown)), readable(shown))
    axes.set(ylim=(len(shown) - 0.5, -0.5), facecolor="#ececec")
    return mesh


def shown_classes(result: Classification) -> list[str]:
    """The labels to show, those with the highest mean score first."""
    total: Counter[str] = Counter()
    for window in result.windows:
        total.update(dict(window.top))
    return [label for label, _ in total.most_common(MOST_CLASSES)]
