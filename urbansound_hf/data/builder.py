"""Sounds of any source, decoded once: 32-bit float mono WAV at one sampling rate in an Arrow table, with columns.

The builder writes Arrow tables itself instead of handing examples to `datasets`, which would ask for torchcodec and
FFmpeg to encode a column typed `Audio`. That is why it works without them, and why it is fast.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np
import pyarrow as pa
from datasets.builder import Key
from datasets.exceptions import DatasetGenerationError
from threadpoolctl import threadpool_limits

from urbansound_hf import progress
from urbansound_hf.audio.io import LIMITS, LOWEST_RATE, SAMPLING_RATE, AudioError, load_audio, to_float_wav
from urbansound_hf.errors import UserError, UserErrors, write_text

Row = dict[str, Any]
"""One sound: "source" (a path, or the bytes of a file), "path" (its name within the data set), and its columns.

With "segment", `(start, end)` in seconds, it is a part of the file.
"""

NOTE = "note"  # of a sound, what was unusual in its file; a column of the cache that users of the table do not see
MOST_NAMED = 3  # sounds whose notes are quoted
CLIPS_PER_TABLE = 32  # 4 s each at 16 kHz: 8 MB; all that a process holds of the sounds at any time
ROUNDING_SECONDS = 0.1  # a segment may end so much after its file
CLIPS_PER_PROCESS = 256  # fewer are decoded before a second process has started


@dataclass(frozen=True)
class SoundRequest:
    """A data set and how to read it; `columns.COLUMN_NAMES` lists the names of columns that are not given."""

    dataset: str = "urbansound8k"  # or synthetic, a folder, a Hub id
    data_dir: str | None = None  # where UrbanSound8K lies (default: data, and downloaded there if need be)
    download: bool = False  # download it to a `data_dir` that is given, too
    dataset_variant: str | None = None  # of a known data set, as esc10
    dataset_config: str | None = None  # of a Hub data set
    dataset_revision: str | None = None  # of a Hub data set
    audio_column: str | None = None
    label_column: str | None = None
    allow_missing_files: bool = False
    annotations: str | None = None  # label files of Audacity or Raven, where they do not lie in the folder
    background_class: str | None = None  # of what no segment covers
    label_map: str | None = None  # a YAML file
    clip_seconds: float = 4.0  # of the background class
    sampling_rate: int = SAMPLING_RATE  # Hz
    num_proc: int | None = None  # processes that decode; default: one a core
    seed: int = 0  # of the synthetic set
    max_seconds: float | None = None  # longer sounds are refused, when they are prepared
    min_rate: int = LOWEST_RATE  # Hz; those of a lower sampling rate are refused, too
    streaming: bool = False  # the sounds stay in their shards, encoded, and are read when a row is asked for


DEFAULTS = SoundRequest()


class Rows(Protocol):
    """What can be prepared: a list of rows, or anything that knows its length and gives slices of rows."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Sequence[Row]: ...


class UnreadableError(UserErrors, DatasetGenerationError):
    """Sounds that cannot be decoded, each by name and reason.

    `datasets` lets only its own `DatasetGenerationError` through from its worker processes as it is.
    """


