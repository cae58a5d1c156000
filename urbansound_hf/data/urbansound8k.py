"""What is fixed about UrbanSound8K: its classes, its official counts, its source and its licence."""

from __future__ import annotations

import csv
import difflib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import datasets

from urbansound_hf import progress
from urbansound_hf.audio.io import SAMPLING_RATE
from urbansound_hf.data.builder import PreparedSounds, Row, cache_key, sound_features
from urbansound_hf.data.download import fetch, unpack
from urbansound_hf.errors import UserError, UserErrors
from urbansound_hf.layout import expand_user
from urbansound_hf.text import first_ten

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
CITATION = """@inproceedings{Salamon:UrbanSound:ACMMM:14,
  author    = {Salamon, Justin and Jacoby, Christopher and Bello, Juan Pablo},
  title     = {A Dataset and Taxonomy for Urban Sound Research},
  booktitle = {22nd {ACM} International Conference on Multimedia (ACM-MM'14)},
  year      = {2014},
  pages     = {1041--1044},
  address   = {Orlando, FL, USA},
}"""

METADATA_FILE = Path("metadata") / "UrbanSound8K.csv"
CSV_COLUMNS = {"slice_file_name": str, "fsID": int, "start": float, "end": float,
           "salience": int, "fold": int, "classID": int, "class": str}  # fmt: skip
FEATURES = {"fold": "int32", "group": "string", "fsID": "int64", "class": "string",
            "salience": "int8", "start": "float64", "end": "float64"}  # fmt: skip
FILE_NAME = re.compile(r"(?P<fsID>\d+)-(?P<classID>\d+)-(?P<occurrenceID>\d+)-(?P<sliceID>\d+)\.wav")
PATTERN = "[fsID]-[classID]-[occurrenceID]-[sliceID].wav"


def read_metadata(root: Path, allow_missing_files: bool = False) -> list[Row]:
    """Reads and checks the metadata of a folder in the official layout.

    Args:
        root: the folder that holds `metadata/UrbanSound8K.csv` and `audio/fold1` … `audio/fold10`.
        allow_missing_files: leave out clips without a file instead of raising.

    Returns:
        One row a clip, in the order of the CSV: source, path, label, fold, group, fsID, class, salience, start, end.

    Raises:
        UserError: a column is missing, rows contradict their file names or themselves, or files are missing; it
            tells all contradictions at once, the first ten of each kind.
    """
    records = read_records(root / METADATA_FILE)
    mistakes = defaultdict(list)
    for line, record in records:
        for rule, found in _mistakes(record):
            mistakes[rule].append(f"line {line}: {found}")
    names = Counter(record["slice_file_name"] for _, record in records)
    mistakes["a clip is listed once"] += [f"{name}: {count} times" for name, count in names.items() if count > 1]
    problems = [
        UserError(f"{rule}; {len(found):,} found: {first_ten(found)}", str(root / METADATA_FILE), "correct these lines")
        for rule, found in mistakes.items()
        if found
    ]
    if problems:
        raise UserErrors(problems)
    rows = [_row(root, record) for _, record in records]
    return present(rows, set(files(root)), root, allow_missing_files)


