"""UrbanSound8K as a data set on the Hub, for those who may: Parquet, a file a fold, with its card and its credits.

urbansound-hf hub data REPO_ID [--data_dir data] [--public] [--yes]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np

from urbansound_hf import text
from urbansound_hf.data import urbansound8k
from urbansound_hf.errors import UserError
from urbansound_hf.hub.files import File
from urbansound_hf.hub.push import Target, add_target, check_upload, persistently, upload
from urbansound_hf.reports.model_card import data_card

CREDITS = "FREESOUNDCREDITS.txt"
ABOUT = "Uploads the prepared data set: non-commercial, with attribution, and private unless --public says otherwise."
LICENCE = f"""UrbanSound8K is licensed {urbansound8k.LICENCE}.
Whoever passes it on must do so for non-commercial purposes only, and must name its authors and those of every clip."""


def push_dataset(data_dir: Path | None, target: Target) -> str:
    """Prepares UrbanSound8K if need be and uploads it as one commit.

    Returns:
        the URL of the data set.

    Raises:
        UserError: there is no such data, or the Hub does not take it; then what has arrived is not sent again.
    """
    target = check_upload(target)
    found = persistently(target.repo_id, lambda: target.api.repo_info(target.repo_id, repo_type=target.kind))
    if target.private and not found.private:
        raise UserError("this repository is there, and public", target.repo_id, "give --public, or another name")
    builder = urbansound8k.UrbanSound8K(data_dir)
    builder.load()
    dataset = builder.as_dataset(split="train")  # typed `Audio`: the Hub's viewer plays it
    credits = builder.root / CREDITS
    with tempfile.TemporaryDirectory() as folder:
        files: dict[str, File] = {**write_parquet(dataset, Path(folder))}
        if credits.is_file():
            files[CREDITS] = credits
        rate, table = dataset.features["audio"].sampling_rate, fold_table(dataset)
        page = data_card(target.repo_id, len(dataset), table, builder.notes, rate, credits.is_file())
        files["README.md"] = page.encode()
        message = f"UrbanSound8K: {len(dataset):,} clips in {len(set(dataset['fold']))} folds, float mono, 16 kHz"
        return upload(target, files, message, replaces=lambda name: name.startswith("data/"))


def write_parquet(dataset: datasets.Dataset, folder: Path) -> dict[str, Path]:
    """One file a fold, so that a fold can be had alone; returns them by their names on the Hub."""
    folds = np.array(dataset["fold"])
    present = sorted(set(folds.tolist()))
    files = {}
    for number, fold in enumerate(present):
        name = f"train-{number:05d}-of-{len(present):05d}.parquet"
        dataset.select(np.flatnonzero(folds == fold)).to_parquet(folder / name)
        files[f"data/{name}"] = folder / name
    return files


def fold_table(dataset: datasets.Dataset) -> str:
    """Clips per class and fold, as Markdown."""
    names, folds = dataset.features["label"].names, sorted(set(dataset["fold"]))
    counts = Counter(zip(dataset["label"], dataset["fold"], strict=True))
    rows = [(name, *(counts[number, fold] for fold in folds)) for number, name in enumerate(names)]
    total = ("all", *(sum(counts[number, fold] for number in range(len(names))) for fold in folds))
    return text.table(("class", *(f"fold {fold}" for fold in folds)), [*rows, total])


def confirm(public: bool) -> None:
    """Asks whether the licence is kept.

    Raises:
        UserError: the answer is not yes, or nobody is there to be asked.
    """
    print(f"{LICENCE}\nThe new repository would be {'PUBLIC' if public else 'private'}.", file=sys.stderr)
    if not sys.stdin.isatty():
        raise UserError("the licence must be agreed to, and nobody is there to be asked", "", "give --yes if you do")
    if input("Do you keep to that? Type yes: ").strip().lower() != "yes":
        raise UserError("the licence was not agreed to: nothing was uploaded")


def main(argv: Sequence[str]) -> int:
    """`urbansound-hf hub data …`, without these words."""
    parser = argparse.ArgumentParser(prog="urbansound-hf hub data", description=ABOUT)
    add_target(parser)
    parser.add_argument("--data_dir", type=Path, help="where the data set lies (default: data)")
    parser.add_argument("--public", action="store_true", help="a new repository that everybody sees")
    parser.add_argument("--yes", action="store_true", help="the licence is known and kept: do not ask")
    args = parser.parse_args(argv)
    if not args.yes:
        confirm(args.public)
    where = {"revision": args.revision, "create_pr": args.create_pr}
    print(push_dataset(args.data_dir, Target(args.repo_id, "dataset", private=not args.public, **where)))
    return 0
