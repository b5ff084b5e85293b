"""A machine that compiles: a torch whose version may be read, and live folders of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pgetpy.compile_cache import CompileCache
from tests.support.compile_trees import Tree, install_torch


class Machine:
    """Live folders that `CompileCache` finds by the environment, as another start or host has them.

    Args:
        home: everything is below this folder.
        monkeypatch: sets the variables.
    """

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = home
        self._monkeypatch = monkeypatch
        self.inductor = Tree(home / "inductor")
        self.triton = Tree(home / "triton", seed=1)

    def cache(self, location: Path | str, **options: object) -> CompileCache:
        """Return a cache of this machine."""
        self.boot()
        return CompileCache(location, **options)  # type: ignore[arg-type]

    def boot(self) -> None:
        """Have the environment name the folders of this machine."""
        self.home.mkdir(parents=True, exist_ok=True)
        for name, value in {
            "HOME": self.home,
            "TMPDIR": self.home,
            "TORCHINDUCTOR_CACHE_DIR": self.inductor.root,
            "TRITON_CACHE_DIR": self.triton.root,
            "VLLM_CACHE_ROOT": self.home / "vllm",
        }.items():
            self._monkeypatch.setenv(name, str(value))
        self._monkeypatch.setattr("tempfile.tempdir", None)


@pytest.fixture(autouse=True)
def torch_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_torch(tmp_path / "site", monkeypatch)
    monkeypatch.setenv("TORCH_COMPILE_CACHE_KEY_TAG", "")
    monkeypatch.setattr("pgetpy.compile_cache.host.gpu_names", list)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Machine]:
    return lambda name: Machine(tmp_path / name, monkeypatch)
