"""The browser page as a Space: a folder with the model, the wheel of this package and a Dockerfile that installs it.

The builder of Gradio Spaces sees requirements.txt alone, before the other files are there, so it cannot install a wheel
that the repository carries; a Docker Space can.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution, version
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from urbansound_hf import __version__
from urbansound_hf.errors import UserError, complete_file, write_text
from urbansound_hf.hub.files import model_files
from urbansound_hf.layout import CONFIGS, PACKAGE_ROOT
from urbansound_hf.text import rendered

SDK = "docker"
TEMPLATES = Path(__file__).parent / "templates"


def write_space(folder: Path, model: str, title: str) -> None:
    """Writes a Space that serves one model into a folder; files in it of the same names are replaced.

    A Hub id is downloaded by the Space; the checkpoint of a run's folder becomes part of it.
    Raises UserError if the model is no checkpoint, or this package or one that the Space needs is not installed.
    """
    from urbansound_hf.models.loading import check_path

    check_path(Path(model))
    folder.mkdir(parents=True, exist_ok=True)
    local = Path(model).is_dir()
    if local:
        shutil.rmtree(folder / "model", ignore_errors=True)
        (folder / "model").mkdir()
        for name, file in model_files(Path(model)).items():
            with complete_file(folder / "model" / name) as partial:
                shutil.copy(str(file), partial)
    title = " ".join(title.split())
    values = {"title": title, "quoted_title": repr(title), "local": local, "named": model}
    values |= {"model": repr("model" if local else model), "python": ".".join(map(str, sys.version_info[:2]))}
    pinned = pins()  # before anything is written
    write_text(folder / "requirements.txt", "\n".join([f"./{write_wheel(folder).name}", *pinned]) + "\n")
    for template in TEMPLATES.iterdir():
        write_text(folder / template.stem, rendered(template, **values))


def pins() -> list[str]:
    """The requirements of this package and its extra `app` as `name==version`. Raises UserError if one is missing."""
    needs = [need for need in installed().requires or () if ";" not in need or need.endswith("extra == 'app'")]
    names = (re.split(r"[^\w.-]", need, maxsplit=1)[0] for need in needs)
    try:  # a local build (2.14.1+cpu) has the name that the index gives it
        return [f"{name}=={version(name).partition('+')[0]}" for name in names]
    except PackageNotFoundError as error:
        what = f"a Space needs {error.name}, which is not installed"
        raise UserError(what, fix="pip install 'urbansound-hf[app]'") from None


METADATA = ("METADATA", "WHEEL", "entry_points.txt", "licenses/LICENSE")


def installed() -> Distribution:
    """The installation of this package. Raises UserError if there is none, or it is that of another version."""
    fix = "install it: pip install ., or pip install -e ."
    try:
        found = distribution("urbansound-hf")
    except PackageNotFoundError:
        raise UserError("urbansound-hf runs from a folder and is not installed", str(PACKAGE_ROOT), fix) from None
    if found.version != __version__:
        what = f"version {found.version} of urbansound-hf is installed, version {__version__} is running"
        raise UserError(what, str(PACKAGE_ROOT), fix)
    return found


def write_wheel(folder: Path) -> Path:
    """Writes the running package with its shipped configs as a wheel into an existing folder; returns its path.

    No build backend and no network are needed: the metadata are those of the installation. The same package gives the
    same bytes. Raises UserError as `installed` does.
    """
    about = installed()
    files = {**_below(PACKAGE_ROOT, "urbansound_hf"), **_below(CONFIGS, "urbansound_hf/configs")}
    info = f"urbansound_hf-{about.version}.dist-info"
    files |= {f"{info}/{name}": (about.read_text(name) or "").encode() for name in METADATA}
    record = ""
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        record += f"{name},sha256={digest},{len(content)}\n"
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    path = folder / f"urbansound_hf-{about.version}-py3-none-any.whl"
    with complete_file(path) as partial, ZipFile(partial, "w") as archive:
        for name, content in files.items():
            entry = ZipInfo(name)  # dated 1980
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content, ZIP_DEFLATED)
    return path


def _below(folder: Path, name: str) -> dict[str, bytes]:
    """The files of a folder by the path that they have in the wheel, without bytecode."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
    return {f"{name}/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in paths}
