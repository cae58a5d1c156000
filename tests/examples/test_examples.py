"""The examples: shell scripts parse and use real flags, and the one for Ray runs on a local Ray."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import ROOT
from tests.helpers import tiny
from urbansound_hf import cli
from urbansound_hf.inference.classifier import SoundClassifier

SCRIPTS = sorted((ROOT / "examples").glob("*.sh"))


def test_there_are_scripts():
    assert {script.name for script in SCRIPTS} == {"slurm_array.sh", "hf_jobs.sh"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_is_valid_bash_with_flags_of_infer(script):
    subprocess.run(["bash", "-n", script], check=True)
    text = re.sub(r"\\\n\s*", "", script.read_text(encoding="utf-8"))
    (call,) = re.findall(r"urbansound-hf infer ([^\n]*)", text)
    words = [word.strip('"') for word in shlex.split(call.rstrip('"'))]
    args = cli._infer_arguments(words, "infer")
    assert args.resume and "/" in args.shard and args.output.endswith("labels.parquet")


def test_hf_jobs_takes_the_flags_of_the_script():
    hf = Path(sys.executable).parent / "hf"
    if not hf.exists():
        pytest.skip("the command hf of huggingface_hub is not beside this Python")
    told = subprocess.run([hf, "jobs", "run", "--help"], capture_output=True, text=True, check=True).stdout
    text = (ROOT / "examples/hf_jobs.sh").read_text(encoding="utf-8")
    call = text[text.index("hf jobs run") : text.index("bash -c")]
    flags = re.findall(r"--[a-z]+", call)
    assert flags and [flag for flag in flags if flag not in told] == []
    assert "t4-small" in told


def test_ray_data_gives_the_windows_of_infer(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'urbansound-hf[ray]'")
    import numpy as np
    import soundfile

    model = tiny.save("yamnet", tmp_path / "model", clip_seconds=1.0)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 40_000)
    names = []
    for number, samples in enumerate((16_000, 40_000, 22_050, 8_000)):
        soundfile.write(tmp_path / f"{number}.wav", noise[:samples], 16_000 + 6050 * (number == 2))
        names.append(str(tmp_path / f"{number}.wav"))
    names.append(str(tmp_path / "gone.wav"))
    (tmp_path / "sounds.txt").write_text("\n".join(names), encoding="utf-8")
    program = (
        "import sys, ray; sys.path.insert(0, sys.argv[1])\n"
        "ray.init(num_cpus=2, object_store_memory=10**8, include_dashboard=False, log_to_driver=False)\n"
        "import ray_data; ray_data.main(sys.argv[2:])\n"
    )
    flags = [str(tmp_path / "sounds.txt"), "--model", str(model), "--output", str(tmp_path / "labels")]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'examples'}", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-c", program, str(ROOT / "examples"), *flags]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = pq.read_table(tmp_path / "labels").to_pylist()
    found = {(row["path"], row["start"]): row for row in rows}
    results = SoundClassifier.from_pretrained(model, device="cpu").classify_many(names, top_k=1)
    expected = [(result.path, window) for result in results for window in result.windows]
    assert len(expected) == 7 and len(rows) == 8
    for path, window in expected:
        row = found[path, window.start]
        assert (row["end"], row["label"]) == (window.end, window.label)
        assert row["score"] == pytest.approx(window.score, abs=1e-5)
    assert found[names[-1], None]["error"] == "does not exist"
