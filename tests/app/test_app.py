"""The page shows the results of `infer.py`: its functions alone, and the page in a real browser."""

from __future__ import annotations

import io
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile
import yaml

from tests.helpers import tiny
from tests.helpers.wheels import install, without_checkout
from urbansound_hf import __version__
from urbansound_hf.app import __main__, views
from urbansound_hf.app.__main__ import launch_app
from urbansound_hf.app.views import (
    classify_all,
    classify_by_all,
    clock,
    cut,
    examples,
    explain,
    most_typical,
    open_models,
    seconds_of,
    short_name,
    spells,
    write_csv,
)
from urbansound_hf.audio.io import AudioError, load_audio
from urbansound_hf.data import synthetic
from urbansound_hf.data.urbansound8k import CLASSES
from urbansound_hf.errors import UserError
from urbansound_hf.hub import space
from urbansound_hf.hub.space import write_space
from urbansound_hf.inference.classifier import SoundClassifier
from urbansound_hf.inference.formats import WriteOptions
from urbansound_hf.inference.results import write_results

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [
    pytest.mark.skipif(not find_spec("gradio"), reason="needs Gradio: pip install 'urbansound-hf[app]'"),
]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_browser = pytest.mark.skipif(
    not (CHROMIUM and find_spec("playwright")), reason="needs Playwright and a Chromium on the PATH"
)
RATE = 22_050
CALLED: list[str] = []  # every host that this process connected to while it served the page


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> Path:
    """A siren as WAV and as MP3, a quarter of a second of it, ten minutes, and notes that only claim to be a sound."""
    folder, draw = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    siren = 0.5 * synthetic.waveform("siren", draw, 3.0, RATE)
    minute = np.concatenate([0.5 * synthetic.waveform(name, draw, 6.0, RATE) for name in CLASSES])
    soundfile.write(folder / "siren.wav", siren, RATE, subtype="PCM_24")
    soundfile.write(folder / "siren.mp3", siren, RATE)
    soundfile.write(folder / "short.wav", siren[: RATE // 4], RATE)
    soundfile.write(folder / "minute.wav", minute, RATE)
    soundfile.write(folder / "three_minutes.wav", np.tile(minute, 3), RATE)
    (folder / "notes.wav").write_text("a siren, far away, and rain\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: tiny.save(name, root / name, clip_seconds=4.0) for name in ("yamnet", "wav2vec2")}


@pytest.fixture(scope="module")
def yamnet(models) -> SoundClassifier:
    return SoundClassifier.from_pretrained(models["yamnet"], device="cpu")


# ---- without a browser


def test_a_sound_has_the_scores_of_infer_and_progress_is_told(yamnet, sounds):
    told = []
    waveform, results = classify_by_all({"yamnet": yamnet}, sounds / "minute.wav", told.append)
    assert results == {"yamnet": yamnet.classify(sounds / "minute.wav", top_k=10)} and len(waveform) == 960_000
    assert told[0].startswith("reading: 0:") and told[-1] == "yamnet: 29 of 29 windows"
    assert len(told) > 4, "29 windows in batches of 8"


def test_a_timeline_becomes_rows_and_its_most_typical_window(yamnet, sounds):
    found = yamnet.classify(sounds / "minute.wav", top_k=10)
    rows = spells(found)
    assert rows[0][0] == "0:00.0" and rows[-1][1] == "1:00.0"
    assert all(label in CLASSES and 0 < float(score) <= 1 for _, _, label, score in rows)
    start, end = most_typical(found)
    best = next(window for window in found.windows if window.start == start)
    assert end == best.end and dict(best.top)[found.summary.label] == max(
        dict(window.top)[found.summary.label] for window in found.windows
    )
    assert spells(yamnet.classify(sounds / "siren.wav")) == []
    segment = cut(sounds / "minute.wav", (2.0, 6.0), yamnet)
    np.testing.assert_array_equal(segment, load_audio(sounds / "minute.wav")[32_000:96_000])


def test_the_most_certain_window_of_a_segment_is_explained(yamnet, sounds):
    sentence, figure = explain(yamnet, sounds / "minute.wav", (2.0, 12.0), False, lambda text: None)
    scores = yamnet.probabilities([cut(sounds / "minute.wav", (start, start + 4.0), yamnet) for start in (2, 4, 6, 8)])
    best = np.unravel_index(scores.argmax(), scores.shape)
    assert sentence.startswith(f"From {clock(2 + 2 * best[0])} on: {CLASSES[best[1]]} {scores.max():.4f}: ")
    assert figure.axes[0].get_xlim() == (0, 4) and CLASSES[best[1]] in figure.get_suptitle()


def test_a_table_of_files_is_the_csv_of_infer(yamnet, sounds, capsys):
    paths = [sounds / name for name in ("siren.mp3", "notes.wav", "minute.wav")]
    results = list(classify_all(yamnet, paths, print))
    rows = views.table(results)
    assert [row[0] for row in rows] == ["siren.mp3", "notes.wav", "minute.wav"]
    assert rows[1][1:4] == ["", "", ""] and rows[1][4].startswith("not a sound that libsndfile can read")
    summary = yamnet.classify(sounds / "minute.wav").summary
    assert rows[2][1:] == [60.0, summary.label, round(summary.score, 4), ""]
    written, expected = write_csv(results).read_text(encoding="utf-8"), io.StringIO()
    write_results(yamnet.classify_many(paths), "csv", WriteOptions(5), expected)
    assert written == expected.getvalue().replace(f"{sounds}/", "")


def test_examples_are_synthetic_or_those_of_a_folder(sounds, tmp_path):
    made = examples(None)
    assert [path.stem for path in made] == [*CLASSES, "all_ten"]
    assert len(load_audio(made[-1])) == 40 * 16_000 and len(load_audio(made[0])) == 4 * 16_000
    assert examples(sounds) == sorted(sounds.iterdir())
    with pytest.raises(AudioError, match="holds no sound"):
        examples(tmp_path)
    with pytest.raises(UserError, match="the examples must be a folder"):
        examples(sounds / "siren.wav")


def test_models_are_named_shortly_where_that_is_clear(models, tmp_path):
    assert list(open_models([str(models["yamnet"])] * 2)) == [f"{models['yamnet'].parent.name}/yamnet"]
    twins = [shutil.copytree(models["yamnet"], tmp_path / side / "run" / "fold1") for side in "ab"]
    assert list(open_models(list(map(str, twins)))) == list(map(str, twins))
    assert short_name("owner/model") == "owner/model"


def test_mistakes_end_with_a_sentence(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no model was named"):
        launch_app()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is in use"):
            __main__.main(["--model", str(models["yamnet"]), "--port", str(port)])
    for name in ("layout", "views", "limits"):
        monkeypatch.delitem(sys.modules, f"urbansound_hf.app.{name}")
        monkeypatch.delattr(f"urbansound_hf.app.{name}")
    for name in [name for name in sys.modules if name.partition(".")[0] == "starlette"]:
        monkeypatch.setitem(sys.modules, name, None)  # Gradio's server: as if neither were installed
    with pytest.raises(UserError, match="Gradio is not installed") as caught:
        launch_app()
    assert "urbansound-hf[app]" in caught.value.fix


# ---- over HTTP


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def scores_over_http(address: str, sound: Path, model: str) -> dict[str, float]:
    """What the first model of a page says, by Gradio's own client."""
    from gradio_client import Client, handle_file

    job = Client(address, verbose=False).submit(handle_file(str(sound)), [model], api_name="/classify")
    job.result(timeout=60)
    told = [part for parts in job.outputs() for part in parts if isinstance(part, dict) and "confidences" in part]
    return {row["label"]: row["confidence"] for row in told[-1]["confidences"]}


def test_the_space_runs_with_the_wheel_that_it_carries(models, sounds, yamnet, tmp_path):
    """As its Dockerfile does: what requirements.txt names is installed in its folder, then app.py starts."""
    write_space(tmp_path / "space", str(models["yamnet"]), "Sounds of\nthe street: 2")
    port, space_folder = free_port(), tmp_path / "space"
    python = install(tmp_path / "environment", next(space_folder.glob("*.whl"))) / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-index", "-r", "requirements.txt"]
    subprocess.run(pip, cwd=space_folder, check=True, capture_output=True)  # every pin and every need is satisfied
    command = [str(python), "app.py", "--port", str(port), "--api"]
    options = {"cwd": space_folder, "env": without_checkout(), "stdout": subprocess.PIPE, "encoding": "utf-8"}
    with subprocess.Popen(command, **options) as process:
        try:
            assert process.stdout and f"at http://127.0.0.1:{port}/" in process.stdout.readline()
            found = scores_over_http(f"http://127.0.0.1:{port}", sounds / "siren.wav", "space/model")
        finally:
            process.terminate()
    assert found == pytest.approx(dict(yamnet.classify(sounds / "siren.wav", top_k=10).windows[0].top[:5]), abs=1e-6)


def test_the_space_names_what_it_needs(models, tmp_path):
    """The wheel, every requirement at the version tried here, and no sound, no receipt, no table of the run."""
    (models["yamnet"] / "predictions.csv").write_text("file,label\n", encoding="utf-8")
    write_space(tmp_path, str(models["yamnet"]), "Sounds of\nthe street: 2")
    wheel = f"urbansound_hf-{__version__}-py3-none-any.whl"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "Dockerfile", "README.md", "app.py", "model", "requirements.txt", wheel,
    ]  # fmt: skip
    assert not list(tmp_path.rglob("*.csv"))
    card = yaml.safe_load((tmp_path / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert (card["sdk"], card["app_port"], card["license"]) == ("docker", 7860, "apache-2.0")
    assert card["title"] == "Sounds of the street: 2"
    first, *pinned = (tmp_path / "requirements.txt").read_text(encoding="utf-8").split()
    assert first == f"./{wheel}" and f"gradio=={version('gradio')}" in pinned
    with zipfile.ZipFile(tmp_path / wheel) as archive:
        about = archive.read(f"urbansound_hf-{__version__}.dist-info/METADATA").decode()
    needs = re.findall(r"^Requires-Dist: ([\w.-]+)(?:[^;\n]*|.*extra == 'app')$", about, re.MULTILINE)
    assert [pin.split("==")[0] for pin in pinned] == needs and {"torch", "soundfile", "gradio"} <= {*needs}


def test_a_space_of_a_hub_model_downloads_it(tmp_path, monkeypatch):
    write_space(tmp_path, "owner/model", "Street")
    assert "models:\n  - owner/model\n" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "'owner/model'" in (tmp_path / "app.py").read_text(encoding="utf-8") and not (tmp_path / "model").exists()
    needs = SimpleNamespace(requires=["no-such-package>=1; extra == 'app'"])
    monkeypatch.setattr(space, "installed", lambda: needs)
    with pytest.raises(UserError, match="needs no-such-package"):
        write_space(tmp_path, "owner/model", "Street")
    with pytest.raises(UserError, match="no such folder"):
        write_space(tmp_path, str(tmp_path / "nothing"), "Street")


# ---- in a browser


def note_connections(event: str, arguments: tuple) -> None:
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        CALLED.append(arguments[1][0])


@pytest.fixture(scope="module")
def address(models) -> Iterator[str]:
    """The page of two models, served by this process."""
    sys.addaudithook(note_connections)
    blocks = launch_app(list(models.values()), port=free_port())
    yield blocks.local_url
    blocks.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    fakes = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]  # a microphone that beeps
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *fakes])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, address) -> Iterator[Callable[..., Page]]:
    """Opens the page; at the end, nothing may have gone wrong in it, and nobody else may have been asked."""
    wrong: list[str] = []

    def visit(width: int = 1280, theme: str = "light") -> Page:
        context = chromium.new_context(viewport={"width": width, "height": 900}, permissions=["microphone"])
        page = context.new_page()
        page.set_default_timeout(120_000)  # a CI machine may be busy
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("response", lambda response: wrong.append(response.url) if response.status >= 400 else None)
        page.on(
            "request",
            lambda request: None if request.url.startswith((address, "data:", "blob:")) else wrong.append(request.url),
        )
        page.goto(f"{address}?__theme={theme}")
        page.get_by_text("Drop a sound").wait_for()
        return page

    yield visit
    for context in chromium.contexts:
        context.close()
    assert not wrong
    assert {*CALLED} <= {"127.0.0.1", "::1"}


def upload(page: Page, sound: Path) -> None:
    page.locator("input[type=file]").first.set_input_files(sound)


def percentages(page: Page, column: int) -> dict[str, int]:
    """What a model says: classes as they are shown, and their percentages."""
    rows = page.locator(".confidence-set")
    rows.nth(5 * column + 4).wait_for()
    told = [row.inner_text().split() for row in rows.all()[5 * column : 5 * column + 5]]
    return {row[0]: int(row[-1].rstrip("%")) for row in told}


@in_browser
@pytest.mark.parametrize("name", ["siren.mp3", "short.wav"])
def test_two_models_say_what_infer_says(visit, models, sounds, name):
    page = visit()
    upload(page, sounds / name)
    for column, folder in enumerate(models.values()):
        top = SoundClassifier.from_pretrained(folder, device="cpu").classify(sounds / name, top_k=10).windows[0].top
        assert percentages(page, column) == {label: math.floor(100 * score + 0.5) for label, score in top[:5]}
    page.get_by_role("img").first.wait_for()
    assert not page.get_by_text("Events: select").first.is_visible(), "there is none in a short clip"


@in_browser
def test_a_text_that_claims_to_be_a_sound_is_told_apart(visit, sounds):
    page = visit()
    upload(page, sounds / "notes.wav")
    page.get_by_text("notes.wav: not a sound that libsndfile can read").wait_for()
    assert not page.get_by_role("button", name="How did you decide?").is_visible()
    assert "Traceback" not in page.content()
    page.get_by_role("button", name="siren").click()
    page.get_by_role("button", name="How did you decide?").wait_for()  # the page goes on


@in_browser
def test_three_minutes_become_a_timeline_to_hear_and_to_ask(visit, yamnet, sounds):
    page = visit()
    page.get_by_role("checkbox").nth(1).uncheck()
    upload(page, sounds / "three_minutes.wav")
    page.get_by_text("windows").wait_for()  # the progress
    found = yamnet.classify(sounds / "three_minutes.wav", top_k=10)
    assert percentages(page, 0) == {label: math.floor(100 * score + 0.5) for label, score in found.summary.top[:5]}
    start, end, label, score = spells(found)[1]
    cells = [page.get_by_test_id(f"cell-1-{column}") for column in range(4)]
    assert [cell.inner_text() for cell in cells] == [start, end, label, score]
    page.get_by_test_id("cell-0-2").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")  # all by keyboard
    page.get_by_text(f"Model input, {start}–{end}: mono, 16 kHz").wait_for()
    player = page.locator("audio").last
    page.wait_for_function("audio => audio.duration > 0", arg=player.element_handle())
    assert player.evaluate("audio => audio.duration") == pytest.approx(seconds_of(end) - seconds_of(start), abs=0.01)
    page.get_by_role("button", name="How did you decide?").press("Enter")
    page.get_by_text("Each tile is silenced alone").wait_for()
    assert page.get_by_text(f"{label} 0.").first.is_visible()


@in_browser
def test_a_recording_from_the_microphone_is_heard(visit):
    page = visit()
    page.get_by_role("button", name="Record audio").click()
    page.get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(1000)
    page.get_by_role("button", name="Stop", exact=True).first.click()
    page.get_by_text(": mono, 16 kHz").wait_for()
    assert percentages(page, 0).keys() < {*CLASSES}


@in_browser
def test_live_sound_is_classified_while_it_is_recorded(visit):
    page = visit()
    page.get_by_role("tab", name="Live").click()
    page.wait_for_timeout(2000)  # Gradio loads its recorder when the tab opens; a click before that is its error
    page.get_by_role("button", name="Record", exact=True).locator("visible=true").click()
    page.get_by_text(re.compile(r"0:00.0–0:0\d.\d: -?\d+ dBFS")).wait_for(timeout=30_000)


@in_browser
def test_many_files_become_a_table_to_take_away(visit, yamnet, sounds):
    page = visit()
    page.get_by_role("tab", name="Many sounds").click()
    names = ["siren.mp3", "notes.wav", "minute.wav"]
    page.locator("input[type=file][multiple]").set_input_files([sounds / name for name in names])
    page.locator("tr.file").nth(2).wait_for()
    page.get_by_role("button", name="Classify").click()
    page.get_by_role("button", name="Download as CSV").wait_for()
    assert [page.get_by_test_id(f"cell-{row}-0").inner_text() for row in range(3)] == names
    with page.expect_download() as download:
        page.get_by_role("button", name="Download as CSV").click()
    results = list(classify_all(yamnet, [sounds / name for name in names], print))
    assert download.value.path().read_text(encoding="utf-8") == write_csv(results).read_text(encoding="utf-8")


@in_browser
@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (390, "dark")])
def test_it_fits_desktop_and_phone_light_and_dark(visit, sounds, width, theme, tmp_path):
    page = visit(width, theme)
    example = page.get_by_role("button", name="all ten")
    for _ in range(30):  # everything is reached by the keyboard
        page.keyboard.press("Tab")
        if example.evaluate("button => button === document.activeElement"):
            break
    page.keyboard.press("Enter")
    page.get_by_text("Model input,").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing to scroll sideways"
    answer, examples = page.locator(".answer").bounding_box(), example.bounding_box()
    assert answer and examples and answer["y"] < examples["y"], "the answer comes first, also on a phone"
    assert (answer["x"] > examples["x"] + examples["width"]) == (width == 1280), "beside the examples on a desktop"
    table = page.get_by_role("grid").first.bounding_box()
    score = page.get_by_test_id("cell-0-3").first.bounding_box()
    assert table and score and score["x"] + score["width"] <= table["x"] + table["width"] + 1, "the score is in sight"
    background = page.evaluate("getComputedStyle(document.querySelector('gradio-app')).backgroundColor")
    darkness = sum(map(int, re.findall(r"\d+", background)[:3])) / 3
    assert (darkness < 64) if theme == "dark" else (darkness > 224)
    page.screenshot(path=os.environ.get("SCREENSHOTS", str(tmp_path)) + f"/{width}-{theme}.png", full_page=True)
