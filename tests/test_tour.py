"""The notebook is executed as it stands; `python -m tests.test_tour` executes it and keeps what it shows."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

from tests.conftest import ROOT

TOUR = ROOT / "docs" / "tour.ipynb"
RENEW = "renew it: python -m tests.test_tour"
HEAVY = 300_000  # bytes of notebook that a repository bears
SOUNDS = 5  # to play
FIGURES = 10


# ---- what it shows


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: NotebookNode) -> list[NotebookNode]:
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def is_sound(output: NotebookNode) -> bool:
    return "<audio" in output.get("data", {}).get("text/html", "")


def text(notebook: NotebookNode) -> str:
    """All that its cells print."""
    return "".join(output.text for output in outputs(notebook) if output.output_type == "stream")


def pngs(notebook: NotebookNode) -> list[Image.Image]:
    found = (output.get("data", {}).get("image/png") for output in outputs(notebook))
    return [Image.open(io.BytesIO(base64.b64decode(png))) for png in found if png]


def digest(notebook: NotebookNode) -> str:
    """Identifies the code whose outputs a notebook keeps."""
    code = "\0".join(cell.source for cell in code_cells(notebook))
    return hashlib.sha256(code.encode()).hexdigest()


def execute(folder: Path) -> NotebookNode:
    """The notebook, executed by this Python from a clean folder, whether the package is installed or not."""
    notebook = nbformat.read(TOUR, as_version=4)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(ROOT))
        place = {"metadata": {"path": str(folder)}}
        client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place, coalesce_streams=True)
        return client.execute()


# ---- keeping it


def renew() -> None:
    """Executes the notebook and writes it with its outputs: without the sounds, which are large, and small figures."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        notebook = execute(Path(folder))
    for cell in code_cells(notebook):
        cell.metadata.pop("execution", None)  # when each cell began
        cell.outputs = [output for output in cell.outputs if not is_sound(output)]
        for output in (output for output in cell.outputs if "image/png" in output.get("data", {})):
            output.data["image/png"] = fewer_colours(output.data["image/png"])
            output.data.pop("text/plain", None)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "outputs_of": digest(notebook),
    }
    nbformat.write(notebook, TOUR)


def fewer_colours(png: str) -> str:
    """Fewer bytes, the same picture to the eye: the palette covers rare colours too, for the sake of colour bars."""
    picture, packed = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), io.BytesIO()
    few = picture.quantize(96, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(packed, "png", optimize=True)
    return base64.b64encode(packed.getvalue()).decode()


# ---- whether it is so


@pytest.fixture(scope="module")
def kept() -> NotebookNode:
    return nbformat.read(TOUR, as_version=4)


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> NotebookNode:
    """A cell that fails, or takes five minutes, fails here."""
    folder = tmp_path_factory.mktemp("elsewhere")
    notebook = execute(folder)
    assert not list(folder.iterdir()), "it works in a folder of its own"
    return notebook


def test_the_kept_outputs_are_of_this_code(kept):
    nbformat.validate(kept)
    assert kept.metadata["outputs_of"] == digest(kept), RENEW
    assert [cell.execution_count for cell in code_cells(kept)] == list(range(1, len(code_cells(kept)) + 1)), RENEW


def test_it_shows_what_is_kept_and_sounds_to_play(kept, executed):
    shown, stored = ([len(cell.outputs) for cell in code_cells(notebook)] for notebook in (executed, kept))
    sounds = [sum(map(is_sound, cell.outputs)) for cell in code_cells(executed)]
    assert np.subtract(shown, sounds).tolist() == stored, RENEW
    assert sum(sounds) == SOUNDS and not any(map(is_sound, outputs(kept)))
    assert TOUR.stat().st_size < HEAVY


def test_every_figure_is_a_picture_of_something(kept, executed):
    for notebook in (kept, executed):
        assert len(pngs(notebook)) == FIGURES
        for picture in pngs(notebook):
            colours = picture.convert("RGB").getcolors(picture.width * picture.height)
            assert picture.width >= 500 and picture.height >= 200 and len(colours) > 16


def test_nothing_goes_to_standard_error_and_no_place_of_a_machine_is_told(kept, executed):
    for notebook in (kept, executed):
        assert not [output.text for output in outputs(notebook) if output.get("name") == "stderr"]
        everything = text(notebook) + "".join(
            str(part) for output in outputs(notebook) for kind, part in output.get("data", {}).items() if "text" in kind
        )
        told = re.findall(r"(?:^|[\s'\"=(])(/\w+/\S*|[A-Z]:\\\S*)|(\w+@\w+)", re.sub(r"data:audio\S+", "", everything))
        assert not told and str(Path.home()) not in everything and str(ROOT) not in everything


@pytest.mark.parametrize("which", ["kept", "executed"])
def test_the_story_is_true(which, request):
    told = text(request.getfixturevalue(which))
    network, shuffled, by_fold = map(float, re.findall(r"test accuracy  ([\d.]+)", told))
    assert network > 0.4, "ten classes: 0.1 is chance"
    assert shuffled > 0.6 > 0.3 > by_fold, "noise: nothing can be learned"
    table = told.partition("mean\n")[2]
    nothing, random, pretrained, blind = map(float, re.findall(r" ([\d.]+) *$", table, re.MULTILINE)[:4])
    assert pretrained > max(nothing, random) and nothing > blind == 0.4
    assert "from a recording also in training: none" in told
    right, of = map(int, re.search(r"(\d+) of (\d+) right", told).groups())
    assert right >= 5 and of == 10 and len(re.findall(r"This is \w+ with [01]\.\d\d", told)) == of


def test_it_is_ten_minutes_of_reading(kept):
    words = sum(len(cell.source.split()) for cell in kept.cells if cell.cell_type == "markdown")
    assert 800 < words < 2000


def test_its_links_and_commands_lead_somewhere(kept):
    prose = "\n".join(cell.source for cell in kept.cells if cell.cell_type == "markdown")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", prose) if not urlsplit(link).scheme]
    assert len(links) > 3 and not [link for link in links if not (TOUR.parent / link).is_file()]
    mentioned = {*re.findall(r"configs/\w+\.yaml", prose), *re.findall(r"python (\w+\.py)", prose)}
    assert len(mentioned) > 3 and not [name for name in mentioned if not (ROOT / name).is_file()]


if __name__ == "__main__":
    renew()
