"""A few cases of each kind of `python -m tests.reliability`, as ordinary tests."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reliability import Tally, audio, checkpoints, configs, disks, tables
from urbansound_hf.errors import UserError


@pytest.mark.parametrize(("kind", "step"), [(audio, 3), (tables, 3), (configs, 40), (checkpoints, 12)])
def test_a_sample_of_each_kind_is_answered_rightly_or_refused(kind, step, tmp_path):
    tally = Tally().run(islice(kind.cases(tmp_path), 0, None, step))
    assert not tally.faults and tally.tried > 8


QUICK = settings(max_examples=40, deadline=None, derandomize=True)


@QUICK
@given(st.sampled_from(audio.FORMATS), st.binary(max_size=8), st.integers(0, 60))
def test_any_bytes_in_a_header(form, bytes_, at):
    content = bytearray(audio.encoded(*form))
    content[at : at + len(bytes_)] = bytes_
    with tempfile.TemporaryDirectory() as folder, suppress(UserError):
        audio.damaged(Path(folder) / "sound", bytes(content))


@QUICK
@given(st.lists(st.lists(st.text(max_size=12), min_size=4, max_size=4), max_size=4))
def test_any_cells_in_a_table(rows):
    with tempfile.TemporaryDirectory() as folder, suppress(UserError):
        (Path(folder) / "0.wav").write_bytes(audio.encoded("WAV", "PCM_16"))
        tables.read(Path(folder), tables.written(tables.HEADER, [*rows, tables.ROWS[0]]))


@pytest.mark.skipif(bool(disks.reason()), reason=disks.reason() or "disks can be mounted")
def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch, synthetic_root):
    (tmp_path / "sounds").symlink_to(synthetic_root)
    fast = ("a Space", "figures")
    monkeypatch.setattr(disks, "SHARES", (0.3,))
    every = disks.commands(tmp_path)
    monkeypatch.setattr(disks, "commands", lambda root: {name: every[name] for name in fast})
    tally = Tally().run(disks.cases(tmp_path))
    assert not tally.faults and tally.tried == 6


@pytest.mark.skipif(not find_spec("gradio"), reason="needs Gradio: pip install 'urbansound-hf[app]'")
def test_a_sample_of_hostile_requests(tmp_path, monkeypatch):
    from tests.helpers import tiny
    from tests.reliability import page
    from urbansound_hf.app.__main__ import launch_app
    from urbansound_hf.app.views import short_name

    model, port = tiny.save("yamnet", tmp_path / "model", clip_seconds=1.0), page.free_port()
    blocks = launch_app([model], port=port, upload_mb=4)
    (tmp_path / "secret.txt").write_text(page.SECRET, encoding="utf-8")
    (tmp_path / "good.wav").write_bytes(audio.encoded("WAV", "PCM_16"))
    (tmp_path / "log").touch()
    here = page.Served(f"http://127.0.0.1:{port}", [short_name(str(model))], 0, tmp_path / "log", tmp_path)
    monkeypatch.setattr(page, "served", lambda: here)
    tally = Tally().run(islice(page.requests(tmp_path), 0, None, 40))
    blocks.close()
    assert not tally.faults and tally.tried > 10
