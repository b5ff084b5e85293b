"""A cache of each test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pgetpy import WeightsDownloadCache
from tests.support.weights import opened


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of the cache that is to be opened."""
    return tmp_path / "cache"


@pytest.fixture
def cache(root: Path) -> Iterator[WeightsDownloadCache]:
    with opened(root) as cache:
        yield cache


@pytest.fixture
def one_lane(root: Path) -> Iterator[WeightsDownloadCache]:
    """One that fetches over one connection, so that no other takes over what stands still."""
    with opened(root, concurrency=1) as cache:
        yield cache
