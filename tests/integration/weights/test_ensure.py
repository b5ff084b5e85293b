"""A URL in, a path out: how a cache is made, what is a hit, and what a hit costs."""

from __future__ import annotations

import mmap
import os
import threading
from pathlib import Path

import pytest

from pgetpy import WeightsDownloadCache
from pgetpy.core.cache.records import State
from pgetpy.errors import (
    BadReferenceError,
    BadSettingError,
    CacheFullError,
    HttpStatusError,
    PgetError,
)
from tests.support.children import written
from tests.support.delivery import Gate
from tests.support.entries import child, said, tell
from tests.support.faults import GateAfter, NoValidators, ResetAt, Status, When, midway
from tests.support.fetching import Events, impatient
from tests.support.processes import environment, run
from tests.support.server import Server
from tests.support.weights import (
    MIB,
    assert_nothing_left,
    ensuring,
    names_in_cache,
    only_record,
    opened,
    partials,
    serve,
    serve_many,
    weights,
)

BIG = weights(4 * MIB, "big")

# ------------------------------------------------------------------- making one


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("folder", ["cache_dir", "base_dir"])
@pytest.mark.parametrize("free", [{"min_disk_free": 0}, {"min_disk_free_gb": 0.0}])
def test_both_spellings_and_both_kinds_of_path_name_one_cache(
    server: Server, tmp_path: Path, kind: type, folder: str, free: dict[str, float]
) -> None:
    url = serve(server)
    place = {folder: kind(tmp_path / "cache")}
    with WeightsDownloadCache(**place, **free, settings=impatient()) as cache:  # type: ignore[arg-type]
        path = cache.ensure(url)
    assert path.read_bytes() == weights()
    assert (cache.path, path.is_relative_to(tmp_path / "cache")) == (tmp_path / "cache", True)


def test_two_names_for_one_argument_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSettingError, match="base_dir"):
        WeightsDownloadCache(tmp_path, base_dir=tmp_path)
    with pytest.raises(BadSettingError, match="min_disk_free_gb"):
        WeightsDownloadCache(tmp_path, min_disk_free=1, min_disk_free_gb=1)
    with pytest.raises(BadSettingError, match="refresh 'always'"):
        WeightsDownloadCache(tmp_path, refresh="always")


