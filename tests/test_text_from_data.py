"""Labels, names and paths are data in every output: they make no image, link, markup, formula or control sequence."""

from __future__ import annotations

import csv
import io
import json
import re
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tests.helpers.runs import write_run as write_tiny_run
from urbansound_hf.errors import CONTROL, printable
from urbansound_hf.evaluation.runs import read_predictions
from urbansound_hf.inference.formats import FORMATS, WriteOptions, records
from urbansound_hf.inference.output import Classification, Prediction
from urbansound_hf.plots.evaluation import per_class
from urbansound_hf.reports.html import to_html
from urbansound_hf.reports.markdown import FIGURES, figure
from urbansound_hf.reports.model_card import render_card
from urbansound_hf.reports.run_report import write_run
from urbansound_hf.text import from_csv, in_csv, in_markdown, table

HOSTILE = (
    "![x](/etc/passwd)", "![x](https://a.example/b.png)", "[a](javascript:alert(1))", "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>", "a|b", "`code`", "$x^2$", "{{ 7 * 7 }}", "{% raw %}", "=1+1", "'=1+1", "@A1",
    "\x1b[31mred", "a\nb", "---", "# heading", "key: [value", "\u202etxt", "_emphasis_", "https://a.example",
    "www.a.example", "a\\", "confusion_matrix.png", "![confusion matrix](confusion_matrix.png)",
)  # fmt: skip
TEXT = st.one_of(st.sampled_from(HOSTILE), st.text(min_size=1, max_size=20)).filter(str.strip)
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None)


@QUICK
@given(TEXT)
def test_markdown_shows_a_text_as_it_is(text):
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    (cell,) = [
        token
        for token in parser.parse(table(["a", "b"], [["x", f"is {in_markdown(text)} here"]]))
        if token.type == "inline" and token.content.startswith("is ")
    ]
    assert all(child.type in ("text", "text_special") for child in cell.children)
    shown = "".join(child.content for child in cell.children)
    assert shown == f"is {printable(text)} here"


@QUICK
@given(TEXT)
def test_csv_gives_a_text_back_and_no_formula(text):
    assert from_csv(in_csv(text)) == text
    assert in_csv(text)[0] not in "=+-@\t\r"


@pytest.mark.parametrize("label", HOSTILE)
def test_a_report_shows_no_file_that_a_label_names(tmp_path, label):
    assert not re.search(r"<(?!/?p>)", to_html(in_markdown(label), tmp_path))
    if label != figure("confusion_matrix.png"):  # one that forgot to be escaped embeds nothing
        assert not re.search(r"<(img|a|script)\b", to_html(label, tmp_path))


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory) -> tuple[Path, list[str]]:
    """A run whose classes are the hostile texts; the report, its page, its card and its figures are written."""
    secret = tmp_path_factory.mktemp("secret") / "canary.txt"
    secret.write_text("CANARY", encoding="utf-8")
    labels = [*HOSTILE, f"![x]({secret})"]
    folder = write_tiny_run(tmp_path_factory.mktemp("runs") / "![x](a.png)", labels=labels, notes=[HOSTILE[1]])
    write_run(folder)
    return folder, labels


def test_a_run_of_hostile_labels_is_reported(hostile_run):
    folder, labels = hostile_run
    assert read_predictions(folder / "predictions.csv").labels == labels
    page = (folder / "report.html").read_text(encoding="utf-8")
    sources = re.findall(r'<img[^>]*src="([^"]{0,30})', page)
    assert len(sources) == len([name for name in FIGURES if (folder / name).is_file()])
    assert all(source.startswith("data:image/png;base64") for source in sources)
    assert "Q0FOQVJZ" not in page, "the canary"
    assert page.count("<script") == 1
    assert "onerror=alert(1)>" not in page
    assert "<h1>Run: ![x](a.png)</h1>" in page


def test_the_card_of_hostile_labels_is_markdown_with_yaml_in_front(hostile_run):
    folder, _ = hostile_run
    _, front, text = render_card(folder).split("---\n", 2)
    assert yaml.safe_load(front)["pipeline_tag"] == "audio-classification"
    images = [
        child.attrs["src"]
        for token in MarkdownIt("commonmark").enable("table").parse(text)
        for child in token.children or ()
        if child.type == "image"
    ]
    assert images == ["confusion_matrix.png", "reliability.png"]
    assert not CONTROL.search(text.replace("\n", ""))
    assert "49" not in text.split("##")[0], "the label {{ 7 * 7 }} was rendered"


@QUICK
@given(st.lists(TEXT, min_size=2, max_size=3, unique=True), st.sampled_from(sorted(set(FORMATS) - {"parquet"})))
def test_infer_writes_any_label_in_any_format(labels, form):
    scores = np.full((1, len(labels)), 1 / len(labels), np.float32)
    window = Prediction(0.0, 1.0, tuple((label, 0.5) for label in labels))
    result = Classification("a\x1b[31m.wav", (window,), labels=labels, scores=scores)
    stream = io.StringIO(newline="")
    with redirect_stdout(io.StringIO()):
        FORMATS[form](iter([records(result, form, WriteOptions())]), stream, WriteOptions())
    written = stream.getvalue()
    if form == "jsonl":
        assert json.loads(written)["label"] == labels[0]
    elif form == "csv":
        assert from_csv(next(csv.DictReader(io.StringIO(written, newline="")))["label"]) == labels[0]
    else:
        assert not CONTROL.search(re.sub(r"[\n\t]", "", written))
    if form in ("audacity", "raven"):
        assert printable(labels[0]) in written
        assert len(written.splitlines()) == 1 + (form == "raven")


def test_figures_draw_labels_as_they_are(tmp_path, hostile_run):
    folder, _ = hostile_run
    scores = json.loads((folder / "report.json").read_text(encoding="utf-8"))["per_class"]
    per_class({f"{label} $": row for label, row in scores.items()}, path=tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
