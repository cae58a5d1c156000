"""Pushes a run, a data set or a Space: `urbansound-hf hub`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from urbansound_hf.errors import exit_code
from urbansound_hf.hub import dataset
from urbansound_hf.hub.push import Target, add_target, push_run, push_space


def main(argv: Sequence[str] | None = None) -> int:
    """Pushes a finished run, the data set, or the browser page of a model to the Hub."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["data"]:
        return dataset.main(argv[1:])
    parser = argparse.ArgumentParser(prog="urbansound-hf hub", description=main.__doc__)
    commands = parser.add_subparsers(required=True, dest="what")
    model = commands.add_parser("push", help="push a finished run")
    model.add_argument("run", type=Path, metavar="RUN_DIR", help="the folder of a finished run")
    commands.add_parser("data", help="push the prepared UrbanSound8K, private by default")
    page = commands.add_parser("space", help="push the browser page of a model as a Space")
    page.add_argument("model", metavar="RUN_OR_REPO", help="the folder of a run, or a Hub id")
    for command in (model, page):
        add_target(command)
        command.add_argument("--private", action="store_true", default=None, help="a new repository is private")
    args = parser.parse_args(argv)
    kind = "space" if args.what == "space" else "model"
    target = Target(args.repo_id, kind, args.private, args.revision, args.create_pr)
    print(push_space(args.model, target) if kind == "space" else push_run(args.run, target))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