def test_min_disk_free_gb_counts_in_gib(server: Server, tmp_path: Path) -> None:
    url = serve(server)
    with opened(tmp_path / "any") as cache:
        cache.ensure(url)
    with (
        WeightsDownloadCache(tmp_path, min_disk_free_gb=2**20) as cache,
        pytest.raises(CacheFullError),
    ):
        cache.ensure(url)


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"PGET_CACHE_DIR": "{}/named"}, "named"),
        ({"XDG_CACHE_HOME": "{}/xdg"}, "xdg/pgetpy"),
        ({"HOME": "{}"}, ".cache/pgetpy"),
        ({"PGET_CACHE_DIR": "~/mine", "HOME": "{}", "XDG_CACHE_HOME": "{}/xdg"}, "mine"),
    ],
)
def test_without_a_folder_the_environment_names_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    folder: str,
) -> None:
    for name in ("PGET_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(tmp_path))
    with WeightsDownloadCache() as cache:
        assert cache.path == tmp_path / folder


def test_how_to_fetch_comes_from_the_environment(
    server: Server, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = serve(server, faults=[Status(503)])
    monkeypatch.setenv("PGET_RETRIES", "0")
    with WeightsDownloadCache(root, 0) as cache, pytest.raises(HttpStatusError):
        cache.ensure(url)
    # Nothing is tried again, but once without a range.
    assert server.asked("/lora.safetensors") == [(0, None), None]
    monkeypatch.setenv("PGET_RETRIES", "many")
    with pytest.raises(BadSettingError, match="PGET_RETRIES"):
        WeightsDownloadCache(root, 0)


def test_a_name_that_is_no_url_is_refused_before_anybody_is_asked(
    cache: WeightsDownloadCache,
) -> None:
    for url in ("", "lora.safetensors", "ftp://host/x", "http://", "file://host/x", "file:x"):
        with pytest.raises(BadReferenceError):
            cache.ensure(url)
    with pytest.raises(BadSettingError, match="wanted"):
        cache.ensure("https://host/x", wanted="all")
    for digest in ("sha256:abc", "md5:" + "0" * 32, "x" * 64):
        with pytest.raises(BadSettingError, match="digest"):
            cache.ensure("https://host/x", digest=digest)


# ------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/lora.safetensors", "lora.safetensors"),
        ("/lora", "lora.safetensors"),
        ("/lora.bin", "lora.safetensors"),
        ("/LORA.SAFETENSORS", "LORA.safetensors"),
        ("/", "weights.safetensors"),
        ("/a/b%2F..%2F..%2Fc.safetensors", "c.safetensors"),
        ("/..%2F", ".safetensors"),
        ("/%00%0A.safetensors", ".safetensors"),
        ("/%ff%fe.safetensors", ".safetensors"),
        ("/%E6%84%9B%F0%9F%98%80.safetensors", "愛😀.safetensors"),
        ("/" + "long" * 100 + ".safetensors", ".safetensors"),
        ("/" + "%F0%9F%98%80" * 100 + ".safetensors", ".safetensors"),
        ("/x.%F0%9F%98%80" + "%F0%9F%98%80" * 50, ".safetensors"),
        ("/.hidden", ".safetensors"),
    ],
)
def test_the_path_ends_as_loaders_want_it(
    server: Server, cache: WeightsDownloadCache, path: str, name: str
) -> None:
    found = cache.ensure(serve(server, path=path))
    assert found.name.endswith(name)
    assert found.is_relative_to(cache.path / "entries")
    assert found.read_bytes() == weights()


# ------------------------------------------------------------------- hits


def test_a_hit_asks_nobody_and_works_offline(server: Server, cache: WeightsDownloadCache) -> None:
    url = serve(server)
    path = cache.ensure(url)
    asked = len(server.requests)
    assert cache.ensure(url) == path
    server.stop()
    assert cache.ensure(url) == path
    assert cache.ensure_many([url, url]) == [path, path]
    with cache.lease(url) as leased:
        assert leased == path
    assert len(server.requests) == asked == 1
    info = cache.cache_info()
    assert (info.hits, info.misses, info.bytes) == (5, 1, len(weights()))


def test_another_object_another_process_and_a_restart_hit(
    server: Server, cache: WeightsDownloadCache
) -> None:
    url = serve(server)
    path = cache.ensure(url)
    with opened(cache.path) as second:
        assert second.ensure(url) == path
        assert second.cache_info().hits == 1
    with ensuring(cache.path, url) as other:
        assert [said(other), said(other)] == ["ready", str(path)]
        tell(other)
        assert other.wait(30) == 0
    cache.close()
    with opened(cache.path) as again:
        assert again.ensure(url) == path
    assert len(server.requests) == 1


def test_a_file_that_vanished_is_fetched_again(server: Server, cache: WeightsDownloadCache) -> None:
    url = serve(server)
    cache.ensure(url).unlink()
    path = cache.ensure(url)
    assert path.read_bytes() == weights()
    assert len(server.requests) == 2
    assert cache.cache_info().misses == 2


def test_a_file_that_shrank_is_fetched_again(server: Server, cache: WeightsDownloadCache) -> None:
    url = serve(server)
    os.truncate(cache.ensure(url), 100)
    assert cache.ensure(url).read_bytes() == weights()


def test_an_entry_is_not_shared_between_different_urls(
    server: Server, cache: WeightsDownloadCache
) -> None:
    serve(server, weights(seed="a"), "/a.safetensors")
    plain, one, two = (server.url(f"/a.safetensors{query}") for query in ("", "?v=1", "?v=2"))
    paths = {cache.ensure(url) for url in (plain, one, two)}
    assert len(paths) == 3
    assert [seen.target for seen in server.requests] == [
        "/a.safetensors",
        "/a.safetensors?v=1",
        "/a.safetensors?v=2",
    ]
    # Parts of a signature are none where the signature itself is missing.
    for query in ("?Expires=1", "?Expires=2", "?X-Amz-Date=1", "?token=a", "?token=b"):
        cache.ensure(server.url(f"/a.safetensors{query}"))
    assert len(server.requests) == 8


