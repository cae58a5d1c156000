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

SDK = "docker"
CHECKPOINT = ("config.json", "preprocessor_config.json", "*.safetensors", "*.safetensors.index.json", "*.py")
APP = '''"""Starts the page with the model of this Space; as a Space it is open to all, elsewhere to this machine."""

import os
import sys
from pathlib import Path

from urbansound_hf.app.__main__ import main
from urbansound_hf.errors import exit_code

os.chdir(Path(__file__).parent)  # where the model is, if it is part of this folder
HOST = "0.0.0.0" if "SPACE_ID" in os.environ else "127.0.0.1"

if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(["--model", {model!r}, "--host", HOST, *sys.argv[1:]])))
'''
DOCKERFILE = """FROM python:{python}-slim
RUN useradd --create-home --uid 1000 user
USER user
ENV PATH=/home/user/.local/bin:$PATH
WORKDIR /home/user/app
COPY --chown=user requirements.txt *.whl ./
RUN pip install --no-cache-dir -r requirements.txt
COPY --chown=user . .
CMD ["python", "app.py"]
"""
CARD = """---
title: {title!r}
emoji: 🔊
colorFrom: blue
colorTo: indigo
sdk: docker
app_port: 7860
license: apache-2.0
{models}---

# {title}

Drop a sound or record one: the predicted classes, their places in a long recording, and the parts of the spectrogram
that the prediction rests on. To run it elsewhere, in this folder: `pip install -r requirements.txt`, then
`python app.py`.
"""


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
    named = "" if local else f"models:\n  - {model}\n"
    texts = {
        "requirements.txt": "\n".join([f"./{write_wheel(folder).name}", *pins()]) + "\n",
        "app.py": APP.format(model="model" if local else model),
        "Dockerfile": DOCKERFILE.format(python=f"{sys.version_info.major}.{sys.version_info.minor}"),
        "README.md": CARD.format(title=" ".join(title.split()), models=named),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


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
