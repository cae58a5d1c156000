"""Finds the sound files that a metadata table names."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from urbansound_hf.audio.files import SUFFIXES, UNREAD_SUFFIXES, AudioFiles
from urbansound_hf.data.columns import clean_text
from urbansound_hf.errors import UserError
from urbansound_hf.text import first_ten


class ListedFiles:
    """The files below a folder, by the names that a table may have for them.

    Names are compared in Unicode form NFC; backslashes separate folders as slashes do; a name may lack the suffix of
    its sound. A bare file name may lie in any folder below; a name with a folder is never looked for elsewhere.

    Args:
        found: the files.
        listed: all names of the table. A bare name that is the end of another listed name is not looked for.
    """

    def __init__(self, found: AudioFiles, listed: Sequence[str]) -> None:
        self.folder = found.folder
        self.names = dict(zip(found.sounds, found.names(found.sounds), strict=True))
        self.by_path: dict[str, list[Path]] = defaultdict(list)
        self.by_name: dict[str, list[Path]] = defaultdict(list)
        for path, name in self.names.items():
            for key in (clean_text(name), _without_suffix(clean_text(name))):
                self.by_path[key].append(path)
                self.by_name[key.rpartition("/")[2]].append(path)
        self.times_listed = Counter(_slashes(name).rpartition("/")[2] for name in listed)

    def find(self, name: str, where: str) -> Path | None:
        """The file of a name, or None. Raises UserError, with `where`, if it could be one of several files."""
        spelled = _slashes(name)
        for path in (self.folder / name, self.folder / spelled):
            if _is_file(path):
                return path
        found = self._lookup(self.by_path, spelled.removeprefix("./"))
        if not found and "/" not in spelled:
            found = self._lookup(self.by_name, spelled)
            if found and self.times_listed[spelled] > 1:
                what = f"{name} has no folder, and the table lists {self.times_listed[spelled]} files of this name"
                raise UserError(what, where, "list it with its folder")
        if len(found) > 1:
            named = first_ten([self.names[path] for path in found])
            raise UserError(f"{name} is the name of {len(found)} files: {named}", where, "list it with its folder")
        return found[0] if found else None

    def name(self, source: Path | None) -> str:
        """What a file is called in the data: its path below the folder, or "" for one that lies elsewhere."""
        if source is None or source in self.names:
            return self.names.get(source, "") if source else ""
        inside = source.is_relative_to(self.folder) and ".." not in source.parts
        return source.relative_to(self.folder).as_posix() if inside else ""

    def nearest(self, name: str) -> str | None:
        """The file whose name differs only in the case of its letters, if there is one."""
        wanted = _slashes(name).removeprefix("./").lower()
        return next((found for found in self.names.values() if clean_text(found).lower() == wanted), None)

    def _lookup(self, index: dict[str, list[Path]], name: str) -> list[Path]:
        suffix = Path(name).suffix.lower()
        return index.get(name) or ([] if suffix in SUFFIXES | UNREAD_SUFFIXES else index.get(f"{name}.", []))


def _slashes(name: str) -> str:
    return name.replace("\\", "/")


def _without_suffix(name: str) -> str:
    """The key of a name without its suffix; the dot that stays tells it from a file that has none."""
    return name.removesuffix(Path(name).suffix) + "."


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # longer than the system allows
        return False
