"""The running package as a wheel, without a build backend or a network: for places that no index serves."""

from __future__ import annotations

import base64
import hashlib
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from urbansound_hf import __version__
from urbansound_hf.errors import UserError
from urbansound_hf.layout import CONFIGS, PACKAGE_ROOT

METADATA = ("METADATA", "WHEEL", "entry_points.txt", "licenses/LICENSE")


def installed() -> Distribution:
    """The installation of this package: its metadata, from a wheel or of an editable install.

    Raises:
        UserError: there is none, or it is that of another version.
    """
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
    """Writes the running package, the shipped configs included, as a wheel.

    The modules are those of the running package, the metadata those of its installation. The same package gives the
    same bytes.

    Args:
        folder: where to write; it exists.

    Returns:
        the path of `urbansound_hf-VERSION-py3-none-any.whl`.

    Raises:
        UserError: the package is not installed, or another version of it is.
    """
    about = installed()
    files = {**_below(PACKAGE_ROOT, "urbansound_hf"), **_below(CONFIGS, "urbansound_hf/configs")}
    info = f"urbansound_hf-{about.version}.dist-info"
    files |= {f"{info}/{name}": (about.read_text(name) or "").encode() for name in METADATA}
    record = "".join(f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    path = folder / f"urbansound_hf-{about.version}-py3-none-any.whl"
    with ZipFile(path, "w") as archive:
        for name, content in files.items():
            entry = ZipInfo(name)  # dated 1980
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content, ZIP_DEFLATED)
    return path


def _below(folder: Path, name: str) -> dict[str, bytes]:
    """The files of a folder by the path that they have in the wheel, without bytecode."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
    return {f"{name}/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in paths}


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
