"""The documentation site: it builds strictly, and its pages link to nothing that is not there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.conftest import ROOT

pytest.importorskip("zensical", reason="the extra `docs` is not installed")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built as by `make docs` but for the tour's page, which is made of the notebook."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", folder / "build" / "docs")
    (folder / "build/docs/tour.md").write_text("# Tour\n", encoding="utf-8")
    shutil.copy(ROOT / "zensical.toml", folder)
    (folder / "urbansound_hf").symlink_to(ROOT / "urbansound_hf")
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


def test_every_page_is_in_the_navigation_and_every_link_leads_somewhere(site):
    pages = {path.relative_to(site).as_posix(): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    for page in (ROOT / "docs").rglob("*.md"):
        assert page.relative_to(ROOT / "docs").with_suffix(".html").as_posix() in pages
    navigation = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert f'"{page.relative_to(ROOT / "docs").as_posix()}"' in navigation, f"{page.name} is not in zensical.toml"
    broken = []
    for name, text in pages.items():
        for link in re.findall(r'(?:href|src)="([^"#?:]+)[^":]*"', text):
            target = site / link.lstrip("/") if link.startswith("/") else (site / name).parent / unquote(link)
            if not target.exists() and name != "404.html":
                broken.append(f"{name}: {link}")
    assert not broken, "\n".join(broken)


def test_the_reference_has_every_public_name(site):
    import urbansound_hf as ush

    text = (site / "api.html").read_text(encoding="utf-8")
    modules = {"augment", "plots", "splits"}
    missing = [name for name in ush.__all__ if name not in modules and f'id="urbansound_hf.{name}"' not in text]
    assert not missing, missing
