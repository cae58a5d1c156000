"""The page as a Space: a folder that runs as it stands, with a copy of this package, because no index holds one."""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from urbansound_hf.errors import UserError
from urbansound_hf.layout import PACKAGE_ROOT
from urbansound_hf.models.loading import check_path

PACKAGE = PACKAGE_ROOT
NEEDS = ("torch", "torchaudio", "transformers", "datasets", "soundfile", "scipy", "matplotlib", "tqdm")
CHECKPOINT = ("config.json", "preprocessor_config.json", "*.safetensors", "*.safetensors.index.json", "*.py")
APP = '''"""Starts the page with the model of this Space; as a Space it is open to all, elsewhere to this machine."""

import os
import sys
from pathlib import Path

from urbansound_hf.app.__main__ import main
from urbansound_hf.layout import PACKAGE_ROOT
from urbansound_hf.errors import exit_code

os.chdir(Path(__file__).parent)  # where the model lies, if it is part of this folder
HOST = "0.0.0.0" if "SPACE_ID" in os.environ else "127.0.0.1"

if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(["--model", {model!r}, "--host", HOST, *sys.argv[1:]])))
'''
CARD = """---
title: {title!r}
emoji: 🔊
colorFrom: blue
colorTo: indigo
sdk: gradio
sdk_version: {gradio}
app_file: app.py
license: apache-2.0
{models}---

# {title}

Drop a sound or record one: what the model takes it for, where in a long recording, and which parts of the spectrogram
carried the decision. Runs anywhere: `pip install gradio=={gradio} -r requirements.txt`, then `python app.py`.
"""


def write_space(folder: Path, model: str, title: str) -> None:
    """Writes a Space that answers with one model.

    Args:
        folder: made if need be; what lies there under the same names is replaced.
        model: a Hub id, which the Space downloads, or the folder of a run, whose checkpoint becomes part of the Space.
        title: of the Space's card, in one line.

    Raises:
        UserError: the model is no checkpoint, or a package that the Space needs is not installed here.
    """
    check_path(Path(model))
    gradio, *needs = (f"{name}=={_installed(name)}" for name in ("gradio", *NEEDS))
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / PACKAGE.name, ignore_errors=True)
    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    local = Path(model).is_dir()
    if local:
        _copy_checkpoint(Path(model), folder / "model")
    (folder / "app.py").write_text(APP.format(model="model" if local else model), encoding="utf-8")
    (folder / "requirements.txt").write_text("\n".join(needs) + "\n", encoding="utf-8")
    named = "" if local else f"models:\n  - {model}\n"
    card = CARD.format(title=" ".join(title.split()), gradio=gradio.partition("==")[2], models=named)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _installed(name: str) -> str:
    """The version that was tried here; a local build (2.14.1+cpu) is named as the index has it."""
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        what = f"a Space needs {name}, which is not installed"
        raise UserError(what, fix="pip install 'urbansound-hf[app]', or pip install gradio") from None


def _copy_checkpoint(run: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for pattern in CHECKPOINT:
        for file in run.glob(pattern):
            shutil.copy(file, folder)
