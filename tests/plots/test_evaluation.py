"""Figures of runs and data sets, and `report figures`: what they say, and that all of it can be read."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

from tests.helpers import tiny
from tests.helpers.runs import write_run as write_tiny_run
from urbansound_hf.audio.io import AudioError, load_audio, window_bounds
from urbansound_hf.data.urbansound8k import CLASSES
from urbansound_hf.errors import UserError
from urbansound_hf.evaluation.runs import Predictions, Run, read_run
from urbansound_hf.features.extract import extract
from urbansound_hf.inference.classifier import SoundClassifier
from urbansound_hf.models.linear_probe import embed
from urbansound_hf.plots import __main__, dataset, embeddings, evaluation
from urbansound_hf.plots.style import MARKERS, MOST_COUNTED, MOST_NAMED, TEN, log_ticks
from urbansound_hf.reports.run_report import write_run

NAMES = [f"class_{i}" if i % 7 else f"{i}_Outside, rural or natural_and so on and so on" for i in range(521)]


def readable_throughout(figure: Figure) -> None:
    """Fails where a text is cut off at the edge of the figure, or lies over another."""
    figure.draw_without_rendering()
    texts = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    hidden = {id(label) for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for label in _unseen(axis)}
    boxes = [(text, text.get_window_extent()) for text in texts if id(text) not in hidden]
    width, height = figure.bbox.size
    for text, box in boxes:
        inside = box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1
        assert inside, f"{text.get_text()!r} is cut off: {box}, the figure is {width} x {height}"
    upright = [pair for pair in boxes if pair[0].get_rotation() in (0, 90)]  # the box of a slanted text is too large
    for (one, box), (other, its) in combinations(upright, 2):
        across = min(box.x1, its.x1) - max(box.x0, its.x0)
        along = min(box.y1, its.y1) - max(box.y0, its.y0)
        assert min(across, along) < 2, f"{one.get_text()!r} lies over {other.get_text()!r}"


def _unseen(axis) -> list[Text]:
    """Tick labels that are not drawn: outside the limits of their axis."""
    low, high = sorted(axis.get_view_interval())
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    slack = 1e-6 * (high - low)
    return [label for tick in ticks for label in (tick.label1, tick.label2)
            if not low - slack <= tick.get_loc() <= high + slack or not label.get_visible()]  # fmt: skip


def predictions(classes: int, clips: int) -> Predictions:
    draw = np.random.default_rng(0)
    true = np.arange(clips) % classes
    predicted = np.where(draw.random(clips) < 0.3, draw.integers(0, classes, clips), true)
    paths = np.array([f"{number}.wav" for number in range(clips)])
    return Predictions(paths, true, paths, true, true, true, predicted, np.eye(classes)[predicted], NAMES[:classes])


def stock(classes: int = 10, clips: int = 200, **changes) -> dataset.Inventory:
    draw = np.random.default_rng(0)
    facts = {
        "labels": NAMES[:classes], "classes": np.eye(classes)[draw.integers(0, classes, clips)], "parted_by": "fold",
        "parts": np.array([str(number % 12 + 1) for number in range(clips)]), "seconds": draw.uniform(0.05, 4, clips),
        "levels": draw.normal(-25, 8, clips), "rates": draw.choice([8000, 44_100, 192_000], clips), "note": "city: 200",
    }  # fmt: skip
    return dataset.Inventory(**(facts | changes))


LOG = [{"loss": 2 / step, "epoch": step / 2, "step": step} for step in range(1, 9)]
VALIDATED = [{"eval_loss": 1 / epoch, "eval_accuracy": 1 - 1 / epoch, "epoch": float(epoch)} for epoch in range(1, 5)]


# ---- a run's figures


@pytest.mark.parametrize("classes", [2, 10, 60, 521])
def test_a_confusion_matrix_names_what_it_has_room_for(classes):
    counts = np.diag(np.arange(1, classes + 1)) + (np.arange(classes)[:, None] == 0)
    figure = evaluation.confusion_matrix(counts, NAMES[:classes], note="1 of 10 folds, not comparable")
    readable_throughout(figure)
    named = [label.get_text() for label in figure.axes[0].get_yticklabels() if label.get_text()]
    assert (len(named) == classes) == (classes <= MOST_NAMED)
    assert bool(figure.axes[0].texts) == (classes <= MOST_COUNTED)


def test_a_confusion_matrix_holds_counts_or_rates():
    counts = np.array([[3, 1], [0, 2000]])
    for rates, told in ((False, ["3", "1", "2,000"]), (True, ["0.75", "0.25", "1.00"])):
        axes = evaluation.confusion_matrix(counts, ["car_horn", "siren"], rates=rates).axes[0]
        assert [text.get_text() for text in axes.texts] == told
    assert [label.get_text() for label in axes.get_xticklabels()] == ["car horn", "siren"]


@pytest.mark.parametrize("classes", [2, 60])
def test_scores_by_class_can_be_read(classes):
    row = {"support": 12, **dict.fromkeys(("f1", "precision", "recall"), 0.5)}
    row |= {f"{name}_interval": [0.4, 0.7] for name in ("f1", "precision", "recall")}
    readable_throughout(evaluation.per_class(dict.fromkeys(NAMES[:classes], row), note="1 of 10 folds"))


def test_learning_curves_show_losses_and_validation():
    figure = evaluation.learning_curves({"run": [*LOG, *VALIDATED, {"train_loss": 1.0, "epoch": 4.0}]}, note="1 of 10")
    readable_throughout(figure)
    losses, accuracy = figure.axes
    assert (losses.get_ylabel(), accuracy.get_ylabel()) == ("loss (dashed: validation)", "validation accuracy")
    assert accuracy.get_xlabel() == "epoch"
    assert accuracy.lines[0].get_ydata() == pytest.approx([0, 1 / 2, 2 / 3, 3 / 4])
    assert losses.lines[0].get_xdata() == pytest.approx(np.arange(1, 9) / 2)
    alone = evaluation.learning_curves({f"fold{fold}": LOG for fold in range(1, 11)})
    assert [axes.get_ylabel() for axes in alone.axes] == ["training loss"]
    assert [text.get_text() for text in alone.legends[0].get_texts()] == [f"fold{fold}" for fold in range(1, 11)]


def test_a_run_gets_its_learning_curves_where_it_left_more_than_a_point(tmp_path):
    folder = write_tiny_run(tmp_path / "run")
    (folder / "log_history.json").write_text(json.dumps(LOG[:1]), encoding="utf-8")
    write_run(folder)
    assert not (folder / "learning_curves.png").exists() and "Learning" not in (folder / "report.md").read_text(
        encoding="utf-8"
    )
    (folder / "log_history.json").write_text(json.dumps(LOG), encoding="utf-8")
    write_run(folder)
    assert (folder / "learning_curves.png").read_bytes().startswith(b"\x89PNG")
    assert "![learning curves](learning_curves.png)" in (folder / "report.md").read_text(encoding="utf-8")


def test_models_are_compared_by_what_they_cost(tmp_path):
    named = {}
    for number, size in enumerate((5e4, 8e6, 9.5e7)):
        folder = write_tiny_run(tmp_path / str(number), seed=number, parameters=size, train_seconds=10 * 4**number)
        named[f"a model of some length, the {number}th"] = [read_run(folder)]
    figure = evaluation.comparison(named)
    readable_throughout(figure)
    labels = ["parameters (million)", "training of one fold (s)", "peak memory in training (GiB)"]
    assert [axes.get_xlabel() for axes in figure.axes] == labels
    points = [container.lines[0].get_xydata()[0] for container in figure.axes[0].containers]
    accuracies = [runs[0].metrics["test_accuracy"] for runs in named.values()]
    assert np.array(points) == pytest.approx(np.column_stack([(0.05, 8, 95), accuracies]))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(named)
    assert "not comparable" in figure.get_supxlabel() and "same clips" not in figure.get_supxlabel()
    named["fold 2"] = [read_run(write_tiny_run(tmp_path / "other", 2, parameters=1e6))]
    assert "not tested on the same clips" in evaluation.comparison(named).get_supxlabel()


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(1, 1.9, ["1", "1.25", "1.5", "1.75"]), (0.9, 60, ["1", "2", "5", "10", "20", "50"]),
     (0.5, 5e4, ["1", "10", "100", "1,000", "10,000"])],
)  # fmt: skip
def test_a_log_axis_has_ticks_for_its_range(low, high, ticks):
    axes = Figure().add_subplot(xlim=(low, high))
    log_ticks(axes, "x")
    assert [label.get_text() for label in axes.get_xticklabels()] == ticks


# ---- the map of the test clips


@pytest.mark.parametrize("classes", [3, 521])
def test_the_map_has_a_mark_for_each_class_that_it_has_room_for(classes):
    told = predictions(classes, 2 * classes + 10)
    figure = embeddings.draw_embedding_map(np.random.default_rng(0).normal(size=(len(told), 2)), told)
    readable_throughout(figure)
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert len(legend) == (3 if classes == 3 else embeddings.MOST_CLASSES + 1)
    looks = {(TEN[number % 10], MARKERS[number % 7]) for number in range(70)}
    assert len(looks) == 70


@pytest.mark.parametrize("clips", [4, 60])
def test_clips_that_sound_alike_lie_together(clips):
    groups = np.arange(clips) % 2
    vectors = np.random.default_rng(0).normal(size=(clips, 8)) + 40 * groups[:, None]
    places = embeddings.project(vectors)
    assert places.shape == (clips, 2) and np.isfinite(places).all()
    if clips == 60:
        middles = [places[groups == group].mean(axis=0) for group in (0, 1)]
        near = [np.linalg.norm(places - middle, axis=1) for middle in middles]
        assert (np.argmin(near, axis=0) == groups).all()


def test_three_clips_make_no_map():
    with pytest.raises(UserError, match="needs 4 clips or more, found 3"):
        embeddings.project(np.zeros((3, 8)))


# ---- data sets


@pytest.mark.parametrize("classes", [2, 521])
def test_clips_are_counted_by_class_and_fold(classes):
    inventory = stock(classes)
    figure = dataset.classes(inventory)
    readable_throughout(figure)
    bars, folds = figure.axes
    assert [label.get_text() for label in folds.get_xticklabels()] == [str(fold) for fold in range(1, 13)]
    counts = inventory.classes.sum(axis=0)
    shown = min(classes, MOST_NAMED)
    assert sum(bar.get_width() for bar in bars.patches) == np.sort(counts)[::-1][:shown].sum()
    assert sum(int(text.get_text()) for text in folds.texts) == np.sort(counts)[::-1][:shown].sum()


def test_lengths_loudness_and_rates_can_be_read():
    inventory = stock()
    for draw, label in [
        (dataset.lengths, "length (s)"),
        (dataset.loudness, "root mean square (dBFS)"),
        (dataset.sampling_rates, "files"),
    ]:
        figure = draw(inventory)
        readable_throughout(figure)
        assert figure.axes[0].get_xlabel() == label and figure.get_supxlabel() == "city: 200"
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["8", "44.1", "192"]


def test_a_data_set_of_equal_silent_clips_can_be_drawn():
    inventory = stock(seconds=np.ones(200), levels=np.full(200, -120.0), rates=np.array([44_100]), parts=None)
    for draw in (dataset.classes, dataset.lengths, dataset.loudness):
        readable_throughout(draw(inventory))
    assert "200 silent" in dataset.loudness(inventory).get_suptitle()
    rates = dataset.sampling_rates(inventory)
    readable_throughout(rates)
    assert "(1 of 200 found)" in rates.get_suptitle()


def test_stock_is_taken_of_the_sounds_and_their_files(sounds, synthetic_root):
    inventory = dataset.take_stock(sounds, synthetic_root)
    assert len(inventory.seconds) == len(inventory.rates) == len(sounds.dataset) == 100
    assert set(inventory.rates) > {22_050, 44_100} and set(inventory.parts) == {str(fold) for fold in range(1, 11)}
    assert inventory.seconds.max() == pytest.approx(4, abs=0.01) and (inventory.levels < 0).all()
    assert len(dataset.take_stock(sounds).rates) == 0


# ---- report figures


def drawn(capsys, *arguments: object) -> list[str]:
    assert __main__.main([str(each) for each in arguments]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert all(path.stat().st_size > 1000 for path in paths)
    return [path.name for path in paths]


def test_a_sound_and_what_an_effect_does_to_it(tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).uniform(-0.5, 0.5, (8000, 2)), 8000)
    found = drawn(capsys, tmp_path / "a.wav", "--output", tmp_path, "--format", "svg", "--augment", "gain:0.1:-20..-10")
    assert found == ["waveform.svg", "spectrogram_linear.svg", "spectrogram_log.svg", "spectrogram_mel.svg", "mfcc.svg",
                     "effect_01_gain.svg"]  # fmt: skip


def test_a_data_set_by_its_folder_or_its_csv(tmp_path, capsys, synthetic_root):
    found = drawn(capsys, synthetic_root, "--output", tmp_path)
    assert found == ["classes.png", "lengths.png", "loudness.png", "sampling_rates.png"]
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", np.ones(800) / 2, 8000)
    (tmp_path / "mine.csv").write_text("file,label\na.wav,x\nb.wav,y\n", encoding="utf-8")
    assert drawn(capsys, tmp_path / "mine.csv", "--output", tmp_path / "out") == found


def test_a_run_without_its_model_says_what_is_left_out(tmp_path, capsys):
    folder = write_tiny_run(tmp_path / "run")
    (folder / "log_history.json").write_text(json.dumps(LOG), encoding="utf-8")
    assert __main__.main([str(folder), "--output", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    names = [Path(line).stem for line in out.splitlines()]
    assert names == ["confusion_matrix", "reliability", "per_class", "conditions", "confusion_rates", "learning_curves"]
    assert err.startswith("no embedding map: the run has no run.json")


def test_a_cross_validation_and_several_runs(tmp_path, capsys):
    for model in ("base", "new"):
        for fold in (1, 2):
            write_tiny_run(tmp_path / model / f"fold{fold}", fold, seed=len(model), parameters=1e6)
    assert "folds.png" in drawn(capsys, tmp_path / "base", "--output", tmp_path / "out")
    assert drawn(capsys, tmp_path / "base", tmp_path / "new", "--output", tmp_path / "out") == ["comparison.png"]
    named = __main__._by_differing_parts({str(tmp_path / name / "fold1"): [] for name in ("base", "new")})
    assert list(named) == ["base", "new"]


FACTS: dict = {"config": {}, "data": {}, "environment": {}}
"""What every receipt has."""


def test_what_cannot_be_drawn_is_refused_by_name(tmp_path):
    (tmp_path / "text.wav").write_text("no sound", encoding="utf-8")
    (tmp_path / "begun" / "checkpoints").mkdir(parents=True)
    (tmp_path / "begun" / "checkpoints" / "begun.json").write_text(json.dumps(FACTS), encoding="utf-8")
    for name, kind, what in [
        ("text.wav", AudioError, "not a sound that libsndfile can read"),
        ("gone.wav", AudioError, "does not exist"),
        ("gone", UserError, "does not exist"),
        ("begun", UserError, "the run is not finished"),
        (".", UserError, "a data folder has one folder of sounds a class"),
    ]:
        with pytest.raises(kind, match=what):
            __main__.main([str(tmp_path / name), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_the_test_clips_of_a_run_are_embedded_by_its_own_backbone(tmp_path, synthetic_root, monkeypatch):
    """In the order of predictions.csv, the data found where the receipt or the command says."""
    model = tiny.save("yamnet", tmp_path / "run", clip_seconds=1.0)
    told = sorted((synthetic_root / "audio" / "fold1").glob("*.wav"), reverse=True)
    labels = [CLASSES[int(path.name.split("-")[1])] for path in told]
    rows = [
        f"audio/fold1/{path.name},1,{label},{label},{','.join('0' * 10)}"
        for path, label in zip(told, labels, strict=True)
    ]
    (model / "predictions.csv").write_text(
        "\n".join([f"path,fold,true,predicted,{','.join(CLASSES)}", *rows]) + "\n", encoding="utf-8"
    )
    (model / "run.json").write_text(
        json.dumps(FACTS | {"config": {"dataset": "urbansound8k", "clip_seconds": 1.0}}), encoding="utf-8"
    )
    run = Run(model)
    with monkeypatch.context() as patch, pytest.raises(UserError, match="UrbanSound8K is not in data") as caught:
        patch.chdir(tmp_path)
        patch.setattr("urbansound_hf.data.urbansound8k.fetch", lambda *_: pytest.fail("a download began"))
        embeddings.embed(run)
    assert "--data_dir" in caught.value.fix
    found = embeddings.embed(run, {"data_dir": str(synthetic_root)})
    classifier = SoundClassifier.from_pretrained(model, device="cpu")
    waveform = load_audio(told[3])
    windows = [waveform[start:end] for start, end in window_bounds(len(waveform), 16_000, 8000)]
    batch = np.stack([extract(classifier.feature_extractor, each)["input_features"] for each in windows])
    with torch.no_grad():
        by_hand = embed(classifier.backend.model, {"input_features": torch.from_numpy(batch)})  # (windows, hidden)
    assert found.shape == (len(told), by_hand.shape[1])
    assert found[3] == pytest.approx(by_hand.mean(dim=0).numpy(), abs=1e-3)
    with pytest.raises(UserError, match=r"10 of the run's 10 test clips are not in the data"):
        (tmp_path / "other").mkdir()
        for name in "ab":
            (tmp_path / "other" / name).mkdir()
            soundfile.write(tmp_path / "other" / name / "x.wav", np.ones(800), 8000)
        embeddings.embed(run, {"dataset": str(tmp_path / "other")})
