"""A shelf of LoRAs, a cache and a composer of each test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pgetpy import WeightsDownloadCache
from pgetpy.lora import LoraComposer
from tests.support.loras import FakePipeline, lora
from tests.support.resources import Resource
from tests.support.server import Server
from tests.support.weights import opened


@pytest.fixture
def urls(server: Server) -> dict[str, str]:
    """The URLs of LoRAs `a` to `h`."""
    return {name: server.add(f"/{name}.safetensors", Resource(lora(name))) for name in "abcdefgh"}


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[WeightsDownloadCache]:
    with opened(tmp_path / "cache") as cache:
        yield cache


@pytest.fixture
def pipeline() -> FakePipeline:
    return FakePipeline()


@pytest.fixture
def loras(pipeline: FakePipeline, cache: WeightsDownloadCache) -> LoraComposer:
    return LoraComposer(pipeline, cache)
