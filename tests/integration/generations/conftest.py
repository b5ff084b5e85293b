"""A node with nothing on it, and wheels for its environments."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgetpy.errors import MissingPackageError
from pgetpy.generations.environment_uv import Uv
from tests.support.generations import Node
from tests.support.server import Server
from tests.support.weights import opened
from tests.support.wheels import configure_uv, make_wheel


@pytest.fixture
def node(server: Server, tmp_path: Path) -> Iterator[Node]:
    root = tmp_path / "node"
    with opened(root / "cache") as cache:
        yield Node(root, cache, server)


TOOL = b"import tool.data\n\ndef main():\n    print(__file__, tool.data.N)\n"


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels: `tool`, with a script, and `base`, which it requires. No index."""
    try:
        Uv()
    except MissingPackageError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in [each for each in os.environ if each.startswith("UV_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("UV_CONFIG_FILE", str(configure_uv(tmp_path / "uv.toml", folder)))
    # uv starts the Python that it finds first, and pyenv's are shell scripts that take ten times
    # as long as uv itself.
    monkeypatch.setenv("PATH", f"{sys.base_prefix}/bin{os.pathsep}{os.environ['PATH']}")
    make_wheel(
        folder,
        "tool",
        "1.0",
        {"tool/__init__.py": TOOL, "tool/data.py": b"N = 1\n", "tool/big.bin": bytes(10_000)},
        scripts={"tool-run": "tool:main"},
        requires=("base",),
    )
    make_wheel(folder, "base", "1.0", {"base/__init__.py": b"VALUE = 'base'\n"})
    return folder
