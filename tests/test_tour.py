"""The notebook is executed and checked; `python -m tests.test_tour` executes it and stores its outputs."""

from __future__ import annotations

import ast
import base64
import hashlib
import io
import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

import urbansound_hf as ush
from tests.conftest import ROOT
from tests.test_api import SPLITS
from urbansound_hf.cli import COMMANDS

TOUR = ROOT / "docs" / "tour.ipynb"
RENEW = "renew it: python -m tests.test_tour"
MOST_BYTES = 400_000  # of the stored notebook
SOUNDS = 5  # to play
FIGURES = 12
QUICKER = {'dataset="synthetic"': 'dataset="sounds"', "num_train_epochs=10": "num_train_epochs=20"}
"""What the tests' own execution changes: it trains on the 100 sounds that the notebook makes, not on 400 more."""


# ---- its outputs


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


def is_slow(cell: NotebookNode) -> bool:
    """Whether a cell trains once more, which only `renew` waits for; no cell without the tag needs its results."""
    return "slow" in cell.metadata.get("tags", ())


def execute(folder: Path, slow: bool = False) -> NotebookNode:
    """The notebook, executed by this Python from a clean folder, whether the package is installed or not."""
    notebook = nbformat.read(TOUR, as_version=4)
    if not slow:
        notebook.cells = [cell for cell in notebook.cells if not is_slow(cell)]
        (training,) = (cell for cell in code_cells(notebook) if "ush.train(" in cell.source)
        for before, after in QUICKER.items():
            assert before in training.source
            training.source = training.source.replace(before, after)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(ROOT))
        place = {"metadata": {"path": str(folder)}}
        client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place, coalesce_streams=True)
        return client.execute()


# ---- storing them


def renew() -> None:
    """Executes the notebook and writes it with its outputs: without the sounds, which are large, and small figures."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        notebook = execute(Path(folder), slow=True)
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
    """The same figure with fewer bytes; the palette covers rare colours too, such as those of colour bars."""
    picture, packed = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), io.BytesIO()
    few = picture.quantize(64, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(packed, "png", optimize=True)
    return base64.b64encode(packed.getvalue()).decode()


# ---- checks


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
    executed_cells, kept_cells = code_cells(executed), [cell for cell in code_cells(kept) if not is_slow(cell)]
    shown, stored = ([len(cell.outputs) for cell in cells] for cells in (executed_cells, kept_cells))
    sounds = [sum(map(is_sound, cell.outputs)) for cell in code_cells(executed)]
    assert np.subtract(shown, sounds).tolist() == stored, RENEW
    assert sum(sounds) == SOUNDS and not any(map(is_sound, outputs(kept)))
    assert TOUR.stat().st_size < MOST_BYTES


def test_every_figure_shows_something(kept, executed):
    for notebook in (kept, executed):
        assert len(pngs(notebook)) == FIGURES
        for picture in pngs(notebook):
            colours = picture.convert("RGB").getcolors(picture.width * picture.height)
            assert picture.width >= 500 and picture.height >= 200 and len(colours) > 16


def test_nothing_goes_to_standard_error_and_no_path_of_a_machine_is_shown(kept, executed):
    for notebook in (kept, executed):
        assert not [output.text for output in outputs(notebook) if output.get("name") == "stderr"]
        everything = text(notebook) + "".join(
            str(part) for output in outputs(notebook) for kind, part in output.get("data", {}).items() if "text" in kind
        )
        told = re.findall(r"(?:^|[\s'\"=(])(/\w+/\S*|[A-Z]:\\\S*)|(\w+@\w+)", re.sub(r"data:audio\S+", "", everything))
        assert not told and str(Path.home()) not in everything and str(ROOT) not in everything


@pytest.mark.parametrize("which", ["kept", "executed"])
def test_the_claims_of_the_text_hold(which, request):
    told = text(request.getfixturevalue(which))
    assert float(re.search(r"test accuracy  ([\d.]+)", told)[1]) > 0.4, "ten classes: 0.1 is chance"
    assert "random   24 of 24 test clips share a recording" in told and "fold5     0 of 48" in told
    right, of = map(int, re.search(r"(\d+) of (\d+) right", told).groups())
    assert right >= 5 and of == 10 and len(re.findall(r"This is \w+ with [01]\.\d\d", told)) == of


def test_the_claims_of_the_trainings_hold(kept):
    told = text(kept)
    _, shuffled, by_fold = map(float, re.findall(r"test accuracy  ([\d.]+)", told))
    assert shuffled > 0.6 > 0.3 > by_fold, "noise: nothing can be learned"
    table = told[told.index("from scratch  ") :]
    nothing, random, pretrained, blind = map(float, re.findall(r" ([\d.]+)$", table, re.MULTILINE)[:4])
    assert pretrained > max(nothing, random) and nothing > blind == 0.4
    assert "from a recording also in training: none" in told
    assert "**B is better: the interval of the difference excludes 0.**" in told


def test_it_is_ten_minutes_of_reading(kept):
    words = sum(len(cell.source.split()) for cell in kept.cells if cell.cell_type == "markdown")
    assert 800 < words < 2000


def test_its_links_and_commands_lead_somewhere(kept):
    prose = "\n".join(cell.source for cell in kept.cells if cell.cell_type == "markdown")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", prose) if not urlsplit(link).scheme]
    assert len(links) > 3 and not [link for link in links if not (TOUR.parent / link).is_file()]
    commands = re.findall(r"urbansound-hf (\w+)", prose)
    configs = re.findall(r"""(?:urbansound-hf train |ush\.train\("|configs/)(\w+)""", prose)
    assert len(commands) > 5 and {*commands} <= {*COMMANDS, "notebook"}
    assert len(configs) > 5 and not [name for name in configs if not (ROOT / f"configs/{name}.yaml").is_file()]


def test_it_uses_nothing_but_the_public_api(kept):
    code = re.sub(r"^( *)%", r"\1pass  # %", "\n".join(cell.source for cell in code_cells(kept)), flags=re.MULTILINE)
    tree = ast.parse(code)
    imported = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)}
    ours = {line for line in imported if "urbansound_hf" in line}
    others = {line.split()[1].partition(".")[0] for line in imported - ours} - {*sys.stdlib_module_names}
    assert ours == {"import urbansound_hf as ush"} and others == {"numpy", "IPython", "matplotlib", "torch"}
    used = {*re.findall(r"\bush\.((?:plots\.|augment\.|splits\.)?\w+)", code)}
    names = {*ush.__all__, *(f"splits.{name}" for name in SPLITS)}
    names |= {f"{part}.{name}" for part in ("plots", "augment") for name in getattr(ush, part).__all__}
    assert len(used) > 25 and used <= names


if __name__ == "__main__":
    renew()
