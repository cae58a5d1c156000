"""The command `figures`: draws a sound, a data set, a run, a cross-validation, or a comparison of several runs.

urbansound-hf figures clip.wav               waveform, spectrograms, MFCC; with --augment, effects
urbansound-hf figures FOLDER | synthetic     clips by class and fold, lengths, rates, loudness
urbansound-hf figures RUN                    learning curves, confusion, calibration, map of the clips
urbansound-hf figures RUN RUN …              accuracy against size, seconds and memory
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from urbansound_hf.audio.files import SUFFIXES
from urbansound_hf.audio.io import read_audio
from urbansound_hf.data.folder import find_csv
from urbansound_hf.data.loading import NAMED, SoundRequest, load_sounds
from urbansound_hf.data.urbansound8k import find_root
from urbansound_hf.errors import CommandParser, UserError
from urbansound_hf.evaluation.runs import Run, find_runs, pooled, scope
from urbansound_hf.evaluation.summary import fold_summary, measure
from urbansound_hf.layout import BEGUN, PREDICTIONS
from urbansound_hf.plots import evaluation, sounds
from urbansound_hf.plots.style import FORMATS
from urbansound_hf.text import distinct

DATA_FLAGS = {
    "data_dir": "folder of UrbanSound8K",
    "dataset_config": "of a Hub data set",
    "dataset_revision": "of a Hub data set",
    "audio_column": "of a data set",
    "label_column": "of a data set",
}
Figures = Iterator[tuple[str, Callable[..., Any]]]
"""The name of each figure, and a function that draws it to a `path`."""


def of_sound(path: Path, augment: Sequence[str] | None = None) -> Figures:
    """Figures of a sound at its own rate, and of effects on it: none, those of `augment`, or all if that is empty."""
    samples, rate = read_audio(path)
    yield "waveform", partial(sounds.waveform, samples, rate, f"{path.name}: waveform")
    for scale in ("linear", "log"):
        title = f"{path.name}: spectrogram, {scale} frequency"
        yield f"spectrogram_{scale}", partial(sounds.spectrogram, samples, rate, title, scale=scale)
    yield "spectrogram_mel", partial(sounds.mel_spectrogram, samples, rate, f"{path.name}: mel spectrogram")
    yield "mfcc", partial(sounds.mfcc, samples, rate, f"{path.name}: MFCC")
    if augment is not None:
        yield from _effects(path.name, samples, rate, augment)


def of_dataset(request: SoundRequest) -> Figures:
    """Figures of a data set. Raises UserError as `load_sounds` does."""
    from urbansound_hf.plots import dataset

    named = request.dataset == "urbansound8k"
    folder = Path(request.data_dir or "data") if named else Path(request.dataset)
    stock = dataset.take_stock(load_sounds(request), find_root(folder, around=named) or folder)
    yield "classes", partial(dataset.classes, stock)
    yield "lengths", partial(dataset.lengths, stock)
    yield "loudness", partial(dataset.loudness, stock)
    if len(stock.rates):
        yield "sampling_rates", partial(dataset.sampling_rates, stock)


def of_runs(runs: Sequence[Run], changes: Mapping[str, Any]) -> Figures:
    """Figures of a run, or of the folds of a cross-validation; `changes` as for `embeddings.embed`."""
    predictions, note = pooled(runs), evaluation.caution(runs)
    measured = {"scope": scope([run.metrics for run in runs]), **measure(predictions)}
    yield from evaluation.shared(measured).items()
    counts = np.array(measured["confusion_matrix"])
    yield "confusion_rates", partial(evaluation.confusion_matrix, counts, predictions.labels, note=note, rates=True)
    yield from _curves({run.folder.name: run for run in runs}, note)
    if len(runs) > 1:
        yield "folds", partial(evaluation.folds, [fold_summary(run) for run in runs], note=note)
    else:
        yield from _map(runs[0], changes, note)


def jobs(args: argparse.Namespace) -> dict[str, Figures]:
    """The figures of each input, by the name of their folder; two or more runs are compared instead of drawn alone.

    Raises UserError for an input that cannot be drawn, before the first figure is drawn.
    """
    found, runs = dict[str, Figures](), dict[str, Sequence[Run]]()
    changes = {name: getattr(args, name) for name in DATA_FLAGS if getattr(args, name)}
    names = distinct([Path(each).resolve().stem for each in args.inputs])
    for name, each in zip(names, args.inputs, strict=True):
        path = Path(each)
        if (path / PREDICTIONS).is_file() or any(path.glob(f"*/{PREDICTIONS}")):
            runs[each] = find_runs(path)
            found[name] = of_runs(runs[each], changes)
        elif path.suffix.lower() in SUFFIXES or (path.is_file() and path.suffix.lower() != ".csv"):
            found[name] = of_sound(path, args.augment)
        else:
            request = SoundRequest(_dataset(each), allow_missing_files=args.allow_missing_files, **changes)
            found[name] = of_dataset(request)
    if len(runs) > 1:
        named = _by_differing_parts(runs)
        alone = [name for name, each in zip(names, args.inputs, strict=True) if each not in runs]
        curves = _curves({name: folds[0] for name, folds in named.items()}, "")  # of a cross-validation, its first fold
        figures: Figures = chain([("comparison", partial(evaluation.comparison, named))], curves)
        return {name: found[name] for name in alone} | {"comparison": figures}
    return found


def _dataset(name: str) -> str:
    """The data set that an input names. Raises UserError for what is neither a name, a folder, its CSV nor a Hub id."""
    path = Path(name)
    if path.is_file() and find_csv(path.parent) == path:
        return str(path.parent)
    if (path / BEGUN).is_file():
        raise UserError("the run is not finished", name, "let it finish: the same command continues it")
    hub_id = name.count("/") == 1 and not path.parent.exists()
    if name in NAMED or path.is_dir() or hub_id:
        return name
    what = "is not the CSV of a data set in its folder" if path.exists() else "does not exist"
    fix = f"give a sound, a run, a data set's folder or Hub id, or {' or '.join(NAMED)}"
    raise UserError(what, name, fix)


def _by_differing_parts(runs: Mapping[str, Sequence[Run]]) -> dict[str, Sequence[Run]]:
    """The runs by the parts in which their paths differ: base/fold3 and new/fold3 are "base" and "new"."""
    reverse = zip_longest(*(reversed(Path(name).resolve().parts) for name in runs), fillvalue="")
    differ = [column for column in reverse if len(set(column)) > 1]
    names = ["/".join(filter(None, reversed(parts))) for parts in zip(*differ, strict=True)]
    return dict(zip(distinct(names), runs.values(), strict=True))


def _effects(name: str, samples: np.ndarray, rate: int, words: Sequence[str]) -> Figures:
    """Each effect alone on the sound, regardless of its probability in training."""
    from urbansound_hf.augment.chain import apply_effects, parse_effects
    from urbansound_hf.augment.effects import EFFECTS

    words = words or [name for name, kind in EFFECTS.items() if not kind.needs_folder]
    for number, effect in enumerate(parse_effects(words), start=1):
        always = effect._replace(probability=1.0)
        after = apply_effects([always], samples, rate, np.random.default_rng(0))
        draw = partial(sounds.before_after, samples, after, rate, f"{name}: {effect.name}")
        yield f"effect_{number:02}_{effect.name}", draw


def _curves(runs: Mapping[str, Run], note: str) -> Figures:
    logged = {name: rows for name, run in runs.items() if (rows := evaluation.plotted_history(run))}
    if logged:
        yield "learning_curves", partial(evaluation.learning_curves, logged, note=note)


def _map(run: Run, changes: Mapping[str, Any], note: str) -> Figures:
    """The embedding map; without the run's model or data, the reason on standard error instead."""
    from urbansound_hf.plots import embeddings

    try:
        if run.predictions.true.ndim == 2:
            raise UserError("it has one colour a clip, and these have several labels")
        places = embeddings.project(embeddings.embed(run, changes))
    except UserError as reason:
        print(f"no embedding map: {reason}", file=sys.stderr)
    else:
        yield "embedding_map", partial(embeddings.draw_embedding_map, places, run.predictions, note=note)


def main(argv: Sequence[str]) -> int:
    parser = CommandParser("urbansound-hf figures", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="a sound, a data set (folder, its CSV, Hub id, synthetic), a run")
    add("--output", type=Path, default=Path("figures"), metavar="DIR", help="each input gets a folder in it (figures)")
    add("--format", choices=FORMATS, default="png", help="default: png")
    effects = "of a sound: before and after these effects; of all if none is named"
    add("--augment", nargs="*", metavar="EFFECT", help=effects)
    add("--allow_missing_files", action="store_true", help="of a data set: ignore clips without a file")
    for name, text in DATA_FLAGS.items():
        add(f"--{name}", help=text)
    args = parser.parse_args(argv)
    for folder, drawn in jobs(args).items():
        for name, draw in drawn:
            path = args.output / folder / f"{name}.{args.format}"
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(path=path)
            print(path, flush=True)
    return 0
