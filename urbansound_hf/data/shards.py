"""Shards: Parquet files or WebDataset archives (.tar) of encoded sounds, read by pieces and never copied to the disk.

At the start only the columns beside the sounds are read. A piece is a row group, or a run of members of an archive.
"""

import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from fsspec.core import url_to_fs

from urbansound_hf import progress
from urbansound_hf.audio.files import SUFFIXES, is_hidden
from urbansound_hf.audio.io import audio_seconds, read_audio, to_float_wav
from urbansound_hf.data.builder import NOTE, PreparedSounds, Row, SoundRequest, cut_segment, digest, sound_features
from urbansound_hf.data.columns import SPLIT_NAMES, columns_of, find_columns
from urbansound_hf.data.hub_dataset import Part, described, labelled
from urbansound_hf.errors import UserError, check_free_space, complete_file
from urbansound_hf.layout import expand_user

CLIPS_PER_SHARD, CLIPS_PER_PIECE = 1000, 64
ADDRESS = dict.fromkeys(("path", "shard"), datasets.Value("string"))
ADDRESS |= dict.fromkeys(("piece", "span", "place", "size"), datasets.Value("int64"))
"""Where a sound lies: its name, its shard, and there its row group and row; or, in bytes, a run of an archive and its
span, and the sound's place and size in the run (`span` is 0 for a row group)."""
ADDRESS_TYPE = datasets.Features({"audio": ADDRESS}).arrow_schema.field("audio").type
NUMBERED = re.compile(r"-\d{5,}-of-(\d{5,})(?=\.)")


class ShardReader:
    """Reads sounds by their addresses; as the transform of a table, gives `{"bytes", "path"}` for each.

    `column` of Parquet files holds the sounds; the last `keep` pieces that were read stay in memory.
    """

    def __init__(self, column: str, keep: int = 2) -> None:
        self.column, self.keep, self.made = column, keep, (0, 0)

    def __getstate__(self) -> dict[str, Any]:
        return {"column": self.column, "keep": self.keep, "made": (0, 0)}

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        return {**batch, "audio": [{"bytes": self.read(each), "path": each["path"]} for each in batch["audio"]]}

    def read(self, address: Mapping[str, Any]) -> bytes:
        """The bytes of a sound file. Raises UserError if its shard cannot be read."""
        if self.made != (os.getpid(), self.keep):  # a forked data-loader worker must not share an open file
            self.made, self.opened, self.load = (os.getpid(), self.keep), ("", None), lru_cache(self.keep)(self._load)
        piece, start = self.load(address["shard"], address["piece"], address["span"]), address["place"]
        found = piece[start : start + address["size"]] if address["span"] else piece[start].as_py()
        if not found:
            what = f"the shard holds the name {address['path']}, not the sound"
            raise UserError(what, address["shard"], "write it again with the sounds in it")
        return found

    def _load(self, path: str, piece: int, span: int) -> Any:
        with _reading(path):
            if self.opened[0] != path:
                file: Any = fsspec.open(path, "rb").open()
                self.opened = path, file if span else pq.ParquetFile(file)
            shard: Any = self.opened[1]
            if span:
                shard.seek(piece)
                return shard.read(span)
            return _sounds(shard, piece, self.column)


