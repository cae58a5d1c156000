"""A run's own page: what it says, that it needs nothing else, and that it works in a real browser."""

from __future__ import annotations

import base64
import csv
import io
import json
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from PIL import Image

from tests.conftest import ROOT, TINY
from tests.helpers.runs import rewrite
from tests.helpers.runs import write_run as write_tiny_run
from urbansound_hf.audio.io import load_audio, to_wav
from urbansound_hf.config.parse import parse_run_config
from urbansound_hf.data.loading import Sounds
from urbansound_hf.evaluation.runs import Run, read_predictions, read_run
from urbansound_hf.evaluation.summary import MAX_MISTAKES, MAX_OF_ONE_RECORDING, select_mistakes
from urbansound_hf.layout import REPORT_CLIPS
from urbansound_hf.reports.html import (
    CLIP_SECONDS,
    encoded,
    spectrogram_png,
)
from urbansound_hf.reports.markdown import MISTAKES
from urbansound_hf.reports.run_report import gather_folds, report, write_run
from urbansound_hf.training.cross_validation import run_experiment

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """The tags of a page, and the cells of its tables by the heading above them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.rows: dict[str, list[list[str]]] = {}
        self.heading, self.text, self.within = "", "", ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.within = tag
        if tag == "h2":
            self.heading = ""
        elif tag == "tr":
            self.rows.setdefault(self.heading, []).append([])
        elif tag in ("td", "th"):
            self.rows[self.heading][-1].append("")

    def handle_endtag(self, tag):
        self.within = ""

    def handle_data(self, data):
        if self.within == "h2":
            self.heading += data
        elif self.within in ("td", "th"):
            self.rows[self.heading][-1][-1] += data
        if self.within not in ("style", "script"):
            self.text += data

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def whole(synthetic_root, tmp_path_factory) -> Path:
    """A cross-validation of two folds with a tiny model, which knows next to nothing."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "tiny.yaml").write_text(TINY, encoding="utf-8")
    data = ["--data_dir", synthetic_root, "--preprocessing_num_workers", 1, "--test_fold", "1,2"]
    argv = [folder / "tiny.yaml", *data, "--output_dir", folder / "out"]
    assert run_experiment(parse_run_config([str(part) for part in argv], ROOT / "absent.yaml")) == 0
    return folder / "out"


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "out"))


def decoded(uri: str) -> bytes:
    return base64.b64decode(uri.partition(",")[2])


def wrong(folder: Path) -> list[tuple[str, str, str, float]]:
    """The mistakes of a run by predictions.csv: path, true, predicted, score; the most confident first."""
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["true"] != row["predicted"]]
    told = [(row["path"], row["true"], row["predicted"], float(row[row["predicted"]])) for row in rows]
    return sorted(told, key=lambda row: -row[3])


# ---- what it says


def test_every_number_of_a_run_is_that_of_its_metrics(whole):
    folder = whole / "fold1"
    metrics, told = json.loads((folder / "metrics.json").read_text(encoding="utf-8")), Page(folder / "report.html")
    assert (
        f"{metrics['test_accuracy']:.3f} [" in told.text and f"macro-F1 {metrics['test_macro_f1']:.3f} [" in told.text
    )
    assert "2 of 10 folds" not in told.text and "1 of 10 folds, not comparable" in told.text
    assert all(note in told.text for note in metrics["notes"]) and metrics["notes"]
    header, *rows = told.rows["Classes"]
    assert header[:4] == ["class", "precision", "recall", "F1"] and [row[0] for row in rows] == metrics["labels"]
    for name, *scores, clips, _ in rows:
        row = metrics["per_class"][name]
        expected = [f"{row[key]:.3f}" for key in ("precision", "recall", "f1")]
        assert [score.split()[0] for score in scores] == expected and int(clips) == row["support"]
    leaks = metrics["leaks"]
    counts = [leaks[f"{key}_clips"] for key in ("shared_recording", "time_overlap")]
    counts += [leaks[f"{key}_duplicates"] for key in ("exact", "near")]
    assert told.rows["Protocol and leaks"][1] == ["1", "3, 4, 5, 6, 7, 8, 9, 10", "fold 2", "10", *map(str, counts)]


def test_every_number_of_a_cross_validation_is_that_of_its_metrics(whole):
    metrics, told = json.loads((whole / "metrics.json").read_text(encoding="utf-8")), Page(whole / "report.html")
    assert f"{metrics['mean_accuracy']:.3f} ± {metrics['std_accuracy']:.3f}" in told.text
    assert f"accuracy {metrics['pooled_accuracy']:.3f} [" in told.text and metrics["scope"] in told.text
    for row, fold in zip(told.rows["Folds"][1:], metrics["folds"], strict=True):
        assert row[0] == str(fold["test_fold"]) and int(row[1]) == fold["clips"]["test"]
        assert row[3].startswith(f"{fold['test_accuracy']:.3f} [") and row[4] == f"{fold['test_macro_f1']:.3f}"
    assert [row[0] for row in told.rows["Protocol and leaks"][1:]] == ["1", "2"]


