"""The parser of config texts."""

from __future__ import annotations

import pytest

from urbansound_hf.config.parse import parse_run_config


@pytest.fixture
def parse(tmp_path):
    """Parses flags over a config of the given text."""

    def parse_text(text="", *argv):
        (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
        return parse_run_config([*argv], tmp_path / "run.yaml")

    return parse_text
