"""Uploads to the Hub: the target and its checks, one commit with retries, runs and Spaces, and messages for errors."""

from __future__ import annotations

import dataclasses
import json
import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, errors, get_token

from urbansound_hf.errors import UserError
from urbansound_hf.evaluation.runs import read_run, scope
from urbansound_hf.hub.files import File, describes_model, run_files, selected
from urbansound_hf.hub.space import SDK, write_space
from urbansound_hf.layout import CARD
from urbansound_hf.reports.model_card import render_card

logger = logging.getLogger(__name__)

WAITS_SECONDS = (1, 2, 4, 8)  # before the next attempts; a longer Retry-After of the Hub wins
TEMPORARY_STATUS = {408, 409, 412, 425, 429, 500, 502, 503, 504}  # 409 and 412: another commit came first
CLIENT_ERRORS = errors.HTTPError, OSError, RuntimeError, ValueError  # of the network and the Hub
LOGIN = "hf auth login, or set HF_TOKEN, with a token from https://huggingface.co/settings/tokens that may write"

Answer = TypeVar("Answer")


class NotPushed(UserError):
    """The Hub cannot be reached or refuses the upload; the local files are unchanged."""


def with_retries(where: str, attempt: Callable[[], Answer], once: bool = False) -> Answer:
    """Calls `attempt`, again after temporary errors unless `once`. Raises `NotPushed` with the repository `where`."""
    for wait in (None,) if once else (*WAITS_SECONDS, None):
        try:
            return attempt()
        except CLIENT_ERRORS as error:
            cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
            what, fix = explain_http_error(cause)
            if wait is None or not is_temporary(cause):
                raise NotPushed(what, where, fix) from error
            after = cause.response.headers.get("Retry-After", "") if isinstance(cause, errors.HfHubHTTPError) else ""
            seconds = max(wait, float(after) if after.isdecimal() else 0.0)
            logger.warning("%s; next attempt in %g s", what, seconds)
            time.sleep(seconds)
    raise AssertionError("the last attempt returns or raises")


def is_temporary(error: BaseException) -> bool:
    """Whether the same request may succeed later: the Hub is busy, or the connection failed."""
    if isinstance(error, errors.HfHubHTTPError):
        return error.response.status_code in TEMPORARY_STATUS
    # JSONDecodeError: an error page instead of JSON
    broken = errors.HTTPError, ConnectionError, TimeoutError, json.JSONDecodeError
    return isinstance(error, broken) and not isinstance(error, errors.OfflineModeIsEnabled)


EXPLANATIONS: dict[type | int, tuple[str, str]] = {
    errors.OfflineModeIsEnabled: ("HF_HUB_OFFLINE is set, so nothing can be pushed", "unset HF_HUB_OFFLINE"),
    errors.HFValidationError: ("this is not a repository id: {}", "give owner/name, with letters, digits, - _ and ."),
    errors.RevisionNotFoundError: ("the branch does not exist", "leave out --revision for main"),
    errors.RepositoryNotFoundError: (
        "the repository does not exist, or the token has no access to it", "check the name and the token"),
    401: ("the token is invalid: mistyped, expired or revoked", LOGIN),
    403: ("the token has no write access to the repository ({})",
          "give a repository of your own, or a token with write access; --create_pr proposes the change to its owner"),
    429: ("too many requests (429)", "run the same command later"),
}  # fmt: skip
"""What a failed request means and the way out, by the kind of error or its HTTP status; {}: the Hub's reason."""


def explain_http_error(error: BaseException) -> tuple[str, str]:
    """The message of a failed request, and the fix."""
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    reason = str(getattr(error, "server_message", None) or error).strip().splitlines() or [type(error).__name__]
    for kind, (what, fix) in EXPLANATIONS.items():
        if status == kind or (isinstance(kind, type) and isinstance(error, kind)):
            return what.format(reason[0]), fix
    if is_temporary(error):
        what = f"the Hub has an internal error ({status})" if status else f"the Hub cannot be reached ({reason[0]})"
        return what, "run the same command later; files that arrived are not sent again"
    return f"the Hub refuses the upload: {' '.join(reason)}", "correct it and push again"


@dataclass(frozen=True)
class Target:
    """The destination of a push."""

    repo_id: str  # owner/name; a bare name belongs to the token's owner
    kind: str = "model"  # or "dataset", "space"
    private: bool | None = None  # visibility of a new repository; None: the default of its owner
    revision: str | None = None  # a branch, created if it does not exist; None: main
    create_pr: bool = False  # open a pull request instead of changing main
    token: str | None = field(default=None, repr=False)  # default: the one that `hf auth login` or HF_TOKEN left

    @property
    def api(self) -> HfApi:
        return HfApi(token=self.token)


