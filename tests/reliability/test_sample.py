"""A few cases of each kind of `python -m tests.reliability`, as ordinary tests."""

from __future__ import annotations

from itertools import islice

import pytest

from tests.reliability import Tally, audio, checkpoints, configs, disks, tables


@pytest.mark.parametrize(("kind", "step"), [(audio, 3), (tables, 3), (configs, 40), (checkpoints, 12)])
def test_a_sample_of_each_kind_is_answered_rightly_or_refused(kind, step, tmp_path):
    tally = Tally().run(islice(kind.cases(tmp_path), 0, None, step))
    assert not tally.faults and tally.tried > 8


@pytest.mark.skipif(bool(disks.reason()), reason=disks.reason() or "disks can be mounted")
def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    fast = ("a Space", "figures")
    monkeypatch.setattr(disks, "SHARES", (0.3,))
    every = disks.commands(tmp_path)
    monkeypatch.setattr(disks, "commands", lambda root: {name: every[name] for name in fast})
    tally = Tally().run(disks.cases(tmp_path))
    assert not tally.faults and tally.tried == 6
