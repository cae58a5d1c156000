"""Map of a run's test clips: the embeddings of its backbone, projected to two dimensions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from urbansound_hf.data.loading import SoundRequest, load_sounds
from urbansound_hf.data.urbansound8k import DEFAULT_DIR, find_root
from urbansound_hf.errors import UserError
from urbansound_hf.evaluation.runs import Predictions, Run
from urbansound_hf.inference.classifier import SoundClassifier
from urbansound_hf.layout import RECEIPT
from urbansound_hf.plots.style import GREY, MARKERS, TEN, drawing, readable

DATA = ("dataset", "data_dir", "dataset_config", "dataset_revision", "audio_column", "label_column",
        "allow_missing_files")  # fmt: skip
"""The values of a run's config that name its data."""
FEWEST = 4  # clips that t-SNE can project
MOST_CLASSES = 30  # that fit into a legend
PERPLEXITY = 30.0  # of t-SNE: the effective number of neighbours of a clip


def embed(run: Run, changes: Mapping[str, Any] | None = None) -> np.ndarray:
    """Embeds the test clips by the run's backbone, averaged over time and over the windows of a long clip.

    `changes` are values of `SoundRequest` that replace those of the run, such as `data_dir` where the data have moved.
    Returns `(clips, hidden)` float32, in the order of `run.predictions`. Raises UserError without a receipt, model or
    data; nothing is downloaded.
    """
    if not run.finished or run.receipt is None:
        raise UserError(f"the run has no {RECEIPT}, which names its data", str(run.folder))
    config, classifier = run.receipt["config"], SoundClassifier.from_pretrained(run.folder)
    data = {**{key: config[key] for key in DATA if key in config}, **(changes or {})}
    if data.get("dataset") == "urbansound8k" and not data.get("data_dir") and not find_root(DEFAULT_DIR):
        # A figure starts no download of 6 GB.
        raise UserError(f"UrbanSound8K is not in {DEFAULT_DIR}", str(run.folder), "name its folder with --data_dir")
    table = load_sounds(SoundRequest(**data, sampling_rate=classifier.sampling_rate)).dataset
    row_of = {sound["path"]: row for row, sound in enumerate(table["audio"])}
    paths = run.predictions.paths
    if missing := [path for path in paths if path not in row_of]:
        what = f"{len(missing):,} of the run's {len(paths):,} test clips are not in the data, first {missing[0]}"
        raise UserError(what, str(run.folder), "name its data with --data_dir or --dataset")
    sounds = (sound["bytes"] for sound in table.select([row_of[path] for path in paths])["audio"])
    results = classifier.classify_many(sounds, embeddings=True)
    vectors = ([window.embedding for window in each.windows if window.embedding is not None] for each in results)
    return np.stack([np.mean(windows, axis=0) for windows in vectors])


def project(embeddings: np.ndarray, seed: int = 0) -> np.ndarray:
    """Projects `(clips, hidden)` to `(clips, 2)`: 50 principal components, then t-SNE (van der Maaten 2008)."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if len(embeddings) < FEWEST:
        raise UserError(f"a map needs {FEWEST} clips or more, found {len(embeddings)}")
    components = PCA(min(50, *embeddings.shape), random_state=seed).fit_transform(embeddings)
    perplexity = min(PERPLEXITY, (len(embeddings) - 1) / 3)
    return TSNE(perplexity=perplexity, init="random", random_state=seed).fit_transform(components)


def draw_embedding_map(
    places: np.ndarray, predictions: Predictions, path: Path | None = None, note: str = ""
) -> Figure:
    """Draws clips at their `(clips, 2)` places; colour and shape: true class, hollow: misclassified."""
    common = [number for number, _ in Counter(predictions.true.tolist()).most_common(MOST_CLASSES)]
    names = readable(predictions.labels)
    title = "Map of the test clips by their embeddings (t-SNE)"
    with drawing(path, title, note, (9.5, max(6.0, 1.2 + 0.24 * len(common)))) as figure:
        axes = figure.add_subplot()
        for number in sorted(common):
            colour, marker = TEN[number % len(TEN)], MARKERS[number % len(MARKERS)]
            mine = predictions.true == number
            look: dict[str, Any] = {"s": 28, "marker": marker, "edgecolor": colour, "linewidth": 1.1}
            for which, face in ((mine & predictions.correct, colour), (mine & ~predictions.correct, "none")):
                axes.scatter(places[which, 0], places[which, 1], facecolor=face, **look)
            axes.scatter([], [], s=28, marker=marker, color=colour, label=names[number])  # for the legend: once, filled
        others = ~np.isin(predictions.true, common)
        if others.any():
            label = f"{len(names) - len(common)} others"
            axes.scatter(places[others, 0], places[others, 1], s=6, color=GREY, alpha=0.5, label=label)
        axes.set(xticks=[], yticks=[], xlabel="close clips have similar embeddings; the axes have no unit")
        axes.set_aspect("equal", adjustable="datalim")
        axes.spines[:].set_visible(False)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), title="true class\n(hollow: misclassified)")
    return figure
