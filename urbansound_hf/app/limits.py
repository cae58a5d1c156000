"""Limits of the page: foreign hosts and origins, large uploads, long work, work whose visitor has left."""

from __future__ import annotations

import ipaddress
import logging
import os
import queue
import re
import threading
import time
import traceback
from collections.abc import Callable, Collection, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from urbansound_hf.errors import UserError
from urbansound_hf.layout import PACKAGE_ROOT

LOOPBACK = ("localhost", "127.0.0.1", "::1")
API = re.compile(r"/(gradio_api/)?(openapi\.json|call/|run/(?!predict$)|api/)")  # named endpoints; browsers run predict
Report = Callable[[str], None]
Result = TypeVar("Result")


class PageLimits(NamedTuple):
    """Limits of the page: of a request's upload in MB, a sound in seconds, waiting requests, seconds of a request."""

    upload_mb: int = 500
    max_seconds: float = 3600.0
    queue: int = 256
    request_seconds: float = 600.0


def watched(
    work: Callable[[Report], Result], seconds: float, show: Callable[[str], Any] = str
) -> Generator[Any, None, Result]:
    """Runs `work` in a thread, yields what it reports by `show`, five times a second at most, and returns its result.

    When the generator is closed, as Gradio does once the visitor has left, the next report ends the work.

    Raises:
        UserError: the work takes longer than `seconds`.
    """
    news: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    left, end, due = threading.Event(), time.monotonic() + seconds, 0.0

    def report(text: str) -> None:
        nonlocal due
        if left.is_set():
            raise UserError("the visitor has left")
        if (now := time.monotonic()) > end:
            raise UserError(f"this took longer than {seconds:g} s", fix="give a shorter sound, or fewer")
        if now >= due:  # Gradio needs 20 ms for each
            due = now + 0.2
            news.put(text)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work, report)
        done.add_done_callback(lambda _: news.put(None))
        try:
            while (text := news.get()) is not None:
                yield show(text)
        finally:
            left.set()
        return done.result()


class OwnSite:
    """ASGI middleware that answers requests for the page's own host from its own origin only, of limited size.

    Another site could otherwise have a visitor's browser talk to a page on the visitor's machine: by a form or script
    (its Origin differs), or under a name of its own that it points to this address (DNS rebinding; the Host differs).
    `host` is the address listened on; of a page that is open to the network, every IP address is its own.
    """

    def __init__(self, app: ASGIApp, host: str, names: Collection[str], max_bytes: int, api: bool) -> None:
        self.app, self.max_bytes, self.api = app, max_bytes, api
        self.too_large = f"a request has at most {max_bytes / 1e6:,.0f} MB (--upload_mb)"
        self.open = host in ("0.0.0.0", "::", "")
        space = os.environ.get("SPACE_HOST", "").split(",")
        self.public = {name.strip().lower() for name in [*names, *space] if name.strip()}
        self.names = {*LOOPBACK, host.lower(), *self.public}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        received, begun = 0, False

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise HTTPException(413, self.too_large)
            return message

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        status, reason = self.refusal(scope) if scope["type"] in ("http", "websocket") else (0, "")
        answer: Any = PlainTextResponse(reason, status) if status else self.app
        try:
            await answer(scope, counted, noted)
        except Exception as error:
            if is_ours(error) or not isinstance(error, AttributeError | LookupError | TypeError | ValueError):
                raise  # Gradio lets wrong requests fail anywhere, with one of these
            logging.getLogger(__name__).warning("%s: %s: %s", scope.get("path"), type(error).__name__, error)
            if not begun and scope["type"] == "http":
                refused = PlainTextResponse(f"this request cannot be answered ({type(error).__name__})", 400)
                await refused(scope, receive, send)

    def refusal(self, scope: Scope) -> tuple[int, str]:
        """Status and reason of a request that is refused; 0 for one that is answered."""
        headers = Headers(scope=scope)
        host, origin = headers.get("host", "").lower(), headers.get("origin")
        if not self._is_own(_hostname(f"//{host}")):
            return 403, f"this page is not served as {host!r}; --allow_host adds a name"
        if origin is not None:
            netloc = origin.lower().partition("://")[2]
            if netloc != host and _hostname(origin.lower()) not in self.public:
                return 403, f"requests from other sites are refused, this one came from {origin!r}"
        if int(re.sub(r"\D", "", headers.get("content-length", "")) or 0) > self.max_bytes:
            return 413, self.too_large
        if not self.api and API.match(scope["path"]):
            return 404, "the API is off; --api serves it"
        return 0, ""

    def _is_own(self, name: str) -> bool:
        with suppress(ValueError):
            return name in self.names or (self.open and bool(ipaddress.ip_address(name)))
        return False


def is_ours(error: Exception) -> bool:
    """Whether an exception comes from this package, below the function that caught it."""
    frames = traceback.extract_tb(error.__traceback__)[1:]
    return any(str(PACKAGE_ROOT) in each.filename for each in frames if each.filename != __file__)


def _hostname(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:  # such as half an IPv6 address
        return ""
