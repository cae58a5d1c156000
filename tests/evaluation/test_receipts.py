"""Receipts: what they say of a run, of the code and of the machine, and what makes two runs one experiment."""

from __future__ import annotations

import copy
import json
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

import urbansound_hf
from tests.conftest import ROOT
from urbansound_hf.evaluation.receipts import (
    INCIDENTAL,
    PACKAGES,
    PeakMemory,
    environment,
    mismatches,
)
from urbansound_hf.evaluation.runs import Run, write_json
from urbansound_hf.layout import BEGUN

RECEIPT = {
    "config": {"learning_rate": 3e-05, "model_config": ["hidden_size=16"], "output_dir": "outputs/a", "seed": 42},
    "data": {"name": "UrbanSound8K", "fingerprint": "d1", "clips": 8732},
    "processes": 1,
    "environment": {
        "urbansound_hf": "0.1.0",
        "packages": {"torch": "2.14.1"},
        "code": {"commit": "c1", "dirty": False, "source": "s1"},
        "hardware": {"cores": 2},
    },
}


def changed(**changes: object) -> dict:
    """`RECEIPT` with other values; `a__b=c` sets `receipt["a"]["b"]`."""
    receipt = copy.deepcopy(RECEIPT)
    for path, value in changes.items():
        *keys, last = path.split("__")
        place = receipt
        for key in keys:
            place = place[key]
        place[last] = value
    return receipt


# ---- the file


def test_a_receipt_marks_the_end(tmp_path):
    run = Run(tmp_path / "outputs" / "fold1")
    assert run.receipt is None
    write_json(run.folder / BEGUN, RECEIPT)
    assert run.receipt == RECEIPT and not run.finished
    write_json(run.folder / "run.json", RECEIPT | {"seconds": 3})
    assert run.finished and run.receipt == RECEIPT | {"seconds": 3}
    assert {path.name for path in run.folder.rglob("*.*")} == {"run.json", "begun.json"}


def test_the_environment_names_no_person_and_no_place():
    found = environment()
    assert found["urbansound_hf"] == urbansound_hf.__version__ and found["python"] == platform.python_version()
    assert found["packages"]["numpy"] == np.__version__ and set(found["packages"]) == set(PACKAGES)
    assert 1 <= found["hardware"]["cores"] <= psutil.cpu_count() and found["hardware"]["cpu"]
    assert found["hardware"]["memory_gib"] == round(psutil.virtual_memory().total / 2**30, 1)
    text = json.dumps(found)
    assert not [secret for secret in (platform.node(), str(Path.home()), str(ROOT)) if secret in text]


# ---- the memory


def test_the_peak_is_the_blocks_own_with_its_children():
    with PeakMemory() as before:
        pass
    block = "import numpy as np, time; ones = np.ones(30_000_000); time.sleep(0.6)"  # 240 MB
    with PeakMemory() as during:
        ones = np.ones(40_000_000)  # 320 MB
        time.sleep(0.3)
        del ones
        subprocess.run([sys.executable, "-c", block], check=True)
    with PeakMemory() as after:
        pass
    assert during.gib - before.gib > 0.2
    assert after.gib < during.gib - 0.2, "of the block, not since the process began"


# ---- the code

SAYS = "import json; from urbansound_hf.evaluation import receipts; print(json.dumps(receipts.code_state()))"


def checkout(folder: Path) -> Path:
    """A repository with what the receipts need of this project."""
    (folder / "urbansound_hf" / "evaluation").mkdir(parents=True)
    (folder / "configs").mkdir()
    package = ROOT / "urbansound_hf"
    for path in (*package.glob("*.py"), package / "evaluation" / "__init__.py", package / "evaluation" / "receipts.py"):
        shutil.copy(path, folder / path.relative_to(ROOT))
    for name in ("pyproject.toml", "README.md"):
        (folder / name).write_text("\n", encoding="utf-8")
    (folder / ".gitignore").write_text("__pycache__\n", encoding="utf-8")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        git(folder, *command)
    return folder


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def code_state(folder: Path) -> dict:
    output = subprocess.run([sys.executable, "-c", SAYS], cwd=folder, check=True, capture_output=True, text=True).stdout
    return json.loads(output)


