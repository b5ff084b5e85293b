"""What is leased stays, for as long as its process lives, however that is to be seen."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from pgetpy.cache.holders import ABANDONED_SECONDS, EXPIRY_SECONDS, LeaseFile, LivenessMonitor
from pgetpy.cache.layout import CachePaths
from pgetpy.cache.store import Store
from pgetpy.errors import CacheFullError
from tests.support.entries import child, content_of, key_of, names_of, put, said, tell
from tests.support.processes import missing
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("forked_runs")

LOCKS = pytest.mark.parametrize("locks", [True, False], ids=["locks", "no locks"])
_LESSEE = """
store = Store(sys.argv[1], locks=sys.argv[2] == "True")
lease = store.lease(key_of("a"))
say(lease.entry.path)
input()
lease.release()
say("released")
input()
"""


def evict_all(root: Path, *, locks: bool) -> set[str]:
    """Make a cache as small as it can be, and return what stayed."""
    store = Store(root, max_bytes=0, locks=locks)
    try:
        store.make_room(0)
    except CacheFullError:
        # What may leave does not leave for nothing: remove it one by one.
        for listing in store.entries():
            if not listing.leased_by and not listing.pinned:
                store.remove(listing.record.key)
    left = names_of(store)
    store.close()
    return left


@LOCKS
def test_what_another_process_has_leased_stays_until_that_gives_it_back(
    tmp_path: Path, locks: bool
) -> None:
    with Store(tmp_path, locks=locks) as store:
        put(store, "a")
        put(store, "b")
    with child(_LESSEE, tmp_path, locks) as other:
        path = Path(said(other))
        assert evict_all(tmp_path, locks=locks) == {"a"}
        assert path.read_bytes() == content_of("a")
        tell(other)
        assert said(other) == "released"
        assert evict_all(tmp_path, locks=locks) == set()


@LOCKS
def test_the_lease_of_a_killed_process_ends_with_it(tmp_path: Path, locks: bool) -> None:
    with Store(tmp_path, locks=locks) as store:
        put(store, "a")
    with child(_LESSEE, tmp_path, locks) as other:
        said(other)
        other.kill()
        other.wait()
    assert evict_all(tmp_path, locks=locks) == set()
    assert not os.listdir(tmp_path / "holders")


@LOCKS
def test_a_process_that_is_stopped_keeps_its_leases(tmp_path: Path, locks: bool) -> None:
    with Store(tmp_path, locks=locks) as store:
        put(store, "a")
    with child(_LESSEE, tmp_path, locks) as other:
        said(other)
        os.kill(other.pid, signal.SIGSTOP)
        assert evict_all(tmp_path, locks=locks) == {"a"}


@LOCKS
def test_leases_of_one_key_are_counted(tmp_path: Path, locks: bool) -> None:
    with Store(tmp_path, locks=locks) as store:
        put(store, "a")
        first, second = store.lease(key_of("a")), store.lease(key_of("a"))
        first.release()
        first.release()
        assert evict_all(tmp_path, locks=locks) == {"a"}
        second.release()
        assert evict_all(tmp_path, locks=locks) == set()


def test_a_lease_holds_what_is_published_later(tmp_path: Path) -> None:
    with Store(tmp_path) as store, store.lease(key_of("a")) as lease:
        assert lease.entry is None
        put(store, "a")
        assert evict_all(tmp_path, locks=True) == {"a"}


def test_a_lease_that_nobody_has_any_more_ends(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        put(store, "a")
        lease = store.lease(key_of("a"))
        assert evict_all(tmp_path, locks=True) == {"a"}
        del lease
        assert evict_all(tmp_path, locks=True) == set()


def test_there_may_be_many_leases_and_their_places_are_used_again(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for _ in range(3):
            leases = [store.lease(key_of(i)) for i in range(300)]
            [holder] = (tmp_path / "holders").iterdir()
            size = holder.stat().st_size
            put(store, 299)
            assert evict_all(tmp_path, locks=True) == {"299"}
            for lease in leases:
                lease.release()
            assert evict_all(tmp_path, locks=True) == set()
        assert holder.stat().st_size == size


def test_a_pin_holds_beyond_the_process_and_before_the_entry(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.pin(key_of("a"))
        put(store, "a")
    assert evict_all(tmp_path, locks=True) == {"a"}
    assert Store(tmp_path).unpin(key_of("a"))
    assert evict_all(tmp_path, locks=True) == set()


def test_pins_of_several_owners_do_not_affect_each_other(tmp_path: Path) -> None:
    key = key_of("a")
    with Store(tmp_path) as store:
        put(store, "a")
        store.pin(key)
        store.pin(key, "0a")
        store.pin(key, "0b")
        assert store.pins_by_owner() == {"": {key}, "0a": {key}, "0b": {key}}
        assert store.unpin(key)
        assert not store.unpin(key)
        assert store.unpin(key, "0a")
    assert evict_all(tmp_path, locks=True) == {"a"}
    assert Store(tmp_path).unpin(key, "0b")
    assert evict_all(tmp_path, locks=True) == set()


@LOCKS
def test_the_copy_of_a_process_holds_nothing_and_lets_go_of_nothing(
    tmp_path: Path, locks: bool
) -> None:
    code = """
