"""A node with nothing on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.generations import Node
from tests.support.server import Server
from tests.support.weights import opened


@pytest.fixture
def node(server: Server, tmp_path: Path) -> Iterator[Node]:
    root = tmp_path / "node"
    with opened(root / "cache") as cache:
        yield Node(root, cache, server)
