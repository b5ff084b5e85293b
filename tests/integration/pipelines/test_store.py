"""The store as predictors use it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from pgetpy import WeightsDownloadCache
from pgetpy.pipelines import PipelineSpec, PipelineStore
from pgetpy.pipelines.planning import Planner
from tests.integration.pipelines.test_building import FILES
from tests.support.hub import Hub

SPEC = PipelineSpec("hf://owner/name")
# More than a build makes calls that could be its last.
_MOST_KILLS = 60


@pytest.fixture
def store(cache: WeightsDownloadCache) -> PipelineStore:
    return PipelineStore(cache)


def test_a_key_is_known_at_once_as_long_as_its_references_hold(
    hub: Hub, store: PipelineStore, planner: Planner
) -> None:
    hub.repo("owner/name", FILES)
    key = store.key(SPEC)
    assert key == planner.content(SPEC, planner.plan(SPEC)).key
    asked = len(hub.requests)
    assert store.key(SPEC) == key
    assert len(hub.requests) == asked


def test_a_built_pipeline_is_listed_verified_and_removed(hub: Hub, store: PipelineStore) -> None:
    hub.repo("owner/name", FILES)
    with store.build(SPEC) as built:
        key = built.manifest.key
        assert key == store.key(SPEC)
        (listed,) = store.pipelines()
        assert (listed.manifest, listed.held) == (built.manifest, True)
        assert not store.remove(key)
    assert store.manifest(SPEC) == built.manifest
    assert store.verify(key) == []
    assert store.collect() == []
    assert store.remove(key)
    assert store.pipelines() == []


def test_a_process_that_is_killed_while_it_builds_leaves_nothing_that_is_used(
    tmp_path: Path,
) -> None:
    """It is killed after each link, and at each call that makes something last, in turn."""
    model = tmp_path / "model"
    for name, data in FILES.items():
        path = model / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    program = f"""
import os, signal, sys
from pathlib import Path
from pgetpy import WeightsDownloadCache
from pgetpy.pipelines import PipelineSpec, PipelineStore
number, count = int(sys.argv[1]), 0
def counted(call):
    def calling(*given, **options):
        global count
        result = call(*given, **options)
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return calling
cache = WeightsDownloadCache({str(tmp_path / "cache")!r}, min_disk_free=0)
store = PipelineStore(cache)
Path.symlink_to = counted(Path.symlink_to)
for name in ("fsync", "rename", "replace", "link", "mkdir"):
    setattr(os, name, counted(getattr(os, name)))
store.build(PipelineSpec({str(model)!r})).close()
"""
    spec = PipelineSpec(str(model))
    with WeightsDownloadCache(tmp_path / "cache", min_disk_free=0) as cache:
        store = PipelineStore(cache)
        empty = 0
        for number in range(1, _MOST_KILLS):
            ended = subprocess.run([sys.executable, "-c", program, str(number)], check=False)
            # What is listed is whole, whenever the victim was killed.
            found = store.pipelines()
            assert all(store.verify(each.manifest.key) == [] for each in found)
            empty += not found
            assert all(store.remove(each.manifest.key) for each in found)
            if ended.returncode == 0:
                break
            assert ended.returncode == -9
        assert empty > len(FILES), "most of the calls come before the one that publishes"
        assert ended.returncode == 0
        with store.build(spec) as built:
            assert {name: (built.path / name).read_bytes() for name in FILES} == FILES


def test_a_key_from_memory_takes_less_than_a_millisecond(hub: Hub, store: PipelineStore) -> None:
    hub.repo("owner/name", FILES)
    store.key(SPEC)
    times = []
    for _ in range(50):
        began = time.thread_time()
        store.key(SPEC)
        times.append(time.thread_time() - began)
    assert min(times) < 1e-3