@contextmanager
def _reading(where: str) -> Iterator[None]:
    """Turns the errors of file systems, each with those of its own libraries, into one that names the place."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        what = f"the shards cannot be read: {str(error) or type(error).__name__}"
        raise UserError(what, where, "check that they are there, and complete") from error


def _sounds(shard: pq.ParquetFile, row_group: int, column: str) -> pa.Array:
    sounds = shard.read_row_group(row_group, columns=[column]).column(0).combine_chunks()
    sounds = getattr(sounds, "storage", sounds)
    return pa.compute.struct_field(sounds, "bytes") if pa.types.is_struct(sounds.type) else sounds


def find_shards(name: str, config: str | None = None, revision: str | None = None) -> list[str]:
    """The shards of a folder, glob, address (`https://…/{000..012}.tar`) or Hub id.

    Raises UserError if there are none, or a folder lacks some that the names of others count (`-00000-of-00012`).
    """
    folder, pattern, where = expand_user(name), name, f"--dataset {name}"
    if re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?(?<!parquet)(?<!tar)", name) and not folder.exists():
        at = f"@{revision.replace('/', '%2F')}" if revision else ""
        pattern = f"hf://datasets/{name}{at}/{config or ''}/**".replace("//**", "/**")
    with _reading(where):
        below = sorted(folder.rglob("*")) if folder.is_dir() else []
        visible = [str(path) for path in below if not any(map(is_hidden, path.relative_to(folder).parts))]
        paths = visible if folder.is_dir() else _listed(pattern)
    if not (paths := [path for path in paths if path.endswith((".parquet", ".tar"))]):
        fix = "write some: urbansound-hf data shard SOURCE DIR"
        raise UserError("--streaming reads shards (.parquet, .tar), found none", where, fix)
    sets = Counter((path[: of.start()], int(of[1])) for path in paths if (of := NUMBERED.search(path)))
    for (stem, expected), count in sets.items():
        if count != expected and folder.is_dir():
            what = f"all shards of a set are needed, found {count} of the {expected} of {stem}"
            raise UserError(what, where, "copy the missing ones there, or write them again")
    return paths


def _listed(pattern: str) -> list[str]:
    if span := re.search(r"\{(\d+)\.\.(\d+)\}", pattern):
        numbers = (str(each).zfill(len(span[1])) for each in range(int(span[1]), int(span[2]) + 1))
        return [path for each in numbers for path in _listed(pattern.replace(span[0], each))]
    files, inner = url_to_fs(pattern)
    return [files.unstrip_protocol(path) for path in sorted(files.glob(inner))] if "*" in pattern else [pattern]


def read_shards(request: SoundRequest) -> tuple[datasets.Dataset, list[str], list[str], str]:
    """The sounds of shards as a table that reads a sound when it is asked for, labels, notes, and a key of the data.

    The table has `audio`, `label`, `seconds`; fold, group, split, start and end where the data have them. Of a Hub id,
    a configuration is the folder of the shards. Raises UserError if they cannot be read, or lack the columns.
    """
    where = f"--dataset {request.dataset}"
    paths = find_shards(request.dataset, request.dataset_config, request.dataset_revision)
    column, parts, notes = "audio", list[Part](), list[str]()
    root = len(os.path.commonpath([*paths, str(Path(paths[0]).parent)]))
    for path in progress.Bar(paths, "Reading the columns of shards", unit="shards"):
        table, column = shard_columns(path, request.audio_column)
        words = [word for word in re.split(r"[^a-z]+", path[root:].lower()) if word in SPLIT_NAMES]
        info = datasets.DatasetInfo(features=datasets.Features.from_arrow_schema(table.schema))
        parts.append(Part(words[0] if words else "train", datasets.Dataset(table, info)))
    _, labels, columns = described(parts, "audio", request.label_column, where, notes)
    several = any(isinstance(label, list) for label in columns["label"][:1])
    table = pa.concat_tables(part.table.data.table.select(["audio", "seconds"]) for part in parts).combine_chunks()
    names = pa.compute.struct_field(table.column("audio"), "path").to_pylist()
    kept, names, columns = labelled(names, columns, labels, notes)
    table = table.take(pa.array(kept)).combine_chunks()
    kinds = sound_features(labels, columns_of([columns]), multi_label=several)
    features = datasets.Features({**kinds, "audio": ADDRESS, "seconds": datasets.Value("float64")})
    key = digest(labels, columns, names, table["seconds"].to_pylist())
    places = table["audio"].chunk(0) if len(table) else pa.array([], ADDRESS_TYPE)
    audio = pa.StructArray.from_arrays([pa.array(names, pa.string()), *places.flatten()[1:]], fields=list(ADDRESS_TYPE))
    columns |= {"audio": audio, "seconds": table["seconds"]}
    addressed = pa.table({each: columns[each] for each in features}, features.arrow_schema)
    found = datasets.Dataset(addressed, datasets.DatasetInfo(features=features))
    found = found.with_transform(ShardReader(column), columns=["audio"], output_all_columns=True)
    return found, labels, notes, key


def shard_columns(path: str, audio_column: str | None) -> tuple[pa.Table, str]:
    """The columns of a shard with addresses in place of sounds, kept in the cache, and the name of the sounds' column.

    Without a column `seconds`, all sounds are read once.
    """
    with _reading(path):
        files, inner = url_to_fs(path)
        state = digest(path, sorted(map(str, files.info(inner).items())), audio_column)
        kept = Path(datasets.config.HF_DATASETS_CACHE, "shards", state)
        if not kept.is_file():
            with fsspec.open(path, "rb") as file:
                archive = path.endswith(".tar")
                table = _tar_columns(file, path) if archive else _parquet_columns(file, path, audio_column)
            kept.parent.mkdir(parents=True, exist_ok=True)
            with complete_file(kept) as partial:
                pq.write_table(table, partial)
        table = pq.read_table(kept)
    return table, table.schema.metadata[b"column"].decode()


def _parquet_columns(file: BinaryIO, path: str, audio_column: str | None) -> pa.Table:
    shard = pq.ParquetFile(file)
    features = datasets.Features.from_arrow_schema(shard.schema_arrow)
    typed = [name for name, feature in features.items() if isinstance(feature, datasets.Audio)]
    column = find_columns(list(features), {"audio": audio_column or next(iter(typed), None)}, path, ["audio"])["audio"]
    features.pop(column)
    sizes = [shard.metadata.row_group(group).num_rows for group in range(shard.num_row_groups)]
    table = shard.read(list(features))
    names = pa.array([f"row {row}" for row in range(len(table))], pa.string())
    if pa.types.is_struct(shard.schema_arrow.field(column).type):
        names = pa.compute.struct_field(shard.read([f"{column}.path"]).column(0), "path").combine_chunks()
    if "seconds" not in features:
        found = (sound.as_py() for group in range(len(sizes)) for sound in _sounds(shard, group, column))
        lengths = [audio_seconds(sound or b"", str(name)) for sound, name in zip(found, names.to_pylist(), strict=True)]
        table = table.append_column("seconds", pa.array(lengths))
        features["seconds"] = datasets.Value("float64")
    none = np.zeros(len(table), np.int64)
    rows = np.concatenate([none[:0], *(np.arange(size) for size in sizes)])
    places = [pa.repeat(path, len(table)), np.repeat(np.arange(len(sizes)), sizes), none, rows, none]
    return _addressed(table, features, [names, *places], column)


def _addressed(table: pa.Table, features: Mapping[str, Any], addresses: list[Any], column: str) -> pa.Table:
    """The table with the columns of `ADDRESS` as its column `audio`."""
    fields = [pa.array(each, field.type) for each, field in zip(addresses, ADDRESS_TYPE, strict=True)]
    table = table.append_column("audio", pa.StructArray.from_arrays(fields, fields=list(ADDRESS_TYPE)))
    metadata = datasets.Features({**features, "audio": ADDRESS}).arrow_schema.metadata
    return table.replace_schema_metadata({**metadata, b"column": column.encode()})


def _tar_columns(file: BinaryIO, path: str) -> pa.Table:
    """Members of one stem are one sound: the audio file, and its label (`cls` or `txt`) or its columns (`json`)."""
    rows: dict[str, Row] = {}
    sounds: dict[str, tuple[int, int, str]] = {}  # place and size in the archive, and name
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in filter(tarfile.TarInfo.isfile, archive):
            folder, _, base = member.name.rpartition("/")
            stem, _, suffix = base.partition(".")
            key, suffix = f"{folder}/{stem}", suffix.lower()
            if f".{suffix}" not in SUFFIXES and suffix not in ("json", "cls", "txt"):
                continue
            content = archive.extractfile(member).read()  # type: ignore[union-attr]
            row = rows.setdefault(key, {})
            if suffix == "json":
                row |= {name: cell for name, cell in json.loads(content).items() if name != "audio"}
            elif f".{suffix}" in SUFFIXES:
                sounds[key] = member.offset_data, member.size, member.name
                row["seconds"] = audio_seconds(content, member.name)
            else:
                row["label"] = content.decode("utf-8").strip()
    addresses = []
    ordered = sorted(sounds, key=lambda key: sounds[key])
    for first in range(0, len(ordered), CLIPS_PER_PIECE):
        run = [sounds[key] for key in ordered[first : first + CLIPS_PER_PIECE]]
        piece, span = run[0][0], run[-1][0] + run[-1][1] - run[0][0]
        addresses += [(name, path, piece, span, place - piece, size) for place, size, name in run]
    names = dict.fromkeys(name for key in ordered for name in rows[key])
    table = pa.table({name: [rows[key].get(name) for key in ordered] for name in names})
    columns = list(map(list, zip(*addresses, strict=True))) or [[] for _ in ADDRESS]
    return _addressed(table, datasets.Features.from_arrow_schema(table.schema), columns, "audio")


def write_shards(builder: PreparedSounds, folder: Path, clips_per_shard: int = CLIPS_PER_SHARD, seed: int = 0) -> int:
    """Writes the sounds of a data set, as their files are, in an order drawn by `seed`; returns the number of shards.

    Raises UserError if the folder holds shards already, the disk is full, or a sound cannot be read.
    """
    if list(folder.glob("[!.]*.parquet")):
        raise UserError("the folder holds shards already", str(folder), "give another one")
    kinds = {**builder.features, "audio": datasets.Audio(), "seconds": datasets.Value("float64")}
    features = datasets.Features({name: each for name, each in kinds.items() if name != NOTE})
    rows, order = builder.rows, np.random.default_rng(seed).permutation(len(builder.rows))
    folder.mkdir(parents=True, exist_ok=True)
    shards = -(-len(rows) // clips_per_shard)
    for number in progress.Bar(range(shards), "Writing shards", unit="shards"):
        chosen = [rows[int(row) : int(row) + 1][0] for row in order[number * clips_per_shard :][:clips_per_shard]]
        columns: dict[str, list] = {name: [row.get(name) for row in chosen] for name in features}
        columns["audio"] = [{"bytes": _encoded(row), "path": row["path"]} for row in chosen]
        columns["seconds"] = [audio_seconds(sound["bytes"], sound["path"]) for sound in columns["audio"]]
        check_free_space(folder, "DIR", sum(len(sound["bytes"]) for sound in columns["audio"]))
        with complete_file(folder / f"train-{number:05d}-of-{shards:05d}.parquet") as partial:
            pq.write_table(pa.table(columns, features.arrow_schema), partial, row_group_size=CLIPS_PER_PIECE)
    return shards


def _encoded(row: Row) -> bytes:
    """The bytes of a row's file; of a segment, a float WAV at its rate."""
    content = row["source"] if isinstance(row["source"], bytes) else Path(row["source"]).read_bytes()
    if "segment" not in row:
        return content
    waveform, rate = read_audio(content, row["path"])
    return to_float_wav(cut_segment(waveform, rate, row["segment"], row["path"]), rate)
