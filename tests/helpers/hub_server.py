"""The Hub on the loopback interface: enough of its HTTP protocol for the real clients, and its faults on demand.

with hub_server.serve() as hub:
    hub.faults.append(Fault("PUT /lfs", status=500))
    …  # clients whose HF_ENDPOINT is hub.url; HF_HUB_DISABLE_XET=1 makes them speak plain LFS
    hub.files("me/sounds")["config.json"]
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from tests.helpers.hub_protocol import ROUTES, Hub, Refusal, Request

TOKEN, READ_TOKEN = "hf_TheTokenOfTheLoopbackHub", "hf_ThisOneMayOnlyRead"
ROLES = {f"Bearer {TOKEN}": "write", f"Bearer {READ_TOKEN}": "read"}


@dataclass
class Fault:
    """What befalls a request.

    Attributes:
        at: the number of the request, from 1, or a part of "METHOD /path?query".
        status: its answer; 0 cuts the connection; 200 answers as if nothing were wrong.
        headers: what goes with an error, such as `Retry-After`.
        times: how many such requests it befalls.
        after: so many bytes of the body, sent or received, pass before it.
        takes_effect: whether the server first does what it was asked.
        meanwhile: what the test does before the answer, such as waiting or killing the client.
    """

    at: int | str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1
    after: int | None = None
    takes_effect: bool = False
    meanwhile: Callable[[], object] = lambda: None


@dataclass
class ServedHub(Hub):
    """A Hub, what will befall its requests, and what they were ("METHOD /path?query", in order) and when (seconds)."""

    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    """Reads a request, lets its fault befall it, and answers."""

    hub: ServedHub
    protocol_version = "HTTP/1.1"  # connections are kept, as the Hub keeps them

    def handle_any(self) -> None:
        asked = f"{self.command} {self.path}"
        self.hub.requests.append(asked)
        self.hub.times.append(time.monotonic())
        fault = self.befallen(asked, len(self.hub.requests))
        fault.meanwhile()
        body = self.body(fault.after)
        answer = 200, {}, {}
        if fault.status == 200 or fault.takes_effect or (self.command == "GET" and fault.after is not None):
            answer = self.answer(body)
        if fault.status == 0 and (self.command != "GET" or fault.after is None):
            self.close_connection = True
        elif fault.status not in (0, 200):
            self.close_connection = True  # what is left of the body is not for the next request
            self.send(fault.status, {"error": "as the test wants it"}, fault.headers, None)
        else:
            self.send(*answer, fault.after)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815 (the names that http.server asks for)

    def befallen(self, asked: str, number: int) -> Fault:
        for fault in self.hub.faults:
            if fault.times and (fault.at == number or (isinstance(fault.at, str) and fault.at in asked)):
                fault.times -= 1
                return fault
        return Fault(number, status=200)

    def body(self, stop_after: int | None) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            length = int(self.headers.get("Content-Length", 0))
            return self.rfile.read(length if stop_after is None else min(length, stop_after))
        content = b""
        while (size := int(self.rfile.readline(), 16)) and (stop_after is None or len(content) < stop_after):
            content += self.rfile.read(size)
            self.rfile.readline()
        if not size:
            self.rfile.readline()
        return content

    def answer(self, body: bytes) -> tuple[int, object, dict[str, str]]:
        """Status, content (JSON or bytes) and headers."""
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        request = Request(self.command, path, query, ROLES.get(self.headers.get("Authorization", "")), body)
        try:
            for pattern, function in ROUTES:
                if match := re.fullmatch(pattern, f"{self.command} {path}"):
                    content = function(self.hub, request, *(group and unquote(group) for group in match.groups()))
                    return (200, *content) if isinstance(content, tuple) else (200, content, {})
            raise Refusal(404, f"no such page: {path}", "EntryNotFound")
        except Refusal as refusal:
            return refusal.status, refusal.content, refusal.headers

    def send(self, status: int, content: object, headers: dict[str, str], stop_after: int | None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        asked = (
            re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")) if isinstance(content, bytes) else None
        )
        if asked and status == 200:
            start = int(asked[1]) if asked[1] else len(data) - int(asked[2])
            stop = min(len(data), int(asked[2]) + 1) if asked[1] and asked[2] else len(data)
            status, headers = 206, headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
            data = data[start:stop]
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:stop_after])
        self.close_connection |= stop_after is not None

    def log_message(self, *args: object) -> None:
        """Silent."""


@contextmanager
def serve() -> Iterator[ServedHub]:
    """An empty Hub at `.url` of what it yields, until the block ends."""
    hub = ServedHub()

    class Server(ThreadingHTTPServer):
        def handle_error(self, *args: object) -> None:
            """A client that was killed says nothing more: no reason to speak."""

    with Server(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub})) as server:
        server.daemon_threads = True
        hub.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield hub
        finally:
            server.shutdown()