def test_tokens_may_be_texts_or_secrets(server: Server, cache: WeightsDownloadCache) -> None:
    class Secret:
        def get_secret_value(self) -> str:
            return "hf_secret"

    url = serve(server)
    path = cache.ensure(url, hf_api_token=Secret(), civitai_api_token="civitai")
    assert cache.ensure(url, hf_api_token="hf_secret") == path
    # They are for other hosts than this.
    assert all(seen.header("authorization") is None for seen in server.requests)


def test_what_was_fetched_is_told_as_it_comes(server: Server, root: Path) -> None:
    events = Events()
    with opened(root, progress=events) as cache:
        cache.ensure(serve(server, BIG))
    events.assert_monotonic()
    assert events.all


# ------------------------------------------------------------------- still the same version?


def test_refresh_of_what_is_unchanged_costs_one_small_request(server: Server, root: Path) -> None:
    url = serve(server, BIG)
    with opened(root, refresh="check", concurrency=1) as cache:
        path = cache.ensure(url)
        before, sent = len(server.requests), server.sent("/lora.safetensors")
        assert cache.ensure(url) == path
        assert len(server.requests) == before + 1
        assert server.sent("/lora.safetensors") - sent <= 1
        assert cache.cache_info().hits == 1


def test_refresh_of_what_has_changed_gives_a_new_path_and_leaves_the_old_file_alone(
    server: Server, root: Path
) -> None:
    url = serve(server, weights(seed="old"))
    with opened(root, refresh="check") as cache:
        old = cache.ensure(url)
        with old.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            server.change("/lora.safetensors", body=weights(seed="new"), etag='"v2"')
            new = cache.ensure(url)
            assert new != old
            assert new.read_bytes() == weights(seed="new")
            assert mapped[:] == weights(seed="old")
            # Who was given the path a moment ago may still be about to open it.
            assert old.read_bytes() == weights(seed="old")
        assert cache.ensure(url) == new
    with opened(root) as never:
        assert never.ensure(url) == new


def test_refresh_of_what_has_no_validator_fetches_it_again(server: Server, root: Path) -> None:
    url = serve(server, weights(seed="old"), faults=[NoValidators()])
    with opened(root, refresh="check") as cache:
        assert cache.ensure(url).read_bytes() == weights(seed="old")
        server.change("/lora.safetensors", body=weights(seed="new"))
        assert cache.ensure(url).read_bytes() == weights(seed="new")


def test_refresh_is_an_error_where_the_server_is_gone_or_says_no(
    server: Server, root: Path
) -> None:
    url = serve(server)
    with opened(root, refresh="check", retries=0) as cache:
        path = cache.ensure(url)
        server.change("/lora.safetensors", faults=[Status(410, "no more of it")])
        with pytest.raises(HttpStatusError, match="no more of it"):
            cache.ensure(url)
        server.stop()
        with pytest.raises(PgetError):
            cache.ensure(url)
        assert path.exists()
    with opened(root) as never:
        assert never.ensure(url) == path


# ------------------------------------------------------------------- failed and killed downloads


def test_a_failed_download_is_no_hit_and_the_next_one_goes_on_from_there(
    server: Server, root: Path
) -> None:
    url = serve(server, BIG, faults=[ResetAt(2 * MIB)])
    with opened(root, retries=0, concurrency=1) as cache:
        with pytest.raises(PgetError):
            cache.ensure(url)
        assert cache.entries() == []
        failed = server.sent("/lora.safetensors")
        server.change("/lora.safetensors", faults=())
        assert cache.ensure(url).read_bytes() == BIG
    assert server.sent("/lora.safetensors") - failed < len(BIG) - MIB // 2
    assert partials(root) == []


