"""UrbanSound8K as a `datasets` builder: found or downloaded, checked, decoded once, or streamed.

From Python, with its audio typed so that `push_to_hub` makes it play there; from a shell:

    builder = UrbanSound8K(data_dir="data")
    builder.download_and_prepare(num_proc=8)
    builder.as_dataset(split="train").push_to_hub(…)

    python -m urbansound_hf.urbansound8k [--data_dir data] [--allow_missing_files] [--quiet]
    python -m urbansound_hf.urbansound8k push REPO_ID [--public]    to the Hub, for those who may
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import datasets

from urbansound_hf import download, labels, metadata, progress
from urbansound_hf.audio import SAMPLING_RATE
from urbansound_hf.errors import UserError, exit_code
from urbansound_hf.prepare import PreparedSounds, Row, fingerprints, undecoded
from urbansound_hf.streaming import UrbanSound8KStream

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
        root = obtain(Path(data_dir).expanduser())
        rows = metadata.read_metadata(root, allow_missing_files)
        self.notes = metadata.notes(rows, root)
        self.fingerprint, key = fingerprints(rows)
        super().__init__(rows, metadata.features(sampling_rate), key, "urbansound8k", sampling_rate, cache_dir)

    def _info(self) -> datasets.DatasetInfo:
        return metadata.info(self.features)


def load(
    data_dir: str | Path = "data",
    streaming: bool = False,
    sampling_rate: int = SAMPLING_RATE,
    allow_missing_files: bool = False,
    num_proc: int | None = None,
    url: str = labels.SOURCE_URL,
) -> datasets.Dataset | datasets.IterableDataset:
    """UrbanSound8K in one call, ready for `audio.load(row["audio"]["bytes"])`.

    With `streaming`, nothing is stored. Clips of a `data_dir` that holds the data set are decoded as they are read.
    Without it they are read from the archive on the web, from its beginning at every pass, in its order and with no
    md5 check: `fold`, `fsID`, `label` and `class` come from a file's name, while `salience`, `start` and `end` are
    None until the metadata CSV has passed by.

    Raises:
        UserError: as `UrbanSound8K`; or, while streaming, the connection broke.
    """
    if streaming and not find_root(Path(data_dir).expanduser()):
        return undecoded(UrbanSound8KStream(url, sampling_rate).as_streaming_dataset(split="train"))
    builder = UrbanSound8K(data_dir, sampling_rate, allow_missing_files)
    return builder.stream() if streaming else builder.load(num_proc)


def find_root(data_dir: Path) -> Path | None:
    """The folder in the official layout in or under `data_dir`; None if there is none."""
    for root in (data_dir, data_dir / FOLDER, data_dir / FOLDER / FOLDER):
        if (root / metadata.FILE).is_file() and (root / "audio").is_dir():
            return root
    return None


def obtain(data_dir: Path, url: str = labels.SOURCE_URL, md5: str = labels.SOURCE_MD5) -> Path:
    """The folder in the official layout in or under `data_dir`, downloaded and unpacked there if need be.

    Raises:
        UserError: the download failed, or `data_dir` holds only a part of the data set.
    """
    root = find_root(data_dir)
    if not root:
        _refuse_halves(data_dir)
        progress.say(
            f"UrbanSound8K is not in {data_dir}: downloading it from {url}\n"
            f"  about 6 GB, and as much again unpacked; licence {labels.LICENCE}"
        )
        data_dir.mkdir(parents=True, exist_ok=True)
        archive = download.fetch(url, data_dir / ARCHIVE, md5)
        root = find_root(download.unpack(archive, data_dir / FOLDER))
        if not root:
            raise UserError("the archive does not hold metadata/UrbanSound8K.csv and audio/", str(archive))
    return root


def _refuse_halves(data_dir: Path) -> None:
    for root in (data_dir, data_dir / FOLDER, data_dir / FOLDER / FOLDER):
        halves = {name: (root / name).exists() for name in (str(metadata.FILE), "audio")}
        if any(halves.values()) or (root.name == FOLDER and root.is_dir() and any(root.iterdir())):
            absent = " and ".join(name for name, there in halves.items() if not there)
            what = f"a part of UrbanSound8K is here, but not {absent}"
            raise UserError(what, str(root), "complete the folder, or move it away to download the data set")


def summary(rows: Sequence[Row], notes: Sequence[str]) -> str:
    """Clips per fold and class as a table, and what is to be said of them."""
    counts = Counter((row["fold"], row["class"]) for row in rows)
    folds = sorted({row["fold"] for row in rows})
    lines = [f"{'class':<18}" + "".join(f"{fold:>6}" for fold in folds) + f"{'all':>7}"]
    for name in labels.CLASSES:
        per_fold = [counts[fold, name] for fold in folds]
        lines.append(f"{name:<18}" + "".join(f"{count:>6}" for count in per_fold) + f"{sum(per_fold):>7}")
    return "\n".join([*lines, f"{len(rows):,} clips", *(f"note: {note}" for note in notes)])


def main(argv: Sequence[str] | None = None) -> int:
    """Prepares the data set and prints what there is; `push REPO_ID …` uploads it (see `push --help`)."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["push"]:  # by name: only the layers above know the way to the Hub
        return importlib.import_module("urbansound_hf.hub_dataset").main(argv[1:])
    parser = argparse.ArgumentParser(prog="python -m urbansound_hf.urbansound8k", description=main.__doc__)
    parser.add_argument("--data_dir", default="data", help="where the data set lies or goes (default: %(default)s)")
    parser.add_argument("--allow_missing_files", action="store_true", help="leave out clips without a file")
    parser.add_argument("--num_proc", type=int, help="processes (default: one a core)")
    parser.add_argument("--quiet", action="store_true", help="print nothing but the result")
    options = parser.parse_args(argv)
    with progress.quietly(options.quiet):
        builder = UrbanSound8K(options.data_dir, allow_missing_files=options.allow_missing_files)
        started, was_there = time.perf_counter(), Path(builder.cache_dir).is_dir()
        dataset = builder.load(options.num_proc)
    seconds = time.perf_counter() - started
    print(summary(builder.rows[:], builder.notes))
    speed = "found prepared" if was_there else f"{seconds:.1f} s, {len(dataset) / seconds:,.0f} clips/s"
    print(f"{speed}: {builder.cache_dir}")
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
