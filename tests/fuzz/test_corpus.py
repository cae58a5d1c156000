"""The corpus of the fuzzing, replayed: each input is read, or refused with a `UserError`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from tests.fuzz import readers
from urbansound_hf.errors import UserError


@pytest.mark.parametrize("name", readers.NAMES)
def test_the_corpus_is_read_or_refused(name, tmp_path):
    read, seeds = readers.reader(tmp_path, name)
    inputs = sorted((Path(__file__).with_name("corpus") / name).iterdir())
    assert len(inputs) >= 5 and seeds
    for each in inputs:
        with suppress(UserError):
            read(each.read_bytes())