def test_a_failed_download_frees_the_way_for_others(server: Server, root: Path) -> None:
    url = serve(server, faults=[Status(404, "nothing of that name")])
    with opened(root) as cache, opened(root) as other:
        for each in (cache, other, cache):
            with pytest.raises(HttpStatusError, match="nothing of that name"):
                each.ensure(url)
        serve(server)
        assert cache.ensure(url) == other.ensure(url)
    assert_nothing_left(root)


@pytest.mark.parametrize("size", [100_000, 4 * MIB])
def test_a_killed_download_is_no_hit_and_is_gone_on_with(
    server: Server, root: Path, size: int
) -> None:
    data = weights(size, "killed")
    gate = Gate()
    url = serve(server, data, faults=[GateAfter(size // 2, gate, when=When(request=1))])
    with ensuring(root, url, concurrency=1) as other:
        assert said(other) == "ready"
        gate.wait_reached()
        if size > MIB:
            # It is noted after it has come, so bytes in the part file prove nothing.
            server.wait_until(
                lambda: any(written(each.parent / "object").size >= MIB for each in partials(root))
            )
        other.kill()
        other.wait()
    before = server.sent("/lora.safetensors")
    with opened(root, concurrency=1) as cache:
        assert cache.entries() == []
        path = cache.ensure(url)
        assert path.read_bytes() == data
    resent = server.sent("/lora.safetensors") - before
    assert resent <= len(data) - (MIB if size > MIB else 0)
    assert_nothing_left(root)


def test_a_second_thread_never_sees_an_unfinished_file(
    server: Server, cache: WeightsDownloadCache
) -> None:
    gate = Gate()
    url = serve(server, BIG, faults=midway(MIB, gate))
    got: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: got.append(cache.ensure(url).read_bytes()))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    gate.wait_reached()
    assert cache.entries() == []
    assert list(cache.path.glob("entries/*/*")) == []
    assert got == []
    gate.open()
    for thread in threads:
        thread.join(30)
    assert got == [BIG] * 4


# ------------------------------------------------------------------- all of them there


def test_the_loras_of_one_prediction_are_both_there(server: Server, root: Path) -> None:
    urls = serve_many(server, "abcdef")
    size = len(weights(10_000))
    with opened(root, max_bytes=int(2.5 * size)) as cache:
        for pair in ("ab", "cd", "ef"):
            main, extra = (cache.ensure(urls[name]) for name in pair)
            assert main.read_bytes() == weights(10_000, pair[0])
            assert extra.read_bytes() == weights(10_000, pair[1])
        assert names_in_cache(cache) == {"e", "f"}


def test_an_entry_is_listed_with_its_url_but_not_its_password(
    server: Server, cache: WeightsDownloadCache
) -> None:
    path = serve(server).removeprefix(server.url(""))
    cache.ensure(server.url(path, user="me:secret"))
    record = only_record(cache)
    assert "secret" not in str(record)
    for below in cache.path.rglob("*"):
        if below.is_file():
            assert b"secret" not in below.read_bytes()
    assert cache.entries()[0].state is State.SOUND


def test_importing_the_cache_starts_nothing_and_is_light() -> None:
    code = "import sys, pgetpy.weights.cache; print(*sys.modules)"
    ended = run("-c", code, program=("python3",), env=environment())
    assert ended.code == 0, ended.err
    assert {"aiohttp", "aiofiles", "tqdm"}.isdisjoint(ended.out.split())
    with child("from pgetpy import WeightsDownloadCache\nsay('imported')") as other:
        assert said(other) == "imported"


def test_many_misses_leave_few_threads(server: Server, cache: WeightsDownloadCache) -> None:
    """Each had one of its own, for as long as idle ones are kept."""
    before = threading.active_count()
    for number in range(40):
        cache.ensure(serve(server, path=f"/{number}.safetensors"))
    assert threading.active_count() - before < 10
