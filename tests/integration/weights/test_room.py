"""The disk never fills: what leaves, what stays, and what is said where nothing may leave."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from pgetpy.errors import CacheError, CacheFullError, DiskFullError, PgetError
from tests.support.delivery import Gate
from tests.support.entries import child, disk_size, said, tell
from tests.support.faults import Chunked, GateAfter, IgnoreRange, NoLength, midway
from tests.support.processes import limited_tmpfs
from tests.support.server import Server
from tests.support.waiting import eventually
from tests.support.weights import (
    MIB,
    assert_nothing_left,
    ensuring,
    names_in_cache,
    opened,
    partials,
    serve,
    serve_many,
    tar_of,
    weights,
)

pytestmark = pytest.mark.usefixtures("forked_runs")

EACH = 100_000
SIZE = len(weights(EACH))


def room_for(count: int) -> int:
    """Bytes for so many of the weights of a test."""
    return count * SIZE + SIZE // 2


# ------------------------------------------------------------------- the order


def test_old_entries_leave_first_also_after_a_restart(server: Server, root: Path) -> None:
    urls = serve_many(server, "abcde", EACH)
    with opened(root) as cache:
        for name in "abc":
            cache.ensure(urls[name])
    with opened(root) as cache:
        cache.ensure(urls["a"])
    with opened(root, max_bytes=room_for(3)) as cache:
        cache.ensure(urls["d"])
        assert names_in_cache(cache) == {"a", "c", "d"}
    with opened(root, max_bytes=room_for(2)) as cache:
        cache.ensure(urls["e"])
        assert names_in_cache(cache) == {"d", "e"}


def test_the_order_survives_a_kill(server: Server, root: Path) -> None:
    urls = serve_many(server, "abcd", EACH)
    with ensuring(root, *(urls[name] for name in "abca")) as other:
        assert all(said(other) for _ in range(5))
        other.send_signal(signal.SIGKILL)
        other.wait()
    with opened(root, max_bytes=room_for(2)) as cache:
        cache.ensure(urls["d"])
        assert names_in_cache(cache) == {"a", "d"}


def test_what_another_process_was_given_leaves_after_what_nobody_has(
    server: Server, root: Path
) -> None:
    urls = serve_many(server, "abcde", EACH)
    with opened(root) as cache:
        for name in "ab":
            cache.ensure(urls[name])
    with ensuring(root, urls["a"]) as other:
        assert said(other) == "ready"
        held = Path(said(other))
        with opened(root) as cache:
            cache.ensure(urls["c"])
        with opened(root, max_bytes=room_for(2)) as cache:
            cache.ensure(urls["d"])
            assert names_in_cache(cache) == {"a", "d"}
            assert held.exists()
            # A server that sees many in its life must go on working.
            cache.ensure(urls["e"])
            assert names_in_cache(cache) == {"d", "e"}


def test_a_file_that_was_looked_at_without_the_cache_is_no_younger(
    server: Server, root: Path
) -> None:
    urls = serve_many(server, "abc", EACH)
    with opened(root) as cache:
        path = cache.ensure(urls["a"])
        cache.ensure(urls["b"])
    os.utime(path)
    with opened(root, max_bytes=room_for(2)) as cache:
        cache.ensure(urls["c"])
        assert names_in_cache(cache) == {"b", "c"}


# ------------------------------------------------------------------- what stays


def test_ensure_many_never_loses_its_own(server: Server, root: Path) -> None:
    urls = serve_many(server, "abcdef", EACH)
    with opened(root, max_bytes=room_for(4)) as cache:
        for names in ("abcd", "cdef", "fabe"):
            paths = cache.ensure_many([urls[name] for name in names])
            assert [path.read_bytes() for path in paths] == [weights(EACH, name) for name in names]
        with pytest.raises(CacheFullError):
            cache.ensure_many(urls.values())
        assert disk_size(root) <= room_for(4)
        assert cache.ensure(urls["a"]).exists()
    assert_nothing_left(root)


@pytest.mark.parametrize("here", [True, False], ids=["this process", "another process"])
def test_a_lease_keeps_an_entry_and_its_end_lets_it_go(
    server: Server, root: Path, here: bool
) -> None:
    urls = serve_many(server, "abcd", EACH)
    code = """
from tests.support.weights import *
with opened(sys.argv[1]) as cache, cache.lease(sys.argv[2]) as path:
    say(path)
    input()
