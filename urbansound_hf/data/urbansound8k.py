"""UrbanSound8K: its classes, official counts, source and licence, its metadata, and its builder."""

import difflib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets
import numpy as np

from urbansound_hf import progress
from urbansound_hf.audio.files import AudioFiles, find_audio_files, is_hidden
from urbansound_hf.audio.io import SAMPLING_RATE
from urbansound_hf.data.builder import PreparedSounds, Row, cache_key, sound_features
from urbansound_hf.data.columns import read_csv
from urbansound_hf.data.download import fetch, unpack
from urbansound_hf.errors import UserError, UserErrors
from urbansound_hf.layout import expand_user
from urbansound_hf.text import first_ten, table

CLASSES = (
    "air_conditioner", "car_horn", "children_playing", "dog_bark", "drilling",
    "engine_idling", "gun_shot", "jackhammer", "siren", "street_music",
)  # fmt: skip
"""The ten classes; the position is the data set's own `classID`."""

CLIPS_PER_CLASS = dict(zip(CLASSES, (1000, 429, 1000, 1000, 1000, 1000, 374, 1000, 929, 1000), strict=True))
CLIPS_PER_FOLD = dict(zip(range(1, 11), (873, 888, 925, 990, 936, 823, 838, 806, 816, 837), strict=True))
TOTAL_CLIPS = 8732

RECORDINGS_IN_TWO_FOLDS = frozenset({77751, 106905, 132016, 176638, 180937})
"""The five Freesound ids that the official folds themselves split (152 clips); any sixth is a leak."""

CLIP_SECONDS = 4.0  # the longest clip

SOURCE_URL = "https://zenodo.org/records/1203745/files/UrbanSound8K.tar.gz?download=1"
SOURCE_MD5 = "9aa69802bbf37fb986f71ec1483a196e"
DOI = "10.5281/zenodo.1203745"
HOMEPAGE = "https://urbansounddataset.weebly.com/urbansound8k.html"
LICENCE = "CC BY-NC 3.0 (non-commercial, with attribution; per-file credits in FREESOUNDCREDITS.txt)"
LICENCE_ID = "cc-by-nc-3.0"
CITATION = Path(__file__).with_suffix(".bib").read_text(encoding="utf-8").strip()

DEFAULT_DIR, FOLDER, ARCHIVE = Path("data"), "UrbanSound8K", "UrbanSound8K.tar.gz"
METADATA_FILE = Path("metadata") / "UrbanSound8K.csv"
PARTS = ("audio", "metadata")  # the folders of the official layout
CSV_COLUMNS = {"slice_file_name": str, "fsID": int, "start": float, "end": float,
           "salience": int, "fold": int, "classID": int, "class": str}  # fmt: skip
FEATURES = {"fold": "int32", "group": "string", "fsID": "int64", "class": "string",
            "salience": "int8", "start": "float64", "end": "float64"}  # fmt: skip
FILE_NAME = re.compile(r"(?P<fsID>\d+)-(?P<classID>\d+)-(?P<occurrenceID>\d+)-(?P<sliceID>\d+)\.wav")
PATTERN = "[fsID]-[classID]-[occurrenceID]-[sliceID].wav"


def read_metadata(root: Path, allow_missing_files: bool = False, found: AudioFiles | None = None) -> list[Row]:
    """The checked rows of a folder in the official layout, see `find_root`, in the order of its metadata CSV.

    A row has source, path, label, fold, group, fsID, class, salience, start and end. `found` are the files below
    `audio`, if they are known already. Raises UserError if a column or files are missing (clips without a file can be
    left out), or rows contradict themselves: the first ten mistakes of each kind.
    """
    metadata = metadata_path(root)
    records = read_records(metadata)
    mistakes = defaultdict(list)
    for line, record in records:
        for rule, mistake in _mistakes(record):
            mistakes[rule].append(f"line {line}: {mistake}")
    names = Counter(record["slice_file_name"] for _, record in records)
    mistakes["a clip is listed once"] += [f"{name}: {count} times" for name, count in names.items() if count > 1]
    problems = {rule: f"{rule}; {len(lines):,} found: {first_ten(lines)}" for rule, lines in mistakes.items() if lines}
    if problems:
        raise UserErrors([UserError(what, str(metadata), "correct these lines") for what in problems.values()])
    found = found or find_audio_files(within(root, "audio"))
    sources = zip(found.sounds, found.names(found.sounds), strict=True)
    by_name = {f"audio/{name}".lower(): str(path) for path, name in sources}
    rows, missing = list[Row](), []
    for _, record in records:
        row = {column: kind(record[column]) for column, kind in CSV_COLUMNS.items()}
        path = f"audio/fold{row['fold']}/{row.pop('slice_file_name')}"
        if source := by_name.get(path):
            facts = {"source": source, "path": path, "label": row.pop("classID"), "group": str(row["fsID"])}
            rows.append({**facts, **row})
        else:
            missing.append(path)
    if missing and not (allow_missing_files and rows):
        what = f"every clip of the table needs its file, {len(missing):,} of {len(records):,} have none: "
        fix = ", or do without them: --allow_missing_files" if rows else ""
        raise UserError(what + first_ten(missing), str(found.folder.parent), f"copy them there{fix}")
    return rows


