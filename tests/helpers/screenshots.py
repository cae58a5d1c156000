"""The figures of the documents that show the page and a timeline: `python -m tests.helpers.screenshots MODEL SOUND`.

The page runs as `urbansound-hf app`; a Chromium of the system looks at it. Writes docs/images/*.png.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.app.test_app import CHROMIUM
from tests.conftest import ROOT
from urbansound_hf.cli import run

IMAGES = ROOT / "docs" / "images"
VIEWS = {"page": (1280, 800, "light"), "page_phone_dark": (390, 844, "dark")}


def main(model: str, sound: str) -> None:
    IMAGES.mkdir(exist_ok=True)
    run(["infer", sound, "--model", model, "--top_k", "10", "--plot", str(IMAGES / "timeline.png")])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "urbansound_hf", "app", "--model", model, "--port", str(port)])
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            for name, (width, height, theme) in VIEWS.items():
                page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=theme)
                for _ in range(120):
                    try:
                        page.goto(f"http://127.0.0.1:{port}/?__theme={theme}")
                        break
                    except Exception:  # the server is still starting
                        time.sleep(1)
                page.locator("input[type=file]").first.set_input_files(sound)
                page.get_by_text("Events: select").first.wait_for(timeout=120_000)
                page.wait_for_timeout(2000)
                page.screenshot(path=IMAGES / f"{name}.png")
    finally:
        server.terminate()
    for path in (IMAGES / f"{name}.png" for name in ("timeline", *VIEWS)):  # a third of the bytes
        few = Image.open(path).convert("RGB").quantize(200, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        few.save(path, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