def test_the_code_is_its_commit_and_its_content(tmp_path):
    folder = checkout(tmp_path / "checkout")
    first = code_state(folder)
    assert (first["commit"], first["dirty"], len(first["source"])) == (git(folder, "rev-parse", "HEAD"), False, 12)
    (folder / "outputs").mkdir()
    (folder / "outputs" / "notes.txt").touch()
    assert code_state(folder) == first, "what a run leaves in the checkout is no change of the code"
    (folder / "README.md").write_text("other\n", encoding="utf-8")
    assert code_state(folder) == first | {"dirty": True}
    (folder / "urbansound_hf" / "new.py").touch()
    new = code_state(folder)
    assert new["source"] != first["source"] and new["commit"] == first["commit"]
    (folder / "urbansound_hf" / "new.py").write_text("1\n", encoding="utf-8")
    assert code_state(folder)["source"] not in (first["source"], new["source"])


def test_without_a_checkout_the_content_tells(tmp_path):
    folder = checkout(tmp_path / "checkout")
    source = {"source": code_state(folder)["source"]}
    shutil.rmtree(folder / ".git")
    assert code_state(folder) == source, "a copy of the files"
    (folder / "pyproject.toml").unlink()
    assert code_state(folder) == source, "an installed package"


# ---- one experiment or several

DIFFERENT = [
    ({"config__learning_rate": 1e-4}, "learning_rate is 3e-05 in fold1, fold3 and 0.0001 in fold2"),
    ({"config__max_steps": 5}, "max_steps is not set in fold1, fold3 and 5 in fold2"),
    ({"config__model_config": []}, "model_config is ['hidden_size=16'] in fold1, fold3 and [] in fold2"),
    ({"data__fingerprint": "d2"}, "data fingerprint is d1 in fold1, fold3 and d2 in fold2"),
    ({"processes": 8}, "number of processes is 1 in fold1, fold3 and 8 in fold2"),
    ({"environment__packages__torch": "2.11"}, "torch version is 2.14.1 in fold1, fold3 and 2.11 in fold2"),
    ({"environment__code__source": "s2"}, "code is version 0.1.0, source s1 in fold1, fold3"
     " and version 0.1.0, source s2 in fold2"),
    ({"environment__urbansound_hf": "0.2.0"}, "code is version 0.1.0, source s1 in fold1, fold3"
     " and version 0.2.0, source s1 in fold2"),
    ({"environment__code": {}}, "code is version 0.1.0, source s1 in fold1, fold3"
     " and version 0.1.0 in fold2"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "told"), DIFFERENT, ids=[next(iter(change)) for change, _ in DIFFERENT])
def test_what_makes_another_experiment(change, told):
    assert mismatches({"fold1": changed(), "fold2": changed(**change), "fold3": changed()}) == [told]


@pytest.mark.parametrize(
    "change",
    [{"config__output_dir": "b"}, {"config__test_fold": "2"}, {"config__data_dir": "/data"}, {"seconds": 3.5},
     {"environment__code__dirty": True}, {"environment__hardware": {"cores": 64}}, {"data__name": "other"},
     {"config__per_device_eval_batch_size": 2}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_what_does_not(change):
    assert mismatches({"fold1": changed(), "fold2": changed(**change)}) == []


def test_all_differences_are_listed():
    now = changed(config__learning_rate=1.0, config__seed=1)
    told = ["learning_rate is 3e-05 in fold1 and 1.0 in this run", "seed is 42 in fold1 and 1 in this run"]
    assert mismatches({"fold1": RECEIPT, "this run": now}) == told
    assert mismatches({"this run": now}) == mismatches({}) == []


def test_every_incidental_flag_exists():
    from urbansound_hf.config.parse import SCHEMA

    names = {name for part in SCHEMA for name in part.__dataclass_fields__}
    assert names >= INCIDENTAL, "a flag was renamed: its new name would make every fold another experiment"
