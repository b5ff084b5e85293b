"""Who takes entries away looks again, when they are out of reach, whether somebody wants them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgetpy.cache.contents import Row, scan
from pgetpy.cache.holders import LivenessMonitor
from pgetpy.cache.layout import CachePaths
from pgetpy.cache.removal import Remover
from pgetpy.cache.store import Store
from tests.support.entries import content_of, key_of, left_over, put

OWNER = "e" * 16


class Evicting:
    """A cache with one entry, and an evictor who has looked at it a while ago."""

    def __init__(self, root: Path, *, locks: bool) -> None:
        self.store = Store(root, locks=locks)
        self.entry = put(self.store, "a")
        self.layout = CachePaths(root)
        self.watch = LivenessMonitor(self.layout, locks=locks)
        self.remover = Remover(self.layout, OWNER, self.watch, locks=locks)
        self.rows: list[Row] = scan(self.layout).rows
        self.uses = self.remover.uses()

    def taken(self) -> int:
        return len(self.remover.take(self.rows, self.uses))

    def mark(self) -> Path:
        """Do the first step of taking it away, as who is killed right then has done."""
        record = Path(self.layout.record(self.entry.key))
        return record.rename(self.layout.at("evicting", f"{self.entry.key}.{OWNER}"))


@pytest.fixture(params=[True, False], ids=["locks", "no locks"])
def evicting(request: pytest.FixtureRequest, tmp_path: Path) -> Evicting:
    return Evicting(tmp_path, locks=request.param)


def test_what_nobody_wants_is_taken(evicting: Evicting) -> None:
    assert evicting.taken() == 1
    assert not evicting.entry.path.exists()
    evicting.store.close()
    assert left_over(evicting.store.root) == []


def test_what_was_leased_since_stays_and_is_a_hit_again(evicting: Evicting) -> None:
    with evicting.store.lease(evicting.entry.key):
        assert evicting.taken() == 0
        assert evicting.store.peek(evicting.entry.key) == evicting.entry


def test_what_was_pinned_since_stays(evicting: Evicting) -> None:
    evicting.store.pin(evicting.entry.key)
    assert evicting.taken() == 0
    assert evicting.store.peek(evicting.entry.key) == evicting.entry


def test_what_was_handed_out_since_stays(evicting: Evicting) -> None:
    evicting.store.lookup(evicting.entry.key)
    assert evicting.taken() == 0
    assert evicting.store.peek(evicting.entry.key) == evicting.entry


def test_what_was_published_in_its_place_since_stays(evicting: Evicting) -> None:
    new = put(evicting.store, "a", b"new")
    assert evicting.taken() == 0
    assert evicting.store.peek(evicting.entry.key) == new


def test_a_lessee_who_comes_when_it_is_marked_finds_nothing_and_gets_it_when_it_is_back(
    evicting: Evicting,
) -> None:
    evicting.mark()
    with evicting.store.lease(evicting.entry.key) as lease:
        assert lease.entry is None
        assert evicting.entry.path.exists()
        evicting.remover.recover()
        assert evicting.store.lookup(evicting.entry.key) == evicting.entry


def test_who_wants_to_fill_what_a_dead_evictor_has_marked_finds_it_there(
    evicting: Evicting,
) -> None:
    evicting.mark()
    fill = evicting.store.try_fill(evicting.entry.key)
    assert fill is not None
    assert fill.entry == evicting.entry
    fill.release()


def test_who_wants_to_fill_what_a_living_evictor_has_marked_waits(tmp_path: Path) -> None:
    evicting = Evicting(tmp_path, locks=True)
    with evicting.remover.alone():
        mark = evicting.mark()
        assert evicting.store.try_fill(evicting.entry.key) is None
        evicting.remover.put_back(str(mark), evicting.entry.key)
    fill = evicting.store.try_fill(evicting.entry.key)
    assert fill is not None
    assert fill.entry == evicting.entry
    fill.release()


def test_a_mark_whose_content_is_gone_ends_as_no_entry(evicting: Evicting) -> None:
    evicting.mark()
    evicting.entry.path.unlink()
    evicting.store.sweep()
    assert evicting.store.peek(key_of("a")) is None
    assert put(evicting.store, "a").path.read_bytes() == content_of("a")


def test_a_record_that_came_back_goes_before_the_marked_one(evicting: Evicting) -> None:
    mark = evicting.mark()
    record = Path(evicting.layout.record(evicting.entry.key))
    record.write_bytes(b"newer")
    evicting.remover.put_back(str(mark), evicting.entry.key)
    assert record.read_bytes() == b"newer"
    assert not mark.exists()
