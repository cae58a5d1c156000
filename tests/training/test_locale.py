"""A run under a locale of ASCII: labels of any script, in a table or as names of folders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

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


def train(data: Path, out: Path, tmp_path: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")
    command = [sys.executable, "train.py", tmp_path / "tiny.yaml", "--dataset", data, "--output_dir", out]
    words = [*map(str, command), "--preprocessing_num_workers", "1", "--clip_seconds", "0.5", *flags]
    environment = {**os.environ, **ASCII}
    return subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, errors="replace"
    )


def test_labels_of_a_table(tmp_path):
    write_clips(tmp_path / "data", "audio/{number}.wav")
    done = train(tmp_path / "data", tmp_path / "out", tmp_path, "--test_fold", "3")
    assert done.returncode == 0 and "Glyph" not in done.stderr, done.stderr
    assert sorted(read_predictions(tmp_path / "out/fold3/predictions.csv").labels) == sorted(LABELS)
    infer = [sys.executable, "infer.py", str(tmp_path / "data/audio/0.wav"), "--model", str(tmp_path / "out/fold3")]
    served = subprocess.run(infer, cwd=ROOT, env={**os.environ, **ASCII}, capture_output=True, timeout=120)
    assert served.returncode == 0, served.stderr


def test_labels_by_folders_are_refused_before_the_work(tmp_path):
    write_clips(tmp_path / "data", "{label}/{number}.wav")
    done = train(tmp_path / "data", tmp_path / "out", tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "the name is not text in this locale" in done.stderr and "PYTHONUTF8=1" in done.stderr


EACH_FORMAT = """
import sys
from urbansound_hf import cli

words, out = sys.argv[1:-1], sys.argv[-1]
for flags in (["--format", "csv"], ["--format", "jsonl"], [], ["--output", out]):
    sys.argv = ["infer.py", *words, *flags]
    if code := cli.infer(sys.argv[1:]):
        sys.exit(code)
"""


def test_infer_names_any_file(tmp_path):
    names = ["Vögel.wav", "狗.wav"]
    model = tiny.save("yamnet", tmp_path / "model", clip_seconds=0.5)
    for name in names:
        (tmp_path / name).write_bytes(to_wav(np.zeros(8000, np.float32)))
    words = [*(tmp_path / name for name in names), "--model", model, "--device", "cpu", tmp_path / "out.csv"]
    command = [sys.executable, "-c", EACH_FORMAT, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **ASCII}, capture_output=True, timeout=120)
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
    table = (tmp_path / "out.csv").read_text(encoding="utf-8")
    assert all(name in table for name in names)
