"""What stops a push: whether it passes with time, and what to say to people when it does not."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from urbansound_hf.errors import UserError

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
                what, fix = explain(cause)
                raise NotPushed(what, where, fix) from error
            seconds = max(wait, retry_after(cause))
            logger.warning("%s; again in %g s", explain(cause)[0], seconds)
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


def explain(error: BaseException) -> tuple[str, str]:
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
