"""A base in an object store, whose objects may be overwritten at any time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pgetpy import WeightsDownloadCache
from pgetpy.pipelines import PipelineSpec
from pgetpy.pipelines.planning import Planner
from pgetpy.settings import SourceSettings
from tests.support.object_store import SECRET_KEY, ObjectStore, started_store
from tests.support.weights import opened, weights

FILES = {
    "model_index.json": b'{"_class_name": "P", "unet": ["diffusers", "UNet2DConditionModel"]}',
    "unet/config.json": b'{"a": 1}',
    "unet/diffusion_pytorch_model.safetensors": weights(5000, "unet"),
    "samples/image*.png": b"x",
}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with started_store() as store:
        for name, data in FILES.items():
            store.put("bucket", f"models/sd/{name}", data)
        yield store


@pytest.fixture
def cache(store: ObjectStore, tmp_path: Path) -> Iterator[WeightsDownloadCache]:
    sources = SourceSettings(environ=store.environ)
    with opened(tmp_path / "cache", sources=sources) as cache:
        yield cache


@pytest.fixture
def planner(cache: WeightsDownloadCache) -> Planner:
    return Planner(cache)


def key(planner: Planner, base: str) -> str:
    spec = PipelineSpec(base)
    return planner.content(spec, planner.plan(spec)).key


@pytest.mark.parametrize("base", ["s3://bucket/models/sd/", "s3://bucket/models/sd"])
def test_a_folder_of_objects_is_a_base(planner: Planner, base: str) -> None:
    plan = planner.plan(PipelineSpec(base))
    assert [each.path for each in plan.files] == list(FILES)[:3]
    assert plan.bytes_to_fetch == sum(map(len, list(FILES.values())[1:3]))
    assert not plan.pinned
    assert SECRET_KEY not in repr(plan)


def test_the_key_is_that_of_the_same_folder_on_disk(planner: Planner, tmp_path: Path) -> None:
    for name, data in FILES.items():
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    assert key(planner, "s3://bucket/models/sd") == key(planner, str(tmp_path / "model"))


@pytest.mark.parametrize("name", list(FILES)[:3])
def test_an_object_that_was_overwritten_is_not_taken_from_the_cache(
    store: ObjectStore, planner: Planner, cache: WeightsDownloadCache, name: str
) -> None:
    """The new one has the same size, so that only its ETag tells."""
    before = key(planner, "s3://bucket/models/sd")
    new = FILES[name].replace(b"UNet2DC", b"UNet3DC").replace(b'"a": 1', b'"a": 2')
    if name.endswith(".safetensors"):
        new = weights(5000, "new!")
    assert len(new) == len(FILES[name])
    store.put("bucket", f"models/sd/{name}", new)
    plan = planner.plan(PipelineSpec("s3://bucket/models/sd"))
    # The index has been fetched again for the plan.
    assert [each.path for each in plan.missing] == [name][name == "model_index.json" :]
    assert key(planner, "s3://bucket/models/sd") != before
    assert planner.plan(PipelineSpec("s3://bucket/models/sd")).missing == ()
