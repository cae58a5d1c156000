"""The way to the Hub, and the only one: one commit, repeated until it is there, or a reason why it cannot be.

python -m urbansound_hf.hub push RUN_DIR REPO_ID [--private] [--revision BRANCH | --create_pr]
python -m urbansound_hf.hub space RUN_OR_REPO SPACE_ID [--private] [--revision BRANCH | --create_pr]
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

from urbansound_hf import card, published, receipts, runs, space
from urbansound_hf.errors import exit_code
from urbansound_hf.published import File
from urbansound_hf.trouble import LOGIN, NotPushed, persistently

KINDS = ("model", "dataset", "space")


@dataclass(frozen=True)
class Target:
    """Where a push goes.

    Args:
        repo_id: owner/name; a bare name belongs to the token's owner.
        kind: "model", "dataset" or "space".
        private: of a new repository; None: as its owner's settings say.
        revision: a branch, made if need be; None: main.
        create_pr: open a pull request instead of changing main.
        token: default: the one that `hf auth login` or HF_TOKEN left.
    """

    repo_id: str
    kind: str = "model"
    private: bool | None = None
    revision: str | None = None
    create_pr: bool = False
    token: str | None = field(default=None, repr=False)

    @property
    def api(self) -> HfApi:
        return HfApi(token=self.token)


def check(target: Target) -> Target:
    """Tells every mistake that can be told before there is anything to push, and makes the repository.

    Returns:
        the target with its owner.

    Raises:
        NotPushed: no token, no right to write there, a name of something else, no connection.
    """
    if not (target.token or get_token()):
        raise NotPushed("the Hub wants to know who pushes, and there is no token", target.repo_id, LOGIN)
    if target.repo_id.count("/") > 1:  # datasets/owner/name, or the address of its page
        fix = f"give {'/'.join(target.repo_id.split('/')[-2:])}"
        raise NotPushed("a repository's id is owner/name and no more", target.repo_id, fix)
    user = persistently(target.repo_id, target.api.whoami)
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise NotPushed("this token may only read", target.repo_id, LOGIN)
    if "/" not in target.repo_id:
        target = dataclasses.replace(target, repo_id=f"{user['name']}/{target.repo_id}")
    persistently(target.repo_id, lambda: _make(target))
    return target


def _make(target: Target) -> None:
    """The repository and its branch, unless they are there."""
    api, name, kind = target.api, target.repo_id, target.kind
    if not api.repo_exists(name, repo_type=kind):
        for other in (other for other in KINDS if other != kind and api.repo_exists(name, repo_type=other)):
            raise NotPushed(f"this repository is a {other}, not a {kind}", name, f"give the {kind} a name of its own")
        sdk = "gradio" if kind == "space" else None
        api.create_repo(name, repo_type=kind, private=target.private, exist_ok=True, space_sdk=sdk)
    if not target.create_pr:  # which anybody may open
        api.auth_check(name, repo_type=kind, write=True)
    if target.revision:
        api.create_branch(name, repo_type=kind, branch=target.revision, exist_ok=True)


def upload(
    target: Target,
    files: Mapping[str, File],
    message: str,
    description: str = "",
    replaces: Callable[[str], bool] = lambda name: False,
) -> str:
    """One commit that brings `files`; a large file that is already there is not sent again.

    Args:
        target: checked, see `check`.
        files: what to write, by its path in the repository.
        message: the commit's first line.
        description: the lines below it.
        replaces: which files of the repository go if they are not in `files`.

    Returns:
        the URL of the repository, of its branch, or of the pull request.

    Raises:
        NotPushed: after several attempts; the repository then is as it was.
    """
    place: dict[str, Any] = {"repo_id": target.repo_id, "repo_type": target.kind, "revision": target.revision}

    def commit() -> Any:  # anew each time: files that meanwhile arrived are noticed, and nothing is committed twice
        there = target.api.list_repo_files(**place)
        gone = [CommitOperationDelete(name) for name in there if replaces(name) and name not in files]
        new = [CommitOperationAdd(name, content) for name, content in files.items()]
        return target.api.create_commit(
            **place,
            operations=[*gone, *new],
            commit_message=message,
            commit_description=description,
            create_pr=target.create_pr,
        )

    done = persistently(
        target.repo_id, commit, once=target.create_pr
    )  # a second attempt may open a second pull request
    page = done.commit_url.rpartition("/commit/")[0]
    if target.create_pr:
        return done.pr_url or page  # main is so already
    return f"{page}/tree/{target.revision}" if target.revision else page


def push(folder: Path, target: Target) -> str:
    """Pushes a finished run as one commit; files of an older run that this one lacks go with it.

    Returns:
        the URL to look at.

    Raises:
        UserError: the run is not finished, or the Hub does not take it.
    """
    published.run_files(folder)  # what is wrong with the run is told before the Hub is asked
    untouched = (folder / "README.md").read_text(encoding="utf-8") == card.render(folder)
    target = check(target)  # whose id the card's snippet names, unless somebody wrote a card of their own
    files = published.run_files(folder, card.render(folder, target.repo_id) if untouched else None)
    message, description = commit_message(folder)
    return upload(target, files, message, description, replaces=published.belongs)


def push_space(model: str, target: Target) -> str:
    """Writes the page of a model as a Space, and pushes it as one commit.

    Args:
        model: a Hub id, or the folder of a run, whose checkpoint becomes part of the Space.
        target: of kind "space".

    Returns:
        the URL to look at.

    Raises:
        UserError: the model is no checkpoint, or the Hub does not take it.
    """
    target = check(target)
    with tempfile.TemporaryDirectory() as folder:
        space.write(Path(folder), model, target.repo_id.rpartition("/")[2])
        parts = (path for path in sorted(Path(folder).rglob("*")) if path.is_file())
        files: dict[str, File] = {path.relative_to(folder).as_posix(): path for path in parts}
        old = ("urbansound_hf/", "model/")
        return upload(target, files, "The page of a sound classifier", replaces=lambda name: name.startswith(old))


def commit_message(folder: Path) -> tuple[str, str]:
    """What a push of this run says it is: model, accuracy and protocol, and below it the data and the code."""
    run, receipt = runs.read_run(folder), receipts.read(folder)
    metrics, environment = run.metrics, receipt["environment"]
    named = receipt["config"]["model_name_or_path"]
    model = Path(named).name if Path(named).is_absolute() else named
    fold = f", test fold {metrics['test_fold']}" if metrics["test_fold"] is not None else ""
    protocol = f"{receipt['config']['split']} split{fold}; {runs.scope([metrics])}"
    code = f"urbansound-hf {environment['urbansound_hf']}, source {environment['code']['source']}"
    subject = f"{model}: accuracy {metrics['test_accuracy']:.3f} on {len(run.predictions):,} clips ({protocol})"
    return subject, f"Data: {receipt['data']['name']}. Code: {code}."


def add_target(parser: argparse.ArgumentParser) -> None:
    """The flags that say where a push goes, but for privacy: its default depends on what is pushed."""
    parser.add_argument("repo_id", metavar="REPO_ID", help="owner/name on the Hub; made if it is not there")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--revision", metavar="BRANCH", help="a branch, made if need be (default: main)")
    where.add_argument("--create_pr", action="store_true", help="open a pull request instead")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m urbansound_hf.hub", description="What goes to the Hub.")
    commands = parser.add_subparsers(required=True, dest="what")
    model = commands.add_parser("push", help="push a finished run")
    model.add_argument("run", type=Path, metavar="RUN_DIR", help="the folder of a finished run")
    page = commands.add_parser("space", help="push the page of a model as a Space that runs")
    page.add_argument("model", metavar="RUN_OR_REPO", help="the folder of a run, or a Hub id")
    for command in (model, page):
        add_target(command)
        command.add_argument("--private", action="store_true", default=None, help="only its owner sees a new one")
    args = parser.parse_args(argv)
    kind = "space" if args.what == "space" else "model"
    target = Target(args.repo_id, kind, args.private, args.revision, args.create_pr)
    print(push_space(args.model, target) if kind == "space" else push(args.run, target))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
