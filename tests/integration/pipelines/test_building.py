"""Pipelines on disk: fetched once, linked, recorded, and kept while they are used."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pgetpy import WeightsDownloadCache
from pgetpy.core.pipelines.build_manifest import parse_manifest
from pgetpy.errors import CacheError, DigestMismatchError, NotWeightsError, ObjectChangedError
from pgetpy.pipelines import PipelineSpec
from pgetpy.pipelines.building import BuiltPipeline, PipelineBuilder
from pgetpy.pipelines.compositions import compositions_at
from pgetpy.pipelines.planning import Planner
from pgetpy.pipelines.trees import TreeStore
from tests.support.hub import Hub
from tests.support.resources import Resource
from tests.support.secrets import TOKEN
from tests.support.server import Server
from tests.support.weights import tar_of, weights

UNET = "unet/diffusion_pytorch_model.safetensors"
FILES = {
    "model_index.json": b'{"_class_name": "P", "unet": ["diffusers", "UNet2DConditionModel"]}',
    "unet/config.json": b'{"a": 1}',
    UNET: weights(5000, "unet"),
}
LORA = weights(700, "lora")


@pytest.fixture
def trees(cache: WeightsDownloadCache, tmp_path: Path) -> TreeStore:
    return TreeStore(tmp_path / "pipelines", cache)


@pytest.fixture
def builder(planner: Planner, cache: WeightsDownloadCache, trees: TreeStore) -> PipelineBuilder:
    return PipelineBuilder(planner, trees, now=lambda: 1000.0)


def build(builder: PipelineBuilder, planner: Planner, spec: PipelineSpec) -> BuiltPipeline:
    return builder.build(spec, planner.plan(spec))


def test_a_pipeline_is_fetched_once_and_is_a_folder_for_loaders(
    hub: Hub, planner: Planner, builder: PipelineBuilder, trees: TreeStore
) -> None:
    hub.repo("owner/name", FILES)
    spec = PipelineSpec("hf://owner/name")
    with build(builder, planner, spec) as built:
        assert {name: (built.path / name).read_bytes() for name in FILES} == FILES
        assert trees.verify(built.manifest.base_key) == []
    plan = planner.plan(spec)
    asked = len(hub.requests)
    with builder.build(spec, plan) as again:
        assert again.path == built.path
    assert len(hub.requests) == asked


def test_the_manifest_says_what_was_asked_and_what_came_of_it(
    hub: Hub, server: Server, planner: Planner, builder: PipelineBuilder
) -> None:
    card = {"license": "mit", "base_model": ["owner/one", "owner/two"]}
    repo = hub.repo("owner/name", FILES, private=True, readers={TOKEN}, card=card)
    commit = repo.commit("main")
    url = server.add("/lora.safetensors", Resource(LORA))
    spec = PipelineSpec("hf://owner/name", loras=[(f"{url}?token={TOKEN}", 0.5)])
    with build(builder, planner, spec) as built:
        manifest = built.manifest
        assert [path.read_bytes() for path in built.loras] == [LORA]
    assert TOKEN.encode() not in manifest.to_json()
    assert parse_manifest(manifest.to_json(), "manifest.json") == manifest
    assert manifest.asked["loras"][0]["scale"] == 0.5
    base, lora = manifest.resolved
    assert (base.version, base.sha256) == (commit, "")
    assert (base.license, base.base_model) == ("mit", "owner/one, owner/two")
    assert (lora.role, lora.sha256) == ("loras/0", hashlib.sha256(LORA).hexdigest())
    assert (manifest.pipeline, manifest.started, manifest.created) == ("P", 1000.0, 1000.0)
    found = {each.path: (each.sha256, each.size) for each in manifest.subjects}
    files = FILES | {"loras/0.safetensors": LORA}
    assert found == {
        name: (hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()
    }


def test_compositions_share_their_base_on_disk(
    hub: Hub, server: Server, planner: Planner, builder: PipelineBuilder, trees: TreeStore
) -> None:
    hub.repo("owner/name", FILES)
    url = server.add("/lora.safetensors", Resource(LORA))
    keys = set()
    for scale in (0.5, 0.6):
        spec = PipelineSpec("hf://owner/name", loras=[(url, scale)])
        with build(builder, planner, spec) as built:
            keys.add(built.manifest.key)
    assert len(keys) == 2
    (base,) = trees.keys()
    assert {each.key for each in compositions_at(trees.folder / base)} == keys
    assert trees.remove(base)
    assert compositions_at(trees.folder / base) == []


def test_files_in_use_are_not_evicted(
    hub: Hub,
    planner: Planner,
    builder: PipelineBuilder,
    trees: TreeStore,
    cache: WeightsDownloadCache,
) -> None:
    hub.repo("owner/name", FILES)
    spec = PipelineSpec("hf://owner/name")
    plan = planner.plan(spec)
    unet = next(each for each in plan.files if each.path == UNET)
    with builder.build(spec, plan) as built:
        assert not trees.remove(built.manifest.base_key)
        with pytest.raises(CacheError, match="held"):
            cache.remove(unet.reference)
    assert trees.remove(built.manifest.base_key)
    assert cache.remove(unet.reference)


def test_a_lora_in_use_is_not_evicted(
    hub: Hub,
    server: Server,
    planner: Planner,
    builder: PipelineBuilder,
    cache: WeightsDownloadCache,
) -> None:
    hub.repo("owner/name", FILES)
    url = server.add("/lora.safetensors", Resource(LORA))
    spec = PipelineSpec("hf://owner/name", loras=[url])
    with build(builder, planner, spec), pytest.raises(CacheError, match="held"):
        cache.remove(url)
    assert cache.remove(url)


def test_a_local_folder_is_linked_and_not_copied(
    planner: Planner, builder: PipelineBuilder, cache: WeightsDownloadCache, tmp_path: Path
) -> None:
    for name, data in FILES.items():
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    spec = PipelineSpec(str(tmp_path / "model"))
    with build(builder, planner, spec) as built:
        assert (built.path / UNET).resolve() == (tmp_path / "model" / UNET).resolve()
        assert built.manifest.subjects[-1].sha256 == hashlib.sha256(FILES[UNET]).hexdigest()
    assert cache.entries() == []


@pytest.mark.parametrize("broken", [UNET, "lora.safetensors"])
def test_local_weights_that_are_cut_off_are_not_built(
    planner: Planner, builder: PipelineBuilder, trees: TreeStore, tmp_path: Path, broken: str
) -> None:
    for name, data in {**FILES, "lora.safetensors": LORA}.items():
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data[:-1] if name == broken else data)
    lora = tmp_path / "model" / "lora.safetensors"
    with pytest.raises(NotWeightsError, match=f"{broken} is not .* broken safetensors file"):
        build(builder, planner, PipelineSpec(str(tmp_path / "model"), loras=[str(lora)]))


@pytest.mark.parametrize("same_size", [True, False])
def test_a_file_that_changed_since_the_plan_is_not_taken(
    server: Server,
    hub: Hub,
    planner: Planner,
    builder: PipelineBuilder,
    trees: TreeStore,
    same_size: bool,
) -> None:
    """The Hub serves other bytes than it listed: by the sha256, or else by the size."""
    repo = hub.repo("owner/name", FILES)
    spec = PipelineSpec("hf://owner/name")
    plan = planner.plan(spec)
    commit = repo.commit("main")
    other = weights(5000 if same_size else 4000, "another")
    hub.add(f"/owner/name/resolve/{commit}/{UNET}", Resource(other))
    with pytest.raises((DigestMismatchError, ObjectChangedError)):
        builder.build(spec, plan)
    assert trees.keys() == []


def test_an_archive_is_extracted_once_and_kept_while_its_pipeline_is_there(
    server: Server,
    planner: Planner,
    builder: PipelineBuilder,
    trees: TreeStore,
    cache: WeightsDownloadCache,
) -> None:
    url = server.add("/model.tar", Resource(tar_of(FILES)))
    spec = PipelineSpec(url)
    with builder.build(spec, planner.resolve(spec)) as built:
        assert {name: (built.path / name).read_bytes() for name in FILES} == FILES
        assert trees.verify(built.manifest.key) == []
    with pytest.raises(CacheError, match="held by a pin"):
        cache.remove(url, wanted="folder")
    assert trees.remove(built.manifest.key)
    assert cache.remove(url, wanted="folder")
