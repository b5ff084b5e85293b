"""Locks: what references mean at one moment, with a digest for each file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from pgetpy import WeightsDownloadCache
from pgetpy.cli import main
from pgetpy.core.generations.manifest import parse_lock, parse_manifest
from pgetpy.errors import BadManifestError, NotFoundError, PgetError
from pgetpy.generations import Generations, lock_manifest
from tests.support.bodies import body
from tests.support.generations import digest
from tests.support.hub import Hub
from tests.support.hub_caches import opened_at
from tests.support.resources import Resource
from tests.support.server import Server
from tests.support.weights import tar_of, weights, zip_of

UNET = weights(3000, "unet")
REPO = {"unet/model.safetensors": UNET, "config.json": b'{"a": 1}', "README.md": b"words"}


@pytest.fixture
def hub(other_server: Server) -> Iterator[Hub]:
    hub = Hub(other_server)
    with hub:
        yield hub
    assert hub.violations == []
    assert hub.errors == []


@pytest.fixture
def cache(hub: Hub, tmp_path: Path) -> Iterator[WeightsDownloadCache]:
    with opened_at(hub, tmp_path / "node" / "cache") as cache:
        yield cache


def test_a_repository_becomes_its_files_at_one_commit(
    hub: Hub, cache: WeightsDownloadCache, tmp_path: Path
) -> None:
    repo = hub.repo("owner/name", REPO)
    manifest = parse_manifest("generation 7\nhf://owner/name models/sd/\n", "m")
    lock = lock_manifest(manifest, cache, "m")
    assert {file.dest: file.digest for file in lock.files} == {
        f"models/sd/{name}": digest(data) for name, data in REPO.items()
    }
    assert all(f"hf://owner/name@{repo.commit('main')}/" in file.url for file in lock.files)
    assert parse_lock(lock.text, "m").digest == lock.digest
    Generations(tmp_path / "node", cache, fsync=False).build(lock)
    built = tmp_path / "node" / "latest" / "files" / "models" / "sd"
    assert (built / "unet" / "model.safetensors").read_bytes() == UNET


def test_what_the_hub_says_the_digest_of_is_not_fetched(
    hub: Hub, cache: WeightsDownloadCache
) -> None:
    hub.repo("owner/name", REPO)
    text = "generation 7\nhf://owner/name/unet/model.safetensors unet/\n"
    lock = lock_manifest(parse_manifest(text, "m"), cache, "m")
    (file,) = lock.files
    assert (file.dest, file.digest) == ("unet/model.safetensors", digest(UNET))
    assert cache.entries() == []


def test_a_plain_url_is_fetched_and_hashed_as_it_is_now(
    server: Server, cache: WeightsDownloadCache
) -> None:
    url = server.add("/config.json", Resource(b"old"))
    manifest = parse_manifest(f"generation 7\n{url} config.json\n", "m")
    assert lock_manifest(manifest, cache, "m").files[0].digest == digest(b"old")
    server.add("/config.json", Resource(b"newer"))
    assert lock_manifest(manifest, cache, "m").files[0].digest == digest(b"newer")


def test_lines_with_a_digest_are_kept_and_not_asked_for(
    server: Server, cache: WeightsDownloadCache
) -> None:
    url = server.add("/x", Resource(b"x"))
    text = f"generation 7\nhttps://example.com/y y {digest(b'y')}\n{url} x\n"
    lock = lock_manifest(parse_manifest(text, "m"), cache, "m")
    assert [file.digest for file in lock.files] == [digest(b"y"), digest(b"x")]


def test_an_archive_is_locked_by_its_own_digest(
    server: Server, cache: WeightsDownloadCache
) -> None:
    tar = tar_of({"one": b"1"})
    url = server.add("/a.tar", Resource(tar))
    text = f"generation 7\n{url} tokenizer -x\n"
    (file,) = lock_manifest(parse_manifest(text, "m"), cache, "m").files
    assert (file.digest, file.extract) == (digest(tar), True)


def test_a_repository_needs_a_folder(hub: Hub, cache: WeightsDownloadCache) -> None:
    hub.repo("owner/name", REPO)
    text = "generation 7\n\nhf://owner/name models\n"
    with pytest.raises(BadManifestError, match=r"m:3: .*models/ as their folder"):
        lock_manifest(parse_manifest(text, "m"), cache, "m")


def test_two_repositories_may_not_have_the_same_path(hub: Hub, cache: WeightsDownloadCache) -> None:
    hub.repo("owner/name", REPO)
    hub.repo("owner/other", {"config.json": b"{}"})
    text = "generation 7\nhf://owner/name models/\nhf://owner/other models/\n"
    with pytest.raises(BadManifestError, match=r"m:3: models/config\.json .* line 2"):
        lock_manifest(parse_manifest(text, "m"), cache, "m")


def test_what_is_not_there_is_an_error(hub: Hub, cache: WeightsDownloadCache) -> None:
    text = "generation 7\nhf://owner/nothing models/\n"
    with pytest.raises(NotFoundError):
        lock_manifest(parse_manifest(text, "m"), cache, "m")


@pytest.mark.parametrize("reference", ["nonsense", "gopher://example.com/x"])
def test_an_unknown_reference_is_named_with_its_line(
    cache: WeightsDownloadCache, reference: str
) -> None:
    text = f"generation 7\n{reference} x\n"
    with pytest.raises((BadManifestError, PgetError), match="m:2"):
        lock_manifest(parse_manifest(text, "m"), cache, "m")


def test_a_lock_is_written_whole_or_not_at_all(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = server.add("/x", Resource(b"x"))
    manifest, lock = tmp_path / "m.txt", tmp_path / "m.lock"
    manifest.write_text(f"generation 7\n{url} x\n")
    lock.write_text("before")
    environ = {"PGET_MIN_DISK_FREE": "0", "PGET_CACHE_DIR": str(tmp_path / "cache")}
    command = ["generation", "lock", "--progress=none", str(manifest)]
    assert main([*command, str(lock)], environ=environ) == 0
    assert parse_lock(lock.read_text(), "m").files[0].digest == digest(b"x")
    assert main(command, environ=environ) == 0
    assert lock.read_text() in capsys.readouterr().out
    manifest.write_text("generation 7\nhttps://example.com/x ../x\n")
    before = lock.read_text()
    assert main([*command, str(lock)], environ=environ) == 2
    assert lock.read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "m.lock", "m.txt"]


@pytest.mark.parametrize("pack", [tar_of, zip_of, partial(tar_of, mode="w:gz")])
def test_an_archive_that_was_fetched_for_its_digest_is_not_fetched_again(
    server: Server, cache: WeightsDownloadCache, tmp_path: Path, pack: Callable[..., bytes]
) -> None:
    url = server.add("/a", Resource(pack({"one": b"1", "two/big": body(6 << 20)})))
    text = f"generation 7\n{url} tokenizer -x\n"
    lock = lock_manifest(parse_manifest(text, "m"), cache, "m")
    before = len(server.requests)
    Generations(tmp_path / "node", cache, fsync=False).build(lock)
    assert len(server.requests) == before
    built = tmp_path / "node" / "latest" / "files" / "tokenizer"
    assert (built / "one").read_bytes() == b"1"
    assert (built / "two" / "big").read_bytes() == body(6 << 20)


def test_an_archive_that_was_changed_in_the_cache_is_fetched_again(
    server: Server, cache: WeightsDownloadCache, tmp_path: Path
) -> None:
    data = tar_of({"one": b"1" * 1000})
    url = server.add("/a.tar", Resource(data))
    text = f"generation 7\n{url} tokenizer -x\n"
    lock = lock_manifest(parse_manifest(text, "m"), cache, "m")
    kept = cache.lookup(url, wanted="file")
    assert kept is not None
    kept.chmod(0o644)
    kept.write_bytes(data.replace(b"1" * 1000, b"2" * 1000))
    Generations(tmp_path / "node", cache, fsync=False).build(lock)
    built = tmp_path / "node" / "latest" / "files" / "tokenizer"
    assert (built / "one").read_bytes() == b"1" * 1000
