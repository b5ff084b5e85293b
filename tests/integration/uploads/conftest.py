from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.uploads.putting import BODY
from tests.support.object_store import ObjectStore, started_store


@pytest.fixture
def store() -> Iterator[ObjectStore]:
    with started_store() as store:
        yield store


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, and in it a folder for journals."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    return tmp_path / "home/.local/state/pgetpy/uploads"


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large.safetensors"
    path.write_bytes(BODY)
    return path
