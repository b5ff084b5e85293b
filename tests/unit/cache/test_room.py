"""Room is made before it is needed, from what is needed least, or it is said why that cannot be."""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgetpy.cache.store import Store
from pgetpy.core.cache.records import About
from pgetpy.errors import CacheError, CacheFullError
from pgetpy.system.filesystem import free_bytes
from tests.support.entries import (
    NAME,
    child,
    content_of,
    disk_size,
    key_of,
    names_of,
    put,
    said,
    sha256,
)
from tests.support.processes import limited_tmpfs
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("forked_runs")

MIB = 1 << 20
_HOLDING = """
store = Store(sys.argv[1])
for name in sys.argv[2].split(","):
    store.lookup(key_of(name))
say("had")
input()
"""


@pytest.fixture
def small() -> Iterator[Path]:
    """A file system of 8 MiB."""
    with limited_tmpfs(8 * MIB) as folder:
        yield folder / "cache"


def fill_up(folder: Path) -> None:
    """Leave not one free page on the file system of `folder`."""
    with (folder / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_what_was_used_longest_ago_leaves(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for name in "abcd":
            put(store, name)
        store.lookup(key_of("a"))
    with Store(tmp_path, max_bytes=4000) as store:
        assert store.make_room(1500) == 2000
        assert names_of(store) == {"a", "d"}
        assert store.make_room(2000) == 0


def test_the_order_survives_who_used_it_also_when_killed(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for name in "abcd":
            put(store, name)
    with child(_HOLDING, tmp_path, "b,a") as other:
        assert said(other) == "had"
        other.kill()
        other.wait()
    with Store(tmp_path, max_bytes=2000) as store:
        store.make_room(0)
        assert names_of(store) == {"a", "b"}
        assert os.listdir(tmp_path / "uses") == []


def test_when_the_content_itself_was_touched_is_of_no_account(tmp_path: Path) -> None:
    with Store(tmp_path, max_bytes=1000) as store:
        first = put(store, "a")
    with Store(tmp_path) as store:
        put(store, "b")
    os.utime(first.path)
    with Store(tmp_path, max_bytes=1000) as store:
        store.settle(key_of("a"))
        store.make_room(0)
        assert names_of(store) == {"b"}


def test_what_a_living_process_was_handed_out_leaves_after_everything_else(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for name in "abcd":
            put(store, name)
    with child(_HOLDING, tmp_path, "a,b") as other:
        assert said(other) == "had"
        with Store(tmp_path) as store:
            store.lookup(key_of("c"))  # later, by one that has ended
        with Store(tmp_path, max_bytes=4000) as store:
            store.make_room(2000)
            assert names_of(store) == {"a", "b"}
            # A server that sees ten thousand of them has to go on.
            store.make_room(3000)
            assert names_of(store) == {"b"}


def test_what_is_pinned_or_leased_stays_and_the_error_says_who_holds_it(tmp_path: Path) -> None:
    with Store(tmp_path, max_bytes=10_000) as store:
        for name in "abcd":
            put(store, name)
        store.pin(key_of("a"))
        with store.lease(key_of("b")), store.lease(key_of("c")):
            with pytest.raises(CacheFullError) as caught:
                store.make_room(8000)
            assert names_of(store) == set("abcd")
            error = caught.value
            assert (error.needed, error.free) == (8000, 7000)
            [process, pins] = error.held
            assert f"process {os.getpid()} on " in process[0]
            assert (process[1], pins) == (2000, ("pins", 1000))
            assert f"8000 bytes needed, 7000 can be freed; held by process {os.getpid()}" in str(
                error
            )
            assert store.make_room(7000) == 1000
        assert names_of(store) == set("abc")


def test_more_than_the_cache_may_have_is_refused_and_nothing_leaves(tmp_path: Path) -> None:
    with Store(tmp_path, max_bytes=3000) as store:
        put(store, "a")
        fill = store.try_fill(key_of("b"))
        assert fill is not None
        with pytest.raises(CacheFullError, match="3001 bytes needed, 3000 can be freed"):
            fill.reserve(3001)
        assert names_of(store) == {"a"}
        fill.release()


def test_one_file_under_several_keys_counts_once(tmp_path: Path) -> None:
    data = content_of("same")
    with Store(tmp_path, max_bytes=2000) as store:
        for name in "abc":
            put(store, name, data, digest=sha256(data))
        put(store, "d")
        assert names_of(store) == set("abcd")
        store.lookup(key_of("a"))
        put(store, "e")
        assert names_of(store) == set("abce")
        assert disk_size(tmp_path) == 2000


def test_the_disk_keeps_its_free_bytes(small: Path) -> None:
    free = free_bytes(small)
    with Store(small, min_disk_free=free - 4 * MIB) as store:
        for name in range(8):
            put(store, name, size=MIB)
            assert free_bytes(small) >= free - 4 * MIB
        kept = names_of(store)
        assert {"5", "6", "7"} >= kept >= {"6", "7"}
        with pytest.raises(CacheFullError) as caught:
            store.make_room(5 * MIB)
        assert caught.value.free >= 3 * MIB
        assert names_of(store) == kept


def test_bytes_that_stay_mapped_are_not_gained_by_emptying_the_cache(small: Path) -> None:
    with Store(small) as store:
        entries = [put(store, name, size=MIB // 2) for name in range(10)]
        maps = []
        for entry in entries[:6]:
            with entry.path.open("rb") as file:
                maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        other = Store(small, min_disk_free=free_bytes(small) + 3 * MIB)
        with pytest.raises(CacheFullError, match="still mapped"):
            other.make_room(0)
        assert len(names_of(store)) == 7
        assert [mapped[:1000] for mapped in maps] == [content_of(n, 1000) for n in range(6)]
        other.close()


def test_what_dead_fillers_left_goes_before_any_entry(small: Path) -> None:
    with Store(small) as store:
        put(store, "a", size=MIB)
        with store.try_fill(key_of("b")) as fill:  # type: ignore[union-attr]
            (fill.folder / "part").write_bytes(bytes(2 * MIB))
        old = put(store, "a", content_of("again", MIB))
        assert old.path.exists()
    with Store(small, max_bytes=2 * MIB) as store:
        assert store.make_room(MIB) == 0
        assert names_of(store) == {"a"}


def test_room_that_was_promised_is_not_promised_again(tmp_path: Path) -> None:
    with Store(tmp_path, max_bytes=5000) as one, Store(tmp_path, max_bytes=5000) as other:
        put(one, "old")
        first, second = one.try_fill(key_of("a")), other.try_fill(key_of("b"))
        assert first is not None
        assert second is not None
        first.reserve(3000)
        with pytest.raises(CacheFullError, match="2001 bytes needed, 2000 can be freed"):
            second.reserve(2001)
        assert names_of(one) == {"old"}
        second.reserve(2000)
        assert names_of(one) == set()
        first.release()
        second.reserve(5000)
        second.release()


def test_several_who_need_room_take_no_more_than_is_needed(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for name in range(40):
            put(store, name)
    stores = [Store(tmp_path, max_bytes=40_000) for _ in range(6)]
    fills = [store.try_fill(key_of(f"new {n}")) for n, store in enumerate(stores)]
    threads = [threading.Thread(target=fill.reserve, args=(1000,)) for fill in fills if fill]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names_of(stores[0])) == 34
    for fill, store in zip(fills, stores, strict=True):
        assert fill is not None
        fill.release()
        store.close()


def test_what_is_handed_out_while_room_is_made_stays(tmp_path: Path) -> None:
    """Many hits beside many evictions: what was just returned is there to be loaded."""
    lost: list[str] = []
    stop = threading.Event()

    def load(store: Store) -> None:
        while not stop.is_set():
            entry = store.lookup(key_of("hot"))
            try:
                if entry is None or entry.path.read_bytes() != content_of("hot"):
                    lost.append("missed")
            except FileNotFoundError:
                lost.append("dead path")

    with Store(tmp_path, max_bytes=10_000) as store, Store(tmp_path) as server:
        put(store, "hot")
        server.lookup(key_of("hot"))
        thread = threading.Thread(target=load, args=(server,))
        thread.start()
        for number in range(60):
            put(store, number)
        stop.set()
        thread.join()
    assert lost == []


def test_a_cache_on_a_full_disk_still_hits_and_makes_its_own_room(small: Path) -> None:
    with Store(small) as store:
        for name in range(3):
            put(store, name, size=MIB)
    fill_up(small.parent)
    with Store(small) as store:
        entry = store.lookup(key_of("2"))
        assert entry is not None
        assert entry.path.read_bytes() == content_of("2", MIB)
        with store.lease(key_of("2")) as lease:
            assert lease.entry is not None
            assert names_of(store) == {"1", "2"}
        fill = store.try_fill(key_of("new"))
        assert fill is not None
        fill.reserve(MIB + MIB // 2)
        (fill.folder / NAME).write_bytes(bytes(MIB))
        fill.publish(fill.folder / NAME, About("https://host/new"))
        assert "new" in names_of(store)


def test_a_writer_that_meets_a_full_disk_gets_one_of_our_errors(small: Path) -> None:
    with Store(small) as store:
        fill = store.try_fill(key_of("a"))
        assert fill is not None
        fill_up(small.parent)
        (fill.folder / NAME).touch()
        with pytest.raises(CacheError) as caught:
            fill.publish(fill.folder / NAME, About("x" * 10_000))
        assert "no space left" in str(caught.value)
        assert store.lookup(key_of("a")) is None
        assert (fill.folder / NAME).exists()
        fill.release()


def test_who_waits_for_another_evictor_waits_in_slices(tmp_path: Path) -> None:
    code = """
import fcntl
store = Store(sys.argv[1])
file = open(Path(sys.argv[1]) / "evictor", "r+")
fcntl.flock(file, fcntl.LOCK_EX)
say("alone")
input()
"""
    Store(tmp_path).close()
    with child(code, tmp_path) as other, Store(tmp_path, max_bytes=0) as store:
        said(other)
        thread = threading.Thread(target=store.make_room, args=(0,))
        thread.start()
        # Other keys, and hits, wait for nobody.
        put(Store(tmp_path), "a")
        assert store.lookup(key_of("a")) is not None
        assert thread.is_alive()
        other.kill()
        eventually(lambda: not thread.is_alive())
        assert names_of(store) == set()
