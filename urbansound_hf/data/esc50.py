"""ESC-50 and ESC-10: 2,000 environmental sounds of 5 s in 50 classes, five folds (Piczak, 2015)."""

from __future__ import annotations

from pathlib import Path

from urbansound_hf.audio.files import find_audio_files
from urbansound_hf.data.builder import Row
from urbansound_hf.data.folder import listed_sounds
from urbansound_hf.data.known import KnownDataset, Published

METADATA = "meta/esc50.csv"  # filename, fold, target, category, esc10, src_file, take
ESC10 = frozenset({"chainsaw", "clock_tick", "crackling_fire", "crying_baby", "dog", "helicopter", "rain", "rooster",
                   "sea_waves", "sneezing"})  # fmt: skip
"""The classes whose clips have `esc10` true."""


def read(
    root: Path, variant: str, allow_missing_files: bool, background_class: str | None
) -> tuple[list[Row], list[str]]:
    """The clips with their fold, and the Freesound recording as group; the variant esc10 has ten of the classes."""
    wanted = {"audio": "filename", "label": "category"}
    rows, _, notes = listed_sounds(root / METADATA, find_audio_files(root / "audio"), wanted, allow_missing_files)
    return [row for row in rows if variant != "esc10" or row["label"] in ESC10], notes


DATASET = KnownDataset(
    name="ESC-50",
    markers=(METADATA, "audio"),
    read=read,
    protocol="the mean accuracy over the five folds, each tested once: --test_fold all",
    licence="CC BY-NC 3.0; ESC-10 CC BY 3.0",
    citation="K. J. Piczak: ESC: Dataset for Environmental Sound Classification. ACM Multimedia, 2015",
    homepage="https://github.com/karolpiczak/ESC-50",
    published={
        "": (
            Published("human listeners", "81.3", "Piczak 2015"),
            Published("AST, pretrained on AudioSet", "95.6", "Gong et al. 2021, arXiv:2104.01778"),
            Published("BEATs", "98.1", "Chen et al. 2022, arXiv:2212.09058"),
        ),
        "esc10": (Published("human listeners", "95.7", "Piczak 2015"),),
    },
    variants=("esc10",),
)