def read_records(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The lines of the metadata CSV, each with its number. Raises UserError if a column or every row is missing."""
    content = read_csv(path)
    by_lower = {column.lower(): column for column in content.columns}
    spelled = {column: by_lower[column.lower()] for column in CSV_COLUMNS if column.lower() in by_lower}
    missing = [column for column in CSV_COLUMNS if column not in spelled]
    if missing:
        free = [column for column in content.columns if column not in spelled.values()]
        near = {column: difflib.get_close_matches(column, free, n=1, cutoff=0.5) for column in missing}
        renamed = [f"rename {names[0]!r} to {column!r}" for column, names in near.items() if names]
        fix = ", ".join(renamed) or f"the columns are {', '.join(CSV_COLUMNS)}"
        what = f"the column{'s' if missing[1:] else ''} {', '.join(missing)} must be there, found "
        raise UserError(what + ", ".join(content.columns), str(path), fix)
    if not content.records:
        raise UserError("the table lists no clips", str(path), "copy it again from the data set")
    return [(line, {column: cells[name] for column, name in spelled.items()}) for line, cells in content.records]


def dataset_notes(rows: Sequence[Row], found: AudioFiles) -> list[str]:
    """What every score from these rows must say: how they differ from the official table, and what is not used."""
    notes = []
    counts = Counter(name for row in rows for name in (row["class"], f"fold {row['fold']}"))
    official = {**CLIPS_PER_CLASS, **{f"fold {fold}": clips for fold, clips in CLIPS_PER_FOLD.items()}}
    if counts != official:
        folds = ", ".join(str(fold) for fold in CLIPS_PER_FOLD if counts[f"fold {fold}"])
        kind = f"subset: {len(rows):,} of {TOTAL_CLIPS:,} official clips (folds {folds})"
        above = [(name, clips) for name, clips in official.items() if counts[name] > clips]
        if more := [f"{name} has {counts[name]:,} instead of {clips:,}" for name, clips in above]:
            kind = f"not the official table: {len(rows):,} clips ({first_ten(more)})"
        notes.append(f"{kind}; scores are not comparable with published ones")
    return [*notes, *found.unlisted((row["source"] for row in rows), METADATA_FILE.name), *found.notes()]


def fold_table(labels: Sequence[int], folds: Sequence[int]) -> str:
    """Clips per class and fold, as Markdown."""
    present = sorted(set(folds))
    counts = np.zeros((len(CLASSES) + 1, len(present) + 1), int)  # with the sums in the last row and column
    for number, fold in zip(labels, folds, strict=True):
        counts[np.ix_((number, -1), (present.index(fold), -1))] += 1
    header = ("class", *(f"fold {fold}" for fold in present), "all")
    return table(header, [(name, *row) for name, row in zip((*CLASSES, "all"), counts.tolist(), strict=True)])


def _mistakes(record: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Every rule that a line breaks, with what was found."""
    for column, kind in CSV_COLUMNS.items():
        try:
            kind(record[column])
        except ValueError:
            yield f"{column} is a {'whole ' if kind is int else ''}number", repr(record[column])
            return
    name = record["slice_file_name"]
    match = FILE_NAME.fullmatch(name)
    if not match:
        yield f"a file is called {PATTERN}", name
        return
    for column in ("fsID", "classID"):
        if int(match[column]) != int(record[column]):
            yield f"{column} agrees with the file name", f"{name} says {match[column]}, {column} {record[column]}"
    label = int(record["classID"])
    if label not in range(len(CLASSES)):
        yield "classID is one of 0 to 9", f"{name}: {label}"
    elif record["class"] != CLASSES[label]:
        yield "class agrees with classID", f"{name}: {label} is {CLASSES[label]}, class says {record['class']}"
    if int(record["fold"]) not in CLIPS_PER_FOLD:
        yield "fold is one of 1 to 10", f"{name}: {record['fold']}"
    if int(record["salience"]) not in (1, 2):
        yield "salience is 1 (foreground) or 2 (background)", f"{name}: {record['salience']}"
    if not float(record["start"]) < float(record["end"]):
        yield "a clip ends after it starts", f"{name}: {record['start']} to {record['end']} s"


class UrbanSound8K(PreparedSounds):
    """UrbanSound8K, 8,732 urban sounds of ten classes in ten folds; the columns are those of `load_urbansound8k`.

    `data_dir` and `download` are those of `obtain`, `allow_missing_files` that of `read_metadata`. Sounds are stored
    at `sampling_rate` Hz, in `cache_dir` (default: the cache of `datasets`). Raises UserError as these functions.
    """

    def __init__(
        self,
        data_dir: str | Path | None = None,
        sampling_rate: int = SAMPLING_RATE,
        allow_missing_files: bool = False,
        cache_dir: str | Path | None = None,
        download: bool = False,
    ) -> None:
        self.root = obtain(expand_user(data_dir) if data_dir else None, download)
        found = find_audio_files(within(self.root, "audio"))
        rows = read_metadata(self.root, allow_missing_files, found)
        features = sound_features(CLASSES, FEATURES, sampling_rate)
        super().__init__(rows, features, cache_key(rows), "UrbanSound8K", dataset_notes(rows, found), cache_dir)

    def _info(self) -> datasets.DatasetInfo:
        """What a data set made from UrbanSound8K says of itself, wherever it goes."""
        return datasets.DatasetInfo(
            description=f"UrbanSound8K, {TOTAL_CLIPS:,} urban sounds of ten classes, decoded to mono. "
            "Use the ten folds as given and report the mean: shuffling puts slices of one recording on both sides.",
            citation=CITATION,
            homepage=HOMEPAGE,
            license=LICENCE,
            features=self.features,
        )


def find_root(data_dir: Path, around: bool = True) -> Path | None:
    """The folder in the official layout: `data_dir`, or `UrbanSound8K` in it, in letters of any case; None without one.

    With `around`, folders of other names in `data_dir` count too, and those above if it is `audio`, `metadata` or a
    fold of the layout. Raises UserError if several folders below hold the data set, and none is called UrbanSound8K.
    """
    for root in (data_dir, within(data_dir, FOLDER), within(data_dir, FOLDER, FOLDER)):  # as some archives unpack
        if _is_root(root):
            return root
    if not around:
        return None
    below = [path for path in _folders(data_dir) if _is_root(path)]
    if len(below) > 1:
        what = f"UrbanSound8K lies here {len(below)} times: {first_ten([path.name for path in below])}"
        raise UserError(what, str(data_dir), "name one of them")
    inside = data_dir.absolute()
    above = [inside.parents[depth] for depth, part in enumerate(inside.parts[:-3:-1]) if part.lower() in PARTS]
    return next((root for root in [*below, *above] if data_dir.is_dir() and _is_root(root)), None)


def within(folder: Path, *names: str) -> Path:
    """A path below a folder, if need be in other letters' case."""
    for name in names:
        similar = (path for path in _listing(folder) if path.name.lower() == name.lower())
        folder = folder / name if (folder / name).exists() else next(similar, folder / name)
    return folder


def metadata_path(root: Path) -> Path:
    """The metadata CSV of a folder in the official layout."""
    return within(root, *METADATA_FILE.parts)


def _is_root(root: Path) -> bool:
    return within(root, "audio").is_dir() and metadata_path(root).is_file()


def _folders(folder: Path) -> list[Path]:
    return [path for path in _listing(folder) if not is_hidden(path.name) and path.is_dir()]


def _listing(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:  # it is not there, no folder, or closed to us
        return []


def obtain(data_dir: Path | None, download: bool = False, url: str = SOURCE_URL, md5: str = SOURCE_MD5) -> Path:
    """The folder in the official layout in, under or above `data_dir`, or below `data` if that is absent.

    It is downloaded and unpacked there if need be, to a given `data_dir` only with `download`. Raises UserError if it
    is not there and may not be downloaded, if only a part of it is there, or if the download failed.
    """
    folder = data_dir or DEFAULT_DIR
    if root := find_root(folder):
        return root
    for root in (folder, folder / FOLDER, folder / FOLDER / FOLDER):
        halves = {str(METADATA_FILE): metadata_path(root).exists(), "audio": within(root, "audio").exists()}
        if any(halves.values()) or (root.name == FOLDER and root.is_dir() and any(root.iterdir())):
            absent = " and ".join(name for name, there in halves.items() if not there)
            what = f"a part of UrbanSound8K is here, but not {absent}"
            raise UserError(what, str(root), "complete the folder, or move it away to download the data set")
    if data_dir and not download:
        found = first_ten([path.name for path in _folders(folder)]) or "no folder"
        what = f"UrbanSound8K is not there, nor one folder below or above; found {found}"
        fix = f"name the folder that holds {METADATA_FILE} and audio, or add --download (6 GB)"
        raise UserError(what if folder.is_dir() else "there is no such folder", f"--data_dir {folder}", fix)
    progress.say(
        f"UrbanSound8K is not in {folder}: downloading it from {url}\n"
        f"  about 6 GB, and as much again unpacked; licence {LICENCE}"
    )
    folder.mkdir(parents=True, exist_ok=True)
    archive = fetch(url, folder / ARCHIVE, md5)
    if unpacked := find_root(unpack(archive, folder / FOLDER)):
        return unpacked
    raise UserError("the archive does not hold metadata/UrbanSound8K.csv and audio/", str(archive))
