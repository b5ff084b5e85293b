"""A cache of each test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pgetpy import WeightsDownloadCache
from tests.support.weights import opened


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[WeightsDownloadCache]:
    with opened(tmp_path / "cache") as cache:
        yield cache
