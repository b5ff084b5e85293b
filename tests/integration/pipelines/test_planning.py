"""Plans and keys of models on the Hub, at plain URLs and on disk; nothing large is fetched."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from pgetpy import WeightsDownloadCache
from pgetpy.errors import (
    BadReferenceError,
    BadSettingError,
    NotFoundError,
    NotOneFileError,
    NotWeightsError,
    UnsafeMemberError,
)
from pgetpy.pipelines import PipelineSpec
from pgetpy.pipelines.fetching import held_files
from pgetpy.pipelines.planning import Planner
from pgetpy.pipelines.resolver import PlanResolver
from tests.support.faults import Status
from tests.support.hub import Hub
from tests.support.resources import Resource
from tests.support.secrets import TOKEN
from tests.support.server import Server
from tests.support.weights import tar_of, weights, zip_of

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
UNET = "unet/diffusion_pytorch_model"
VAE = "vae/diffusion_pytorch_model"


def model(**changes: bytes | None) -> dict[str, bytes]:
    """The files of a model; those that `changes` name by their last part are other ones."""
    files: dict[str, bytes] = {
        "model_index.json": json.dumps(INDEX).encode(),
        "README.md": b"x" * 2000,
        "v1-5-pruned.safetensors": weights(9000, "pruned"),
        "scheduler/scheduler_config.json": b'{"lambda_min_clipped": -Infinity}',
        "unet/config.json": b'{"sample_size": 8}',
        f"{UNET}.safetensors": weights(5000, "unet"),
        f"{UNET}.fp16.safetensors": weights(2500, "unet16"),
        f"{UNET}.bin": b"x" * 3000,
        "vae/config.json": b"{}",
        f"{VAE}.safetensors": weights(3000, "vae"),
    }
    return files | {name: data for name, data in changes.items() if data is not None}


def on_disk(folder: Path, files: dict[str, bytes]) -> str:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return str(folder)


def key(planner: Planner, base: str, **options: Any) -> str:
    spec = PipelineSpec(base, **options)
    return planner.content(spec, planner.resolve(spec)).key


def sizes_of(files: dict[str, bytes], *names: str) -> int:
    return sum(len(files[name]) for name in names)


LORA = weights(4000, "lora")
NEW = "Wed, 01 Jan 2025 00:00:00 GMT"
NEEDED = (
    "scheduler/scheduler_config.json",
    "unet/config.json",
    f"{UNET}.safetensors",
    "vae/config.json",
    f"{VAE}.safetensors",
)

# --------------------------------------------------------------------------------------- plans


def test_a_plan_says_what_would_be_fetched_and_fetches_no_weights(
    hub: Hub, planner: Planner
) -> None:
    files = model()
    repo = hub.repo("owner/name", files)
    plan = planner.plan(PipelineSpec("hf://owner/name"))
    assert plan.pipeline == "StableDiffusionPipeline"
    assert [each.path for each in plan.files if each.cached] == ["model_index.json"]
    assert {each.path for each in plan.missing} == set(NEEDED)
    assert plan.bytes_to_fetch == sizes_of(files, *NEEDED)
    assert sum(plan.bytes_by_host.values()) == plan.bytes_to_fetch
    assert plan.unknown_sizes == 0
    assert set(hub.resolved()) == {"model_index.json"}
    unet = next(each for each in plan.files if each.path == f"{UNET}.safetensors")
    assert unet.sha256 == hashlib.sha256(files[f"{UNET}.safetensors"]).hexdigest()
    commit = repo.commit("main")
    assert unet.uri == f"hf://owner/name@{commit}/{UNET}.safetensors"
    (base,) = plan.resolved
    assert (base.role, base.version, base.pinned) == ("base", commit, False)


def test_what_is_cached_need_not_be_fetched(
    hub: Hub, planner: Planner, cache: WeightsDownloadCache
) -> None:
    hub.repo("owner/name", model())
    spec = PipelineSpec("hf://owner/name")
    before = planner.plan(spec)
    with held_files(cache, before.missing):
        pass
    after = planner.plan(spec)
    assert after.missing == ()
    assert after.bytes_to_fetch == 0
    assert [each.path for each in after.files] == [each.path for each in before.files]


@pytest.mark.parametrize("versions", [{"etag": '"v2"'}, {"etag": None, "last_modified": NEW}])
def test_a_lora_that_was_replaced_at_its_url_is_fetched_again(
    hub: Hub, planner: Planner, server: Server, versions: dict[str, Any], tmp_path: Path
) -> None:
    base = on_disk(tmp_path / "model", model())
    url = server.add("/lora.safetensors", Resource(LORA, etag=versions["etag"] and '"v1"'))
    spec = PipelineSpec(base, loras=[url])
    before = planner.content(spec, planner.plan(spec)).key
    assert planner.plan(spec).missing == ()
    server.add("/lora.safetensors", Resource(weights(4000, "new!"), **versions))
    plan = planner.plan(spec)
    assert [each.path for each in plan.missing] == ["loras/0.safetensors"]
    assert planner.content(spec, plan).key != before


def test_a_commit_is_pinned(hub: Hub, planner: Planner) -> None:
    repo = hub.repo("owner/name", model())
    commit = repo.commit("main")
    assert planner.plan(PipelineSpec(f"hf://owner/name@{commit}")).pinned


def test_a_variant_is_planned_where_it_is_there(hub: Hub, planner: Planner) -> None:
    hub.repo("owner/name", model())
    plan = planner.plan(PipelineSpec("hf://owner/name", variant="fp16"))
    assert dict(plan.chosen.weights) == {
        "unet": (f"{UNET}.fp16.safetensors",),
        "vae": (f"{VAE}.safetensors",),
    }
    with pytest.raises(NotOneFileError, match="bf16"):
        planner.plan(PipelineSpec("hf://owner/name", variant="bf16"))


def test_loras_are_part_of_a_plan(hub: Hub, planner: Planner, server: Server) -> None:
    hub.repo("owner/name", model())
    hub.repo("owner/lora", {"lora.safetensors": LORA, "README.md": b""})
    url = server.add("/other.safetensors", Resource(LORA))
    spec = PipelineSpec("hf://owner/name", loras=[("hf://owner/lora", 0.5), (url, 1.0)])
    plan = planner.plan(spec)
    one, two = plan.files[-2:]
    assert (one.path, one.size, one.sha256) == (
        "loras/0.safetensors",
        len(LORA),
        hashlib.sha256(LORA).hexdigest(),
    )
    assert (two.path, two.size, two.sha256) == ("loras/1.safetensors", len(LORA), "")
    assert [each.role for each in plan.resolved] == ["base", "loras/0", "loras/1"]


def test_a_component_can_come_from_elsewhere_or_be_left_out(hub: Hub, planner: Planner) -> None:
    hub.repo("owner/name", model())
    fixed = weights(1234, "fixed")
    hub.repo(
        "owner/vae",
        {
            "config.json": b'{"fixed": true}',
            "diffusion_pytorch_model.safetensors": fixed,
            "sdxl.vae.safetensors": weights(8000, "other loader"),
        },
    )
    parts = {"vae": "hf://owner/vae", "scheduler": None}
    plan = planner.plan(PipelineSpec("hf://owner/name", components=parts))
    found = {each.path: each for each in plan.files}
    assert found.keys() == {
        "model_index.json",
        "unet/config.json",
        f"{UNET}.safetensors",
        "vae/config.json",
        f"{VAE}.safetensors",
    }
    assert found[f"{VAE}.safetensors"].sha256 == hashlib.sha256(fixed).hexdigest()
    assert "owner/vae" in found["vae/config.json"].uri


def test_a_local_folder_needs_no_request(planner: Planner, hub: Hub, tmp_path: Path) -> None:
    folder = on_disk(tmp_path / "model", model())
    for base in (folder, Path(folder).as_uri()):
        plan = planner.plan(PipelineSpec(base))
        assert plan.missing == ()
        assert {each.path for each in plan.files} == {"model_index.json", *NEEDED}
    assert hub.requests == []


def test_a_base_of_one_file_needs_its_configuration(
    hub: Hub, planner: Planner, server: Server
) -> None:
    single = weights(6000, "single")
    url = server.add("/single.safetensors", Resource(single))
    with pytest.raises(BadSettingError, match="config"):
        planner.plan(PipelineSpec(url))
    hub.repo("owner/name", model())
    plan = planner.plan(PipelineSpec(url, config="hf://owner/name"))
    small = {name for name in NEEDED if name.endswith(".json")}
    assert {each.path for each in plan.files} == {"model_index.json", "model.safetensors", *small}
    assert plan.bytes_by_host[url.split("/")[2]] == len(single)


def test_a_pickle_is_not_a_base(hub: Hub, planner: Planner, server: Server) -> None:
    hub.repo("owner/name", model())
    url = server.add("/model.ckpt", Resource(b"x" * 100))
    with pytest.raises(NotWeightsError, match="pickle"):
        planner.plan(PipelineSpec(url, config="hf://owner/name"))


def test_a_folder_that_is_no_model_is_refused(hub: Hub, planner: Planner) -> None:
    hub.repo("owner/name", {"config.json": b"{}"})
    with pytest.raises(BadReferenceError, match=r"model_index\.json"):
        planner.plan(PipelineSpec("hf://owner/name"))


def test_a_class_that_the_base_does_not_name_has_to_be_given(
    planner: Planner, tmp_path: Path
) -> None:
    index = {name: value for name, value in INDEX.items() if name != "_class_name"}
    folder = on_disk(tmp_path / "model", model() | {"model_index.json": json.dumps(index).encode()})
    with pytest.raises(BadSettingError, match="pipeline"):
        planner.plan(PipelineSpec(folder))
    assert planner.plan(PipelineSpec(folder, pipeline="A")).pipeline == "A"


def test_a_plan_shows_no_secret(hub: Hub, planner: Planner, server: Server) -> None:
    hub.repo("owner/name", model(), private=True, readers={TOKEN})
    url = server.add("/lora.safetensors", Resource(LORA))
    plan = planner.plan(PipelineSpec("hf://owner/name", loras=[f"{url}?token={TOKEN}"]))
    assert plan.missing
    assert TOKEN not in json.dumps(plan.to_json())
    assert TOKEN not in repr(plan)


@pytest.mark.parametrize("name", ["unet/a:b.json", "../x.json", "/x.json"])
def test_a_listed_name_that_is_not_safe_is_refused(hub: Hub, planner: Planner, name: str) -> None:
    hub.repo("owner/name", model() | {name: b"{}"})
    with pytest.raises(UnsafeMemberError):
        planner.plan(PipelineSpec("hf://owner/name"))


def test_an_archive_is_one_file_whose_members_are_not_known_yet(
    planner: Planner, server: Server
) -> None:
    archive = tar_of(model())
    url = server.add("/model.tar", Resource(archive))
    spec = PipelineSpec(url, pipeline="StableDiffusionPipeline")
    plan = planner.plan(spec)
    (file,) = plan.files
    assert (file.archive, file.size, plan.bytes_to_fetch) == (True, len(archive), len(archive))


@pytest.mark.parametrize("form", ["tar", "tar.gz", "zip"])
@pytest.mark.parametrize("top", ["", "sd/"])
def test_an_archive_becomes_a_folder_with_the_key_of_its_content(
    planner: Planner, server: Server, hub: Hub, form: str, top: str
) -> None:
    hub.repo("owner/name", model())
    members = {f"{top}{name}": data for name, data in model().items()}
    data = zip_of(members) if form == "zip" else tar_of(members, "w:gz" if "." in form else "w")
    url = server.add(f"/model.{form}", Resource(data))
    spec = PipelineSpec(url)
    plan = planner.resolve(spec)
    assert (plan.pipeline, plan.missing) == ("StableDiffusionPipeline", ())
    assert {each.uri for each in plan.files} == {f"{url}#{top}{each.path}" for each in plan.files}
    assert planner.content(spec, plan).key == key(planner, "hf://owner/name")
    # What is here already is planned without another download.
    asked = len([each for each in server.requests if each.method == "GET"])
    assert planner.plan(spec) == plan
    assert len([each for each in server.requests if each.method == "GET"]) <= asked + 1


def test_an_archive_that_has_changed_is_fetched_again(planner: Planner, server: Server) -> None:
    url = server.add("/model.tar", Resource(tar_of(model()), etag='"1"'))
    before = key(planner, url)
    files = model() | {"unet/config.json": b'{"sample_size": 9}'}
    server.add("/model.tar", Resource(tar_of(files), etag='"2"'))
    (file,) = planner.plan(PipelineSpec(url, pipeline="P")).files
    assert (file.archive, file.cached) == (True, False)
    assert key(planner, url) != before


def test_an_archive_without_a_model_is_refused(planner: Planner, server: Server) -> None:
    url = server.add("/model.tar", Resource(tar_of({"a.safetensors": LORA})))
    with pytest.raises(BadReferenceError, match="no model_index"):
        planner.resolve(PipelineSpec(url))


# ---------------------------------------------------------------------------------------- keys


def test_the_same_bytes_have_the_same_key_wherever_they_are(
    hub: Hub, planner: Planner, server: Server, tmp_path: Path
) -> None:
    files = model()
    hub.repo("owner/name", files)
    hub.repo("other/called-otherwise", files | {"README.md": b"another"}, revisions={"v2": files})
    hub.repo("owner/lora", {"lora.safetensors": LORA})
    saved = {**INDEX, "_name_or_path": "/somewhere", "_diffusers_version": "0.43.0"}
    again = files | {"model_index.json": json.dumps(saved, indent=4).encode()}
    url = server.add("/renamed.safetensors", Resource(LORA))
    local = tmp_path / "lora.safetensors"
    local.write_bytes(LORA)
    found = {
        key(planner, "hf://owner/name", loras=[("hf://owner/lora", 0.5)]),
        key(planner, "hf://other/called-otherwise@v2", loras=[(url, 0.5)]),
        key(planner, on_disk(tmp_path / "one", files), loras=[(str(local), 0.5)]),
        key(planner, on_disk(tmp_path / "again", again), loras=[{"path": url, "scale": 0.5}]),
    }
    assert len(found) == 1


def test_each_change_that_changes_the_image_changes_the_key(
    planner: Planner, tmp_path: Path
) -> None:
    files = model()
    base = on_disk(tmp_path / "base", files)
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    one.write_bytes(LORA)
    two.write_bytes(weights(4000, "two"))
    pair = [(str(one), 0.5), (str(two), 1.0)]
    other_files = {
        "unet/config.json": b'{"sample_size": 16}',
        "scheduler/scheduler_config.json": b"{}",
        f"{UNET}.safetensors": weights(5000, "unet, changed"),
    }
    keys = [
        key(planner, base),
        key(planner, base, dtype="float16"),
        key(planner, base, dtype={"vae": "float32", "default": "float16"}),
        key(planner, base, variant="fp16"),
        key(planner, base, quantization={"bits": 8}),
        key(planner, base, pipeline="StableDiffusionImg2ImgPipeline"),
        key(planner, base, components={"vae": None}),
        key(planner, base, loras=pair),
        key(planner, base, loras=pair[::-1]),
        key(planner, base, loras=[(str(one), 0.6), pair[1]]),
        *(
            key(planner, on_disk(tmp_path / str(number), files | {name: data}))
            for number, (name, data) in enumerate(other_files.items())
        ),
    ]
    assert len(set(keys)) == len(keys)


def test_what_does_not_change_the_image_does_not_change_the_key(
    planner: Planner, tmp_path: Path
) -> None:
    base = on_disk(tmp_path / "base", model())
    same = {
        key(planner, base),
        key(planner, base, share=False),
        key(planner, base, pipeline="StableDiffusionPipeline"),
        key(planner, on_disk(tmp_path / "more", model() | {"unet/notes.md": b"x"})),
    }
    assert len(same) == 1


# ------------------------------------------------------------------------------------ refreshing


def test_a_branch_that_moves_is_noticed_after_a_while(hub: Hub, planner: Planner) -> None:
    clock = [0.0]
    resolver = PlanResolver(planner.plan, refresh=300, now=lambda: clock[0])
    spec = PipelineSpec("hf://owner/name")
    hub.repo("owner/name", model())
    first = resolver.plan(spec)
    hub.repo("owner/name", model() | {"vae/config.json": b'{"new": 1}'})
    asked = len(hub.requests)
    clock[0] = 299.0
    assert resolver.plan(spec) is first
    assert len(hub.requests) == asked
    clock[0] = 300.0
    assert resolver.plan(spec).resolved != first.resolved


def test_a_commit_is_never_resolved_again(hub: Hub, planner: Planner) -> None:
    clock = [0.0]
    resolver = PlanResolver(planner.plan, refresh=300, now=lambda: clock[0])
    commit = hub.repo("owner/name", model()).commit("main")
    spec = PipelineSpec(f"hf://owner/name@{commit}")
    first = resolver.plan(spec)
    clock[0] = 1e9
    assert resolver.plan(spec) is first


def test_a_model_that_is_gone_is_an_error_and_not_what_was_there(
    hub: Hub, planner: Planner
) -> None:
    clock = [0.0]
    resolver = PlanResolver(planner.plan, refresh=300, now=lambda: clock[0])
    repo = hub.repo("owner/name", model())
    spec = PipelineSpec("hf://owner/name")
    resolver.plan(spec)
    hub.forget(repo)
    clock[0] = 300.0
    with pytest.raises(NotFoundError):
        resolver.plan(spec)


def test_a_hub_that_does_not_answer_leaves_what_was_resolved(hub: Hub, planner: Planner) -> None:
    clock = [0.0]
    resolver = PlanResolver(planner.plan, refresh=300, now=lambda: clock[0])
    hub.repo("owner/name", model())
    spec = PipelineSpec("hf://owner/name")
    first = resolver.plan(spec)
    hub.add("/api/models/owner/name/revision/main", Resource(b"", faults=[Status(503)]))
    clock[0] = 300.0
    assert resolver.plan(spec) is first
