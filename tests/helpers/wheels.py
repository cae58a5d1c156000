"""The package built as a wheel, and wheels installed into a fresh environment beside the present dependencies."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from tests.conftest import ROOT


def build_wheel(folder: Path) -> Path:
    """The wheel of the checkout, by the backend that pyproject.toml names, without a network."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def install(folder: Path, *wheels: str | Path, cwd: Path | None = None) -> Path:
    """Installs wheels, without what they need, into a new environment that also sees the packages of this one.

    Returns:
        the folder of the environment's commands.
    """
    venv.create(folder, with_pip=False)
    binaries = folder / ("Scripts" if os.name == "nt" else "bin")
    pip = [sys.executable, "-m", "pip", "--python", str(binaries / "python"), "install", "--quiet"]
    subprocess.run([*pip, "--no-index", "--no-deps", *map(str, wheels)], cwd=cwd, check=True, capture_output=True)
    packages = next(folder.rglob("urbansound_hf-*.dist-info")).parent
    (packages / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return binaries


def without_checkout() -> dict[str, str]:
    """The variables of this process, but for those that would put the checkout on the path."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "SPACE_ID")}
