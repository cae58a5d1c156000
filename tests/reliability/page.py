"""Hostile visitors of the page, which runs in a process of its own: requests, bombs, crowds, slow clients.

Nothing that a visitor sends may bring out a file of the machine, end the page, or leave a traceback in its log.
"""

from __future__ import annotations

import atexit
import itertools
import json
import os
import resource
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import psutil
import soundfile

from tests.helpers import tiny
from tests.helpers.page import Visitor, crowd
from tests.helpers.processes import exit_status, fork
from tests.reliability import Case
from tests.reliability.audio import encoded
from urbansound_hf import cli
from urbansound_hf.app.views import short_name
from urbansound_hf.errors import exit_code

SECRET = "a secret of this machine"
FOREIGN = ("root:x:0", SECRET, "PAGE_SECRET=", "def launch_app", "hidden_size")
"""What stands in files that no visitor may have: /etc/passwd, the secret, the environment, the code."""
MAX_SECONDS = 300
figures: dict[str, float] = {}
"""Measured on the page: resident memory in MiB, seconds."""


class Served(NamedTuple):
    """A page that runs: its address, models, process id, log, and a folder with a secret and a sound."""

    address: str
    models: list[str]
    pid: int
    log: Path
    folder: Path

    def alive(self) -> None:
        """The page answers a good visitor."""
        answer = Visitor(self.address).answer(self.folder / "good.wav", self.models)
        assert answer["success"] and "confidences" in json.dumps(answer), f"a good visitor gets {str(answer)[:300]}"

    def memory(self) -> float:
        return psutil.Process(self.pid).memory_info().rss / 2**20


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@cache
def served() -> Served:
    """Starts the page once, with low limits."""
    folder = Path(tempfile.mkdtemp(prefix="page-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    model, port = tiny.save("yamnet", folder / "model", clip_seconds=1.0), free_port()
    (folder / "secret.txt").write_text(SECRET, encoding="utf-8")
    (folder / "good.wav").write_bytes(encoded("WAV", "PCM_16"))
    words = [sys.executable, "-m", "urbansound_hf.app", "--model", str(model), "--port", str(port), "--upload_mb", "4"]
    words += ["--max_seconds", str(MAX_SECONDS), "--request_seconds", "120", "--queue", "256"]
    with (folder / "log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, env=os.environ | {"PAGE_SECRET": "1"})
    atexit.register(process.wait)
    atexit.register(process.terminate)
    page = Served(f"http://127.0.0.1:{port}", [short_name(str(model))], process.pid, folder / "log", folder)
    for _ in range(600):
        with suppress(httpx.HTTPError):
            if httpx.get(f"{page.address}/config").status_code == 200:
                page.alive()
                return page
        time.sleep(0.2)
    raise AssertionError(f"the page does not start: {page.log.read_text(encoding='utf-8')[-900:]}")


def innocent(text: str) -> None:
    leaked = [word for word in FOREIGN if word in text]
    assert not leaked, f"leak of {leaked}: {text[:300]}"
    assert "Traceback" not in text, f"traceback: {text[-900:]}"


def raw(page: Served, request: bytes) -> str:
    """Sends bytes as they are; the answer must come, or the connection end, within ten seconds."""
    port = int(page.address.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), 10) as link:
        with suppress(ConnectionError):
            link.sendall(request.replace(b"HOST", f"127.0.0.1:{port}".encode()))
            link.shutdown(socket.SHUT_WR)
        answer = b""
        with suppress(ConnectionError):
            while len(answer) < 10**6 and (part := link.recv(2**16)):
                answer += part
    return judged(answer.decode("utf-8", "replace"), int(answer[9:12] or 400))


def judged(text: str, status: int) -> str:
    innocent(text)
    assert status < 500 or status == 503, f"status {status}: {text[-300:]}"
    return "refused" if status >= 400 else "answered"


def send(page: Served, method: str, path: str, **request: Any) -> str:
    headers = request.pop("headers", {})
    with httpx.stream(method, page.address + path, headers=headers, timeout=30, **request) as answer:
        text = next(answer.iter_text(2**18), "") if answer.status_code < 400 else answer.read().decode()
        return judged(text, answer.status_code)


def join(page: Served, message: object) -> str:
    """Puts a message into the queue and reads what becomes of it."""
    answer = httpx.post(f"{page.address}/gradio_api/queue/join", json=message, timeout=30)
    outcome = judged(answer.text, answer.status_code)
    session = message.get("session_hash") if isinstance(message, dict) else None
    if outcome == "refused" or not isinstance(session, str) or len(session) > 1000:
        return outcome
    visitor = Visitor(page.address)
    visitor.session, visitor.http.timeout = session, httpx.Timeout(60)
    for event in visitor.messages():
        innocent(json.dumps(event))
        if event["msg"] in ("process_completed", "unexpected_error"):
            return "answered" if event.get("success") else "refused"
    return "refused"


def stolen_files(page: Served) -> Iterator[Case]:
    secret = str(page.folder / "secret.txt")
    paths = [secret, f"/{secret}", f"file://{secret}", "/etc/passwd", "../" * 12 + "etc/passwd",
             "..%2f" * 12 + "etc/passwd",
             "%2e%2e/" * 12 + "etc/passwd", "%252e%252e%252f" * 12 + "etc/passwd", "..%5c" * 12 + "etc%5cpasswd",
             "/proc/self/environ", "/etc/passwd%00.wav", "/proc/self/cwd/urbansound_hf/app/__main__.py"]  # fmt: skip
    prefixes = ["/gradio_api/file=", "/file=", "/gradio_api/file/", "/gradio_api/proxy=", "/static/", "/assets/",
                "/gradio_api/stream/1/2/", "/custom_component/a/b/c/", "/gradio_api/"]  # fmt: skip
    for prefix, path in itertools.product(prefixes, paths):
        line = f"GET {prefix}{path} HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n"
        yield f"GET {prefix}{path}", partial(raw, page, line.encode())
    for number, path in enumerate(paths):
        data = [{"path": path, "meta": {"_type": "gradio.FileData"}}, page.models, False]
        for function in range(6):
            message = {"data": data, "fn_index": function, "session_hash": f"thief{number}-{function}"}
            yield f"{path} as the sound of function {function}", partial(join, page, message)
    for name in ("../../stolen.wav", "/tmp/stolen.wav", "..\\stolen.wav", "a\0b.wav", "x" * 3000 + ".wav", "", "."):
        yield f"upload as {name[:20]!r}", partial(planted, page, name)


def planted(page: Served, name: str) -> str:
    """An upload under a name that leads elsewhere."""
    content = (page.folder / "good.wav").read_bytes()
    answer = httpx.post(f"{page.address}/gradio_api/upload", files={"files": (name, content)}, timeout=30)
    outcome = judged(answer.text, answer.status_code)
    if outcome == "answered":
        for path in map(Path, answer.json()):
            assert "urbansound-app-" in str(path.resolve()), f"written to {path}"
    return outcome


def foreign_sites(page: Served) -> Iterator[Case]:
    own = page.address.split("//")[1]
    hosts = ["evil.example", f"evil.example:{own[-5:]}", "", "127.0.0.1.evil.example", "127.0.0.1@evil.example", "[::",
             "\xff",
             "0x7f.1", "10.0.0.1", "evil.example#127.0.0.1", "evil.example\\127.0.0.1"]  # fmt: skip
    for host in hosts:
        request = f"GET /config HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode("latin-1")
        yield f"Host {host}", partial(refused, partial(raw, page, request))
    origins = ["http://evil.example", "null", "file://", f"http://{own}.evil.example", f"http://evil.example/{own}",
               "x",
               "http://127.0.0.1:1", f"http://{own}@evil.example", "http://[::", "data:"]  # fmt: skip
    for origin, path in itertools.product(origins, ["/gradio_api/upload", "/gradio_api/queue/join"]):
        yield (
            f"Origin {origin} to {path}",
            partial(refused, partial(send, page, "POST", path, headers={"Origin": origin})),
        )


def refused(request: Callable[[], str]) -> str:
    outcome = request()
    assert outcome == "refused", "answered a foreign site"
    return outcome


def malformed(page: Served) -> Iterator[Case]:
    good: dict[str, Any] = {"data": [None, page.models, False], "fn_index": 0, "session_hash": "s"}
    for key, value in itertools.product(good, (None, -1, 10**9, 1e300, "x", "x" * 10**5, [], {}, [[]] * 100)):
        yield f"{key} is {str(value)[:20]}", partial(join, page, good | {key: value})
    sound = {"meta": {"_type": "gradio.FileData"}}
    for value in (
        None,
        "",
        1,
        [],
        {"a": 1},
        "http://127.0.0.1:1/x.wav",
        "http://169.254.169.254/latest",
        "\0",
        "x" * 5000,
    ):
        for key in ("path", "url"):
            message = good | {"data": [sound | {key: value}, page.models, False], "session_hash": f"{key}{value!s:.9}"}
            yield f"a sound whose {key} is {str(value)[:30]}", partial(join, page, message)
    bodies = {"not JSON": b"{", "deep": b"[" * 100_000, "empty": b"", "NaN": b'{"fn_index": NaN}', "binary": bytes(256),
              "a long number": b'{"fn_index": ' + b"9" * 5000 + b"}", "a list": b"[1]", "twice": b"{}{}"}  # fmt: skip
    kinds = (
        "application/json",
        "text/plain",
        "multipart/form-data",
        "multipart/form-data; boundary=x",
        "\xe9",
        "a/" * 500,
    )
    for (name, body), kind, path in itertools.product(bodies.items(), kinds, ("queue/join", "upload", "run/predict")):
        headers = {"Content-Type": kind.encode("latin-1")}
        request = partial(send, page, "POST", f"/gradio_api/{path}", content=body, headers=headers)
        yield f"{name} as {kind[:30]} to {path}", request
    for path in ("queue/data", "queue/status", "cancel", "reset", "component_server", "upload_progress", "heartbeat/\0",
                 "app_id", "login", "vibe-editor", "deep_link", "call/classify", "openapi.json"):  # fmt: skip
        for method in ("PUT", "DELETE", "POST", "OPTIONS", "HEAD", "TRACE"):
            escaped = f"/gradio_api/{path}".replace("\0", "%00")
            yield f"{method} {path[:20]}", partial(send, page, method, escaped, json={})
    lines = {"a header of 100 kB": b"X: " + b"a" * 100_000, "2,000 headers": b"X: a\r\n" * 2000 + b"Y: b",
             "no colon": b"X",
             "a length below 0": b"Content-Length: -1", "two lengths": b"Content-Length: 1\r\nContent-Length: 2",
             "a long length": b"Content-Length: " + b"9" * 30,
             "chunks of lies": b"Transfer-Encoding: chunked\r\n\r\nZZ",
             "a cookie of 60 kB": b"Cookie: a=" + b"b" * 60_000, "a range": b"Range: bytes=9-1,-,x"}  # fmt: skip
    for name, line in lines.items():
        request = b"POST /gradio_api/upload HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n" + line + b"\r\n\r\n"
        yield name, partial(raw, page, request)
    for name, request in {"a path of 100 kB": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: HOST\r\n\r\n",
                          "no HTTP": b"\x16\x03\x01" + bytes(200), "HTTP/9": b"GET / HTTP/9.9\r\nHost: HOST\r\n\r\n",
                          "nothing": b"", "no host": b"GET / HTTP/1.0\r\n\r\n"}.items():  # fmt: skip
        yield name, partial(raw, page, request)


def healthy(page: Served) -> str:
    """After all: no traceback in the log, good answers."""
    page.alive()
    text = page.log.read_text(encoding="utf-8", errors="replace")
    traces = [part.split("\n\n")[0] for part in text.split("Traceback (most recent call last)")[1:]]
    assert not traces, f"{len(traces)} tracebacks in the log: {traces[0][-900:]}"
    return "answered"


def requests(root: Path) -> Iterator[Case]:
    page = served()
    yield from stolen_files(page)
    yield from foreign_sites(page)
    yield from malformed(page)
    yield "the page after all requests", partial(healthy, page)


# ---- crowds


def uploads(root: Path, visitors: int = 200) -> Iterator[Case]:
    page, started = served(), time.perf_counter()
    told = crowd(page.address, page.folder / "good.wav", page.models, visitors, page.pid)
    figures["memory before 200 uploads, MiB"] = round(told["before"])
    figures["memory after them, MiB"] = round(told["after"])
    figures["seconds for 200 uploads"] = round(time.perf_counter() - started)
    again = crowd(page.address, page.folder / "good.wav", page.models, visitors, page.pid)
    figures["memory after 200 more, MiB"] = round(again["after"])
    told["answered"] = min(told["answered"], again["answered"])

    def visitor(number: int) -> str:
        assert number < told["answered"], f"loss: {told['answered']} of {visitors} were answered"
        return "answered"

    for number in range(visitors):
        yield f"visitor {number}", partial(visitor, number)
    yield "the page after the crowd", partial(healthy, page)


def slow_clients(root: Path, clients: int = 300, seconds: float = 12) -> Iterator[Case]:
    """Sockets that send a byte a second: of their header, of their body; and some that do not read the answer."""
    page = served()
    port = int(page.address.rsplit(":", 1)[1])
    head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n".encode()
    body = b"Content-Length: 100000\r\nContent-Type: multipart/form-data; boundary=x\r\n\r\n--x"
    ask = head.replace(b"POST", b"GET").replace(b"gradio_api/upload", b"config") + b"\r\n"
    starts = [b"", head, head + body, ask * 50]
    links, ended = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(clients)], [""] * clients
    before, waits = page.memory(), []
    for number, link in enumerate(links):
        link.sendall(starts[number % len(starts)])
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        tick = time.monotonic()
        for number, link in enumerate(links):
            try:
                link.sendall(b"x")
            except OSError:
                ended[number] = "cut off"
        page.alive()
        waits.append(time.monotonic() - tick)
        time.sleep(max(0.0, 1 - waits[-1]))
    figures["memory before 300 slow clients, MiB"] = round(before)
    for link in links:
        link.close()
    figures["memory after them, MiB (slow clients)"] = round(page.memory())
    figures["longest wait of a good visitor among them, s"] = round(max(waits), 1)

    def client(number: int) -> str:
        assert max(waits) < 30, f"a good visitor waited {max(waits):.0f} s"
        return ended[number] or "held, others answered"

    for number in range(clients):
        yield f"slow client {number}", partial(client, number)
    yield "the page after the slow clients", partial(healthy, page)


# ---- bombs


def silence(path: Path, rate: int, channels: int, hours: float, **options: Any) -> Path:
    """A small file of hours of silence."""
    frames = max(1, min(480_000, 60 * rate) // channels)
    with soundfile.SoundFile(path, "w", rate, channels, **options) as file:
        for _ in range(round(hours * 3600 * rate / frames) or 1):
            file.write(np.zeros((frames, channels), np.int16))
    return path


def m4a(path: Path, hours: float) -> Path:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate = 8000
        for number in range(round(hours * 3600 * 8000 / 1024)):
            frame.pts = number * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def patched(path: Path, form: str, at: int, value: bytes, subtype: str = "PCM_16") -> Path:
    """A sound of half a second with a lie at an offset of its header."""
    content = bytearray(encoded(form, subtype))
    content[at : at + len(value)] = value
    path.write_bytes(content)
    return path


def bomb_files(root: Path, hours: float = 3.0) -> dict[str, Path]:
    rf64 = encoded("RF64", "PCM_16")
    at = rf64.index(b"ds64") + 8
    sound = encoded("WAV", "PCM_16")
    for name, subtype in (("hours.ogg", "VORBIS"), ("hours.mp3", "MPEG_LAYER_III")):  # a minute, repeated
        (root / name).write_bytes(
            silence(root / name, 8000, 1, 1 / 60, subtype=subtype).read_bytes() * round(60 * hours)
        )
    (root / "joined.wav").write_bytes(sound * 200)
    (root / "zeros.wav").write_bytes(sound[:44] + bytes(3_900_000))
    # FLAC: 36 bits of the number of samples end the first 18 bytes of STREAMINFO
    return {
        "FLAC of hours": silence(root / "hours.flac", 8000, 1, hours, subtype="PCM_16", compression_level=1.0),
        "FLAC of 8 channels": silence(root / "eight.flac", 8000, 8, hours / 3, subtype="PCM_16", compression_level=1.0),
        "Ogg of hours": root / "hours.ogg",
        "m4a of hours": m4a(root / "hours.m4a", hours / 3),
        "MP3 of hours": root / "hours.mp3",
        "WAV of 96 channels": silence(root / "channels.wav", 8000, 96, 0.0, subtype="PCM_16"),
        "WAV of 1,024 channels": silence(root / "most.wav", 8000, 1024, 0.0, subtype="PCM_16"),
        "WAV of 1 Hz": silence(root / "slow.wav", 1, 1, 133.0, subtype="PCM_U8"),
        "WAV of 2^31 Hz": patched(root / "fast.wav", "WAV", 24, struct.pack("<I", 2**31 - 1)),
        "RF64 of 2^60 samples": patched(root / "huge.wav", "RF64", at, struct.pack("<QQQ", 2**61, 2**61, 2**60)),
        "WAV of 2^32 bytes": patched(root / "long.wav", "WAV", 40, b"\xfe\xff\xff\xff"),
        "FLAC of 2^36 samples": patched(root / "long.flac", "FLAC", 22, b"\xff\xff\xff\xff"),
        "AU of 2^32 bytes": patched(root / "long.au", "AU", 8, b"\xff\xff\xff\xfe"),
        "AIFF of 2^32 frames": patched(root / "long.aiff", "AIFF", 22, b"\xff\xff\xff\xff"),
        "200 WAVs joined": root / "joined.wav",
        "zeros behind a WAV": root / "zeros.wav",
    }


def through_page(page: Served, bomb: Path) -> str:
    before, started = page.memory(), time.monotonic()
    uploaded = Visitor(page.address).upload(bomb)
    if uploaded.status_code == 413:
        return "refused"
    answer = Visitor(page.address).answer(bomb, page.models)
    innocent(json.dumps(answer))
    assert page.memory() - before < 600, f"memory grew from {before:.0f} to {page.memory():.0f} MiB"
    assert time.monotonic() - started < 180, f"{time.monotonic() - started:.0f} s"
    page.alive()
    return "answered" if "confidences" in json.dumps(answer) else "refused"


def through_infer(page: Served, bomb: Path, root: Path) -> str:
    """The bomb among good files, which keep their scores."""
    output, log = root / "scores.jsonl", root / "log"
    output.unlink(missing_ok=True)
    files = [page.folder / "good.wav", bomb, page.folder / "good.wav"]
    words = [*files, "--model", page.folder / "model", "--device", "cpu", "--output", output, "--quiet"]
    words += ["--max_seconds", MAX_SECONDS]

    def work() -> None:
        with log.open("w", encoding="utf-8") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            sys.stdout = sys.stderr = file
            code = exit_code(lambda: cli.infer([*map(str, words)]))
            file.flush()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            os._exit(99 if peak > start + 900 else code)

    start = psutil.Process().memory_info().rss / 2**20
    code, said = exit_status(fork(work)), log.read_text(encoding="utf-8", errors="replace")
    innocent(said)
    assert code in (0, 1), f"exit code {code}: {said[-400:]}"
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    scored = [row for row in rows if "good.wav" in json.dumps(row) and not row.get("error")]
    assert scored, f"loss of the good files: {str(rows)[:300]}"
    return "refused" if code else "answered"


def bombs(root: Path) -> Iterator[Case]:
    page = served()
    for name, bomb in bomb_files(root).items():
        yield f"{name} on the page", partial(through_page, page, bomb)
        yield f"{name} through infer.py", partial(through_infer, page, bomb, root)
    figures["memory after the bombs, MiB"] = round(page.memory())
    yield "the page after the bombs", partial(healthy, page)
