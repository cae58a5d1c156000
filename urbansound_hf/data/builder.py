"""Sounds of any source, decoded once: 32-bit float mono WAV at one sampling rate in an Arrow table, with columns.

The builder writes Arrow tables itself instead of handing examples to `datasets`, which would ask for torchcodec and
FFmpeg to encode a column typed `Audio`. That is why it works without them, and why it is fast.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import datasets
import pyarrow as pa
from datasets.builder import Key
from datasets.exceptions import DatasetGenerationError

from urbansound_hf import progress
from urbansound_hf.audio.io import SAMPLING_RATE, AudioError, load_audio, to_float_wav
from urbansound_hf.errors import UserError, UserErrors

Row = dict[str, Any]
"""One sound: "source" (a path, or the bytes of a file), "path" (its name within the data set), and its columns."""

CLIPS_PER_TABLE = 32  # 4 s each at 16 kHz: 8 MB; all that a process holds of the sounds at any time
CLIPS_PER_PROCESS = 256  # fewer are decoded before a second process has started


class Rows(Protocol):
    """What can be prepared: a list of rows, or anything that knows its length and gives slices of rows."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Sequence[Row]: ...


class UnreadableError(UserErrors, DatasetGenerationError):
    """Sounds that cannot be decoded, each by name and reason.

    It is also a `DatasetGenerationError` because `datasets` lets only those through from its worker processes as
    they are; any other error arrives without its kind.
    """


@dataclass
class SoundsConfig(datasets.BuilderConfig):
    """The one option of a prepared table; it is part of the cache folder's name."""

    sampling_rate: int = SAMPLING_RATE  # Hz


class PreparedSounds(datasets.ArrowBasedBuilder):
    """Prepares a table of sounds once and finds it again as long as nothing about its source has changed.

    Args:
        rows: the sounds.
        features: the columns, `sound_features(…)`.
        fingerprint: identifies the source; another one is prepared anew, see `fingerprints`.
        name: what the folder under the cache of `datasets` is called.
        sampling_rate: the rate to store, in Hz.
        cache_dir: where to keep it (default: the cache of `datasets`, `HF_DATASETS_CACHE`).
    """

    VERSION = datasets.Version("2.0.0")  # count it up when the stored sounds change: old tables are then left alone
    BUILDER_CONFIG_CLASS = SoundsConfig

    def __init__(
        self,
        rows: Rows,
        features: datasets.Features,
        fingerprint: str,
        name: str,
        sampling_rate: int = SAMPLING_RATE,
        cache_dir: str | Path | None = None,
    ) -> None:
        self.rows, self.features = rows, features
        folder = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "sounds"
        cache = str(cache_dir) if cache_dir else None
        super().__init__(cache_dir=cache, dataset_name=folder, hash=fingerprint, sampling_rate=sampling_rate)

    def load(self, num_proc: int | None = None) -> datasets.Dataset:
        """The table, prepared if need be in `num_proc` processes (default: one a core, fewer for few clips).

        The audio column holds `{"bytes", "path"}` and is not decoded on access; `cast_column("audio",
        Audio(sampling_rate=…))` lets `datasets` decode it, and makes it play on the Hub after `push_to_hub`.

        Raises:
            UnreadableError: names the sounds that cannot be decoded.
        """
        return undecoded(progress.computed("Preparing the sounds", len(self.rows), lambda: self._prepared(num_proc)))

    def _prepared(self, num_proc: int | None) -> datasets.Dataset:
        self.download_and_prepare(num_proc=num_proc or processes(len(self.rows)))
        return self.as_dataset(split="train")

    def stream(self) -> datasets.IterableDataset:
        """The same rows, decoded as they are read and never stored."""
        return undecoded(self.as_streaming_dataset(split="train"))

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=self.features)

    def _split_generators(self, dl_manager: object) -> list[datasets.SplitGenerator]:
        clips = len(self.rows)
        parts = [(start, min(start + CLIPS_PER_TABLE, clips)) for start in range(0, clips, CLIPS_PER_TABLE)]
        split = datasets.SplitGenerator(name="train", gen_kwargs={"parts": parts})  # a list: shared out to processes
        split.split_info.num_examples = clips  # so that the progress bar knows where it ends
        return [split]

    def _generate_tables(self, parts: list[tuple[int, int]]) -> Iterator[tuple[Key, pa.Table]]:
        unreadable: list[UserError] = []
        for number, (start, stop) in enumerate(parts):
            try:
                table = to_table(self.rows[start:stop], self.features, self.config.sampling_rate)
            except UnreadableError as error:  # read on, so that all of them can be mended at once
                unreadable += error.problems
                continue
            if not unreadable:
                yield Key(0, number), table
        if unreadable:
            more = [UserError(f"… and {len(unreadable) - 10:,} more sounds that cannot be read")]
            raise UnreadableError(unreadable[:10] + more * (len(unreadable) > 10))


def to_table(rows: Sequence[Row], features: datasets.Features, sampling_rate: int) -> pa.Table:
    """Decodes rows to a table of `features`; a column that a row lacks is null.

    Raises:
        UnreadableError: names every row of these that cannot be decoded.
    """
    sounds, unreadable = [], []
    for row in rows:
        try:
            waveform = load_audio(row["source"], sampling_rate, row["path"])
            sounds.append({"bytes": to_float_wav(waveform, sampling_rate), "path": row["path"]})
        except AudioError as error:
            unreadable.append(error)
    if unreadable:
        raise UnreadableError(unreadable)
    columns = {column: [row.get(column) for row in rows] for column in features if column != "audio"}
    return pa.table({"audio": sounds, **columns}, schema=features.arrow_schema)


def sound_features(
    labels: Sequence[str], columns: Mapping[str, str], sampling_rate: int = SAMPLING_RATE
) -> datasets.Features:
    """The features of a table of sounds: `audio`, `label` (class ids are positions in `labels`) and `columns`."""
    return datasets.Features(
        audio=datasets.Audio(sampling_rate=sampling_rate),
        label=datasets.ClassLabel(names=list(labels)),
        **{name: datasets.Value(dtype) for name, dtype in columns.items()},
    )


def undecoded(dataset: Any) -> Any:
    """The data set with an audio column that is read as `{"bytes", "path"}`, which takes no torchcodec."""
    sampling_rate = dataset.features["audio"].sampling_rate
    return dataset.cast_column("audio", datasets.Audio(sampling_rate=sampling_rate, decode=False))


def fingerprints(rows: Sequence[Row], *facts: object) -> tuple[str, str]:
    """Identifies sound files and what is said of them without reading them.

    Returns:
        The data's own fingerprint (`facts`, names, columns, sizes: the same wherever the data lies), and a key for
        caches, which also changes when a file was written again.
    """
    data, cache = hashlib.sha256(repr(facts).encode()), hashlib.sha256()
    for row in rows:
        status = Path(row["source"]).stat()
        columns = sorted((name, value) for name, value in row.items() if name != "source")
        data.update(repr((columns, status.st_size)).encode())
        cache.update(status.st_mtime_ns.to_bytes(8, "little"))
    cache.update(data.digest())
    return data.hexdigest()[:16], cache.hexdigest()[:16]


def processes(clips: int) -> int:
    """How many processes decode `clips` sounds: `worker_count()`, but one for a handful of clips."""
    return max(1, min(progress.worker_count(), clips // CLIPS_PER_PROCESS))
