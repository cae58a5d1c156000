"""A Python without this package, for checkpoints that must open there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers import elsewhere


@pytest.fixture(scope="session")
def elsewhere_python() -> Iterator[elsewhere.Elsewhere]:
    with elsewhere.elsewhere() as python:
        yield python
