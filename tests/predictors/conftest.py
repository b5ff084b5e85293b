"""Gives the tests of this folder time, and leaves them out where what they need is missing.

Fixtures import torch when they run: it may not be installed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pgetpy import WeightsDownloadCache
    from pgetpy.pipelines import PipelineStore

    from .stores import Shop
    from .studio import Studio

HERE = Path(__file__).parent
NEEDED = ("torch", "diffusers", "peft", "cog")
if not all(map(importlib.util.find_spec, NEEDED)):
    collect_ignore_glob = ["test_*.py"]
elif importlib.util.find_spec("botocore") is None:
    # The object store of the tests checks signatures by it.
    collect_ignore_glob = ["test_pipelines_example.py"]
# A second adapter is what is wanted.
MANY_ADAPTERS = "ignore:Already found a `peft_config` attribute:UserWarning:peft"
# Schedulers of diffusers with a numpy that is newer than torch.
NEW_NUMPY = "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
# Importing torch and diffusers takes many seconds where other processes have work to do.
PATIENT = 300


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = {path for path in {item.path for item in items} if HERE in path.parents}
    for item in items:
        if item.path in ours:
            item.add_marker(pytest.mark.filterwarnings(MANY_ADAPTERS, NEW_NUMPY))
            item.add_marker(pytest.mark.timeout(PATIENT))


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[WeightsDownloadCache]:
    from tests.support.weights import opened

    with opened(tmp_path / "cache") as cache:
        yield cache


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Compute with one thread: sums in other orders are other bits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    from .stores import make_shop

    return make_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PipelineStore]:
    from .stores import opened_store

    with opened_store(tmp_path) as store:
        yield store


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    from .studio import make_studio

    return make_studio(tmp_path_factory.mktemp("studio"))
