"""Streams UrbanSound8K clip by clip from its archive on the web, without storing its 6 GB."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath

import datasets
import pyarrow as pa
import requests
from datasets.builder import Key
from urllib3.exceptions import HTTPError

from urbansound_hf.audio.io import SAMPLING_RATE
from urbansound_hf.data import urbansound8k
from urbansound_hf.data.builder import CLIPS_PER_TABLE, Row, to_table
from urbansound_hf.errors import UserError

TIMEOUT_SECONDS = 60


class UrbanSound8KStream(datasets.ArrowBasedBuilder):
    """The clips in the order of the archive on the web; see `loading.load_urbansound8k`."""

    def __init__(self, url: str, sampling_rate: int = SAMPLING_RATE) -> None:
        self.url, self.sampling_rate = url, sampling_rate
        super().__init__(dataset_name="urbansound8k_stream")

    def _info(self) -> datasets.DatasetInfo:
        return urbansound8k.dataset_info(urbansound8k.dataset_features(self.sampling_rate))

    def _split_generators(self, dl_manager: object) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(name="train", gen_kwargs={"urls": [self.url]})]

    def _generate_tables(self, urls: list[str]) -> Iterator[tuple[Key, pa.Table]]:
        for url in urls:
            for number, rows in enumerate(_archived(url)):
                yield Key(0, number), to_table(rows, self.info.features, self.sampling_rate)


def _archived(url: str) -> Iterator[list[Row]]:
    """The clips of an archive on the web, `CLIPS_PER_TABLE` at a time."""
    described: dict[str, dict[str, str]] = {}
    rows: list[Row] = []
    try:
        with requests.get(url, stream=True, timeout=TIMEOUT_SECONDS) as response:
            response.raise_for_status()
            with tarfile.open(fileobj=response.raw, mode="r|gz") as tar:
                for member in tar:
                    file = tar.extractfile(member) if member.isfile() else None
                    path = PurePosixPath(member.name)
                    if file and path.name == urbansound8k.METADATA_FILE.name:
                        described = _described(file.read())
                    elif file and urbansound8k.FILE_NAME.fullmatch(path.name):
                        rows.append(_archived_row(path, file.read(), described))
                    if len(rows) == CLIPS_PER_TABLE:
                        yield rows
                        rows = []
    except (OSError, HTTPError, EOFError, zlib.error, tarfile.TarError) as error:
        fix = "a stream cannot go on where it stopped, a download can: leave out streaming"
        raise UserError(f"streaming the archive stopped ({error})", url, fix) from None
    if rows:
        yield rows


def _described(table: bytes) -> dict[str, dict[str, str]]:
    records = urbansound8k.parse_records(table, urbansound8k.METADATA_FILE.name)
    return {record["slice_file_name"]: record for _, record in records}


def _archived_row(path: PurePosixPath, sound: bytes, described: dict[str, dict[str, str]]) -> Row:
    fs_id, label = (int(number) for number in path.name.split("-")[:2])
    record = described.get(path.name, {})
    row = {name: kind(record[name]) for name, kind in urbansound8k.CSV_COLUMNS.items() if name in record}
    known = {"fold": int(path.parent.name.removeprefix("fold")), "fsID": fs_id, "class": urbansound8k.CLASSES[label]}
    name = "/".join(path.parts[-3:])
    return {"source": sound, "path": name, "label": label, "group": str(fs_id), **row, **known}