def check_upload(target: Target) -> Target:
    """Checks token, name and write access before there is anything to push, and creates the repository.

    Returns the target with its owner's name. Raises `NotPushed` without token, write access or connection, or for a
    repository of another kind.
    """
    if not (target.token or get_token()):
        raise NotPushed("pushing needs a token, and there is none", target.repo_id, LOGIN)
    if target.repo_id.count("/") > 1:  # datasets/owner/name, or the address of its page
        fix = f"give {'/'.join(target.repo_id.split('/')[-2:])}"
        raise NotPushed("a repository id is owner/name", target.repo_id, fix)
    user = with_retries(target.repo_id, target.api.whoami)
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise NotPushed("the token has read access only", target.repo_id, LOGIN)
    if "/" not in target.repo_id:
        target = dataclasses.replace(target, repo_id=f"{user['name']}/{target.repo_id}")
    with_retries(target.repo_id, lambda: _make(target))
    return target


def _make(target: Target) -> None:
    """Creates the repository and its branch unless they exist."""
    api, name, kind = target.api, target.repo_id, target.kind
    if not api.repo_exists(name, repo_type=kind):
        for other in {"model", "dataset", "space"} - {kind}:
            if api.repo_exists(name, repo_type=other):
                raise NotPushed(f"this repository is a {other}, not a {kind}", name, "choose another name")
        sdk = SDK if kind == "space" else None
        api.create_repo(name, repo_type=kind, private=target.private, exist_ok=True, space_sdk=sdk)
    if not target.create_pr:  # which needs no write access
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
    """Uploads files as one commit; returns the URL of the repository, of its branch, or of the pull request.

    `files` are local paths or contents by their path in the repository; what is there, not in them, and `replaces` is
    true for is deleted. After `NotPushed`, the repository is unchanged.
    """
    place: dict[str, Any] = {"repo_id": target.repo_id, "repo_type": target.kind, "revision": target.revision}
    about: dict[str, Any] = {"commit_message": message, "commit_description": description}

    def commit() -> Any:  # listed anew in each attempt, so that nothing is committed twice
        there = target.api.list_repo_files(**place)
        gone = [CommitOperationDelete(name) for name in there if replaces(name) and name not in files]
        new = [CommitOperationAdd(name, content) for name, content in files.items()]
        return target.api.create_commit(**place, **about, operations=[*gone, *new], create_pr=target.create_pr)

    # a second attempt could open a second pull request
    done = with_retries(target.repo_id, commit, once=target.create_pr)
    page = done.commit_url.rpartition("/commit/")[0]
    if target.create_pr:
        return done.pr_url or page  # nothing to change
    return f"{page}/tree/{target.revision}" if target.revision else page


def push_run(folder: Path, target: Target) -> str:
    """Pushes a finished run as one commit, without the files of an older one; returns the URL. Raises UserError."""
    run_files(folder)  # errors of the run before any request
    untouched = (folder / CARD).read_text(encoding="utf-8") == render_card(folder)
    target = check_upload(target)  # a generated card names its id
    files = run_files(folder, render_card(folder, target.repo_id) if untouched else None)
    message, description = commit_message(folder)
    return upload(target, files, message, description, replaces=describes_model)


def push_space(model: str, target: Target) -> str:
    """Pushes the page of a model, a Hub id or a run's folder, as a Space; returns its URL. Raises UserError."""
    target = check_upload(target)
    with tempfile.TemporaryDirectory() as folder:
        write_space(Path(folder), model, target.repo_id.rpartition("/")[2])
        files = selected(Path(folder), ["**/*"])
        old = ("urbansound_hf-", "urbansound_hf/", "model/")  # an older wheel, and the source in its place before
        return upload(target, files, "The page of a sound classifier", replaces=lambda name: name.startswith(old))


def commit_message(folder: Path) -> tuple[str, str]:
    """Subject and body of the commit: model, accuracy and protocol; data and code."""
    run = read_run(folder)
    metrics, receipt = run.metrics, run.receipt or {}
    environment, named = receipt["environment"], receipt["config"]["model_name_or_path"]
    model = Path(named).name if Path(named).is_absolute() else named
    fold = f", test fold {metrics['test_fold']}" if metrics["test_fold"] is not None else ""
    protocol = f"{metrics['split_kind']} split{fold}; {scope([metrics])}"
    code = f"urbansound-hf {environment['urbansound_hf']}, source {environment['code']['source']}"
    subject = f"{model}: accuracy {metrics['test_accuracy']:.3f} on {len(run.predictions):,} clips ({protocol})"
    return subject, f"Data: {receipt['data']['name']}. Code: {code}."
