"""Finds the sound files below a folder, and lists what it does not use.

Links are followed as if they were files and folders. Hidden files and folders (`.name`, `__MACOSX`) are no part of
the data: macOS leaves a `._name.wav` beside every `name.wav` that it copies.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from urbansound_hf.audio import ffmpeg
from urbansound_hf.audio.io import AudioError
from urbansound_hf.text import counted, first_ten

LIBSNDFILE = frozenset({".wav", ".wave", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".aifc", ".au",
                      ".snd", ".caf", ".w64", ".rf64", ".mp2", ".voc"})  # fmt: skip
SUFFIXES = LIBSNDFILE | ffmpeg.SUFFIXES
"""Suffixes of sound files that are read, in lower case."""
SOUND_NAMES = f"sounds end in .wav, .flac, .mp3, .m4a, .ogg or another of {len(SUFFIXES)} suffixes"  # for errors

UNREAD_SUFFIXES = {
    ".aa3", ".aax", ".avr", ".dff", ".dsf", ".gsm", ".htk", ".iff", ".ircam", ".m4p", ".mp1", ".mpc", ".mpga",
    ".nist", ".oma", ".paf", ".pcm", ".pvf", ".qcp", ".ra", ".ram", ".raw", ".rm", ".sd2", ".sf", ".shn", ".sph",
    ".spx", ".svx", ".tak", ".ulaw", ".vox", ".wve",
}  # fmt: skip
"""Suffixes of files that may hold sound in a format which is not read."""


@dataclass
class AudioFiles:
    """What lies below a folder; all lists are sorted."""

    folder: Path
    sounds: list[Path] = field(default_factory=list)  # the files that end in one of `SUFFIXES`
    unread: list[Path] = field(default_factory=list)  # sound in other formats, and what is no regular file
    broken_links: list[Path] = field(default_factory=list)
    loops: list[Path] = field(default_factory=list)  # links to a folder above themselves, which are not followed
    empty_folders: list[Path] = field(default_factory=list)  # without a sound in or below; of nested ones the outermost

    def names(self, paths: Sequence[Path]) -> list[str]:
        """The paths relative to the folder, with forward slashes."""
        return [path.relative_to(self.folder).as_posix() for path in paths]

    def unlisted(self, used: Iterable[str], table: str) -> list[str]:
        """A note on the sounds that are not among the `used` paths, those that a table lists; or none."""
        left = self.names(sorted(set(self.sounds) - set(map(Path, used))))
        return [f"{counted(len(left), 'sound')} not listed in {table}, left out: {first_ten(left)}"] if left else []

    def notes(self) -> list[str]:
        """A sentence for each kind of file or folder that is not used, with their number and the first ten names."""
        suffixes = Counter(path.suffix.lower() for path in self.unread)
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in suffixes.most_common())
        unused = (
            (self.unread, "audio file", f"passed over, no format that is read ({kinds})"),
            (self.empty_folders, "folder", "without a sound that is read"),
            (self.broken_links, "link", "to nothing"),
            (self.loops, "link", "to a folder above, not followed"),
        )
        named = ((counted(len(paths), noun), what, self.names(paths)) for paths, noun, what in unused if paths)
        return [f"{count} {what}: {first_ten(names)}" for count, what, names in named]


def find_audio_files(folder: Path, unreadable: list[AudioError] | None = None) -> AudioFiles:
    """Searches a folder and everything below it, through links; a cycle of links ends where it closes.

    Folders that cannot be read are added to `unreadable`; without that list, they are an AudioError.
    """
    found, folders = AudioFiles(folder), list[Path]()
    above: dict[str, frozenset[tuple[int, int]]] = {str(folder): frozenset()}  # the folders that lead to one

    def refuse(reason: OSError) -> None:
        error = AudioError(f"the folder cannot be read ({reason.strerror})", str(reason.filename))
        if unreadable is None:
            raise error from None
        unreadable.append(error)

    for here, below, files in os.walk(folder, onerror=refuse, followlinks=True):
        status, leading = os.stat(here), above.pop(here)  # noqa: PTH116
        identity = (status.st_dev, status.st_ino)  # however it is reached
        if identity in leading:
            found.loops.append(Path(here))
            below.clear()
            continue
        folders.append(Path(here))
        below[:] = [name for name in below if not is_hidden(name)]
        above |= {os.path.join(here, name): leading | {identity} for name in below}  # noqa: PTH118 - as os.walk does
        for path in (Path(here, name) for name in files if not is_hidden(name)):
            suffix = path.suffix.lower()
            if path.is_symlink() and not os.path.exists(path):  # noqa: PTH110 - False where the target cannot be read
                found.broken_links.append(path)
            elif suffix in SUFFIXES and path.is_file():
                found.sounds.append(path)
            elif suffix in SUFFIXES or suffix in UNREAD_SUFFIXES:
                found.unread.append(path)
    for paths in (found.sounds, found.unread, found.broken_links, found.loops):
        paths.sort()
    with_sound = {sound.parent for sound in found.sounds}
    used = {folder, *with_sound, *(parent for path in with_sound for parent in path.parents)}
    found.empty_folders = sorted(path for path in folders if path not in used and path.parent in used)
    return found


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is no part of the data."""
    return name.startswith(".") or name == "__MACOSX"
