"""Public data sets that are recognised as they unpack: one record each, in a module of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from urbansound_hf.data.builder import Row
from urbansound_hf.errors import UserError
from urbansound_hf.text import listed


@dataclass(frozen=True)
class Published:
    """A published result: the model, its score in per cent or mAP, and where it stands."""

    model: str
    score: str
    source: str


@dataclass(frozen=True)
class KnownDataset:
    """A public data set: how it is recognised and read, and what everybody who uses it must know.

    Args:
        name: as its authors call it.
        markers: files and folders by which it is recognised.
        read: the root, the variant or "", whether listed files may be missing, and the background class or None, to
            the rows (see `folder.read_folder`) and notes.
        protocol: how its authors test, in a sentence.
        published: results under this protocol, by variant.
        variants: the values of `--dataset_variant`.
    """

    name: str
    markers: tuple[str, ...]
    read: Callable[[Path, str, bool, str | None], tuple[list[Row], list[str]]]
    protocol: str
    licence: str
    citation: str
    homepage: str
    published: Mapping[str, tuple[Published, ...]] = field(default_factory=dict)
    variants: tuple[str, ...] = ()

    def root(self, folder: Path) -> Path | None:
        """The root of the data set: `folder`, or a folder in it, as archives unpack; None if it is another one."""
        below = sorted(path for path in folder.iterdir() if path.is_dir())
        return next((path for path in (folder, *below) if all((path / name).exists() for name in self.markers)), None)

    def title(self, variant: str) -> str:
        """The name with its variant. Raises UserError for a variant that there is not."""
        if variant and variant not in self.variants:
            found = f"{self.name} has the variants {listed(self.variants) or 'none'}, found {variant}"
            raise UserError(found, "--dataset_variant", "leave it out for all of it")
        return f"{self.name} ({variant})" if variant else self.name
