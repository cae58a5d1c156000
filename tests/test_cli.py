"""The command `urbansound-hf`: each sub-command from an empty folder, its usage line, its exit codes."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

from tests.conftest import ROOT
from urbansound_hf import __version__, cli
from urbansound_hf.errors import exit_code

NESTED = [
    ["data", "synthetic"], ["hub", "push"], ["hub", "data"], ["hub", "space"], ["models", "yamnet"],
    ["models", "yamnet", "convert"], ["models", "ecapa_tdnn"], ["models", "ecapa_tdnn", "convert"],
]  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run_command(*words: str) -> tuple[int, str, str]:
        try:
            code = exit_code(lambda: cli.run(words))
        except SystemExit as leaving:
            code = leaving.code
        return code, *capsys.readouterr()

    return run_command


def test_help_fits_a_screen_and_names_every_command(run):
    code, out, _ = run("--help")
    lines = out.splitlines()
    assert code == 0 and len(lines) <= 24 and max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if line.startswith("  ")] == [*chain(*cli.GROUPS.values())]
    assert sorted(chain(*cli.GROUPS.values())) == sorted(cli.COMMANDS)
    assert run() == (2, out, "")
    assert run("--version") == (0, f"urbansound-hf {__version__}\n", "")


@pytest.mark.parametrize("words", [*([name] for name in cli.COMMANDS), *NESTED], ids=" ".join)
def test_usage_lines_name_the_command(words, run):
    code, out, err = run(*words, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: urbansound-hf {' '.join(words)} [")
    assert "python -m" not in out and ".py" not in out.replace("docs/", "").split("\n\n")[0]


@pytest.mark.parametrize("script", ["train.py", "infer.py"])
def test_usage_lines_of_the_scripts_name_the_scripts(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(ROOT / script), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert not ended.value.code and capsys.readouterr().out.startswith(f"usage: {script} [")


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="needs wait4, for the CPU time of one process")
def test_a_reader_that_has_seen_enough_is_no_error():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "urbansound_hf", "--help"]
    ended = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_infer_help_imports_nothing_heavy():
    program = (
        "import sys; from urbansound_hf.cli import infer\ntry: infer(['--help'])\n"
        "except SystemExit: print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--top_k" in done.stdout
    assert not {*done.stderr.split()} & {"torch", "transformers", "datasets", "matplotlib", "scipy", "pandas"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "there is no command 'trian'\n  where: urbansound-hf\n  fix:   did you mean train?"),
        (["quit"], "give one of train, infer, report"),
        (["train", "demoo"], "there is no config demoo\n  fix:   did you mean demo?"),
        (["train", "zzz"], "the shipped ones are ast, ced_tiny, clap, cnn"),
        (["train", "mine.yaml"], "the config does not exist or cannot be read\n  where: mine.yaml"),
        (["train", "ast", "--test_fold", "all", "--freeze", "al"], "`freeze` must be one of none, feature_encoder"),
        (["infer", "clip.wav"], "urbansound-hf train demo"),
        (["infer", "clip.wav", "--modle", "x"], "did you mean --model?"),
        (["leaks", "table.csv", "--sed", "3"], "did you mean --seed?"),
        (["report", "outputs"], "outputs"),
        (["compare", "one", "two"], "one"),
        (["crossval", "outputs"], "found no finished fold"),
        (["leaks", "table.csv"], "table.csv"),
        (["figures", "clip.wav"], "clip.wav"),
        (["hub", "push", "outputs", "me/run"], "not a finished run"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_a_mistake_has_a_message_and_exit_code_2(words, message, run):
    code, _, err = run(*words)
    assert code == 2 and message in err and "Traceback" not in err


def test_commands_that_need_no_run_work_in_an_empty_folder(run, synthetic_root):
    """But for `data synthetic`, which test_progress runs."""
    code, out, _ = run("leaks", str(synthetic_root / "metadata/UrbanSound8K.csv"))
    assert code == 0 and "100 clips of 100 recordings in 10 folds" in out
    assert "yamnet" in run("models")[1]
    clip = next((synthetic_root / "audio/fold1").glob("*.wav"))
    assert run("figures", str(clip), "--output", "drawn")[0] == 0 and list(Path("drawn").rglob("*.png"))