class PreparedSounds(datasets.ArrowBasedBuilder):
    """Prepares a table of sounds once and finds it again as long as nothing about its source has changed.

    Args:
        rows: the sounds.
        features: the columns, `sound_features(…)`, of whose sampling rate the sounds are stored.
        key: identifies the source; with another one it is prepared anew, see `cache_key`.
        title: the name of the data set, and of the folder under `cache_dir` (default: `HF_DATASETS_CACHE`).
        notes: what every score from these sounds must say.
    """

    VERSION = datasets.Version("2.0.0")  # count it up when the stored sounds change: old tables are then left alone
    num_proc = 1  # processes that decode
    known: Any = None  # the `KnownDataset` that was recognised
    limits = LIMITS  # of the sounds

    def __init__(
        self,
        rows: Rows,
        features: datasets.Features,
        key: str,
        title: str,
        notes: Sequence[str] = (),
        cache_dir: str | Path | None = None,
    ) -> None:
        self.rows, self.features = rows, datasets.Features({**features, NOTE: datasets.Value("string")})
        self.title, self.notes = title, [*notes]
        folder = re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_") or "sounds"
        self.sampling_rate = features["audio"].sampling_rate
        cache = str(cache_dir) if cache_dir else None
        super().__init__(cache_dir=cache, dataset_name=folder, hash=f"{key}-{self.sampling_rate}")

    def load(self, num_proc: int | None = None) -> datasets.Dataset:
        """The table, prepared if need be in `num_proc` processes (default: one a core, fewer for few clips).

        The audio column holds `{"bytes", "path"}` and is not decoded on access; `cast_column("audio",
        Audio(sampling_rate=…))` lets `datasets` decode it, and makes it play on the Hub after `push_to_hub`.

        Raises:
            UserError: sounds that cannot be decoded (an UnreadableError names them), or a process that was killed.
        """
        processes = num_proc or min(progress.worker_count(), len(self.rows) // CLIPS_PER_PROCESS)
        self.num_proc = max(1, min(processes, -(-len(self.rows) // CLIPS_PER_TABLE)))

        def prepared() -> datasets.Dataset:
            try:
                self.download_and_prepare(num_proc=self.num_proc)
            except RuntimeError as error:
                if "abruptly died" not in str(error):
                    raise
                fix = "is there enough memory? Give fewer --preprocessing_num_workers"
                raise UserError("a process that decoded sounds was killed", fix=fix) from None
            return self.as_dataset(split="train")

        return undecoded(progress.computed("Preparing the sounds", len(self.rows), prepared))

    def as_dataset(self, *args: Any, **options: Any) -> Any:
        """As in `datasets`, without the notes."""
        return super().as_dataset(*args, **options).remove_columns(NOTE)

    def sound_notes(self) -> list[str]:
        """What was unusual in the files of the prepared sounds, in one note that names the first of them; or none."""
        table = undecoded(super().as_dataset(split="train"))
        numbers = [number for number, note in enumerate(table[NOTE]) if note]
        if not numbers:
            return []
        named = [f"{row['audio']['path']}: {row[NOTE]}" for row in table.select(numbers[:MOST_NAMED])]
        more = [f"and {len(numbers) - MOST_NAMED:,} more"] if len(numbers) > MOST_NAMED else []
        return [f"{len(numbers):,} of {len(table):,} sounds are unusual: {'; '.join(named + more)}"]

    def fingerprint(self) -> str:
        """Identifies what was prepared: labels, columns, names and samples. Computed once, and kept in the cache."""
        kept = Path(self.cache_dir) / "fingerprint"
        if kept.is_file():
            return kept.read_text(encoding="utf-8")
        table = undecoded(self.as_dataset(split="train"))
        columns = sorted(set(table.column_names) - {"audio"})
        digest = hashlib.sha256(repr((columns, one_label(table.features["label"]).names)).encode())
        for row in progress.Bar(table, "Fingerprinting", unit="clips", leave=False):
            facts = [row["audio"]["path"], *(row[name] for name in columns)]
            digest.update(repr(facts).encode("utf-8", "surrogatepass") + row["audio"]["bytes"])
        with suppress(UserError):  # a cache that can only be read
            write_text(kept, digest.hexdigest()[:16])
        return digest.hexdigest()[:16]

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
        if self.num_proc > 1:  # with as many threads of BLAS in each as there are cores, all wait for one another
            threadpool_limits(1)
        for number, (start, stop) in enumerate(parts):
            table, refused = self._decoded(self.rows[start:stop])
            unreadable += refused  # read on, so that all of them can be mended at once
            if not unreadable:
                yield Key(0, number), table
        if unreadable:
            more = [UserError(f"… and {len(unreadable) - 10:,} more sounds that cannot be read")]
            raise UnreadableError(unreadable[:10] + more * (len(unreadable) > 10))

    def _decoded(self, rows: Sequence[Row]) -> tuple[pa.Table, list[UserError]]:
        """The table of some rows, in which a column that a row lacks is null; or the errors of those it cannot read."""
        sounds, notes, unreadable, rate = [], [], list[UserError](), self.sampling_rate
        for row in rows:
            found: list[str] = []
            try:
                waveform = load_audio(row["source"], rate, row["path"], found, self.limits)
                if "segment" in row:
                    waveform = cut_segment(waveform, rate, row["segment"], row["path"])
                sounds.append({"bytes": to_float_wav(waveform, rate), "path": row["path"]})
                notes.append("; ".join(found) or None)
            except AudioError as error:
                unreadable.append(error)
        columns = {name: [row.get(name) for row in rows] for name in self.features} | {"audio": sounds, NOTE: notes}
        return None if unreadable else pa.table(columns, schema=self.features.arrow_schema), unreadable


def cut_segment(waveform: np.ndarray, sampling_rate: int, segment: tuple[float, float], name: str) -> np.ndarray:
    """The part of a `(samples,)` waveform between two times in seconds. Raises AudioError if the sound is shorter."""
    (start, end), length = segment, len(waveform) / sampling_rate
    if start < 0 or end > length + ROUNDING_SECONDS or start >= length:
        raise AudioError(f"the segment {start:g} to {end:g} s is not within the {length:.2f} s of its file", name)
    return waveform[round(start * sampling_rate) : max(round(start * sampling_rate) + 1, round(end * sampling_rate))]


def sound_features(
    labels: Sequence[str], columns: Mapping[str, str], sampling_rate: int = SAMPLING_RATE, multi_label: bool = False
) -> datasets.Features:
    """The features of a table of sounds: `audio`, `label` (class ids are positions in `labels`) and `columns`."""
    label = datasets.ClassLabel(names=list(labels))
    return datasets.Features(
        audio=datasets.Audio(sampling_rate=sampling_rate),
        label=datasets.List(label) if multi_label else label,
        **{name: datasets.Value(dtype) for name, dtype in columns.items()},
    )


def one_label(feature: Any) -> Any:
    """The feature of a single label, of a column of labels or of lists of them."""
    return feature.feature if isinstance(feature, datasets.List | datasets.LargeList) else feature


def undecoded(dataset: Any) -> Any:
    """The data set with an audio column that is read as `{"bytes", "path"}`, which takes no torchcodec."""
    sampling_rate = dataset.features["audio"].sampling_rate
    return dataset.cast_column("audio", datasets.Audio(sampling_rate=sampling_rate, decode=False))


def cache_key(rows: Sequence[Row], *facts: object) -> str:
    """Identifies sound files and their columns without reading them: it changes when a file is written or replaced."""
    columns = [sorted((name, value) for name, value in row.items() if name != "source") for row in rows]
    return digest(facts, columns, [file_state(row["source"]) for row in rows])


def digest(*facts: object) -> str:
    """A key of 16 characters that changes with the facts."""
    return hashlib.sha256(repr(facts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def file_state(path: str | Path) -> tuple[int, ...]:
    """What changes with the content of a file: size, times of its content and its inode, inode; () if it is absent.

    The time of modification alone does not: archives set it, and so does whoever wants to. No program sets ctime.
    """
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return ()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
