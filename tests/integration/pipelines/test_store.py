"""The store as predictors use it."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from pgetpy import WeightsDownloadCache
from pgetpy.pipelines import PipelineSpec, PipelineStore
from pgetpy.pipelines.planning import Planner
from tests.integration.pipelines.test_building import FILES
from tests.support.entries import child, said, tell
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


# Copies of a child kill themselves after the n-th link, or call that makes something last.
_DRIVER = """
from pgetpy import WeightsDownloadCache
from pgetpy.pipelines import PipelineSpec, PipelineStore
from tests.support.killing import run_copies
model, root = sys.argv[1:]

def work(number):
    count = 0
    def counted(call):
        def calling(*given, **options):
            nonlocal count
            result = call(*given, **options)
            count += 1
            if count == number:
                os.kill(os.getpid(), 9)
            return result
        return calling
    store = PipelineStore(WeightsDownloadCache(root, min_disk_free=0))
    Path.symlink_to = counted(Path.symlink_to)
    for name in ("fsync", "rename", "replace", "link", "mkdir"):
        setattr(os, name, counted(getattr(os, name)))
    store.build(PipelineSpec(model)).close()

run_copies(work, 1, first=1)
"""


@pytest.mark.usefixtures("forked_runs")
def test_a_process_that_is_killed_while_it_builds_leaves_nothing_that_is_used(
    tmp_path: Path,
) -> None:
    model, root = tmp_path / "model", tmp_path / "cache"
    for name, data in FILES.items():
        path = model / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    spec = PipelineSpec(str(model))
    with (
        child(_DRIVER, model, root) as driver,
        WeightsDownloadCache(root, min_disk_free=0) as cache,
    ):
        store = PipelineStore(cache)
        empty = 0
        for _ in range(1, _MOST_KILLS):
            tell(driver)
            status = json.loads(said(driver))
            # What is listed is whole, whenever the victim was killed.
            found = store.pipelines()
            assert all(store.verify(each.manifest.key) == [] for each in found)
            empty += not found
            assert all(store.remove(each.manifest.key) for each in found)
            if status == 0:
                break
            assert status == signal.SIGKILL
        assert empty > len(FILES), "most of the calls come before the one that publishes"
        assert status == 0
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
