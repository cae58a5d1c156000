"""The documents keep their word: their commands run, their flags, files and links exist, what is generated is fresh."""

from __future__ import annotations

import argparse
import importlib.util
import io
import re
import runpy
import shlex
import shutil
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, TINY
from tests.helpers import readme
from urbansound_hf.config.parse import SCHEMA, parse_run_config

pytestmark = pytest.mark.usefixtures("plain_reports")

DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
OURS = ("configs/", "docs/", "benchmarks/", "tests/", "urbansound_hf/", ".ci/")
SCRIPT = re.compile(
    r"(urbansound-hf \w|python (-m urbansound_hf\.[\w.]+|[\w/]+\.py)|accelerate launch|make \w|[\w/]+\.py\b)"
)
ELSEWHERE = ("arecord", "cd", "curl", "git", "hf", "pre-commit", "sbatch", "tensorboard")  # not this project's


# ---- what the documents say


def fences(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(block: str) -> Iterator[list[str]]:
    """The commands of a shell block as words, without comments; each side of a pipe is one."""
    for line in block.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("|;&"):
                yield from [words] * bool(words)
                words = []
            elif words or not re.fullmatch(r"\w+=.*", word):  # VARIABLE=value before a command
                words.append(word)


def spans(document: Path) -> list[str]:
    """What stands in backticks in the running text."""
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def announced(path: Path) -> list[list[str]]:
    """The commands in a config's header."""
    header = [line[1:].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    found = [line.removeprefix("Command").strip() for line in header]
    return [words for line in found if SCRIPT.match(line) for words in commands(line)]


BLOCKS = [words for document in DOCUMENTS for block in fences(document, "bash") for words in commands(block)]
HEADERS = [words for path in CONFIGS for words in announced(path)]
MENTIONED = sorted({span for document in DOCUMENTS for span in spans(document)})
TEXTS = [*DOCUMENTS, *CONFIGS]


# ---- whether it is so


class ParsedError(Exception):
    """Not an error but a way out: a command's own parser has accepted its words."""


@pytest.fixture
def parse(monkeypatch) -> Callable[..., None]:
    """Runs a script or module no further than its argument parser."""

    def stop(parser, args=None):
        _, unknown = parser.parse_known_args(args)
        assert not unknown
        raise ParsedError

    def parse(script: str, words: list[str]) -> None:
        with monkeypatch.context() as patched, pytest.raises(ParsedError):
            patched.setattr(argparse.ArgumentParser, "parse_args", stop)
            patched.setattr(sys, "argv", [script, *words])
            start(script)

    return parse


def start(script: str) -> None:
    """Runs a script of this project, or a module, as Python would."""
    if script.endswith(".py"):
        runpy.run_path(str(ROOT / script), run_name="__main__")
    else:
        with warnings.catch_warnings():  # runpy's: the module is imported already, and stays so
            warnings.simplefilter("ignore", RuntimeWarning)
            runpy.run_module(script, run_name="__main__", alter_sys=True)


def script_of(words: list[str]) -> tuple[str, list[str]]:
    """`python -m module flags…`, `python script.py flags…`, `accelerate launch … script.py flags…` → script, flags."""
    if words[0] == "accelerate":
        from accelerate.commands.launch import launch_command_parser

        launch = launch_command_parser().parse_args(words[2:])
        assert launch.config_file is None or (ROOT / launch.config_file).is_file()
        return launch.training_script, launch.training_script_args
    if words[0] == "urbansound-hf":
        return "urbansound_hf", words[1:]
    return (words[2], words[3:]) if words[1] == "-m" else (words[1], words[2:])


def check(words: list[str], parse) -> None:
    """Fails where a command of the documents names a script, module, target, config or flag that does not exist."""
    missing = [word for word in words if word.startswith(OURS) and not (ROOT / word).exists()]
    assert not missing
    if words[0] == "urbansound-hf":
        parse("urbansound_hf", words[1:])
    elif words[0] in ("python", "accelerate"):
        script, flags = script_of(words)
        if script == "train.py":
            parse_run_config(flags, ROOT / "configs" / "wav2vec2_base.yaml")
        elif script.startswith("urbansound_hf") or script.endswith(".py"):
            parse(script, flags)
        else:
            assert importlib.util.find_spec(script), f"there is no module {script}"
    elif words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word} <= set(targets)
    elif words[:2] == ["pip", "install"]:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
            "optional-dependencies"
        ]
        asked = re.findall(r"\[([\w,]+)\]", words[-1])
        assert words[-1].startswith(".") and {name for names in asked for name in names.split(",")} <= set(extras)
    else:
        assert words[0] in ELSEWHERE, f"nobody knows {words[0]}: teach this test to check it"


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_there_is_something_to_check():
    assert len(BLOCKS) > 10 and len(HEADERS) >= len(CONFIGS) > 8 and len(MENTIONED) > 50


