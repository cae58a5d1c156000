"""A run under a locale of ASCII: labels of any script, in a table or as names of folders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, TINY
from tests.helpers import tiny
from urbansound_hf.audio.io import to_wav
from urbansound_hf.evaluation.runs import read_predictions

ASCII = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LABELS = ["Hund", "狗", "oiseau à bec", "ßÅ"]


def write_clips(root: Path, place: str) -> None:
    """Three folds of one clip a class; `place` of a clip has its label, fold and number."""
    lines = ["file,label,fold"]
    for number, (fold, label) in enumerate((fold, label) for fold in (1, 2, 3) for label in LABELS):
        path = root / place.format(label=label, fold=fold, number=number)
        path.parent.mkdir(parents=True, exist_ok=True)
        tone = 0.3 * np.sin(np.arange(8000) * (0.05 + 0.02 * LABELS.index(label) + 0.003 * fold))
        path.write_bytes(to_wav(tone.astype(np.float32)))
        lines.append(f"{path.relative_to(root)},{label},{fold}")
    if "{label}" not in place:
        (root / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


COMMANDS = """
import sys
from pathlib import Path
from urbansound_hf import cli
from urbansound_hf.errors import exit_code

def run(command, *words):
    sys.argv = [command.__name__, *words]
    print(exit_code(lambda: command([*words])), file=sys.stderr)
    print("----", file=sys.stderr)

flags = ["--preprocessing_num_workers", "1", "--clip_seconds", "0.5"]
run(cli.train, "tiny.yaml", "--dataset", "table", "--output_dir", "out", "--test_fold", "3", *flags)
run(cli.infer, "table/audio/0.wav", "--model", "out/fold3")
run(cli.train, "tiny.yaml", "--dataset", "folders", "--output_dir", "refused", *flags)
names = [str(path) for path in Path().glob("*.wav")]
for form in (["--format", "csv"], ["--format", "jsonl"], [], ["--output", "out.csv"]):
    run(cli.infer, *names, "--model", "model", "--device", "cpu", *form)
"""
NAMES = ["Vögel.wav", "狗.wav"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the sounds, their labels in a table and as names of folders, a config and a model."""
    folder = tmp_path_factory.mktemp("locale")
    write_clips(folder / "table", "audio/{number}.wav")
    write_clips(folder / "folders", "{label}/{number}.wav")
    (folder / "tiny.yaml").write_text(TINY, encoding="utf-8")
    tiny.save("yamnet", folder / "model", clip_seconds=0.5)
    for name in NAMES:
        (folder / name).write_bytes(to_wav(np.zeros(8000, np.float32)))
    return folder


@pytest.fixture(scope="module")
def told(folder) -> list[list[str]]:
    """What each command said on standard error, by lines, its exit code last: all in one process of that locale."""
    environment = {**os.environ, **ASCII, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", COMMANDS], cwd=folder, env=environment, capture_output=True,
                          text=True, timeout=300, errors="replace")  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [part.splitlines() for part in done.stderr.split("----\n")[:-1]]


def test_labels_of_a_table(told, folder):
    trained, served = told[:2]
    assert trained[-1] == served[-1] == "0" and "Glyph" not in "".join(trained), trained
    assert sorted(read_predictions(folder / "out/fold3/predictions.csv").labels) == sorted(LABELS)


def test_labels_by_folders_are_refused_before_the_work(told, folder):
    message = "".join(told[2])
    assert told[2][-1] == "2" and "the name is not text in this locale" in message and "PYTHONUTF8=1" in message
    assert not (folder / "refused").exists()


def test_infer_names_any_file(told, folder):
    assert [each[-1] for each in told[3:]] == ["0"] * 4, told[3:]
    table = (folder / "out.csv").read_text(encoding="utf-8")
    assert all(name in table for name in NAMES)
