"""kill -9 at every step of what the cache does: the next one sorts out what is left."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from pgetpy.cache.store import Store
from tests.support.entries import child, content_of, key_of, left_over, put, said, tell

pytestmark = pytest.mark.usefixtures("forked_runs")

# A child kills a copy of itself at its n-th act that an audit hook sees, n counted up from 0 until
# the work is done; after each it is told what to do next. The copy does what `work` does.
_DRIVER = """
from tests.support.killing import die_at, run_copies
root, locks, what = Path(sys.argv[1]), sys.argv[2] == "locks", sys.argv[3]
stride = int(sys.argv[4])

def publish(store):
    put(store, "new", digest=sha256(content_of("new")))
def publish_twin(store):
    put(store, "twin", content_of("old"), digest=sha256(content_of("old")))
def replace(store):
    put(store, "old", content_of("old too"))
def publish_folder(store):
    with store.try_fill(key_of("folder")) as fill:
        (fill.folder / "f").mkdir()
        for i in range(3):
            (fill.folder / "f" / str(i)).write_bytes(b"x")
        fill.publish(fill.folder / "f", About("https://host/folder"))
def evict(store):
    store._bounds  # the root's own bounds do not matter
    Store(root, max_bytes=0, locks=locks).make_room(0)
def remove_folder(store):
    publish_folder(store)
    store.remove(key_of("folder"))
def settle(store):
    store.settle(key_of("old"))
    store.settle(key_of("other"))
def lease(store):
    with store.lease(key_of("old")):
        pass
    store.close()

def work(number):
    store = Store(root, locks=locks)
    die_at(number)
    globals()[what](store)

run_copies(work, stride, first=stride - 1)
"""
_WORKS = (
    "publish",
    "publish_twin",
    "replace",
    "publish_folder",
    "evict",
    "remove_folder",
    "settle",
    "lease",
)


def begun(root: Path, *, locks: bool) -> None:
    store = Store(root, locks=locks)
    put(store, "old")
    put(store, "other", content_of("old"))
    store.close()


def check(root: Path, *, locks: bool) -> None:
    """What is there is right, and a sweep leaves nothing else."""
    store = Store(root, locks=locks)
    for name in ("old", "other", "new", "twin", "folder"):
        entry = store.peek(key_of(name))
        if entry is None:
            continue
        if name == "folder":
            assert len(list(entry.path.iterdir())) == 3
        else:
            right = [content_of(name), content_of("old")]
            right += [content_of("old too")] if name == "old" else []
            assert entry.path.read_bytes() in right
    store.sweep(partial_seconds=-1)
    store.close()
    assert left_over(root) == []


def kill_at_each_step(root: Path, work: str, locks: str, *, stride: int) -> int:
    """Kill `work` at every `stride`th step and look what is left; return how often."""
    kills = 0
    with child(_DRIVER, root, locks, work, stride) as driver:
        while True:
            begun(root, locks=locks == "locks")
            tell(driver)
            status = json.loads(said(driver))
            assert status in (0, signal.SIGKILL)
            check(root, locks=locks == "locks")
            if status == 0:
                return kills
            kills += 1


@pytest.mark.parametrize("work", _WORKS)
@pytest.mark.parametrize("locks", ["locks", "no locks"])
def test_a_kill_at_some_steps_leaves_what_the_next_run_sorts_out(
    tmp_path: Path, work: str, locks: str
) -> None:
    assert kill_at_each_step(tmp_path, work, locks, stride=7) > 0


@pytest.mark.soak
@pytest.mark.parametrize("work", _WORKS)
@pytest.mark.parametrize("locks", ["locks", "no locks"])
def test_a_kill_at_any_step_leaves_what_the_next_run_sorts_out(
    tmp_path: Path, work: str, locks: str
) -> None:
    assert kill_at_each_step(tmp_path, work, locks, stride=1) > 10
