"""A machine that compiles: a torch whose version may be read, and live folders of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.compile_trees import Machine, install_torch


@pytest.fixture(autouse=True)
def torch_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_torch(tmp_path / "site", monkeypatch)
    monkeypatch.setenv("TORCH_COMPILE_CACHE_KEY_TAG", "")
    monkeypatch.setattr("pgetpy.compile_cache.host.gpu_names", list)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Machine]:
    return lambda name: Machine(tmp_path / name, monkeypatch)