"""
    with child(code, root, urls["a"]) as other:
        assert Path(said(other)).exists()
        with opened(root, max_bytes=room_for(2)) as cache:
            for name in "bcd":
                cache.ensure(urls[name])
                assert names_in_cache(cache) == {"a", name}
            with pytest.raises(CacheError, match=f"held by process {other.pid} on "):
                cache.remove(urls["a"])
            if here:
                with cache.lease(urls["a"]):
                    other.kill()
                    other.wait()
                    cache.ensure(urls["b"])
                    assert "a" in names_in_cache(cache)
            else:
                tell(other)
                assert other.wait(30) == 0
            cache.ensure(urls["c"])
            cache.ensure(urls["d"])
            assert names_in_cache(cache) == {"c", "d"}


def test_a_pin_keeps_an_entry_for_good(server: Server, root: Path) -> None:
    urls = serve_many(server, "abc", EACH)
    with opened(root) as cache:
        cache.pin(urls["a"])  # also before it is there
        cache.ensure(urls["a"])
    with opened(root, max_bytes=room_for(1)) as cache:
        with pytest.raises(CacheFullError) as caught:
            cache.ensure(urls["b"])
        assert caught.value.held == (("pins", SIZE),)
        assert "pins" in str(caught.value)
        with pytest.raises(CacheError, match="held by a pin"):
            cache.remove(urls["a"])
        assert cache.unpin(urls["a"])
        assert not cache.unpin(urls["a"])
        cache.ensure(urls["b"])
        assert names_in_cache(cache) == {"b"}


def test_who_keeps_how_much_is_said_where_there_is_no_room(server: Server, root: Path) -> None:
    urls = serve_many(server, "abcd", EACH)
    with opened(root, max_bytes=room_for(3)) as cache:
        cache.pin(urls["c"])
        cache.ensure(urls["c"])
        with cache.lease(urls["a"]), ensuring(root, urls["b"]) as other:
            assert said(other) == "ready"
            assert said(other)
            with cache.lease(urls["b"]):
                before = len(server.requests)
                with pytest.raises(CacheFullError) as caught:
                    cache.ensure(urls["d"])
        error = caught.value
        assert error.needed == SIZE
        assert 0 <= error.free < SIZE
        mine = next(size for who, size in error.held if f"process {os.getpid()} on" in who)
        assert (mine, dict(error.held)["pins"]) == (2 * SIZE, SIZE)
        assert f"process {os.getpid()}" in str(error)
        assert len(server.requests) == before + 1
        assert partials(root) == []
        assert cache.ensure(urls["d"]).exists()


# ------------------------------------------------------------------- before a download begins


def test_where_there_is_no_room_the_server_sends_no_more_than_the_beginning(
    server: Server, root: Path
) -> None:
    url = serve(server, weights(8 * MIB))
    with opened(root, max_bytes=2 * MIB, chunk_size=MIB) as cache:
        for number in (1, 2):
            with pytest.raises(CacheFullError) as caught:
                cache.ensure(url)
            assert caught.value.needed == len(weights(8 * MIB))
            # The first request is the one that tells the size, and asks for no more than this.
            assert server.asked("/lora.safetensors") == [(0, MIB)] * number
        assert (cache.entries(), partials(root)) == ([], [])


def test_room_is_made_before_the_download_begins_and_not_for_nothing(
    server: Server, root: Path
) -> None:
    urls = serve_many(server, "abc", MIB)
    gate = Gate()
    big = serve(
        server,
        weights(2 * MIB, "big"),
        "/big.safetensors",
        faults=midway(MIB, gate),
    )
    huge = serve(server, weights(9 * MIB, "huge"), "/huge.safetensors")
    with opened(root) as cache:
        for url in urls.values():
            cache.ensure(url)
    with opened(root, max_bytes=int(3.1 * MIB)) as cache:
        with pytest.raises(CacheFullError):
            cache.ensure(huge)
        # What could not have made enough room was left where it is.
        assert names_in_cache(cache) == {"a", "b", "c"}
        thread = threading.Thread(target=cache.ensure, args=[big])
        thread.start()
        gate.wait_reached()
        eventually(lambda: names_in_cache(cache) == {"c"})
        gate.open()
        thread.join(30)
        assert names_in_cache(cache) == {"c", "big"}


def test_an_object_of_unknown_size_cannot_overrun_the_cache(server: Server, root: Path) -> None:
    urls = serve_many(server, "ab", MIB)
    unknown = serve(
        server, weights(2 * MIB, "u"), "/u.safetensors", faults=[IgnoreRange(), Chunked()]
    )
    huge = serve(server, weights(5 * MIB, "h"), "/h.safetensors", faults=[IgnoreRange(), Chunked()])
    with opened(root, max_bytes=int(3.1 * MIB)) as cache:
        for url in urls.values():
            cache.ensure(url)
        assert cache.ensure(unknown).read_bytes() == weights(2 * MIB, "u")
        assert names_in_cache(cache) == {"b", "u"}
        with pytest.raises(CacheFullError):
            cache.ensure(huge)
        assert partials(root) == []
        assert disk_size(root) <= 3.1 * MIB


def test_an_archive_that_grows_cannot_overrun_the_cache(server: Server, root: Path) -> None:
    data = weights(4096) + bytes(0)
    members = {"lora.safetensors": data, "zeros": bytes(6 * MIB)}
    url = serve(server, tar_of(members, "w:gz"), "/x.tar.gz")
    with opened(root, max_bytes=3 * MIB) as cache:
        with pytest.raises(CacheFullError):
            cache.ensure(url, wanted="folder")
        assert (cache.entries(), partials(root)) == ([], [])
    assert_nothing_left(root)


def test_evict_makes_room_on_demand(server: Server, root: Path) -> None:
    urls = serve_many(server, "abc", EACH)
    with opened(root) as cache:
        for url in urls.values():
            cache.ensure(url)
    with opened(root, max_bytes=room_for(3)) as cache:
        assert cache.evict() == 0
        assert cache.evict(2 * SIZE) == 2 * SIZE
        assert names_in_cache(cache) == {"c"}
        assert cache.remove(urls["c"]) == SIZE
        assert cache.remove(urls["c"]) is None
        assert cache.totals().stored == 0
        with pytest.raises(CacheFullError):
            cache.evict(room_for(4))


# ------------------------------------------------------------------- a disk that is full


def test_a_small_disk_is_enough_for_any_number_of_weights(server: Server) -> None:
    urls = serve_many(server, "abcdefgh", MIB)
    with limited_tmpfs(4 * MIB) as disk, opened(disk / "cache") as cache:
        for _ in range(2):
            for name, url in urls.items():
                assert cache.ensure(url).read_bytes() == weights(MIB, name)
        assert 1 <= len(cache.entries()) <= 3


def test_min_disk_free_stays_free(server: Server) -> None:
    urls = serve_many(server, "abcd", MIB)
    with limited_tmpfs(6 * MIB) as disk, opened(disk / "cache", min_disk_free=3 * MIB) as cache:
        for url in urls.values():
            cache.ensure(url)
            status = os.statvfs(disk)
            assert status.f_bavail * status.f_frsize >= 3 * MIB


def test_a_disk_that_others_have_filled_is_one_clear_error(server: Server) -> None:
    url = serve(server, weights(MIB))
    with limited_tmpfs(4 * MIB) as disk, opened(disk / "cache") as cache:
        filler = disk / "filler"
        filler.write_bytes(bytes(int(3.5 * MIB)))
        with pytest.raises(CacheFullError):
            cache.ensure(url)
        assert partials(cache.path) == []
        filler.unlink()
        assert cache.ensure(url).read_bytes() == weights(MIB)


@pytest.mark.parametrize("known", [True, False], ids=["known size", "unknown size"])
def test_a_disk_that_fills_up_midway_is_one_clear_error_and_the_next_ensure_goes_on(
    server: Server, known: bool
) -> None:
    gate = Gate()
    held = GateAfter(MIB + 500_000 if known else 500_000, gate)
    data = weights(3 * MIB)
    url = serve(server, data, faults=[held] if known else [IgnoreRange(), NoLength(), held])
    with limited_tmpfs(4 * MIB) as disk, opened(disk / "cache", concurrency=1) as cache:
        errors: list[Exception] = []

        def ask() -> None:
            try:
                cache.ensure(url)
            except PgetError as error:
                errors.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        gate.wait_reached()
        eventually(lambda: any(path.stat().st_blocks for path in partials(cache.path)))
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(65536)):
                    pass
            except OSError:
                pass
        gate.open()
        thread.join(30)
        assert [type(error) for error in errors] == [DiskFullError]
        assert cache.entries() == []
        filler.unlink()
        assert cache.ensure(url).read_bytes() == data
