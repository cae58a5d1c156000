"""The wheel: its contents, and the demo's first steps with it, in an empty folder without the checkout."""

from __future__ import annotations

import os
import subprocess
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.helpers.wheels import build_wheel, install, without_checkout
from urbansound_hf import __version__
from urbansound_hf.errors import UserError
from urbansound_hf.hub import space as running
from urbansound_hf.layout import PACKAGE_ROOT

NAME = f"urbansound_hf-{__version__}-py3-none-any.whl"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def run(wheel, tmp_path_factory):
    """Runs a command of an environment with the wheel, in an empty folder; returns what it printed."""
    binaries = install(tmp_path_factory.mktemp("environment"), wheel)
    folder = tmp_path_factory.mktemp("empty")
    path = f"{binaries}{os.pathsep}{os.environ['PATH']}"

    def run_command(program: str, *words: str) -> str:
        command = [str(binaries / program), *words]
        environment = {**without_checkout(), "PATH": path}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run_command


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_holds_the_package_and_the_configs(wheel):
    assert wheel.name == NAME
    names = {name for name in contents(wheel) if ".dist-info/" not in name}
    files = (path for path in PACKAGE_ROOT.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    configs = {f"urbansound_hf/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.yaml")}
    assert configs and names == {path.relative_to(ROOT).as_posix() for path in files} | configs
    assert {"urbansound_hf/py.typed", "urbansound_hf/reports/templates/report.html.jinja"} <= names


def test_its_metadata_are_complete(wheel):
    with zipfile.ZipFile(wheel) as archive:
        about = PathDistribution(zipfile.Path(archive, f"urbansound_hf-{__version__}.dist-info/")).metadata
    assert (about["Name"], about["Version"], about["License-Expression"]) == (
        "urbansound-hf",
        __version__,
        "Apache-2.0",
    )
    assert about["Summary"] and about["Keywords"] and about["Requires-Python"] == ">=3.11"
    assert "Typing :: Typed" in about.get_all("Classifier") and about["Description"].startswith("# urbansound-hf")


def test_the_running_package_makes_the_same_wheel(wheel, run, tmp_path):
    """From the checkout and from an installed wheel: every file of the build, and the same bytes each time."""
    (tmp_path / "first").mkdir()
    rebuilt = running.write_wheel(tmp_path / "first")
    built, again = contents(wheel), contents(rebuilt)
    assert rebuilt.name == NAME and again.keys() == built.keys()
    code = {name for name in built if ".dist-info/" not in name}
    assert {name: again[name] for name in code} == {name: built[name] for name in code}
    write = "import pathlib, urbansound_hf.hub.space as wheel; print(wheel.write_wheel(pathlib.Path()).resolve())"
    installed = Path(run("python", "-c", write).strip())
    same = set(built) - {f"urbansound_hf-{__version__}.dist-info/RECORD"}
    assert {name: contents(installed)[name] for name in same} == {name: built[name] for name in same}
    assert running.write_wheel(tmp_path).read_bytes() == rebuilt.read_bytes()


def test_a_package_that_is_not_installed_makes_no_wheel(monkeypatch, tmp_path):
    monkeypatch.setattr(running, "__version__", "9.9")
    with pytest.raises(UserError, match=f"version {__version__} of urbansound-hf is installed, version 9.9 is running"):
        running.write_wheel(tmp_path)


def test_the_first_steps_of_the_demo(run, synthetic_root):
    where = run("python", "-c", "import urbansound_hf; print(urbansound_hf.__file__)")
    assert not Path(where.strip()).is_relative_to(ROOT)
    data = ["--dataset", "urbansound8k", "--data_dir", str(synthetic_root), "--max_steps", "2", "--use_cpu", "true"]
    trained = run("urbansound-hf", "train", "demo", *data)
    assert "test accuracy" in trained and "checkpoint     outputs/demo/fold10" in trained
    clips = str(synthetic_root / "audio" / "fold1")
    classified = run("urbansound-hf", "infer", clips, "--format", "jsonl", "--device", "cpu")
    assert {f"-{label}-0-0.wav" in classified for label in range(10)} == {True}
    assert run("python", "-m", "urbansound_hf", "--version") == f"urbansound-hf {__version__}\n"
