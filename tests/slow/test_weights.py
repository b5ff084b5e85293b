"""Processes that ensure and lease from a cache which is too small for them, some killed at any
moment: never a wrong byte, never a path that goes under a lease, nothing left over, no hang."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from pgetpy.sources.table import parse_reference
from tests.support.entries import Child, child, disk_size, left_over, said
from tests.support.faults import ResetAfter, When
from tests.support.server import Server
from tests.support.weights import MIB, opened, serve, tar_of, weights

NAMES = 10
SIZE = 300_000
BIG = 3 * MIB
ROOM = 12 * MIB

# What a process does until it is told to stop or killed. It says what it finds wrong.
_WORKER = f"""
import random, threading
from tests.support.weights import *
from pgetpy.errors import CacheFullError
root, stop, host, seed = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
RIGHT = {{name: weights({SIZE} if name % 3 else {BIG}, name) for name in range({NAMES})}}
cache = opened(root, max_bytes={ROOM}, retries=5)
counts = dict(ensured=0, leased=0, full=0)

def url_of(name):
    return f"{{host}}/{{name}}." + ("tar" if name % 5 == 1 else "safetensors")

def is_right(name, path, where):
    try:
        if path.read_bytes() != RIGHT[name]:
            say("wrong bytes", where, name)
    except FileNotFoundError:
        if where != "plain":
            say("gone", where, name)

def act(chance):
    name = chance.randrange({NAMES})
    what = chance.random()
    if what < 0.35:
        with cache.lease(url_of(name)) as path:
            for _ in range(3):
                is_right(name, path, "lease")
                time.sleep(chance.random() * 0.01)
        counts["leased"] += 1
    elif what < 0.85:
        is_right(name, cache.ensure(url_of(name)), "plain")
        counts["ensured"] += 1
    elif what < 0.92:
        names = chance.sample(range({NAMES}), 2)
        for each, path in zip(names, cache.ensure_many(map(url_of, names))):
            is_right(each, path, "plain")
    elif what < 0.96:
        cache.evict(chance.randrange({ROOM} // 2))
    elif what < 0.98:
        cache.sweep()
    else:
        cache.verify_all()

def work(number):
    chance = random.Random(f"{{seed}} {{number}}")
    while not stop.exists():
        try:
            act(chance)
        except CacheFullError:
            counts["full"] += 1  # others hold too much at this moment
        except BaseException as error:
            say("failed", type(error).__name__, str(error).replace(chr(10), " "))
            raise
    say("ended")

say("ready")
threads = [threading.Thread(target=work, args=[number], daemon=True) for number in range(3)]
for thread in threads:
    thread.start()
while not stop.exists():
    time.sleep(0.1)
    say("did", counts["ensured"], counts["leased"], counts["full"])
for thread in threads:
    thread.join(60)
    if thread.is_alive():
        say("hangs")
cache.close()
"""


def catalogue(server: Server, seed: int) -> list[str]:
    """Serve all names, some of them in a tar, with a fault now and then."""
    urls = []
    for name in range(NAMES):
        data = weights(SIZE if name % 3 else BIG, name)
        path = f"/{name}.{'tar' if name % 5 == 1 else 'safetensors'}"
        data = tar_of({f"{name}.safetensors": data}) if name % 5 == 1 else data
        fault = ResetAfter(150_000 + seed, when=When(request=range(7, 1 << 20, 13)))
        urls.append(serve(server, data, path, etag=f'"{name}"', faults=[fault]))
    return urls


def story_of(worker: Child) -> list[str]:
    """What a worker that is dead or about to end has said."""
    lines = list(iter(lambda: said(worker), ""))
    assert worker.wait(90) in (0, -signal.SIGKILL)
    return lines


def run_side_by_side(server: Server, root: Path, seconds: float, seed: int) -> list[list[str]]:
    """Let four processes at one cache, killed and begun anew; return what they said."""
    chance = random.Random(seed)
    cache, stop = root / "cache", root / "stop"
    stories = []
    with ExitStack() as stack:

        def begin() -> Child:
            host = server.url("")
            return stack.enter_context(child(_WORKER, cache, stop, host, chance.random()))

        workers = [begin() for _ in range(4)]
        for worker in workers:
            assert said(worker) == "ready"
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(chance.random() * 2)
            victim = chance.randrange(len(workers))
            os.kill(workers[victim].pid, signal.SIGKILL)
            stories.append(story_of(workers[victim]))
            workers[victim] = begin()
        stop.touch()
        stories += [story_of(worker) for worker in workers]
    return stories


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_cache_that_is_too_small_for_processes_that_are_killed_stays_right(
    server: Server, tmp_path: Path, seed: int
) -> None:
    urls = catalogue(server, seed)
    stories = run_side_by_side(server, tmp_path, 45, seed)
    lines = [line for story in stories for line in story]
    usual = ("did", "ready", "ended")
    assert [line for line in lines if not line.startswith(usual)] == []
    last = [[line for line in story if line.startswith("did")][-1:] for story in stories]
    ensured, leased, full = (
        sum(int(line.split()[at]) for lines in last for line in lines) for at in (1, 2, 3)
    )
    print(f"{len(stories)} processes: {ensured} ensured, {leased} leased, {full} without room")
    assert ensured > leased > 100
    root = tmp_path / "cache"
    with opened(root, max_bytes=ROOM) as cache:
        cache.sweep()
        cache.evict()
        assert disk_size(root) <= ROOM
        by_key = {parse_reference(url).key: name for name, url in enumerate(urls)}
        for listing in cache.entries():
            name = by_key[listing.record.key]
            path = cache.ensure(urls[name])
            assert path.read_bytes() == weights(SIZE if name % 3 else BIG, name)
        # What was begun and never ended is kept for a day, for those who ask for it again.
        cache._store.sweep(partial_seconds=-1)
    assert left_over(root) == []
