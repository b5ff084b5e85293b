"""A Hub, and models that are small and have no meaning."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pgetpy import WeightsDownloadCache
from pgetpy.pipelines.planning import Planner
from tests.support.hub import Hub
from tests.support.hub_caches import opened_at
from tests.support.secrets import TOKEN
from tests.support.server import Server


@pytest.fixture
def hub(other_server: Server) -> Iterator[Hub]:
    hub = Hub(other_server, tokens={TOKEN})
    with hub:
        yield hub
    assert hub.violations == []
    assert hub.errors == []


@pytest.fixture(autouse=True)
def plain_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)


@pytest.fixture
def cache(hub: Hub, tmp_path: Path) -> Iterator[WeightsDownloadCache]:
    with opened_at(hub, tmp_path / "cache", TOKEN) as cache:
        yield cache


@pytest.fixture
def planner(cache: WeightsDownloadCache) -> Planner:
    return Planner(cache)
