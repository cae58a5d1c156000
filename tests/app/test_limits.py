"""The page refuses foreign hosts and origins and what is too large, and ends work whose visitor has left."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.app.test_app import free_port, models, sounds, yamnet  # noqa: F401 - fixtures
from tests.helpers.page import Visitor, crowd
from urbansound_hf.app import views
from urbansound_hf.app.__main__ import launch_app
from urbansound_hf.app.limits import OwnSite, watched
from urbansound_hf.errors import UserError

NAMES = ["models/yamnet"]


@pytest.fixture(scope="module")
def small(models):  # noqa: F811
    """A page with low limits, at its address."""
    page = launch_app([models["yamnet"]], port=free_port(), upload_mb=2, max_seconds=900, queue=40, request_seconds=20)
    NAMES[0] = views.short_name(str(models["yamnet"]))
    yield page.local_url
    page.close()


@pytest.fixture(scope="module")
def bomb(tmp_path_factory) -> Path:
    """Two hours of silence in a quarter of a megabyte."""
    path = tmp_path_factory.mktemp("bomb") / "bomb.flac"
    with soundfile.SoundFile(path, "w", 8000, 1, "PCM_16", compression_level=1.0) as file:
        for _ in range(120):
            file.write(np.zeros(480_000, np.int16))
    assert path.stat().st_size < 250_000
    return path


def test_a_bomb_is_refused_at_once(small, bomb):
    started = time.monotonic()
    answer = Visitor(small).answer(bomb, NAMES)
    assert "bomb.flac" in json.dumps(answer) and "longer than 900 s" in json.dumps(answer)
    assert time.monotonic() - started < 15


def test_foreign_hosts_and_origins(small):
    own = small.split("//")[1].strip("/")
    assert Visitor(small, Host="evil.example").http.get("/info").status_code == 403
    assert Visitor(small, Host=f"evil.example:{own.split(':')[1]}").http.get("/info").status_code == 403
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1.evil.example"):
        refused = Visitor(small, Origin=origin).http.post("/queue/join", json={})
        assert refused.status_code == 403 and "other sites" in refused.text
    assert Visitor(small, Origin=f"http://{own}").http.get("/info").status_code == 200
    assert Visitor(small).http.get("/openapi.json").status_code == 404
    assert Visitor(small).http.post("/call/classify", json={"data": []}).status_code == 404


@pytest.mark.parametrize(
    ("listens", "space", "host", "origin", "status"),
    [
        ("0.0.0.0", "", "192.168.1.7:7860", "http://192.168.1.7:7860", 0),
        ("0.0.0.0", "", "evil.example:7860", None, 403),
        ("127.0.0.1", "", "192.168.1.7:7860", None, 403),
        ("me.local", "", "me.local:7860", "http://me.local:7860", 0),
        ("0.0.0.0", "o-s.hf.space", "o-s.hf.space", "https://o-s.hf.space", 0),
        ("0.0.0.0", "o-s.hf.space", "10.0.0.1:7860", "https://o-s.hf.space", 0),
        ("0.0.0.0", "o-s.hf.space", "o-s.hf.space", "https://other.hf.space", 403),
        ("127.0.0.1", "", "localhost:7860", "http://127.0.0.1:7860", 403),
        ("::1", "", "[::1]:7860", "http://[::1]:7860", 0),
    ],
)
def test_the_page_s_own_names(listens, space, host, origin, status, monkeypatch):
    monkeypatch.setenv("SPACE_HOST", space)
    headers = [(b"host", host.encode())] + ([(b"origin", origin.encode())] if origin else [])
    site = OwnSite(lambda *_: None, listens, [], 10**6, False)
    assert site.refusal({"type": "http", "path": "/", "headers": headers})[0] == status


def test_wrong_requests_are_told_what_is_wrong(small, sounds, capfd):  # noqa: F811
    visitor = Visitor(small)
    assert "no-such-model" in json.dumps(visitor.answer(sounds / "siren.wav", ["no-such-model"]))
    visitor.classify("/etc/passwd", NAMES)
    refused = json.dumps([message for message in visitor.messages() if message["msg"] == "process_completed"])
    assert "no such file for visitors" in refused and "passwd" not in refused
    assert "Traceback" not in capfd.readouterr().err


def test_work_ends_with_its_visitor_and_its_time():
    ended = threading.Event()

    def work(report):
        try:
            while True:
                report("on")
                time.sleep(0.01)
        finally:
            ended.set()

    running = watched(work, 60)
    assert next(running) == "on"
    running.close()
    assert ended.is_set()
    with pytest.raises(UserError, match=r"longer than 0.1 s"):
        list(watched(work, 0.1))
    reports = list(watched(lambda report: [report(str(number)) for number in range(1000)], 60))
    assert reports[0] == "0" and len(reports) < 10  # each takes Gradio longer than it takes to decode a block


def test_a_visitor_who_leaves_frees_the_model(small, tmp_path, sounds):  # noqa: F811
    with soundfile.SoundFile(tmp_path / "long.flac", "w", 8000, 1, "PCM_16") as file:
        for _ in range(14):
            file.write(np.zeros(480_000, np.int16))
    leaving = Visitor(small)
    leaving.classify(leaving.upload(tmp_path / "long.flac").json()[0], NAMES)
    for message in leaving.messages():
        if message["msg"] == "process_generating":
            break  # and closes the connection
    leaving.http.close()
    started = time.monotonic()
    assert Visitor(small).answer(sounds / "siren.wav", NAMES)["success"]
    assert time.monotonic() - started < 15


def test_a_crowd_is_answered_in_flat_memory(small, sounds):  # noqa: F811
    told = crowd(small, sounds / "siren.wav", NAMES, visitors=8)
    assert told["answered"] == 8 and told["after"] - told["before"] < 150


def test_large_uploads_and_full_queues(small, tmp_path, sounds):  # noqa: F811
    (tmp_path / "large.wav").write_bytes(bytes(3_000_000))
    refused = Visitor(small).upload(tmp_path / "large.wav")
    assert refused.status_code == 413 and "at most 2 MB" in refused.text
    pieces = (bytes(100_000) for _ in range(30))  # no length is given
    assert Visitor(small).http.post("/queue/join", content=pieces).status_code == 413
    visitor = Visitor(small)
    uploaded = visitor.upload(sounds / "siren.wav").json()[0]
    answers = [visitor.classify(uploaded, NAMES) for _ in range(60)]
    full = [answer.text for answer in answers if answer.status_code == 503]
    assert len(full) >= 10 and "Queue is full" in full[0]


@pytest.mark.parametrize(("error", "status"), [(KeyError("session"), 400), (OSError("disk"), None)])
def test_a_wrong_request_is_answered_and_a_fault_of_the_page_is_not_hidden(error, status):
    async def fails(*_):
        raise error

    async def ask() -> int:
        sent = []

        async def send(message):
            sent.append(message)

        headers = [(b"host", b"localhost:7860")]
        scope = {"type": "http", "method": "GET", "path": "/", "headers": headers}
        await OwnSite(fails, "127.0.0.1", [], 10**6, False)(scope, None, send)
        return sent[0]["status"]

    if status:
        assert asyncio.run(ask()) == status
    else:
        with pytest.raises(type(error)):
            asyncio.run(ask())
