"""Figures of a data set: clips by class and fold, clip lengths, sampling rates of the files, loudness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from urbansound_hf.audio import spectrogram
from urbansound_hf.audio.io import read_audio
from urbansound_hf.data.loading import Sounds
from urbansound_hf.plots import style


@dataclass(frozen=True)
class Inventory:
    """Facts of every clip of a data set, as the figures need them."""

    labels: Sequence[str]
    classes: np.ndarray  # (clips, classes) of 0 and 1: the labels of each clip
    parts: np.ndarray | None  # (clips,) folds or splits as text; None if the data have neither
    parted_by: str  # fold or split
    seconds: np.ndarray  # (clips,) lengths
    levels: np.ndarray  # (clips,) root mean square in dBFS
    rates: np.ndarray  # sampling rates in Hz of those clips whose own file is there
    note: str  # below every figure


def take_stock(sounds: Sounds, root: Path | None = None) -> Inventory:
    """Collects these facts in one pass over the clips; the files below `root` give their original sampling rates."""
    table = sounds.dataset
    parted_by = next((name for name in ("fold", "split") if name in table.column_names), "")
    seconds, levels, rates = [], [], []
    for sound in table["audio"]:
        samples, rate = read_audio(sound["bytes"], sound["path"])
        seconds.append(len(samples) / rate)
        levels.append(spectrogram.loudness(samples))
        if root and (root / sound["path"]).is_file():
            rates.append(soundfile.info(root / sound["path"]).samplerate)
    return Inventory(
        labels=sounds.labels,
        classes=sounds.targets if sounds.multi_label else np.eye(len(sounds.labels))[sounds.targets],
        parts=np.array([str(part) for part in table[parted_by]]) if parted_by else None,
        parted_by=parted_by,
        seconds=np.array(seconds),
        levels=np.array(levels),
        rates=np.array(rates, dtype=int),
        note=f"{sounds.name}: {len(table):,} clips",
    )


def classes(stock: Inventory, path: Path | None = None) -> Figure:
    """Draws the number of clips of each class, and in each fold or split where the data have them."""
    counts = stock.classes.sum(axis=0).astype(int)
    shown = np.sort(np.argsort(-counts, kind="stable")[: style.MOST_NAMED])
    hidden = f" ({len(shown)} largest of {len(counts)})" if len(shown) < len(counts) else ""
    names = [] if stock.parts is None else sorted(set(stock.parts), key=lambda name: (len(name), name))
    width = 6.4 + min(0.5 * len(names), 8)
    with style.drawing(path, f"Clips by class{hidden}", stock.note, (width, 1.6 + 0.34 * len(shown))) as figure:
        ratios = (3.2, 0.5 * len(names)) if names else (1,)
        panels = figure.subplots(1, len(ratios), sharey=True, width_ratios=ratios, squeeze=False)[0]
        style.value_bars(panels[0], style.readable([stock.labels[number] for number in shown]), counts[shown], "{:,}")
        panels[0].xaxis.set_major_locator(MaxNLocator(4, integer=True))
        panels[0].set(xlabel="clips", ylabel="class", xlim=(0, 1.2 * counts.max()), ylim=(len(shown) - 0.5, -0.5))
        if stock.parts is not None:
            _parts(panels[1], stock, shown, names)
    return figure


def lengths(stock: Inventory, path: Path | None = None) -> Figure:
    """Draws a histogram of the clip lengths in seconds."""
    low, middle, high = np.quantile(stock.seconds, (0, 0.5, 1))
    title = f"Length of the clips: {low:.2g} to {high:.3g} s, median {middle:.3g} s"
    return _histogram(stock.seconds, title, "length (s)", stock.note, path)


def loudness(stock: Inventory, path: Path | None = None) -> Figure:
    """Draws a histogram of the clip levels in dBFS; the title counts the silent ones."""
    silent = int((stock.levels <= spectrogram.FLOOR).sum())
    count = f", {silent:,} silent (at {spectrogram.FLOOR:g})" if silent > 0 else ""
    return _histogram(stock.levels, f"Loudness of the clips{count}", "root mean square (dBFS)", stock.note, path)


def sampling_rates(stock: Inventory, path: Path | None = None) -> Figure:
    """Draws the number of files of each sampling rate."""
    rates, counts = np.unique(stock.rates, return_counts=True)
    known = "" if len(stock.rates) == len(stock.seconds) else f" ({len(stock.rates):,} of {len(stock.seconds):,} found)"
    title = f"Sampling rate of the files{known}"
    with style.drawing(path, title, stock.note, (7.5, 2.2 + 0.36 * len(rates))) as figure:
        axes = figure.add_subplot()
        style.value_bars(axes, [f"{rate / 1000:g}" for rate in rates], counts, "{:,}")
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set(xlabel="files", ylabel="sampling rate (kHz)", ylim=(-1, len(rates)))
        axes.margins(x=0.1)
    return figure


def _parts(axes: Axes, stock: Inventory, shown: np.ndarray, names: Sequence[str]) -> None:
    """Draws the number of clips of each class (downwards) in each fold or split."""
    table = np.stack([stock.classes[stock.parts == name].sum(axis=0) for name in names], axis=1)[shown].astype(int)
    axes.imshow(table, cmap="Blues", vmin=0, aspect="auto")
    axes.spines[:].set_visible(False)
    axes.set_xlabel(f"clips in each {stock.parted_by}")
    if len(names) <= style.MOST_COUNTED:
        axes.set_xticks(range(len(names)), names)
        for row, column in np.ndindex(table.shape):
            dark = table[row, column] > 0.55 * table.max()
            colour = "white" if dark else "#333333"
            axes.text(column, row, f"{table[row, column]:,}", ha="center", va="center", color=colour, fontsize=9)


def _histogram(values: np.ndarray, title: str, label: str, note: str, path: Path | None) -> Figure:
    """Draws a histogram with a logarithmic count axis, which shows rare values too."""
    with style.drawing(path, title, note, (7.5, 3.8)) as figure:
        axes = figure.add_subplot()
        axes.hist(values, bins=40, color=style.LIGHT_BLUE)
        axes.axvline(float(np.median(values)), color=style.ORANGE, linewidth=1.4, label="median")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
        axes.set(xlabel=label, ylabel="clips", yscale="log")
        axes.set_ylim(bottom=0.7)
        style.log_ticks(axes, "y")
        axes.grid(axis="y")
    return figure
