"""Decoding and feature extraction in processes, for an accelerator that classifies faster than one process reads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits
from torch.utils.data import DataLoader, Dataset

from urbansound_hf import progress
from urbansound_hf.audio.io import Source
from urbansound_hf.inference.inputs import Cut, Cutting, Recording, Window, read_windows
from urbansound_hf.profiling import stage

PROCESSES = 8  # at most; starting one beside CUDA takes 50 to 80 ms
FIRST = 128  # sounds that are read before processes are started
AHEAD = 8  # sounds that each process reads ahead
Prepared = tuple[Window, Any]


class WholeClips(Dataset):
    """Clips by `(number, source)`: each a list of its prepared windows, None for a recording that comes in blocks."""

    def __init__(self, cutting: Cutting, prepare: Callable[[Cut], Prepared]) -> None:
        self.cutting, self.prepare = cutting, prepare

    def __getitem__(self, item: tuple[int, Source | None]) -> list[Prepared] | None:
        number, source = item
        recording = source and Recording(source, self.cutting)
        return [*map(self.prepare, recording.windows(None, number))] if recording and recording.complete else None


def prepared_in_processes(clips: WholeClips, pool: ThreadPoolExecutor, sources: Iterable[Source]) -> Iterator[Prepared]:
    """The windows of sounds with the model's inputs, in order.

    Clips are read by the workers of a `DataLoader`; the first ones, recordings that come in blocks, open files and,
    once a worker has died, all sounds by this process.
    """
    sources = iter(sources)
    with threadpool_limits(1):
        yield from map(clips.prepare, read_windows(pool, islice(sources, FIRST), clips.cutting))
    if not (more := [*islice(sources, 1)]):
        return
    numbered = enumerate(chain(more, sources), start=FIRST)
    waiting: deque[tuple[int, Source]] = deque()

    def handed_out() -> Iterator[tuple[int, Source | None]]:
        for number, source in numbered:
            waiting.append((number, source))
            yield number, source if isinstance(source, str | Path) else None

    loader = DataLoader(
        clips,
        sampler=handed_out(),  # type: ignore[arg-type]  # any iterable of keys will do
        batch_size=None,
        collate_fn=lambda windows: windows,
        num_workers=min(progress.worker_count() - 1, PROCESSES),
        prefetch_factor=AHEAD,
        worker_init_fn=lambda _: threadpool_limits(1),  # more threads of BLAS in each would wait for one another
        multiprocessing_context="fork",
    )
    for windows in chain(_until_one_dies(loader), repeat(None)):
        if not waiting and (following := next(numbered, None)):
            waiting.append(following)
        if not waiting:
            return
        number, source = waiting.popleft()
        yield from windows or map(clips.prepare, Recording(source, clips.cutting).windows(pool, number))


def _until_one_dies(loader: DataLoader) -> Iterator[list[Prepared] | None]:
    results = iter(loader)
    while True:
        try:
            with stage("wait"):
                windows = next(results)
        except StopIteration:
            return
        except RuntimeError as error:  # of the DataLoader: a worker was killed or crashed
            progress.say(f"a process that reads sounds has died ({error}); reading goes on in one process")
            return
        yield windows