@pytest.mark.parametrize("words", [*BLOCKS, *HEADERS], ids=" ".join)
def test_a_command_is_understood(words, parse):
    check(words, parse)


@pytest.mark.parametrize(
    "line",
    ["python trian.py", "python train.py configs/wav2vec.yaml", "python train.py --tset_fold 1", "make demos",
     "accelerate launch train.py --seed x", "accelerate launch --config_file configs/accelerate/no.yaml train.py",
     "urbansound-hf crossvall outputs", "urbansound-hf crossval", "python infer.py a.wav --topk 1",
     "urbansound-hf compare a b --commons", "pip install -e .[gpu]", "docker run x"],
)  # fmt: skip
def test_a_wrong_command_is_noticed(line, parse):
    (words,) = commands(line)
    with pytest.raises((Exception, SystemExit, pytest.fail.Exception)):
        check(words, parse)


@pytest.mark.parametrize("document", TEXTS, ids=lambda path: path.name)
def test_every_flag_and_path_that_is_mentioned_exists(document, known_flags):
    told = spans(document) if document.suffix == ".md" else [
        line for line in document.read_text(encoding="utf-8").splitlines() if line.startswith("#") or "  # " in line
    ]  # fmt: skip
    flags = {flag for span in told for flag in re.findall(r"(?<![\w-])--\w[\w-]*", span)}
    assert not sorted(flags - known_flags)
    paths = {word for span in told for word in re.findall(r"[\w./-]+", span) if word.startswith(OURS)}
    assert not [path for path in paths if not (ROOT / path.rstrip(".,")).exists()]


@pytest.mark.parametrize("span", [span for span in MENTIONED if SCRIPT.match(span)])
def test_a_script_that_is_mentioned_exists(span, parse):
    words = span.split()
    if words[0].endswith(".py") or words[:2] == ["python", "-m"]:
        script = words[2] if words[0] == "python" else words[0]
        exists = (ROOT / script).is_file() if script.endswith(".py") else importlib.util.find_spec(script)
        assert exists, f"there is no {script}"
    elif "…" not in span:
        check(words, parse)


@pytest.fixture(scope="module")
def known_flags() -> set[str]:
    """Every flag of every command: of this project, and of `accelerate launch`."""
    from accelerate.commands.launch import launch_command_parser

    from urbansound_hf.config.flags import FlagParser

    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "urbansound_hf").rglob("*.py")]
    sources += [path.read_text(encoding="utf-8") for path in (*ROOT.glob("*.py"), *(ROOT / "benchmarks").glob("*.py"))]
    added = {flag for text in sources for flag in re.findall(r"""add(?:_argument)?\(\s*"(--\w+)""", text)}
    parsers = (FlagParser(SCHEMA), launch_command_parser())
    return {"--flag", *added, *(flag for parser in parsers for flag in parser._option_string_actions)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document):
    text = document.read_text(encoding="utf-8")
    anchors = {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-")
               for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}  # fmt: skip
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)):
        if target == "tour.md":  # made of the notebook for the site
            target = "tour.ipynb"
        if target.startswith("#"):
            assert target[1:] in anchors, f"there is no heading for {target}"
        elif not target.startswith(("http://", "https://", "mailto:")):
            assert (document.parent / target.partition("#")[0]).exists(), f"{target} does not exist"