def read_records(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The lines of the metadata CSV, each with its number. Raises UserError if a column or every row is missing."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return parse_records(file, str(path))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"a metadata table is CSV in UTF-8 ({error})", str(path), "save it as CSV UTF-8") from None


def parse_records(lines: Iterable[str], name: str) -> list[tuple[int, dict[str, str]]]:
    """As `read_records`, from the text of the CSV; `name` is what errors call it."""
    reader = csv.DictReader(lines, restval="")
    found = list(reader.fieldnames or ())
    missing = [column for column in CSV_COLUMNS if column not in found]
    if missing:
        free = [column for column in found if column not in CSV_COLUMNS]
        near = {column: difflib.get_close_matches(column, free, n=1, cutoff=0.5) for column in missing}
        renamed = [f"rename {names[0]!r} to {column!r}" for column, names in near.items() if names]
        fix = ", ".join(renamed) or f"the columns are {', '.join(CSV_COLUMNS)}"
        what = f"the column{'s' * (len(missing) > 1)} {', '.join(missing)} must be there, found {', '.join(found)}"
        raise UserError(what, name, fix)
    records = [(reader.line_num, record) for record in reader]
    if not records:
        raise UserError("the table lists no clips", name, "copy it again from the data set")
    return records


def dataset_notes(rows: Sequence[Row], root: Path) -> list[str]:
    """What every score from these rows must say: nothing for the official table, whole; else how it differs."""
    said = []
    found = [dict(Counter(row[column] for row in rows)) for column in ("class", "fold")]
    official: list[dict] = [CLIPS_PER_CLASS, CLIPS_PER_FOLD]
    if found != official:
        more = [
            f"{key if isinstance(key, str) else f'fold {key}'} has {count:,} instead of {counts[key]:,}"
            for has, counts in zip(found, official, strict=True)
            for key, count in has.items()
            if count > counts[key]
        ]
        folds = f"folds {', '.join(map(str, sorted(found[1])))}"
        kind = f"subset: {len(rows):,} of {TOTAL_CLIPS:,} official clips ({folds})"
        if more:
            kind = f"not the official table: {len(rows):,} clips ({first_ten(more)})"
        said.append(f"{kind}; scores are not comparable with published ones")
    unlisted = set(files(root)) - {row["path"] for row in rows}
    if unlisted:
        said.append(f"{len(unlisted):,} sound files without a row in {METADATA_FILE.name} are ignored")
    return said


def files(root: Path) -> Iterator[str]:
    """The sound files of the official layout, relative to `root`; the stray files of macOS are none."""
    for path in (root / "audio").glob("fold*/*.wav"):
        if not path.name.startswith("."):
            yield path.relative_to(root).as_posix()


def present(rows: list[Row], there: set[str], root: Path, allow_missing_files: bool) -> list[Row]:
    """The rows whose file is there. Raises UserError, naming the first ten, unless missing ones are allowed."""
    missing = [row["path"] for row in rows if row["path"] not in there]
    if missing and (not allow_missing_files or len(missing) == len(rows)):
        what = f"every clip of the table needs its file, {len(missing):,} of {len(rows):,} have none: "
        fix = "" if len(missing) == len(rows) else ", or do without them: --allow_missing_files"
        raise UserError(what + first_ten(missing), str(root), f"copy them there{fix}")
    return [row for row in rows if row["path"] in there]


def dataset_features(sampling_rate: int = SAMPLING_RATE) -> datasets.Features:
    """The columns of UrbanSound8K."""
    return sound_features(CLASSES, FEATURES, sampling_rate)


def dataset_info(columns: datasets.Features) -> datasets.DatasetInfo:
    """What a data set made from UrbanSound8K says of itself, wherever it goes."""
    return datasets.DatasetInfo(
        description=f"UrbanSound8K, {TOTAL_CLIPS:,} urban sounds of ten classes, decoded to mono. "
        "Use the ten folds as given and report the mean: shuffling them puts slices of one recording on both sides.",
        citation=CITATION,
        homepage=HOMEPAGE,
        license=LICENCE,
        features=columns,
    )


def _mistakes(record: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Every rule that a line breaks, with what was found."""
    for column, kind in CSV_COLUMNS.items():
        try:
            kind(record[column])
        except ValueError:
            yield f"{column} is a number", repr(record[column])
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


def _row(root: Path, record: dict[str, str]) -> Row:
    row = {column: kind(record[column]) for column, kind in CSV_COLUMNS.items()}
    path = f"audio/fold{row['fold']}/{row.pop('slice_file_name')}"
    return {"source": str(root / path), "path": path, "label": row.pop("classID"), "group": str(row["fsID"]), **row}


FOLDER, ARCHIVE = "UrbanSound8K", "UrbanSound8K.tar.gz"


class UrbanSound8K(PreparedSounds):
    """UrbanSound8K, 8,732 urban sounds of ten classes in ten folds, as one split called "train".

    Columns: `audio`, `label` (the data set's own classID), `fold`, `group` (the recording, as text), `fsID`, `class`,
    `salience` (1 foreground, 2 background), `start` and `end` in the recording (seconds).

    Args:
        data_dir: where the data set lies, or goes if it is not there: about 6 GB are then downloaded from Zenodo.
        sampling_rate: the rate to store, in Hz.
        allow_missing_files: leave out clips of the CSV without a file instead of raising.
        cache_dir: where the prepared table goes (default: the cache of `datasets`).

    Raises:
        UserError: the metadata contradicts itself or the files, or the download failed.
    """

    def __init__(
        self,
        data_dir: str | Path = "data",
        sampling_rate: int = SAMPLING_RATE,
        allow_missing_files: bool = False,
        cache_dir: str | Path | None = None,
    ) -> None:
        root = obtain(expand_user(data_dir))
        rows = read_metadata(root, allow_missing_files)
        self.notes = dataset_notes(rows, root)
        features = dataset_features(sampling_rate)
        super().__init__(rows, features, cache_key(rows), "urbansound8k", sampling_rate, cache_dir)

    def _info(self) -> datasets.DatasetInfo:
        return dataset_info(self.features)


def find_root(data_dir: Path) -> Path | None:
    """The folder in the official layout in or under `data_dir`; None if there is none."""
    for root in (data_dir, data_dir / FOLDER, data_dir / FOLDER / FOLDER):
        if (root / METADATA_FILE).is_file() and (root / "audio").is_dir():
            return root
    return None


def obtain(data_dir: Path, url: str = SOURCE_URL, md5: str = SOURCE_MD5) -> Path:
    """The folder in the official layout in or under `data_dir`, downloaded and unpacked there if need be.

    Raises:
        UserError: the download failed, or `data_dir` holds only a part of the data set.
    """
    root = find_root(data_dir)
    if not root:
        _refuse_halves(data_dir)
        progress.say(
            f"UrbanSound8K is not in {data_dir}: downloading it from {url}\n"
            f"  about 6 GB, and as much again unpacked; licence {LICENCE}"
        )
        data_dir.mkdir(parents=True, exist_ok=True)
        archive = fetch(url, data_dir / ARCHIVE, md5)
        root = find_root(unpack(archive, data_dir / FOLDER))
        if not root:
            raise UserError("the archive does not hold metadata/UrbanSound8K.csv and audio/", str(archive))
    return root


def _refuse_halves(data_dir: Path) -> None:
    for root in (data_dir, data_dir / FOLDER, data_dir / FOLDER / FOLDER):
        halves = {name: (root / name).exists() for name in (str(METADATA_FILE), "audio")}
        if any(halves.values()) or (root.name == FOLDER and root.is_dir() and any(root.iterdir())):
            absent = " and ".join(name for name, there in halves.items() if not there)
            what = f"a part of UrbanSound8K is here, but not {absent}"
            raise UserError(what, str(root), "complete the folder, or move it away to download the data set")