def test_the_mistakes_are_those_of_the_predictions_with_their_sounds(whole, sounds: Sounds):
    told, expected = Page(whole / "fold1" / "report.html"), wrong(whole / "fold1")
    assert len(expected) > 5
    original = {clip["path"]: clip["bytes"] for clip in sounds.dataset["audio"]}
    assert [clip["data-clip"] for clip in told.of("audio")] == [path for path, *_ in expected]
    assert [clip["data-classes"] for clip in told.of("li") if "data-fold" in clip] == [
        f"{true}\n{predicted}" for _, true, predicted, _ in expected
    ]
    assert all(f"{score:.3f}" in told.text for *_, score in expected)
    assert f"The {len(expected)} wrong predictions with the highest scores, of {len(expected)} in all" in " ".join(
        told.text.split()
    )
    for clip in told.of("audio"):
        heard, rate = soundfile.read(io.BytesIO(decoded(clip["src"])), dtype="float32")
        waveform = load_audio(original[clip["data-clip"]], rate)
        assert abs(len(heard) - len(waveform)) < 0.1 * rate
        lags = np.correlate(heard, waveform[: rate // 2], "full")  # the encoder may delay by a frame
        assert lags.max() > 0.8 * np.sum(waveform[: rate // 2] ** 2), clip["data-clip"]


def test_a_page_needs_nothing_else(whole):
    for path in (whole / "report.html", whole / "fold1" / "report.html"):
        told = Page(path)
        links = [attrs[name] for _, attrs in told.tags for name in ("src", "href", "srcset", "poster") if name in attrs]
        assert len(links) > 20 and all(link.startswith(("data:", "#")) for link in links)
        assert "url(" not in path.read_text(encoding="utf-8") and "@import" not in path.read_text(encoding="utf-8")
        assert any("default-src 'none'" in meta.get("content", "") for meta in told.of("meta"))
        assert path.stat().st_size < 5e6
        assert "contains audio of the data set: do not publish it" in told.text
        assert all(attrs.get("alt") for attrs in told.of("img"))
        assert {attrs.get("scope") for attrs in told.of("th")} == {"col", "row"}


# ---- where the sounds come from


def test_a_cross_validation_takes_the_sounds_of_its_folds(whole):
    told = Page(whole / "report.html")
    clips = {clip["data-clip"]: clip["src"] for clip in told.of("audio")}
    expected = sorted([*wrong(whole / "fold1"), *wrong(whole / "fold2")], key=lambda row: -row[3])
    assert list(clips) == [path for path, *_ in expected]
    of_folds = Run(whole / "fold1").report_clips | Run(whole / "fold2").report_clips
    assert all(clips[path] == of_folds[path]["audio"] for path in clips)


def test_a_report_written_again_without_the_data_keeps_the_sounds(copy):
    before = (copy / "fold1/report.html").read_text(encoding="utf-8")
    (copy / "fold1/report.html").unlink()
    report(copy / "fold1")
    assert (copy / "fold1/report.html").read_text(encoding="utf-8") == before and "data:audio" in before


def test_without_data_and_earlier_sounds_it_says_so(copy):
    mistakes = len(wrong(copy / "fold1"))
    (copy / "fold1" / REPORT_CLIPS).unlink()
    report(copy / "fold1")
    page = Page(copy / "fold1/report.html")
    assert not page.of("audio") and "do not publish" not in page.text
    expected = f"{mistakes} of them are listed without their sound, as the report was written without the data."
    assert expected in page.text
    gather_folds(copy)
    page = Page(copy / "report.html")
    assert expected in page.text and len(page.of("audio")) == len(wrong(copy / "fold2"))


def test_two_mistakes_of_a_recording_are_enough(tmp_path):
    predictions = read_predictions(write_tiny_run(tmp_path / "run", clips=300) / "predictions.csv")
    rows = select_mistakes(predictions)
    assert not predictions.correct[rows].any()
    scores = predictions.probabilities[rows].max(axis=1)
    assert (np.diff(scores) <= 0).all()
    recordings, counts = np.unique(predictions.groups[rows], return_counts=True)
    assert counts.max() == MAX_OF_ONE_RECORDING and len(rows) <= MAX_MISTAKES
    for recording in recordings:  # the most confident ones of each
        mask = (predictions.groups == recording) & ~predictions.correct
        best = np.sort(predictions.probabilities[mask].max(axis=1))[::-1][:MAX_OF_ONE_RECORDING]
        np.testing.assert_allclose(scores[predictions.groups[rows] == recording], best)


def test_at_most_so_many_are_on_a_page(tmp_path):
    folder = write_tiny_run(tmp_path / "run", clips=300)
    rewrite(folder / "predictions.csv", lambda rows: [rows[0], *([*row[:2], "", *row[3:]] for row in rows[1:])])
    assert len(select_mistakes(read_predictions(folder / "predictions.csv"))) == MAX_MISTAKES


def test_a_run_without_mistakes_has_a_page_without_them(tmp_path):
    folder = write_tiny_run(tmp_path / "run")
    rewrite(folder / "predictions.csv", lambda rows: [rows[0], *([*r[:5], r[5], r[5], *r[7:]] for r in rows[1:])])
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    (folder / "metrics.json").write_text(json.dumps(metrics | {"test_accuracy": 1.0}), encoding="utf-8")
    write_run(folder)
    told = Page(folder / "report.html")
    assert MISTAKES not in told.text and not told.of("form") and "accuracy 1.000" in told.text


def test_names_are_text_whatever_they_hold(tmp_path):
    labels = ["<b>bold</b>", 'a "quoted" one', "rain & wind", "x|y"]
    folder = write_tiny_run(tmp_path / "run", labels=labels)
    write_run(folder)
    told = Page(folder / "report.html")
    assert not told.of("b")
    assert [option["value"] for option in told.of("option") if option["value"] in labels] == labels
    assert [row[0] for row in told.rows["Classes"][1:]] == labels


# ---- sounds and pictures


def test_of_a_long_sound_the_beginning_is_heard_at_a_rate_that_mp3_knows():
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 96_000 * 12).astype(np.float32)
    sound = soundfile.info(io.BytesIO(decoded(encoded(to_wav(noise, 96_000))["audio"])))
    assert (sound.samplerate, sound.format) == (48_000, "MP3")
    assert sound.duration == pytest.approx(CLIP_SECONDS, abs=0.1)


@pytest.mark.parametrize("samples", [1, 400, 872])  # the shortest clip of UrbanSound8K has 872
def test_the_shortest_sounds_have_a_page_too(samples):
    tone = np.sin(np.arange(samples) / 5).astype(np.float32) / 2
    told = encoded(to_wav(tone))
    assert soundfile.info(io.BytesIO(decoded(told["audio"]))).frames > 0
    assert Image.open(io.BytesIO(decoded(told["image"]))).size[1] == 64


def test_a_picture_has_low_sounds_below_and_silence_is_black():
    time = np.arange(16_000, dtype=np.float32) / 16_000
    bright = []
    for hertz in (200, 4000):
        image = Image.open(io.BytesIO(spectrogram_png(np.sin(2 * np.pi * hertz * time) / 2, 16_000))).convert("L")
        bright.append(int(np.asarray(image).sum(axis=1).argmax()))  # the row, from the top
    assert bright[0] > 50 and bright[1] < 25
    silence = Image.open(io.BytesIO(spectrogram_png(np.zeros(16_000, np.float32), 16_000))).convert("L")
    assert np.asarray(silence).max() < 5


# ---- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
    if CHROMIUM is None:
        pytest.skip("needs a Chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser):
    """Opens a page; at the end of the test nothing may have been wrong on it, and nothing asked for."""
    seen = SimpleNamespace(troubles=[], requests=[])
    contexts = []

    def open_page(path: Path, **options):
        contexts.append(browser.new_context(**options))
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: seen.troubles.append(message.text))
        tab.on("pageerror", lambda error: seen.troubles.append(str(error)))
        tab.on("request", lambda request: seen.requests.append(request.url))
        tab.goto(path.as_uri())
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert not seen.troubles
    assert {url.partition(":")[0] for url in seen.requests} <= {"file", "data"}
    assert sum(url.startswith("file:") for url in seen.requests) == len(contexts)


def select(tab, name: str):
    return tab.get_by_role("combobox", name=name, exact=True)


def shown(tab) -> list[str]:
    return tab.eval_on_selector_all(".mistakes li", "items => items.filter(i => i.offsetParent).map(i => i.innerText)")


def test_the_mistakes_can_be_filtered_by_class_and_by_fold(opened, whole):
    tab = opened(whole / "report.html")
    mistakes = [(*row, fold) for fold in ("1", "2") for row in wrong(whole / f"fold{fold}")]
    assert len(shown(tab)) == len(mistakes) and tab.inner_text("output") == f"{len(mistakes)} of {len(mistakes)} shown"
    some_class = mistakes[0][1]
    select(tab, "class").select_option(some_class)
    of_class = [row for row in mistakes if some_class in row[1:3]]
    assert len(shown(tab)) == len(of_class) < len(mistakes)
    select(tab, "fold").select_option("2")
    of_both = [row for row in of_class if row[-1] == "2"]
    assert len(shown(tab)) == len(of_both) < len(of_class)
    assert tab.inner_text("output") == f"{len(of_both)} of {len(mistakes)} shown"
    assert all("fold 2" in text and some_class in text for text in shown(tab))
    select(tab, "class").select_option("")
    select(tab, "fold").focus()
    tab.keyboard.press("ArrowUp")  # from fold 2 to fold 1
    assert len(shown(tab)) == len(wrong(whole / "fold1"))


def test_a_single_fold_has_no_filter_by_fold(opened, whole):
    tab = opened(whole / "fold1" / "report.html")
    assert select(tab, "class").is_visible() and not tab.locator("#fold").count()


def test_the_sounds_play_one_at_a_time(opened, whole):
    tab = opened(whole / "fold1" / "report.html")
    lengths = {
        row["path"]: float(row["seconds"])
        for row in csv.DictReader((whole / "fold1/predictions.csv").open(encoding="utf-8"))
    }
    tab.wait_for_function("[...document.querySelectorAll('audio')].every(sound => sound.readyState > 0)")
    for path, seconds in tab.eval_on_selector_all("audio", "all => all.map(one => [one.dataset.clip, one.duration])"):
        assert seconds == pytest.approx(lengths[path], abs=0.15)
    playing = "[...document.querySelectorAll('audio')].map(sound => !sound.paused)"
    tab.evaluate("const [a, b] = document.querySelectorAll('audio'); a.loop = b.loop = true; a.play()")
    tab.wait_for_function(f"{playing}[0]")
    tab.evaluate("document.querySelectorAll('audio')[1].play()")
    tab.wait_for_function(f"!{playing}[0] && {playing}[1]")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_it_fits_and_suits_the_screen(opened, whole, width, scheme):
    tab = opened(whole / "report.html", viewport={"width": width, "height": 844}, color_scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") == width, (
        "nothing but tables and figures scrolls sideways"
    )
    colours = "element => getComputedStyle(element)"
    ground, ink = (tab.eval_on_selector("body", f"{colours}.{name}") for name in ("backgroundColor", "color"))
    assert (lightness(ground) > lightness(ink)) == (scheme == "light")
    assert abs(lightness(ground) - lightness(ink)) > 150
    assert tab.eval_on_selector_all(".scroll img", f"all => all.map({colours}).map(style => style.backgroundColor)")
    assert {*tab.eval_on_selector_all(".scroll img", f"all => all.map(e => ({colours})(e).backgroundColor)")} == {
        "rgb(255, 255, 255)"
    }
    assert tab.eval_on_selector_all("img", "all => all.every(image => image.naturalWidth > 0)")


def lightness(colour: str) -> float:
    return float(np.mean([int(part) for part in colour.removeprefix("rgb(").rstrip(")").split(",")]))


def test_the_keyboard_reaches_everything_and_shows_where_it_is(opened, whole):
    tab = opened(whole / "report.html")
    reached = set()
    for _ in range(60):
        tab.keyboard.press("Tab")
        tag, outline = tab.evaluate(
            "[document.activeElement.className || document.activeElement.tagName,"
            " getComputedStyle(document.activeElement).outlineStyle]"
        )
        assert outline != "none" or tag in ("BODY", "AUDIO"), tag
        reached.add(tag)
    assert {"A", "scroll", "SELECT", "AUDIO"} <= reached


def test_without_scripts_all_mistakes_are_there(opened, whole):
    tab = opened(whole / "report.html", java_script_enabled=False)
    assert not tab.locator("form").is_visible()
    assert tab.locator(".mistakes li").first.is_visible()


def test_print_leaves_out_what_paper_cannot_do(opened, whole):
    tab = opened(whole / "report.html", color_scheme="dark")
    tab.emulate_media(media="print")
    assert not any(tab.locator(name).first.is_visible() for name in ("nav", "form", "audio"))
    assert tab.locator(".mistakes img").first.is_visible()
    assert lightness(tab.eval_on_selector("body", "body => getComputedStyle(body).backgroundColor")) == 255


def test_a_run_read_again_is_what_the_page_was_made_from(whole):
    run = read_run(whole / "fold1")
    cards = run.report["confident_mistakes"]
    assert [(each["path"], each["true"], each["predicted"]) for each in cards] == [row[:3] for row in wrong(run.folder)]
    assert all(each["score"] >= each["score_of_true"] for each in cards)
