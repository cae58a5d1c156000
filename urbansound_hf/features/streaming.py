"""Model inputs of sounds in shards: read, decoded and extracted by the data loader, in a shuffled order."""

import copy
from collections.abc import Iterator
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch

from urbansound_hf.audio.io import load_audio
from urbansound_hf.features.extract import Cut, FeatureExtractor, cut_clip, extract, extract_or_refuse


class StreamOrder(torch.utils.data.Sampler[int]):
    """Orders rows so that each of several readers, which take batches in turn, reads every piece of a shard once.

    The order depends on (seed, epoch) and holds each row once; a resumed training need not read what it had read.

    Args:
        pieces: the piece of each row.
        together: pieces whose rows are shuffled together, after the order of all pieces was; 0: nothing is shuffled.
    """

    def __init__(self, pieces: np.ndarray, batch: int, streams: int, together: int, seed: int) -> None:
        self.pieces, self.batch, self.streams, self.together = pieces, batch, streams, together
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.pieces)

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng((self.seed, self.epoch))
        by_piece = np.argsort(self.pieces, kind="stable")
        own = np.split(by_piece, np.flatnonzero(np.diff(self.pieces[by_piece])) + 1)
        if self.together:
            own = [own[number] for number in generator.permutation(len(own))]
        batches, left = [], []
        for stream in range(self.streams):
            mine, size = own[stream :: self.streams], self.together or len(own)
            blocks = [np.concatenate(mine[first : first + size]) for first in range(0, len(mine), size)]
            blocks = [generator.permutation(block) for block in blocks] if self.together else blocks
            rows = np.concatenate(blocks or [own[0][:0]])
            full = len(rows) - len(rows) % self.batch
            batches.append(rows[:full].reshape(-1, self.batch))
            left.append(rows[full:])
        for turn in range(max(map(len, batches))):
            for mine in (mine[turn] for mine in batches if turn < len(mine)):
                yield from mine.tolist()
        yield from np.concatenate(left).tolist()


class StreamedClips(torch.utils.data.Dataset):
    """The rows of `prepare_features`, in its order, each computed when it is read.

    Args:
        sounds: the table of `data.shards.read_shards`, or a selection of its rows, of which `clips` are read.
        shuffle_buffer: clips that `order` shuffles together; 0: their order is that of the shards.
    """

    def __init__(
        self,
        sounds: datasets.Dataset,
        clips: np.ndarray,
        feature_extractor: FeatureExtractor,
        cut: Cut,
        shuffle_buffer: int = 0,
    ) -> None:
        self.reader = copy.copy(sounds.format["format_kwargs"]["transform"])
        table = sounds.with_format("arrow").select(clips)[:]
        self.addresses = table["audio"].combine_chunks()
        self.extractor, self.cut, self.shuffle_buffer = feature_extractor, cut, shuffle_buffer
        lengths = np.ceil(np.round(table["seconds"].to_numpy() * feature_extractor.sampling_rate, 6))  # as resampled
        windows = 1 + np.ceil(np.maximum(0, lengths - cut.window) / (cut.window // 2))  # as of `window_bounds`
        counts = windows.astype(np.int64) * (cut.shifts + 1)
        self.rows = np.repeat(np.arange(len(table)), counts)
        self.parts = np.arange(len(self.rows)) - np.repeat(np.cumsum(counts) - counts, counts)  # of its clip, from 0
        self.kept = {
            "labels": _targets(table, sounds.features["label"])[self.rows],
            "clip": np.asarray(clips)[self.rows],
        }
        shard = self.addresses.field("shard").dictionary_encode().indices.to_numpy().astype(np.int64)
        piece = self.addresses.field("piece").to_numpy()
        self.pieces = np.unique((shard << 40) + piece, return_inverse=True)[1][self.rows]
        self.columns = tuple(extract(feature_extractor, np.zeros(cut.window, np.float32)))
        self.decoded: tuple[int, list[np.ndarray]] | None = None  # the windows of the last clip

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The model inputs of one row, and its `labels` and `clip`. Raises AudioError for a clip that is not audio."""
        row, part, cut = int(self.rows[index]), int(self.parts[index]), self.cut
        address = self.addresses[row].as_py()
        if self.decoded is None or self.decoded[0] != row:
            sound = self.reader.read(address)
            waveform = load_audio(sound, self.extractor.sampling_rate, address["path"], limits=cut.limits)
            self.decoded = row, cut_clip(waveform, cut)
        windows = self.decoded[1]
        window = windows[min(part, len(windows) - 1)]
        inputs = extract_or_refuse(self.extractor, window, address["path"], cut.shortest)
        return {**inputs, **{name: values[index] for name, values in self.kept.items()}}

    def order(self, batch: int, streams: int, seed: int) -> StreamOrder:
        """The order for a data loader: batch `i` is read by process `i % processes`, there by its workers in turn.

        Each of the `streams` (processes × workers) reads pieces of its own, and shuffles its share of `shuffle_buffer`.
        """
        per_piece = len(self) / max(1, len(np.unique(self.pieces)))
        together = max(1, int(self.shuffle_buffer / per_piece / streams)) if self.shuffle_buffer else 0
        self.reader.keep = together + 1
        return StreamOrder(self.pieces, batch, streams, together, seed)


def _targets(table: pa.Table, label: Any) -> np.ndarray:
    """The class id of each clip or, of several labels, `(clips, classes)` float32 of 0 and 1."""
    if not isinstance(label, datasets.List):
        return table["label"].to_numpy()
    lists = table["label"].combine_chunks()
    targets = np.zeros((len(lists), label.feature.num_classes), np.float32)
    targets[np.repeat(np.arange(len(lists)), lists.value_lengths().to_numpy()), lists.flatten().to_numpy()] = 1
    return targets