# ---- what is generated


@pytest.mark.parametrize(("page", "name"), [(page, name) for page, blocks in readme.PAGES.items() for name in blocks])
def test_the_generated_parts_are_fresh(page, name):
    begin, end = f"<!-- begin {name} -->\n", f"\n<!-- end {name} -->"
    found = page.read_text(encoding="utf-8").partition(begin)[2].partition(end)[0]
    assert found == readme.PAGES[page][name](), "python -m tests.helpers.readme writes it anew"


def test_rewriting_changes_nothing_else():
    text = readme.README.read_text(encoding="utf-8")
    assert readme.rewrite(text) == text
    spoilt = text.replace("did you mean learning_rate?", "did you mean it?")
    assert spoilt != text == readme.rewrite(spoilt)
    with pytest.raises(ValueError, match="has 0 places for speed"):
        readme.rewrite(text.replace("<!-- end speed -->", ""))


# ---- the commands, run


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, synthetic_root) -> Path:
    """A folder where the data, two cross-validations and some sounds lie under the names that the README gives them."""
    from urbansound_hf.training.cross_validation import run_experiment

    folder = tmp_path_factory.mktemp("workplace")
    (folder / "data").mkdir()
    (folder / "data" / "UrbanSound8K").symlink_to(synthetic_root)
    (folder / "tiny.yaml").write_text(TINY, encoding="utf-8")
    outputs = folder / "outputs" / "wav2vec2_base"
    argv = ["--dataset", "urbansound8k", "--data_dir", str(synthetic_root), "--output_dir", str(outputs)]
    assert (
        run_experiment(parse_run_config([*argv, "--max_steps", "2", "--test_fold", "9,10"], folder / "tiny.yaml")) == 0
    )
    shutil.copytree(outputs, folder / "outputs" / "whisper_tiny")
    clips = sorted((synthetic_root / "audio" / "fold1").glob("*.wav"))
    for name in ("clip.wav", "long.wav"):
        shutil.copy(clips[0], folder / name)
    (folder / "sounds.txt").write_text("clip.wav\n", encoding="utf-8")
    shutil.copytree(clips[0].parent, folder / "recordings")
    return folder


RUN = [words for block in fences(readme.README, "bash") for words in commands(block)
       if words[:2] == ["urbansound-hf", "infer"] and "--microphone" not in words]  # fmt: skip


@pytest.mark.parametrize("words", RUN, ids=" ".join)
def test_a_command_of_the_readme_runs(words, workplace, monkeypatch, capsys):
    script, flags = script_of(words)
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(sys, "argv", [script, *flags])
    monkeypatch.setattr(
        sys, "stdin", io.TextIOWrapper(io.BytesIO((workplace / "clip.wav").read_bytes()), encoding="utf-8")
    )
    with pytest.raises(SystemExit) as ended:
        start(script)
    told = capsys.readouterr()
    assert not ended.value.code, told.err
    outputs = ("--output", "--embeddings")
    written = [Path(flags[i + 1]).read_bytes() for i, flag in enumerate(flags) if flag in outputs]
    assert max(map(len, (told.out, *written))) > 25


PRINTED = (r"'score': 0\.\d+, 'label': '\w+'", r"\w+ 0\.\d+\n")


@pytest.mark.parametrize(
    ("block", "printed"), zip(fences(readme.README, "python"), PRINTED, strict=True), ids=["stock pipeline", "our own"]
)
def test_python_of_the_readme_runs(block, printed, workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    exec(compile(block, "README.md", "exec"), {})
    assert re.search(printed, capsys.readouterr().out)


def test_the_demo_is_shown():
    """Pasted from `make demo`; its commands are those of the Makefile."""
    page = ROOT / "docs" / "index.md"
    shown = page.read_text(encoding="utf-8").partition("<!-- begin demo -->")[2].partition("<!-- end demo")[0]
    assert "test accuracy" in shown and "outputs/demo/fold10" in shown
