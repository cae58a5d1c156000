"""The public API: its names load lazily, are seen by type checkers, and their documented examples are true."""

from __future__ import annotations

import ast
import doctest
import inspect
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import urbansound_hf as ush
from tests.conftest import ROOT, TINY

SPLITS = ("official", "grouped", "random", "predefined")
PACKAGES = ("urbansound_hf", "urbansound_hf.plots", "urbansound_hf.augment")


# ---- the names


def in_a_new_process(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return done.stdout.strip()


def test_importing_it_takes_no_time_and_no_library():
    code = """
import sys, time
started = time.process_time()
import urbansound_hf as ush
print(time.process_time() - started, *{"torch", "numpy", "transformers", "datasets", "matplotlib"} & set(sys.modules))
dir(ush), ush.UserError, ush.splits.official, ush.plots.waveform, ush.spectrogram, ush.augment.EFFECTS
print(*{"torch", "transformers"} & set(sys.modules))
"""
    seconds, *loaded = in_a_new_process(code).split()
    assert float(seconds) < 0.1 and not loaded


@pytest.mark.parametrize("package", PACKAGES)
def test_type_checkers_and_python_see_the_same_names(package):
    module = sys.modules[package] if package in sys.modules else __import__(package, fromlist=["_"])
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: f"{node.module}.{alias.name}"
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(seen) == sorted(module.__all__) == dir(module)
    for name in module.__all__:
        value = getattr(module, name)
        if isinstance(value, ModuleType):
            assert value.__name__ == seen[name]
        elif name != "EFFECTS":
            assert f"{value.__module__}.{value.__name__}" == seen[name]
    with pytest.raises(AttributeError, match="has no attribute 'wavefrom'"):
        _ = module.wavefrom


def test_the_package_is_marked_as_typed():
    assert (Path(str(ush.__file__)).parent / "py.typed").is_file()


# ---- the examples


def documented() -> Iterator[tuple[str, object]]:
    """Every public name with the object that documents it; of a module, its functions."""
    for name in ush.__all__:
        value = getattr(ush, name)
        if not isinstance(value, ModuleType):
            yield name, value
            continue
        members = SPLITS if value is ush.splits else value.__all__
        yield from ((f"{name}.{member}", getattr(value, member)) for member in members if member != "EFFECTS")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with all that the examples mention: sounds, a clip, a long recording and two finished runs."""
    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        from urbansound_hf.audio.io import to_wav
        from urbansound_hf.config.parse import parse_run_config
        from urbansound_hf.data import synthetic
        from urbansound_hf.training.cross_validation import run_experiment

        ush.synthetic_dataset("sounds", clips_per_class_and_fold=1)
        bark = 0.5 * synthetic.waveform("dog_bark", np.random.default_rng(0), 4.0, 16_000)
        Path("clip.wav").write_bytes(to_wav(bark))
        Path("long.wav").write_bytes(to_wav(np.tile(bark, 2)))
        for name in ("base", "new"):
            Path(f"{name}.yaml").write_text(f"dataset: sounds\n{TINY}", encoding="utf-8")
            run_experiment(parse_run_config([f"{name}.yaml", "--quiet"], Path(f"{name}.yaml")))
    return folder


@pytest.mark.parametrize("name", [name for name, _ in documented()])
def test_each_name_is_documented_with_examples_that_hold(name, place, monkeypatch):
    monkeypatch.chdir(place)
    value = dict(documented())[name]
    assert len((inspect.getdoc(value) or "").split()) > 8, f"{name} needs a docstring"
    found = doctest.DocTestFinder().find(value, name, globs={"ush": ush, "np": np, "PORT": free_port()})
    examples = [test for test in found if test.examples]
    assert examples, f"{name} needs an example"
    runner, said = doctest.DocTestRunner(), []
    for test in examples:
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)
