"""Processes side by side on one cache that is too small for them, some killed at any moment."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from pgetpy.cache.store import Store
from tests.support.entries import Child, child, content_of, disk_size, key_of, left_over, said

pytestmark = pytest.mark.usefixtures("forked_runs")

SIZE = 20_000
NAMES = 12
ROOM = 6 * SIZE

# What a process does until it is killed: it takes leases of random entries, fetches those that are
# not there, and looks whether what it holds stays and is right. It says what it finds wrong.
_WORKER = f"""
import itertools, random

SIZE, NAMES, ROOM = {SIZE}, {NAMES}, {ROOM}
from pgetpy.errors import CacheFullError
root, seed, locks = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "locks"
stop = Path(sys.argv[4])
chance = random.Random(seed)
store = Store(root, max_bytes=ROOM, locks=locks)
hits = fills = 0

def fetched(name):
    global fills
    fill = store.try_fill(key_of(name))
    if fill is None:
        time.sleep(0.005)
        return
    with fill:
        if fill.entry is not None and chance.random() < 0.9:
            return
        try:
            fill.reserve(SIZE)
        except CacheFullError:
            return
        data = content_of(name, SIZE)
        with open(fill.folder / "part", "wb") as file:
            for at in range(0, SIZE, 5000):
                file.write(data[at:at + 5000])
                file.flush()
                fill.progress(at, SIZE)
        digest = sha256(data) if chance.random() < 0.5 else ""
        fill.publish(fill.folder / "part", About("https://host/" + name), name=NAME, digest=digest)
        fills += 1

say("ready")
for act in itertools.count():
    if act % 20 == 0:
        say("did", hits, fills)
        # Also a machine that is slow lets each of them do something.
        if act and stop.exists():
            break
    name = str(chance.randrange(NAMES))
    if chance.random() < 0.3:
        entry = store.lookup(key_of(name))
        if entry is not None:
            try:
                if entry.path.read_bytes() != content_of(name, SIZE):
                    say("wrong bytes", name)
            except FileNotFoundError:
                pass  # plain lookups may lose it
    elif chance.random() < 0.05:
        store.settle(key_of(name), fsync=False)
    elif chance.random() < 0.05:
        store.sweep()
    else:
        with store.lease(key_of(name)):
            entry = store.lookup(key_of(name))
            if entry is None:
                fetched(name)
                entry = store.lookup(key_of(name))
            for _ in range(3 if entry else 0):
                hits += 1
                try:
                    if entry.path.read_bytes() != content_of(name, SIZE):
                        say("wrong bytes under a lease", name)
                except FileNotFoundError:
                    say("gone under a lease", name)
                time.sleep(chance.random() * 0.01)
"""


def run_side_by_side(root: Path, kills: int, *, locks: str, seed: int) -> tuple[int, int]:
    """Let four processes at it, killed and begun anew; return how often they hit and filled."""
    chance = random.Random(seed)
    stories: list[list[str]] = []
    cache, stop = root / "cache", root / "stop"
    Store(cache, locks=locks == "locks").close()

    with ExitStack() as stack:

        def begin() -> Child:
            work = child(_WORKER, cache, chance.random(), locks, stop)
            return stack.enter_context(work)

        workers = [begin() for _ in range(4)]
        for worker in workers:
            assert said(worker) == "ready"
        for _ in range(kills):
            time.sleep(chance.random() * 0.8)
            victim = chance.randrange(len(workers))
            os.kill(workers[victim].pid, signal.SIGKILL)
            stories.append(_story_of(workers[victim]))
            workers[victim] = begin()
        stop.touch()
        stories += [_story_of(worker) for worker in workers]
    wrong = [line for story in stories for line in story if not line.startswith(("did", "ready"))]
    assert wrong == []
    check_what_is_left(cache, locks=locks)
    last = [[line for line in story if line.startswith("did")][-1:] for story in stories]
    numbers = [line.split() for lines in last for line in lines]
    return sum(int(line[1]) for line in numbers), sum(int(line[2]) for line in numbers)


def _story_of(worker: Child) -> list[str]:
    """What a worker that is dead or about to end has said."""
    lines = []
    while line := said(worker):
        lines.append(line)
    assert worker.wait(30) in (0, -signal.SIGKILL)
    return lines


def check_what_is_left(root: Path, *, locks: str) -> None:
    store = Store(root, max_bytes=ROOM, locks=locks == "locks")
    for name in map(str, range(NAMES)):
        entry = store.peek(key_of(name))
        assert entry is None or entry.path.read_bytes() == content_of(name, SIZE)
    store.sweep(partial_seconds=-1)
    store.make_room(0)
    store.close()
    assert left_over(root) == []
    assert disk_size(root) <= ROOM


@pytest.mark.parametrize("locks", ["locks", "no locks"])
def test_nothing_is_wrong_or_lost_under_a_lease_while_some_are_killed(
    tmp_path: Path, locks: str
) -> None:
    _, fills = run_side_by_side(tmp_path, 3, locks=locks, seed=1)
    assert fills


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("locks", ["locks", "no locks"])
def test_nothing_is_wrong_or_lost_under_a_lease_for_minutes(
    tmp_path: Path, locks: str, seed: int
) -> None:
    hits, fills = run_side_by_side(tmp_path, 120, locks=locks, seed=seed)
    assert hits > fills > 0
