"""Checkpoints of several files: which are asked for, and what is refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pgetpy import WeightsDownloadCache, tensors
from pgetpy.errors import (
    BadReferenceError,
    BadSettingError,
    HttpStatusError,
    NotFoundError,
    NotOneFileError,
    NotWeightsError,
)
from tests.support.checkpoints import Made, file_of, floats, index_of, same
from tests.support.delivery import Gate
from tests.support.faults import GateAfter, When
from tests.support.hub import Hub
from tests.support.hub_caches import opened_at
from tests.support.server import Server
from tests.support.waiting import eventually
from tests.support.weights import opened, serve

INDEX = "model.safetensors.index.json"
MADE = {
    f"layer.{number}.{part}": floats(20_000, f"{number}{part}")
    for number in range(6)
    for part in ("weight", "bias")
}


def shard_name(number: int) -> str:
    return f"model-{number:05}-of-00006.safetensors"


def files_of(made: Mapping[str, Made] = MADE, count: int = 6) -> dict[str, bytes]:
    """The files of a checkpoint: an index, and the tensors in turn over `count` files."""
    names = list(made)
    shares = {shard_name(at): names[at::count] for at in range(count)}
    files = {
        shard: file_of({name: made[name] for name in share}) for shard, share in shares.items()
    }
    return {INDEX: index_of(shares), **files}


def served(server: Server, files: Mapping[str, bytes], folder: str = "/m") -> str:
    """The URL of the index of a checkpoint that `server` has from now on."""
    for name, data in files.items():
        serve(server, data, f"{folder}/{name}", etag=f'"{hash(data)}"')
    return server.url(f"{folder}/{INDEX}")


def put(folder: Path, files: Mapping[str, bytes]) -> Path:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def loaded(reference: str | Path, cache: WeightsDownloadCache, **options: Any) -> dict[str, Any]:
    return tensors.load(reference, cache=cache, framework="numpy", **options)


@pytest.fixture
def hub(other_server: Server) -> Iterator[Hub]:
    with Hub(other_server) as hub:
        yield hub
    assert hub.violations == []
    assert hub.errors == []


def test_a_checkpoint_of_several_files_is_one(server: Server, cache: WeightsDownloadCache) -> None:
    url = served(server, files_of())
    for _ in range(2):
        found = loaded(url, cache)
        assert same(found, MADE)
        by_file = [name for shard in range(6) for name in list(MADE)[shard::6]]
        assert list(found) == by_file
    assert len(cache.entries()) == 7
    assert same(dict(tensors.stream(url, cache=cache, framework="numpy")), MADE)
    paths = [seen.path for seen in server.requests]
    assert len(paths) == len(set(paths)) == 7


@pytest.mark.parametrize("again", ["stream", "load"])
def test_what_equals_a_cached_file_is_not_taken_for_another_one(
    server: Server, hub: Hub, tmp_path: Path, again: str
) -> None:
    """The cache stores equal files once: the followed file gives way to the one that is there."""
    data = file_of(MADE)
    hub.repo("owner/name", {"model.safetensors": data})
    with opened_at(hub, tmp_path / "own") as cache:
        url, reference = serve(server, data), "hf://owner/name/model.safetensors"
        assert same(loaded(url, cache), MADE)
        wanted = getattr(tensors, again)
        assert same(dict(wanted(reference, cache=cache, framework="numpy")), MADE)
        assert cache.ensure(url).samefile(cache.ensure(reference))


def test_only_asks_no_file_that_holds_nothing_of_it(
    server: Server, cache: WeightsDownloadCache
) -> None:
    url = served(server, files_of())
    found = loaded(url, cache, only="layer.2.")
    assert same(found, {name: MADE[name] for name in MADE if name.startswith("layer.2.")})
    asked = {Path(seen.path).name for seen in server.requests}
    assert asked == {INDEX, shard_name(4), shard_name(5)}
    with pytest.raises(BadSettingError, match=r"layer\.9"):
        loaded(url, cache, only=["layer.2.bias", "layer.9"])
    assert {Path(seen.path).name for seen in server.requests} == asked


def test_the_query_of_the_index_goes_with_its_files(
    server: Server, cache: WeightsDownloadCache
) -> None:
    url = served(server, files_of()) + "?signature=secretmark&b=c%20d"
    assert same(loaded(url, cache), MADE)
    assert {seen.target.partition("?")[2] for seen in server.requests} == {
        "signature=secretmark&b=c%20d"
    }
    with pytest.raises(BadSettingError) as caught:
        loaded(url, cache, only="x")
    assert "secretmark" not in str(caught.value)


def test_a_checkpoint_has_no_digest(
    server: Server, cache: WeightsDownloadCache, tmp_path: Path
) -> None:
    url = served(server, files_of())
    folder = put(tmp_path / "here", files_of())
    for reference in (url, folder):
        with pytest.raises(BadSettingError, match="digest"):
            loaded(reference, cache, digest="0" * 64)
    assert [Path(seen.path).name for seen in server.requests] == [INDEX]


def test_more_files_than_come_side_by_side_all_come(
    server: Server, cache: WeightsDownloadCache
) -> None:
    files = files_of(count=6)
    gate = Gate()
    url = served(server, files)
    server.change(f"/m/{shard_name(0)}", faults=[GateAfter(100, gate)])
    coming = tensors.stream(url, cache=cache, framework="numpy")
    found = dict([next(coming) for _ in range(10)])  # all but those of the one that is held back
    assert set(found) == set(MADE) - set(list(MADE)[0::6])
    gate.open()
    found |= dict(coming)
    assert same(found, MADE)


def test_files_that_are_not_wanted_yet_are_not_asked_for(
    server: Server, cache: WeightsDownloadCache
) -> None:
    gate = Gate()
    url = served(server, files_of())
    for at in range(4):
        server.change(f"/m/{shard_name(at)}", faults=[GateAfter(100_000, gate)])
    got: list[dict[str, Any]] = []
    loading = threading.Thread(target=lambda: got.append(loaded(url, cache)))
    loading.start()
    eventually(lambda: len(server.requests) == 5)
    asked = {Path(seen.path).name for seen in server.requests}
    assert asked == {INDEX, *(shard_name(at) for at in range(4))}
    gate.open()
    loading.join(20)
    assert same(got[0], MADE)


def test_a_file_that_is_missing_is_named_and_the_others_end(
    server: Server, cache: WeightsDownloadCache
) -> None:
    files = files_of()
    del files[shard_name(2)]
    gate = Gate()
    url = served(server, files)
    server.change(f"/m/{shard_name(1)}", faults=[GateAfter(100, gate)])
    with pytest.raises(HttpStatusError, match=shard_name(2)):
        loaded(url, cache)
    eventually(lambda: server.open == 0)
    gate.open()
    server.change(f"/m/{shard_name(1)}", faults=[])
    serve(server, files_of()[shard_name(2)], f"/m/{shard_name(2)}")
    assert same(loaded(url, cache), MADE)


def test_a_file_of_another_version_than_the_index_is_refused(
    server: Server, cache: WeightsDownloadCache, tmp_path: Path
) -> None:
    files = files_of()
    files[shard_name(2)] = file_of({"layer.1.weight": floats(20_000)})
    url = served(server, files)
    folder = put(tmp_path / "here", files)
    for reference in (url, folder):
        for only in (None, "layer.4."):
            with pytest.raises(NotWeightsError, match="another version than its index"):
                loaded(reference, cache, only=only)
        assert same(loaded(reference, cache, only=["layer.0.weight"]), {
            "layer.0.weight": MADE["layer.0.weight"]
        })  # fmt: skip


@pytest.mark.parametrize(
    "shard", ["../x.safetensors", "/x.safetensors", "http://host/x.safetensors", "x.bin"]
)
def test_an_index_leads_nowhere_else(
    server: Server, cache: WeightsDownloadCache, tmp_path: Path, shard: str
) -> None:
    files = {INDEX: index_of({shard: ["a"]})}
    url = served(server, files)
    folder = put(tmp_path / "here", files)
    (tmp_path / "x.safetensors").write_bytes(file_of({"a": floats(1)}))
    for reference in (url, folder, folder / INDEX):
        with pytest.raises(NotWeightsError):
            loaded(reference, cache)
    assert {seen.path for seen in server.requests} == {f"/m/{INDEX}"}
    assert cache.lookup(url) is None


@pytest.mark.parametrize(
    "raw",
    [
        b"<html>words</html>",
        b"{}",
        b'{"weight_map": {}}',
        b"[",
        b'{"weight_map": {"\\ud800": "x.safetensors"}}',
    ],
)
def test_what_is_no_index_is_no_checkpoint(
    server: Server, cache: WeightsDownloadCache, raw: bytes
) -> None:
    url = served(server, {INDEX: raw})
    with pytest.raises(NotWeightsError):
        loaded(url, cache)
    assert cache.lookup(url) is None


def test_tensors_that_the_index_does_not_name_are_left_out(
    server: Server, cache: WeightsDownloadCache
) -> None:
    made = {"a": floats(5), "b": floats(6)}
    files = {INDEX: index_of({"x.safetensors": ["b"]}), "x.safetensors": file_of(made)}
    assert same(loaded(served(server, files), cache), {"b": made["b"]})


def test_a_checkpoint_is_a_folder_of_this_machine_or_its_index(
    cache: WeightsDownloadCache, tmp_path: Path
) -> None:
    folder = put(tmp_path / "here", files_of())
    for reference in (folder, folder / INDEX, (folder / INDEX).as_uri()):
        assert same(loaded(reference, cache), MADE)
        found = loaded(reference, cache, only=["layer.3.bias"])
        assert same(found, {"layer.3.bias": MADE["layer.3.bias"]})
    (folder / "other.safetensors.index.json").write_bytes(index_of({"a.safetensors": ["a"]}))
    with pytest.raises(NotOneFileError, match=INDEX):
        loaded(folder, cache)
    (folder / shard_name(1)).unlink()
    with pytest.raises(BadReferenceError, match="cannot be read: no such file"):
        loaded(folder / INDEX, cache)


def test_a_checkpoint_is_a_repository_of_the_hub(hub: Hub, tmp_path: Path) -> None:
    other = {name: floats(20_000, f"other {name}") for name in MADE}
    hub.repo("owner/name", files_of(), revisions={"v2": files_of(other)})
    hub.repo("owner/closed", files_of(), private=True, readers={"token"})
    with opened_at(hub, tmp_path / "cache") as cache:
        for reference in ("hf://owner/name", f"hf://owner/name/{INDEX}"):
            assert same(loaded(reference, cache), MADE)
        assert same(loaded("hf://owner/name@v2", cache), other)
        found = loaded("hf://owner/name@v2", cache, only="layer.5.")
        assert same(found, {name: other[name] for name in other if "5" in name})
        assert same(loaded("hf://owner/closed", cache, hf_api_token="token"), MADE)
        with pytest.raises(NotFoundError):
            loaded("hf://owner/nobody", cache)
        with pytest.raises(NotFoundError):
            loaded(f"hf://owner/name@v9/{INDEX}", cache)
    with opened_at(hub, tmp_path / "cache", offline=True) as cache:
        assert same(loaded("hf://owner/name", cache), MADE)


DIFFUSERS = "diffusion_pytorch_model.safetensors.index.json"
NAMES = [
    INDEX,
    DIFFUSERS,
    "model.safetensors.index.fp16.json",
    "model.fp16.safetensors.index.json",
    "diffusion_pytorch_model.safetensors.index.non_ema.json",
]


def renamed(name: str, made: Mapping[str, Made] = MADE, count: int = 6) -> dict[str, bytes]:
    """The files of a checkpoint whose index is called `name`."""
    files = files_of(made, count)
    return {name: files.pop(INDEX), **files}


@pytest.mark.parametrize("name", NAMES)
def test_an_index_is_one_by_every_name_that_diffusers_gives_it(
    server: Server, hub: Hub, tmp_path: Path, name: str
) -> None:
    files = renamed(name, count=2)
    served(server, files)
    folder = put(tmp_path / "here", {**files, "config.json": b"{}", f"._{name}": b"\0\5\x16\7"})
    pipe = {f"transformer/{each}": data for each, data in files.items()}
    other = {f"vae/{each}": data for each, data in renamed(DIFFUSERS, {"a": floats(3)}, 2).items()}
    hub.repo("owner/pipe", {**pipe, **other, "model_index.json": b"{}"})
    hub.repo("owner/name", files)
    with opened(tmp_path / "other") as cache:
        for reference in (server.url(f"/m/{name}"), folder, folder / name):
            assert same(loaded(reference, cache), MADE)
    references = [f"hf://owner/pipe/transformer/{name}", "hf://owner/pipe/transformer/"]
    references += ["hf://owner/name", f"{hub.url('/owner/pipe/tree/main/transformer')}"]
    for number, reference in enumerate(references):
        with opened_at(hub, tmp_path / f"{number}") as cache:
            assert same(loaded(reference, cache), MADE)
            only = loaded(reference, cache, only="layer.3.bias")
            assert same(only, {"layer.3.bias": MADE["layer.3.bias"]})
        with opened_at(hub, tmp_path / f"{number}", offline=True) as cache:
            if name in (INDEX, DIFFUSERS) or reference.endswith(".json"):
                assert same(loaded(reference, cache), MADE)


def test_the_checkpoint_of_no_variant_is_meant(hub: Hub, tmp_path: Path) -> None:
    other = {name: floats(20_000, f"other {name}") for name in MADE}
    variant = {
        name.replace("model-", "model.fp16-"): data
        for name, data in renamed("model.safetensors.index.fp16.json", other).items()
        if name.endswith(".safetensors")
    }
    shards = {
        f"model.fp16-{at + 1:05}-of-00006.safetensors": data
        for at, data in enumerate(variant.values())
    }
    index = index_of({name: list(MADE)[at::6] for at, name in enumerate(shards)})
    variants = {"model.safetensors.index.fp16.json": index, **shards}
    one = {"model.safetensors": file_of(MADE)}
    for number, whole in enumerate((files_of(), one)):
        both = {**variants, **whole}
        hub.repo("owner/name", both)
        folder = put(tmp_path / f"here {number}", both)
        with opened_at(hub, tmp_path / f"cache {number}") as cache:
            assert same(loaded(folder, cache), MADE)
            assert same(loaded("hf://owner/name", cache), MADE)
            named = loaded("hf://owner/name/model.safetensors.index.fp16.json", cache)
            assert same(named, other)


def test_parts_without_an_index_are_not_one_of_them(hub: Hub, tmp_path: Path) -> None:
    files = files_of()
    del files[INDEX]
    hub.repo("owner/name", files)
    hub.repo("owner/pipe", {f"a/{name}": data for name, data in files_of().items()})
    with opened_at(hub, tmp_path / "cache") as cache:
        for reference in ("hf://owner/name", "hf://owner/pipe"):
            for ask in (lambda name: loaded(name, cache), cache.ensure):
                with pytest.raises(
                    NotOneFileError, match=r"parts of a checkpoint.*folder"
                ) as caught:
                    ask(reference)
                assert "name one of them" not in str(caught.value)


def test_of_a_repository_without_an_index_the_one_file_is_meant(hub: Hub, tmp_path: Path) -> None:
    made = {"a": floats(5000), "b": floats(6)}
    data = file_of(made)
    hub.repo("owner/one", {"lora.safetensors": data, "README.md": b"words"})
    hub.repo("owner/two", {"a.safetensors": data, "b.safetensors": data})
    hub.repo("owner/none", {"README.md": b"words"})
    with opened_at(hub, tmp_path / "cache") as cache:
        assert same(loaded("hf://owner/one", cache, only="b"), {"b": made["b"]})
        for _ in range(2):
            assert same(loaded("hf://owner/one", cache), made)
        for name in ("two", "none"):
            with pytest.raises(NotOneFileError):
                loaded(f"hf://owner/{name}", cache)
    with opened_at(hub, tmp_path / "cache", offline=True) as cache:
        assert same(loaded("hf://owner/one", cache), made)


def test_an_index_is_kept_though_it_is_json(server: Server, cache: WeightsDownloadCache) -> None:
    url = served(server, files_of())
    assert json.loads(cache.ensure(url).read_bytes())["weight_map"]
    other = serve(server, files_of()[INDEX], "/m/other.json")
    with pytest.raises(NotWeightsError):
        cache.ensure(other)


def test_a_file_that_is_replaced_between_two_files_shows(server: Server, tmp_path: Path) -> None:
    """What is fetched first stays as it was; nothing tells that the next is of another upload
    but its names."""
    renamed = {f"new.{name}": made for name, made in MADE.items()}
    url = served(server, files_of())
    gate = Gate()
    server.change(f"/m/{shard_name(0)}", faults=[GateAfter(100, gate, when=When(request=1))])
    server.change(f"/m/{shard_name(5)}", body=files_of(renamed)[shard_name(5)])
    with opened(tmp_path / "cache") as cache:
        coming = tensors.stream(url, cache=cache, framework="numpy")
        next(coming)
        gate.open()
        with pytest.raises(NotWeightsError, match="another version than its index"):
            list(coming)
