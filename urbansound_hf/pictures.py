"""Pictures of a sound: waveform, spectrograms, MFCC, and what an effect did to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from urbansound_hf import spectra
from urbansound_hf.figures import BLUE, drawing
from urbansound_hf.spectra import Spectrum

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

COLOURS = "magma"  # perceptually uniform, also to the colour-blind
RANGE = 80.0  # dB from black to the loudest
SIZE = (9.0, 4.0)  # inches
HERTZ = (20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)  # ticks where frequency is not linear
SECOND_STEPS = (15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)
POINTS = 2000  # of a waveform; a longer one is drawn by its extremes


def waveform(samples: np.ndarray, rate: int, title: str = "Waveform", path: Path | None = None) -> Figure:
    """Draws a `(samples,)` waveform in [-1, 1] at `rate` Hz over time."""
    with drawing(path, title, "", (SIZE[0], 2.8)) as figure:
        axes = figure.add_subplot()
        draw_wave(axes, samples, rate)
        time_axis(axes, len(samples) / rate)
    return figure


def spectrogram(
    samples: np.ndarray, rate: int, title: str = "Spectrogram", path: Path | None = None, scale: str = "linear"
) -> Figure:
    """Draws the short-time spectrum of a waveform; `scale` of the frequencies: linear or log."""
    return _spectrum(spectra.spectrogram(samples, rate), scale, title, path)


def mel_spectrogram(samples: np.ndarray, rate: int, title: str = "Mel spectrogram", path: Path | None = None) -> Figure:
    """Draws the spectrum in bands that are equally wide to the ear."""
    return _spectrum(spectra.mel_spectrogram(samples, rate), "mel", title, path)


def mfcc(samples: np.ndarray, rate: int, title: str = "MFCC", path: Path | None = None) -> Figure:
    """Draws the cepstral coefficients, each scaled by its own mean and deviation: blue below the mean, red above."""
    spectrum = spectra.mfcc(samples, rate)
    with drawing(path, title, "", SIZE) as figure:
        axes = figure.add_subplot()
        mesh = axes.pcolormesh(
            spectrum.times, spectrum.bands, spectrum.levels, cmap="RdBu_r", vmin=-3, vmax=3, rasterized=True
        )
        axes.set(ylabel="coefficient", yticks=range(0, spectra.N_MFCC, 5))
        time_axis(axes, spectrum.times[-1])
        colour_bar(axes, mesh, "deviations from\nthe coefficient's mean")
    return figure


def before_after(before: np.ndarray, after: np.ndarray, rate: int, title: str, path: Path | None = None) -> Figure:
    """Draws what an effect did: waveform and mel spectrogram of both, on the same axes and in the same colours."""
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
    """A waveform in its axes, up to its `peak` if none is given.

    A long one is the band between the extremes of each of `POINTS` stretches.
    """
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
    """A spectrum in its axes, frequencies upwards on a linear, log or mel `scale`."""
    low, high = limits or level_limits(spectrum.levels)
    mesh = axes.pcolormesh(
        spectrum.times, spectrum.bands, spectrum.levels, cmap=COLOURS, vmin=low, vmax=high, rasterized=True
    )
    options: dict[str, Any] = {"functions": (spectra.to_mel, spectra.from_mel)} if scale == "mel" else {}
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
    """From black to the loudest, in dBFS; silence is all black."""
    high = max(max(float(each.max()) for each in levels), spectra.FLOOR + RANGE)
    return high - RANGE, high


def time_axis(axes: Axes, seconds: float) -> None:
    """Labels the time below some axes, from two minutes on in minutes and seconds."""
    axes.set(xlim=(0, seconds), xlabel="time (s)")
    if seconds > 120:
        step = next((step for step in SECOND_STEPS if seconds / step <= 10), SECOND_STEPS[-1])
        axes.set_xticks(np.arange(0, seconds + 1e-9, step))
        axes.xaxis.set_major_formatter(lambda second, _: f"{second // 60:.0f}:{second % 60:02.0f}")
        axes.set_xlabel("time (min:s)")


def colour_bar(axes: Axes | Sequence[Axes], mesh: QuadMesh, label: str) -> None:
    """The scale of the colours, beside their axes."""
    figure = mesh.figure
    assert figure is not None
    bar = figure.colorbar(mesh, ax=axes, label=label)
    bar.outline.set_visible(False)


def _spectrum(spectrum: Spectrum, scale: str, title: str, path: Path | None) -> Figure:
    with drawing(path, title, "", SIZE) as figure:
        axes = figure.add_subplot()
        mesh = draw_levels(axes, spectrum, scale)
        time_axis(axes, spectrum.times[-1])
        colour_bar(axes, mesh, "level (dBFS)")
    return figure