store = Store(sys.argv[1], locks=sys.argv[2] == "True")
lease = store.lease(key_of("a"))
fill = store.try_fill(key_of("b"))
copy = os.fork()
if copy == 0:
    lease.release()
    fill.release()
    store.close()
    own = store.lease(key_of("c"))
    say("copied")
    input()
    os._exit(0)
input()
"""
    with Store(tmp_path, locks=locks) as store:
        for name in "abc":
            put(store, name)
        with child(code, tmp_path, locks) as other:
            assert said(other) == "copied"
            assert evict_all(tmp_path, locks=locks) == {"a", "c"}
            assert store.try_fill(key_of("b")) is None
            other.kill()
            other.wait()
            # The copy lives on, and keeps up nothing that was its parent's.
            assert evict_all(tmp_path, locks=locks) == {"c"}
            again = store.try_fill(key_of("b"))
            assert again is not None
            again.release()


def test_a_lease_holds_in_a_pid_namespace_of_its_own(tmp_path: Path) -> None:
    """Containers share a volume, and each has a process 1."""
    if shutil.which("unshare") is None or os.geteuid() != 0:
        missing("there is no unshare")
    apart = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    for locks in (True, False):
        with Store(tmp_path, locks=locks) as store:
            put(store, "a")
        with child(_LESSEE, tmp_path, locks, prefix=apart) as other:
            if not said(other):
                missing("there can be no pid namespace")
            assert evict_all(tmp_path, locks=locks) == {"a"}


class Foreign:
    """The holder of a process on another machine, as it is seen on a shared file system."""

    def __init__(self, root: Path) -> None:
        self.layout = CachePaths(root)
        self.layout.open()
        holder = LeaseFile(self.layout, "f" * 16)
        holder.lease(key_of("a"))
        self.path = root / "holders" / ("f" * 16)
        data = self.path.read_bytes()
        holder.close()
        about = json.loads(data[:1024])
        about.update(host="elsewhere", boot="another", pid=1)
        self.path.write_bytes(json.dumps(about).encode().ljust(1024) + data[1024:])
        self.now = 1000.0
        self.watch = LivenessMonitor(self.layout, locks=True, monotonic=lambda: self.now)

    def alive(self) -> bool:
        return self.watch.alive("f" * 16)

    def beat(self, *, at: float) -> None:
        os.utime(self.path, (at, at))


def test_a_process_elsewhere_lives_so_long_as_its_heart_is_seen_to_beat(tmp_path: Path) -> None:
    foreign = Foreign(tmp_path)
    assert foreign.alive()
    assert list(foreign.watch.leased()) == [key_of("a")]
    for beat in range(10):
        foreign.now += EXPIRY_SECONDS - 1
        foreign.beat(at=time.time() - 100 + beat)
        assert foreign.alive()
    foreign.now += EXPIRY_SECONDS - 1
    assert foreign.alive()
    foreign.now += 2
    assert not foreign.alive()
    assert foreign.watch.leased() == {}


def test_clocks_that_disagree_kill_nobody_and_let_nobody_live_for_ever(tmp_path: Path) -> None:
    foreign = Foreign(tmp_path)
    foreign.beat(at=time.time() + 10 * ABANDONED_SECONDS)
    assert foreign.alive()
    foreign.now += EXPIRY_SECONDS + 1
    assert not foreign.alive()
    foreign.beat(at=time.time() - EXPIRY_SECONDS * 2)
    assert foreign.alive()


def test_who_has_not_beaten_for_long_needs_no_watching(tmp_path: Path) -> None:
    foreign = Foreign(tmp_path)
    foreign.beat(at=time.time() - ABANDONED_SECONDS - 10)
    assert not foreign.alive()


def test_a_heart_beats_while_there_is_something_to_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgetpy.cache.holders.BEAT_SECONDS", 0.01)
    with Store(tmp_path) as store:
        put(store, "a")
        [holder] = (tmp_path / "holders").iterdir()
        os.utime(holder, (1, 1))
        eventually(lambda: holder.stat().st_mtime > 1)
        holder.unlink()
        lease = store.lease(key_of("a"))
        eventually(holder.exists)
        assert evict_all(tmp_path, locks=True) == {"a"}
        lease.release()
    assert not holder.exists()
