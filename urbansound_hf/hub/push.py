"""What stops a push: whether it passes with time, and what to say to people when it does not."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from urbansound_hf.errors import UserError
from urbansound_hf.evaluation.runs import read_run, scope
from urbansound_hf.hub.files import File, belongs, run_files
from urbansound_hf.hub.space import SDK, write_space
from urbansound_hf.layout import CARD
from urbansound_hf.reports.model_card import render_card

logger = logging.getLogger(__name__)

WAITS_SECONDS = (1, 2, 4, 8)  # before the next attempts; the Hub's Retry-After wins
PASSING = {408, 409, 412, 425, 429, 500, 502, 503, 504}  # 409 and 412: somebody else committed meanwhile
TROUBLE = (HTTPError, OSError, RuntimeError, ValueError)  # what the client raises, of the network and of the Hub
LOGIN = "hf auth login, or set HF_TOKEN, with a token from https://huggingface.co/settings/tokens that may write"

Answer = TypeVar("Answer")


class NotPushed(UserError):
    """The Hub cannot or will not take it; what was to be pushed is still here."""


def persistently(where: str, attempt: Callable[[], Answer], once: bool = False) -> Answer:
    """The answer of the first attempt that is not stopped by something that passes.

    Args:
        where: the repository, for the message.
        once: there is no second attempt.

    Raises:
        NotPushed: the reason, in words.
    """
    for wait in (None,) if once else (*WAITS_SECONDS, None):
        try:
            return attempt()
        except TROUBLE as error:
            cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
            if wait is None or not passes(cause):
                what, fix = explain_http_error(cause)
                raise NotPushed(what, where, fix) from error
            seconds = max(wait, retry_after(cause))
            logger.warning("%s; again in %g s", explain_http_error(cause)[0], seconds)
            time.sleep(seconds)
    raise AssertionError("the last attempt answers or raises")


def status_of(error: BaseException) -> int | None:
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def passes(error: BaseException) -> bool:
    """Whether the same request may well succeed later: the Hub is busy, or the connection broke."""
    if isinstance(error, HfHubHTTPError):
        return status_of(error) in PASSING
    broken = isinstance(error, (HTTPError, ConnectionError, TimeoutError)) and not isinstance(
        error, OfflineModeIsEnabled
    )
    return broken or isinstance(error, json.JSONDecodeError)  # a page in the place of an answer


def retry_after(error: BaseException) -> float:
    """The seconds that the Hub asks to wait; 0 if it does not."""
    asked = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
    return float(asked) if asked.isdecimal() else 0.0


def explain_http_error(error: BaseException) -> tuple[str, str]:
    """What stopped a push, and the way out."""
    status = status_of(error)
    said = str(getattr(error, "server_message", None) or error).strip().splitlines() or [type(error).__name__]
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set: nothing goes to the Hub", "unset HF_HUB_OFFLINE"
    if isinstance(error, HFValidationError):
        return f"this is no repository's id: {said[0]}", "give owner/name, of letters, digits, - _ and ."
    if isinstance(error, RevisionNotFoundError):
        return "there is no such branch", "leave --revision out for main"
    if isinstance(error, RepositoryNotFoundError):
        return "there is no such repository, or this token may not see it", "check the name, and who owns the token"
    if status == 401:
        return "the Hub does not know this token: it is mistyped, expired or revoked", LOGIN
    if status == 403:
        fix = "give a repository of your own, or a token that may write there; --create_pr only asks its owner"
        return f"this token has no right to write there ({said[0]})", fix
    if status == 429:
        return "the Hub asks for fewer requests (429)", "run the same command later"
    if passes(error):
        what = f"the Hub has trouble ({status})" if status else f"the Hub cannot be reached ({said[0]})"
        return what, "run the same command later; what has arrived is not sent again"
    return f"the Hub does not take it: {' '.join(said)}", "mend it and push again"


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


def check_upload(target: Target) -> Target:
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
        sdk = SDK if kind == "space" else None
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


def push_run(folder: Path, target: Target) -> str:
    """Pushes a finished run as one commit; files of an older run that this one lacks go with it.

    Returns:
        the URL to look at.

    Raises:
        UserError: the run is not finished, or the Hub does not take it.
    """
    run_files(folder)  # what is wrong with the run is told before the Hub is asked
    untouched = (folder / CARD).read_text(encoding="utf-8") == render_card(folder)
    target = check_upload(target)  # whose id the card's snippet names, unless somebody wrote a card of their own
    files = run_files(folder, render_card(folder, target.repo_id) if untouched else None)
    message, description = commit_message(folder)
    return upload(target, files, message, description, replaces=belongs)


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
    target = check_upload(target)
    with tempfile.TemporaryDirectory() as folder:
        write_space(Path(folder), model, target.repo_id.rpartition("/")[2])
        parts = (path for path in sorted(Path(folder).rglob("*")) if path.is_file())
        files: dict[str, File] = {path.relative_to(folder).as_posix(): path for path in parts}
        old = ("urbansound_hf-", "urbansound_hf/", "model/")  # an older wheel, and the source in its place before
        return upload(target, files, "The page of a sound classifier", replaces=lambda name: name.startswith(old))


def commit_message(folder: Path) -> tuple[str, str]:
    """What a push of this run says it is: model, accuracy and protocol, and below it the data and the code."""
    run = read_run(folder)
    metrics, receipt = run.metrics, run.receipt or {}
    environment = receipt["environment"]
    named = receipt["config"]["model_name_or_path"]
    model = Path(named).name if Path(named).is_absolute() else named
    fold = f", test fold {metrics['test_fold']}" if metrics["test_fold"] is not None else ""
    protocol = f"{receipt['config']['split']} split{fold}; {scope([metrics])}"
    code = f"urbansound-hf {environment['urbansound_hf']}, source {environment['code']['source']}"
    subject = f"{model}: accuracy {metrics['test_accuracy']:.3f} on {len(run.predictions):,} clips ({protocol})"
    return subject, f"Data: {receipt['data']['name']}. Code: {code}."


KINDS = ("model", "dataset", "space")


def add_target(parser: argparse.ArgumentParser) -> None:
    """The flags that say where a push goes, but for privacy: its default depends on what is pushed."""
    parser.add_argument("repo_id", metavar="REPO_ID", help="owner/name on the Hub; made if it is not there")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--revision", metavar="BRANCH", help="a branch, made if need be (default: main)")
    where.add_argument("--create_pr", action="store_true", help="open a pull request instead")
