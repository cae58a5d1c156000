"""Public data sets that are recognised as they unpack: ESC-50 and ESC-10, FSD50K, Speech Commands."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from urbansound_hf.audio.files import find_audio_files
from urbansound_hf.audio.io import file_seconds
from urbansound_hf.data.builder import Row, SoundRequest
from urbansound_hf.data.columns import split_name
from urbansound_hf.data.folder import listed_sounds
from urbansound_hf.data.segments import equal_pieces
from urbansound_hf.errors import UserError
from urbansound_hf.text import listed

Found = tuple[list[Row], list[str]]
"""The rows of a data set, see `folder.read_folder`, and notes."""


class Published(NamedTuple):
    """A published result: the model, its score in per cent or mAP, and where it stands."""

    model: str
    score: str
    source: str


class KnownDataset(NamedTuple):
    """A public data set: how it is recognised and read, and what everybody who uses it must know."""

    name: str  # as its authors call it
    markers: tuple[str, ...]  # files and folders by which it is recognised
    read: Callable[[Path, SoundRequest], Found]  # the rows below a root
    protocol: str  # how its authors test, in a sentence
    licence: str
    citation: str
    homepage: str
    published: Mapping[str, tuple[Published, ...]] = {}  # results under this protocol, by variant
    variants: tuple[str, ...] = ()  # the values of `--dataset_variant`

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


# ---- ESC-50: 2,000 environmental sounds of 5 s in 50 classes, five folds

ESC50_TABLE = "meta/esc50.csv"  # filename, fold, target, category, esc10, src_file, take
ESC10 = frozenset({"chainsaw", "clock_tick", "crackling_fire", "crying_baby", "dog", "helicopter", "rain", "rooster",
                   "sea_waves", "sneezing"})  # fmt: skip
"""The classes whose clips have `esc10` true."""


def read_esc50(root: Path, request: SoundRequest) -> Found:
    """The clips with their fold, and the Freesound recording as group; the variant esc10 has ten of the classes."""
    wanted = {"audio": "filename", "label": "category"}
    found = find_audio_files(root / "audio")
    rows, _, notes = listed_sounds(root / ESC50_TABLE, found, wanted, request.allow_missing_files)
    return [row for row in rows if request.dataset_variant != "esc10" or row["label"] in ESC10], notes


ESC50 = KnownDataset(
    name="ESC-50",
    markers=(ESC50_TABLE, "audio"),
    read=read_esc50,
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

# ---- FSD50K: 51,197 Freesound clips with several of 200 AudioSet classes each

FSD50K_TABLES = {"dev": "FSD50K.ground_truth/dev.csv", "eval": "FSD50K.ground_truth/eval.csv"}
"""fname, labels (separated by commas), mids; that of the development part has `split`: train or val."""


def read_fsd50k(root: Path, request: SoundRequest) -> Found:
    """The clips with their lists of labels, in the parts train, validation (val) and test (eval)."""
    rows, notes = list[Row](), list[str]()
    wanted = {"audio": "fname", "label": "labels"}
    for part, table in FSD50K_TABLES.items():
        found = find_audio_files(root / f"FSD50K.{part}_audio")
        clips, _, left_out = listed_sounds(root / table, found, wanted, request.allow_missing_files)
        for row in clips:
            own = {"path": f"{part}/{row['path']}", "label": row["label"].split(",")}
            rows.append({"split": split_name(part, table)} | row | own)
        notes += left_out
    return rows, notes


FSD50K = KnownDataset(
    name="FSD50K",
    markers=tuple(FSD50K_TABLES.values()),
    read=read_fsd50k,
    protocol="mean average precision on the eval part; trained on the train part, selected on the val part",
    licence="CC BY 4.0 (the collection; each clip has its own Creative Commons licence)",
    citation="E. Fonseca et al.: FSD50K: an open dataset of human-labeled sound events. IEEE/ACM TASLP 30, 2022",
    homepage="https://zenodo.org/records/4060432",
    published={"": (Published("PSLA", "mAP 0.567", "Gong et al. 2021, arXiv:2102.01243"),)},
)

# ---- Speech Commands v0.02: 105,829 spoken words of one second in 35 classes, split by a hash of the speaker

SPEECH_LISTS = {"validation_list.txt": "validation", "testing_list.txt": "test"}
NOISE = "_background_noise_"


def read_speech_commands(root: Path, request: SoundRequest) -> Found:
    """The words with their part, and the speaker as group.

    The recordings in `_background_noise_` are left out, or cut into clips of a second of the background class: the
    last recording by name for testing, the one before for validation, the others for training.
    """
    found = find_audio_files(root)
    part_of = {
        name: part for file, part in SPEECH_LISTS.items() for name in (root / file).read_text(encoding="utf-8").split()
    }
    rows: list[Row] = []
    noise = []
    for name, path in zip(found.names(found.sounds), found.sounds, strict=True):
        word, _, file = name.rpartition("/")
        if word == NOISE:
            noise.append(path)
        elif word:
            speaker, part = file.partition("_nohash_")[0], part_of.get(name, "train")
            rows.append({"source": str(path), "path": name, "label": word, "group": speaker, "split": part})
    label = request.background_class
    for number, path in enumerate(reversed(noise if label else [])):
        part = ("test", "validation", "train")[min(number, 2)]
        row = {"source": str(path), "path": f"{NOISE}/{path.name}", "label": label, "group": path.name, "split": part}
        rows += [row | {"segment": times} for times in equal_pieces(0, file_seconds(path) or 0, 1.0)]
    left = f"{NOISE} is left out; --background_class silence makes a class of it"
    return rows, [left] if noise and not label else []


SPEECH_COMMANDS = KnownDataset(
    name="Speech Commands v0.02",
    markers=tuple(SPEECH_LISTS),
    read=read_speech_commands,
    protocol="accuracy on the words of testing_list.txt; selected on those of validation_list.txt",
    licence="CC BY 4.0",
    citation="P. Warden: Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition. arXiv:1804.03209, 2018",
    homepage="https://www.tensorflow.org/datasets/catalog/speech_commands",
    published={"": (Published("AST, 35 classes", "98.1", "Gong et al. 2021, arXiv:2104.01778"),)},
)

KNOWN = (ESC50, FSD50K, SPEECH_COMMANDS)


def known_dataset(title: str) -> tuple[KnownDataset | None, str]:
    """The known data set of this title and its variant; (None, "") for other data."""
    titles = {known.title(variant): (known, variant) for known in KNOWN for variant in ("", *known.variants)}
    return titles.get(title, (None, ""))
