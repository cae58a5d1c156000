"""Events: the overlapping windows of a recording merged into stretches of one label.

The starts and ends of all windows divide the recording into cells. The scores of a cell are the mean of the windows
that cover it. A model with one label for each sound gives every cell the label of its highest score, so events never
overlap; a multi-label model gives it every label whose score reaches the threshold. Neighbouring cells of one label
are an event; its score is the mean over its cells, weighted by their length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

SILENCE_DB = -60.0  # dBFS, RMS of a window; below, a score says little
UNKNOWN = "unknown"  # the label of cells in which no score reaches `min_score`
MULTI_LABEL_SCORE = 0.5  # default threshold of multi-label models
SHORTEST_CELL = 0.01  # seconds; windows whose length is no multiple of the hop leave slivers of a sample
NOTHING, BELOW = -2, -1  # in place of a class number: no event, `UNKNOWN`


@dataclass(frozen=True)
class Event:
    """A stretch of a recording with one label."""

    start: float  # seconds
    end: float
    label: str  # a class, or `unknown`
    score: float  # mean of the label's scores over the stretch; of `unknown`, mean of the highest scores
    silence: bool = False  # whether all windows that cover it are silent; the label and the score of the model stay

    @property
    def text(self) -> str:
        """The label, or `silence`."""
        return "silence" if self.silence else self.label


def merge_windows(
    bounds: np.ndarray, scores: np.ndarray, silent: np.ndarray, labels: Sequence[str], multi_label: bool,
    min_score: float | Sequence[float] | None = None, min_seconds: float = 0.0, smooth: int = 1,
) -> list[Event]:  # fmt: skip
    """The events of a recording by the rule above, in order of their starts; for the last three see `Classification`.

    Args:
        bounds: `(windows, 2)` starts and ends in seconds, both ascending, without gaps.
        scores: `(windows, classes)`; `labels` has a name for each column.
        silent: `(windows,)` bool.
        multi_label: whether labels exclude each other (False) or may overlap.
    """
    edges, means, quiet = _cells(bounds, scores, silent)
    if smooth > 1:
        from scipy.ndimage import median_filter

        means = median_filter(means, (smooth, 1), mode="nearest")
    if multi_label:
        reached = means >= (MULTI_LABEL_SCORE if min_score is None else min_score)  # (cells, classes)
        found: list[Event] = []
        for number in np.flatnonzero(reached.any(axis=0)):
            keys = np.where(reached[:, number], number, NOTHING)
            found += _runs(keys, quiet, means[:, number], edges, labels)
    else:
        best, highest = means.argmax(axis=1), means.max(axis=1)
        keys = best if min_score is None else np.where(highest < min_score, BELOW, best)
        found = list(_runs(keys, quiet, highest, edges, labels))
    return sorted((each for each in found if each.end - each.start >= min_seconds), key=lambda each: each.start)


def _cells(bounds: np.ndarray, scores: np.ndarray, silent: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(cells + 1,)` edges in seconds, `(cells, classes)` mean scores, `(cells,)` whether all windows are silent."""
    starts, ends = bounds.T
    edges = np.unique(bounds)
    apart = np.diff(edges, prepend=-1.0) > SHORTEST_CELL
    edges = np.append(edges[:-1][apart[:-1]], edges[-1])
    centres = (edges[1:] + edges[:-1]) / 2
    first, behind = np.searchsorted(ends, centres), np.searchsorted(starts, centres)  # the windows that cover a cell
    sums = np.zeros((len(bounds) + 1, scores.shape[1] + 1))
    np.cumsum(np.column_stack([scores, silent]), axis=0, out=sums[1:])
    means = (sums[behind] - sums[first]) / (behind - first)[:, None]
    return edges, means[:, :-1], means[:, -1] > 1 - 1e-9


def _runs(
    keys: np.ndarray, quiet: np.ndarray, scores: np.ndarray, edges: np.ndarray, labels: Sequence[str]
) -> Iterator[Event]:
    """Neighbouring cells of equal class number and silence as one event; none for `NOTHING`."""
    changes = np.flatnonzero((np.diff(keys) != 0) | (np.diff(quiet) != 0)) + 1
    for first, behind in zip([0, *changes], [*changes, len(keys)], strict=True):
        if keys[first] != NOTHING:
            label = UNKNOWN if keys[first] == BELOW else labels[keys[first]]
            score = np.average(scores[first:behind], weights=np.diff(edges[first : behind + 1]))
            yield Event(float(edges[first]), float(edges[behind]), label, float(score), bool(quiet[first]))
