"""A file server on the loopback interface that fails the way the real one does, once for each fault it is given."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """What it serves, how it misbehaves, and what it was asked.

    Attributes:
        content: the file; may be replaced between two requests.
        ranges: whether it knows `Range`; otherwise it answers 200 with everything.
        etags: whether it sends an `ETag`.
        cuts: for each of the next answers, the bytes after which the connection ends (None: it does not).
        errors: statuses that the next requests get instead of the file.
        error_headers: what goes with such a status, such as `Retry-After`.
        claims: the `Content-Length` it claims (None: the true one).
        requests: the headers of every request, in order.
        times: when they came, in seconds.
    """

    content: bytes
    ranges: bool = True
    etags: bool = True
    cuts: list[int | None] = field(default_factory=list)
    errors: list[int] = field(default_factory=list)
    error_headers: dict[str, str] = field(default_factory=dict)
    claims: int | None = None
    requests: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    url: str = ""

    @property
    def md5(self) -> str:
        return hashlib.md5(self.content).hexdigest()

    @property
    def asked_from(self) -> list[int]:
        """The first byte that each request asked for."""
        return [int(headers.get("Range", "bytes=0-")[len("bytes=") : -1]) for headers in self.requests]

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests.append(dict(handler.headers))
        self.times.append(time.monotonic())
        if self.errors:
            return self._send(handler, self.errors.pop(0), self.error_headers)
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", "")) if self.ranges else None
        start, total = int(asked[1]) if asked else 0, len(self.content)
        headers = {"ETag": f'"md5:{self.md5}"'} if self.etags else {}
        if asked and start >= total:
            return self._send(handler, 416, headers | {"Content-Range": f"bytes */{total}"})
        if asked:
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        return self._send(handler, 206 if asked else 200, headers, self.content[start:])

    def _send(self, handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(self.claims or len(body)))
        handler.end_headers()
        handler.wfile.write(body[: self.cuts.pop(0)] if body and self.cuts else body)  # HTTP/1.0: now it hangs up


@contextmanager
def serve(content: bytes) -> Iterator[FileServer]:
    """Serves `content` at `.url` of what it yields, until the block ends."""
    files = FileServer(content)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            files.answer(self)

        def log_message(self, *args: object) -> None:
            """Silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        files.url = f"http://127.0.0.1:{server.server_port}/records/1203745/files/sounds.tar.gz?download=1"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield files
        finally:
            server.shutdown()
