"""Pushes a run, a data set or a Space: `urbansound-hf hub`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from urbansound_hf.errors import CommandParser, exit_code
from urbansound_hf.hub import dataset
from urbansound_hf.hub.push import Target, push_run, push_space


def main(argv: Sequence[str] | None = None) -> int:
    """Pushes a finished run, the data set, or the browser page of a model to the Hub."""
    parser = CommandParser(prog="urbansound-hf hub", description=main.__doc__)
    commands = parser.add_subparsers(required=True, dest="what")
    model = commands.add_parser("push", help="push a finished run")
    model.add_argument("run", type=Path, metavar="RUN_DIR", help="the folder of a finished run")
    data = commands.add_parser("data", help="push the prepared UrbanSound8K", description=dataset.ABOUT)
    data.add_argument("--data_dir", type=Path, help="folder of the data set (default: data)")
    data.add_argument("--public", action="store_true", help="a new repository is public")
    data.add_argument("--yes", action="store_true", help="agree to the licence without being asked")
    page = commands.add_parser("space", help="push the browser page of a model as a Space")
    page.add_argument("model", metavar="RUN_OR_REPO", help="the folder of a run, or a Hub id")
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
    if kind == "dataset":
        if not args.yes:
            dataset.confirm(args.public)
        print(dataset.push_dataset(args.data_dir, target))
    else:
        print(push_space(args.model, target) if kind == "space" else push_run(args.run, target))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
