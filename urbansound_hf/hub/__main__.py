"""Pushes a run, a Space, or UrbanSound8K as Parquet with its card and credits: `urbansound-hf hub`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from urbansound_hf.data import urbansound8k
from urbansound_hf.errors import CommandParser, UserError, check_free_space, exit_code
from urbansound_hf.hub.files import File
from urbansound_hf.hub.push import Target, check_upload, push_run, push_space, upload, with_retries
from urbansound_hf.reports.model_card import data_card

CREDITS = "FREESOUNDCREDITS.txt"
ABOUT = "Uploads the prepared data set: non-commercial, with attribution, and private unless --public is given."
LICENCE = f"""UrbanSound8K is licensed {urbansound8k.LICENCE}.
It may be shared for non-commercial purposes only, with attribution to its authors and to those of every clip."""


def push_dataset(data_dir: Path | None, target: Target) -> str:
    """Prepares UrbanSound8K, unless it is prepared, and uploads it as one commit; returns its URL. Raises UserError."""
    target = check_upload(target)
    found = with_retries(target.repo_id, lambda: target.api.repo_info(target.repo_id, repo_type=target.kind))
    if target.private and not found.private:
        raise UserError("the repository exists and is public", target.repo_id, "give --public, or another name")
    builder = urbansound8k.UrbanSound8K(data_dir)
    builder.load()
    dataset = builder.as_dataset(split="train")  # typed `Audio`, so that the Hub's viewer plays it
    credits = builder.root / CREDITS
    with tempfile.TemporaryDirectory() as folder:
        files: dict[str, File] = {}
        check_free_space(folder, "TMPDIR", dataset.data.nbytes)  # a full disk would end the process in Arrow
        folds = np.array(dataset["fold"])
        present = np.unique(folds)
        for number, fold in enumerate(present):
            name = f"train-{number:05d}-of-{len(present):05d}.parquet"
            dataset.select(np.flatnonzero(folds == fold)).to_parquet(Path(folder, name))
            files[f"data/{name}"] = Path(folder, name)
        files |= {CREDITS: credits} if credits.is_file() else {}
        table = urbansound8k.fold_table(dataset["label"], dataset["fold"])
        rate = dataset.features["audio"].sampling_rate
        page = data_card(target.repo_id, len(dataset), table, builder.notes, rate, credits.is_file())
        files["README.md"] = page.encode()
        message = f"UrbanSound8K: {len(dataset):,} clips in {len(present)} folds, float mono, 16 kHz"
        return upload(target, files, message, replaces=lambda name: name.startswith("data/"))


def confirm(public: bool) -> None:
    """Asks for agreement to the licence. Raises UserError without a yes, or a terminal to ask in."""
    print(f"{LICENCE}\nThe new repository would be {'PUBLIC' if public else 'private'}.", file=sys.stderr)
    if not sys.stdin.isatty():
        what = "the licence needs your agreement, and standard input is no terminal"
        raise UserError(what, fix="give --yes to agree")
    if input("Do you agree? Type yes: ").strip().lower() != "yes":
        raise UserError("without agreement to the licence nothing is uploaded")


def main(argv: Sequence[str] | None = None) -> int:
    """Pushes a finished run, the data set, or the browser page of a model to the Hub."""
    parser = CommandParser(prog="urbansound-hf hub", description=main.__doc__)
    commands = parser.add_subparsers(required=True, dest="what")
    model = commands.add_parser("push", help="push a finished run")
    model.add_argument("pushed", type=Path, metavar="RUN_DIR", help="the folder of a finished run")
    data = commands.add_parser("data", help="push the prepared UrbanSound8K", description=ABOUT)
    data.add_argument("--data_dir", type=Path, dest="pushed", help="folder of the data set (default: data)")
    data.add_argument("--public", action="store_true", help="a new repository is public")
    data.add_argument("--yes", action="store_true", help="agree to the licence without being asked")
    page = commands.add_parser("space", help="push the browser page of a model as a Space")
    page.add_argument("pushed", metavar="RUN_OR_REPO", help="the folder of a run, or a Hub id")
    for command in (model, data, page):
        command.add_argument("repo_id", metavar="REPO_ID", help="owner/name on the Hub; created if it does not exist")
        where = command.add_mutually_exclusive_group()
        where.add_argument("--revision", metavar="BRANCH", help="a branch, created if need be (default: main)")
        where.add_argument("--create_pr", action="store_true", help="open a pull request instead")
    for command in (model, page):
        command.add_argument("--private", action="store_true", default=None, help="a new repository is private")
    args = parser.parse_args(argv)
    kind = {"push": "model", "data": "dataset", "space": "space"}[args.what]
    private = not args.public if kind == "dataset" else args.private
    target = Target(args.repo_id, kind, private, args.revision, args.create_pr)
    if kind == "dataset" and not args.yes:
        confirm(args.public)
    pushers: dict[str, Callable[..., str]] = {"push": push_run, "data": push_dataset, "space": push_space}
    print(pushers[args.what](args.pushed, target))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
