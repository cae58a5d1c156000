"""The public API: its names load lazily, are seen by type checkers, and their documented examples are true."""

from __future__ import annotations

import ast
import doctest
import functools
import inspect
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from filelock import FileLock
from transformers.trainer_utils import IntervalStrategy

import urbansound_hf as ush
from tests.conftest import ROOT, TINY
from urbansound_hf.config.parse import keyword_run_config, parse_run_config
from urbansound_hf.errors import UserError, UserErrors
from urbansound_hf.progress import QUIET

pytestmark = pytest.mark.usefixtures("plain_reports")

SPLITS = ("official", "grouped", "random", "predefined", "stratified_folds")
PACKAGES = ("urbansound_hf", "urbansound_hf.plots", "urbansound_hf.augment")


# ---- the names


def in_a_new_process(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return done.stdout.strip()


def test_importing_it_imports_no_library():
    code = """
import sys
import urbansound_hf as ush
print(*{"torch", "numpy", "transformers", "datasets", "matplotlib"} & set(sys.modules))
dir(ush), ush.UserError, ush.splits.official, ush.plots.waveform, ush.spectrogram, ush.augment.EFFECTS
print(*{"torch", "transformers"} & set(sys.modules))
"""
    assert not in_a_new_process(code).split()


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
def place(tmp_path_factory, synthetic_root) -> Path:
    """A folder with all that the examples mention: sounds, a clip, a long recording and two finished runs."""
    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        from urbansound_hf.audio.io import to_wav
        from urbansound_hf.data import synthetic

        shutil.copytree(synthetic_root, "sounds")
        bark = 0.5 * synthetic.waveform("dog_bark", np.random.default_rng(0), 4.0, 16_000)
        Path("clip.wav").write_bytes(to_wav(bark))
        Path("long.wav").write_bytes(to_wav(np.tile(bark, 2)))
        for name in ("base", "new"):
            Path(f"{name}.yaml").write_text(f"dataset: sounds\n{TINY}", encoding="utf-8")
            ush.train(f"{name}.yaml", quiet=True)
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


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_the_documents_use_names_that_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        ast.parse(block)
    for name in re.findall(r"\bush((?:\.\w+)+)\(", text):
        parts = name.split(".")[1:]
        assert parts[0] in ush.__all__
        functools.reduce(getattr, parts, ush)


# ---- train


def test_train_returns_runs_to_serve_to_read_and_to_compare(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", [])
    before = settings()
    runs = ush.train(Path("base.yaml"), output_dir="outputs/two", test_fold=[1, 2], seed=7, augment=["gain", "shift"])
    assert settings() == before and sys.argv == []
    assert [run.folder for run in runs] == [Path("outputs/two/fold1"), Path("outputs/two/fold2")]
    assert all(isinstance(run, ush.Run) and len(run.predictions) == run.metrics["clips"]["test"] for run in runs)
    assert ush.SoundClassifier.from_pretrained(runs[1].folder).classify("clip.wav").windows[0].label
    receipt = json.loads((runs[0].folder / "run.json").read_text(encoding="utf-8"))
    call = "output_dir='outputs/two', test_fold=[1, 2], seed=7, augment=['gain', 'shift']"
    assert receipt["command"] == [f"urbansound_hf.train('base.yaml', {call})"]
    assert "mean" in capsys.readouterr().out
    again = ush.train("base.yaml", output_dir="outputs/two", test_fold="1,2", seed=7, augment=["gain", "shift"])
    assert [run.metrics for run in again] == [run.metrics for run in runs], "finished runs are returned as they are"


def settings() -> tuple:
    """The settings of libraries that a training changes while it runs."""
    import datasets
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled(), datasets.are_progress_bars_disabled()
    return (*bars, logging.get_verbosity(), QUIET.get(), Path.cwd())


def test_a_finished_run_is_not_replaced_without_being_asked(place, monkeypatch):
    monkeypatch.chdir(place)
    (run,) = ush.train("base.yaml", output_dir="outputs/once", quiet=True)
    before = settings()
    with pytest.raises(UserError, match="this run is finished already") as caught:
        ush.train("base.yaml", output_dir="outputs/once", quiet=True)
    assert "overwrite" in caught.value.fix and settings() == before
    (run,) = ush.train("base.yaml", output_dir="outputs/once", max_steps=2, overwrite=True, quiet=True)
    assert run.metrics["test_fold"] == 10


def test_a_fold_that_fails_raises_and_says_where_the_others_are(place, monkeypatch):
    monkeypatch.chdir(place)
    (place / "outputs/half").mkdir()
    with FileLock(place / "outputs/half/.fold2.lock"), pytest.raises(UserError, match="1 of 2 runs failed: fold2") as e:
        ush.train("base.yaml", output_dir="outputs/half", test_fold=[1, 2], quiet=True)
    assert "another command is training" in e.value.what
    assert ush.read_run("outputs/half/fold1").metrics["test_fold"] == 1
    assert str(Path("outputs/half/fold1")) in e.value.fix and "fold2" not in e.value.fix


@pytest.fixture
def both(tmp_path):
    """The same flags as words of the command line and as keywords."""
    (tmp_path / "a.yaml").write_text("augment: [shift]\nseed: 3\nlearning_rate: 1e-4\n", encoding="utf-8")

    def parsed(words: str, keywords: dict) -> tuple:
        argv = [str(tmp_path / "a.yaml"), *shlex.split(words)]
        return parse_run_config(argv, tmp_path / "a.yaml"), keyword_run_config(tmp_path / "a.yaml", keywords, ["call"])

    return parsed


@pytest.mark.parametrize(
    ("words", "keywords"),
    [
        ("--test_fold 3 --learning_rate 0.002", {"test_fold": 3, "learning_rate": 2e-3}),
        ("--test_fold 1 3", {"test_fold": (1, 3)}),
        ("--test_fold 1 3", {"test_fold": np.array([1, 3])}),
        ("--augment none", {"augment": None}),
        ("--augment none", {"augment": []}),
        ("--augment gain:0.5:-3..3", {"augment": "gain:0.5:-3..3"}),
        ("--overwrite --bf16 false --load_best_model_at_end no",
         {"overwrite": True, "bf16": False, "load_best_model_at_end": False}),
        ("--model_config hidden_sizes=[8,16] architecture=residual",
         {"model_config": {"hidden_sizes": [8, 16], "architecture": "residual"}}),
        ("--lr_scheduler_kwargs '{\"num_cycles\": 2}'", {"lr_scheduler_kwargs": {"num_cycles": 2}}),
        ("--eval_strategy epoch --data_dir a/b", {"eval_strategy": IntervalStrategy.EPOCH, "data_dir": Path("a/b")}),
        ("--learning_rate 3e-5", {"learning_rate": None}),
    ],
)  # fmt: skip
def test_keywords_take_what_the_flags_take(both, words, keywords):
    of_command, of_keywords = both(words, keywords)
    assert of_keywords.command == ("call",)
    texts = {key: str(value).replace(", ", ",") for key, value in of_command.as_dict().items()}
    assert {key: str(value).replace(", ", ",") for key, value in of_keywords.as_dict().items()} == texts


def test_mistakes_name_the_keyword_and_the_nearest_name(place, monkeypatch):
    monkeypatch.chdir(place)
    mistakes = {"lerning_rate": 1e-3, "epochs": 3, "seed": "many", "split": "oficial", "fp16": [1, 2], "help": True}
    with pytest.raises(UserErrors) as caught:
        ush.train("base.yaml", **mistakes)
    problems = {problem.where: problem for problem in caught.value.problems}
    assert list(problems) == [f"keyword {name}" for name in mistakes]
    assert problems["keyword lerning_rate"].fix == "did you mean learning_rate?"
    assert problems["keyword epochs"].fix == "did you mean num_train_epochs?"
    assert problems["keyword seed"].what == "`seed` must be a whole number, found 'many'"
    assert problems["keyword split"].fix == "did you mean official?"
    assert problems["keyword fp16"].what == "`fp16` takes one value, found '1', '2'"
    with pytest.raises(UserError, match="`folds` belongs to `test_fold`"):
        ush.train("base.yaml", folds=3, split="random")
    for name, fix in (("cn", "did you mean cnn"), ("configs/cnn.yaml", "is called cnn"), ("bas.yaml", "base.yaml")):
        with pytest.raises(UserError, match=r"config (cn$|cn\n|does not exist)|no config") as wrong:
            ush.train(name)
        assert fix in str(wrong.value)
