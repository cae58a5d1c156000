"""The page over HTTP as a browser uses it, and a crowd of visitors."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil


class Visitor:
    """A visitor of the page at an address; `headers` go with each request."""

    def __init__(self, address: str, **headers: str) -> None:
        self.http = httpx.Client(base_url=address.rstrip("/") + "/gradio_api", timeout=120, headers=headers)
        self.session = uuid.uuid4().hex

    def upload(self, sound: Path) -> httpx.Response:
        return self.http.post("/upload", files={"files": (sound.name, sound.read_bytes())})

    def classify(self, uploaded: str, models: list[str]) -> httpx.Response:
        """Joins the queue of the first tab's function."""
        file = {"path": uploaded, "meta": {"_type": "gradio.FileData"}}
        functions = self.http.get(self.http.base_url.join("../config")).json()["dependencies"]
        number = next(each["id"] for each in functions if each["api_name"] == "classify")
        request = {"data": [file, models, False], "fn_index": number, "session_hash": self.session}
        return self.http.post("/queue/join", json=request)

    def messages(self) -> Iterator[dict[str, Any]]:
        """What the page sends until the request is complete."""
        with self.http.stream("GET", "/queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    yield json.loads(line[5:])

    def answer(self, sound: Path, models: list[str]) -> dict[str, Any]:
        """The page's last message about a sound."""
        self.classify(self.upload(sound).json()[0], models).raise_for_status()
        return [message for message in self.messages() if message["msg"] == "process_completed"][-1]


def crowd(address: str, sound: Path, models: list[str], visitors: int = 200, pid: int | None = None) -> dict[str, Any]:
    """Many visitors who upload a sound at once.

    Args:
        pid: of the page's process (default: this one).

    Returns:
        `visitors`, how many were `answered`, and the resident memory of the page in MiB `before` and `after`.
    """
    process = psutil.Process(pid)
    Visitor(address).answer(sound, models)  # what the first request needs stays
    before = process.memory_info().rss
    with ThreadPoolExecutor(visitors) as pool:
        answers = list(pool.map(lambda _: Visitor(address).answer(sound, models), range(visitors)))
    answered = sum(answer["success"] and "confidences" in json.dumps(answer) for answer in answers)
    after = process.memory_info().rss
    return {"visitors": visitors, "answered": answered, "before": before / 2**20, "after": after / 2**20}
