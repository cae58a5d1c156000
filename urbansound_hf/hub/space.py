"""The browser page as a Space: a folder with the model, the wheel of this package and a Dockerfile that installs it.

The builder of Gradio Spaces sees requirements.txt alone, before the other files are there, so it cannot install a wheel
that the repository carries; a Docker Space can.
"""

from __future__ import annotations

import re
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from urbansound_hf.errors import UserError
from urbansound_hf.hub.wheel import installed, write_wheel
from urbansound_hf.models.loading import check_path
from urbansound_hf.text import rendered

SDK = "docker"
CHECKPOINT = ("config.json", "preprocessor_config.json", "*.safetensors", "*.safetensors.index.json", "*.py")
TEMPLATES = Path(__file__).parent / "templates"


def write_space(folder: Path, model: str, title: str) -> None:
    """Writes a Space that serves one model.

    Args:
        folder: made if need be; files in it of the same names are replaced.
        model: a Hub id, which the Space downloads, or the folder of a run, whose checkpoint becomes part of the Space.
        title: of the Space's card, in one line.

    Raises:
        UserError: the model is no checkpoint, this package or one that the Space needs is not installed.
    """
    check_path(Path(model))
    folder.mkdir(parents=True, exist_ok=True)
    local = Path(model).is_dir()
    if local:
        _copy_checkpoint(Path(model), folder / "model")
    title = " ".join(title.split())
    values = {"title": title, "quoted_title": repr(title), "local": local, "named": model}
    values |= {"model": repr("model" if local else model), "python": ".".join(map(str, sys.version_info[:2]))}
    requirements = "\n".join([f"./{write_wheel(folder).name}", *pins()]) + "\n"
    (folder / "requirements.txt").write_text(requirements, encoding="utf-8")
    for template in TEMPLATES.iterdir():
        (folder / template.stem).write_text(rendered(template, **values), encoding="utf-8")


def pins() -> list[str]:
    """Every requirement of the page at its installed version, `name==version`: what this package and its `app` need.

    Raises:
        UserError: one of them is not installed.
    """
    needs = [need for need in installed().requires or () if ";" not in need or need.endswith("extra == 'app'")]
    names = (re.split(r"[^\w.-]", need, maxsplit=1)[0] for need in needs)
    return [f"{name}=={_installed(name)}" for name in names]


def _installed(name: str) -> str:
    """The version of an installed package; a local build (2.14.1+cpu) has the name that the index gives it."""
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        what = f"a Space needs {name}, which is not installed"
        raise UserError(what, fix="pip install 'urbansound-hf[app]'") from None


def _copy_checkpoint(run: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for pattern in CHECKPOINT:
        for file in run.glob(pattern):
            shutil.copy(file, folder)
