"""The style that all figures share: colours that colour-blind readers can distinguish, axes with units.

Figures are made without pyplot, so that drawing affects neither the screen nor the figures of a notebook.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from urbansound_hf.errors import complete_file
from urbansound_hf.text import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

BLUE, LIGHT_BLUE, ORANGE, GREY = "#0072B2", "#4C9CCB", "#D55E00", "#6b6b6b"  # Okabe and Ito's blue and vermilion
TEN = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")
"""Ten colours that colour-blind readers can distinguish (Petroff, arXiv:2107.02270)."""
MARKERS = "osD^vPX"  # with the ten colours, 70 different pairs
FORMATS = ("png", "svg", "pdf")
STYLE: dict[RcKeyType, Any] = {
    "font.size": 10,
    "text.parse_math": False,  # a file or a class may be called $5
    "svg.hashsalt": "urbansound-hf",  # the same figure, the same bytes
    "legend.frameon": False, "legend.fontsize": 9, "figure.dpi": 140, "figure.constrained_layout.w_pad": 0.08,
    "axes.edgecolor": "#b0b0b0", "axes.labelcolor": "#333333", "axes.titlelocation": "left", "axes.titlesize": 11,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "grid.color": "#e6e6e6",
    "xtick.color": "#333333", "ytick.color": "#333333", "xtick.major.size": 0, "ytick.major.size": 0,
    "xtick.major.pad": 7,  # clear of the 0 beside the corner
}  # fmt: skip
GROUND, BRIGHT = "#14171b", "#d0d5da"
DARK: dict[RcKeyType, Any] = {
    "figure.facecolor": GROUND, "axes.facecolor": GROUND, "grid.color": "#363d46", "text.color": BRIGHT,
    "axes.labelcolor": BRIGHT, "axes.titlecolor": BRIGHT, "xtick.color": BRIGHT, "ytick.color": BRIGHT,
}  # fmt: skip
"""What differs from `STYLE` on a dark page."""
MOST_NAMED = 60  # classes whose names fit into a figure
MOST_COUNTED = 20  # classes whose counts are legible in the cells of a matrix


@contextmanager
def drawing(
    path: str | Path | None, title: str, note: str, size: tuple[float, float], dark: bool = False
) -> Iterator[Figure]:
    """A figure of `size` inches with a title and a note below it; saved to `path` (PNG, SVG or PDF) on leaving.

    Without a path only its layout is computed, so that it looks the same wherever it is shown later.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a class in a script that no font here has
    with rc_context({**STYLE, **(DARK if dark else {})}):
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(shortened(title, round(9 * size[0])), x=0.01, ha="left", fontsize=13)
        if note:
            figure.supxlabel(note, x=0.99, ha="right", fontsize=9, color=GREY)
        yield figure
        if path is None:
            figure.draw_without_rendering()
        else:
            with complete_file(Path(path)) as partial:
                figure.savefig(partial)


def log_ticks(axes: Axes, direction: str) -> None:
    """Makes the "x" or "y" axis logarithmic, with plain numbers at a few ticks."""
    from matplotlib.ticker import MaxNLocator, NullLocator

    axis: Axis = getattr(axes, f"{direction}axis")
    axes.set(**{f"{direction}scale": "log"})
    low, high = axis.get_view_interval()
    powers = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    choices = powers, np.outer(powers, (1, 2, 5)).ravel(), np.asarray(MaxNLocator(4).tick_values(low, high))
    inside = [choice[(choice >= low) & (choice <= high)] for choice in choices]
    axis.set_ticks(next((ticks for ticks in inside if len(ticks) > 2), inside[-1]))
    axis.set_major_formatter(lambda value, _: f"{value:,.3g}" if value < 1000 else f"{value:,.0f}")
    axis.set_minor_locator(NullLocator())


def value_bars(axes: Axes, names: Sequence[str], values: Sequence[float] | np.ndarray, form: str) -> None:
    """Draws a horizontal bar for each name, with its value behind it."""
    bars = axes.barh(range(len(names)), values, height=0.68, color=LIGHT_BLUE)
    axes.bar_label(bars, [form.format(value) for value in values], padding=3, fontsize=9)
    axes.set_yticks(range(len(names)), names)
    axes.grid(axis="x")


def whiskers(values: Sequence[float], intervals: Sequence[Sequence[float] | None]) -> np.ndarray:
    """`(2, n)` lengths of error bars below and above each value; zero where there is no interval."""
    ends = [interval or (value, value) for value, interval in zip(values, intervals, strict=True)]
    low, high = np.transpose(ends)
    return np.maximum([values - low, high - values], 0)


def readable(labels: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """Class names for display: `car_horn` → "car horn"; a long one is shortened."""
    return [shortened(label.replace("_", " "), 30) for label in labels]
