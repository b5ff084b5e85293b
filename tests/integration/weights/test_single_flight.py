"""One download for all who ask for one key, and somebody to take over when its caller is gone."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pgetpy import WeightsDownloadCache
from pgetpy.core.report.events import Event, Progressed, Waiting
from pgetpy.errors import CacheError, HttpStatusError
from tests.support.children import written
from tests.support.delivery import Gate
from tests.support.entries import said, tell
from tests.support.faults import GateAfter, SilenceAfter, Status, When, midway
from tests.support.fetching import Events
from tests.support.server import Server
from tests.support.waiting import eventually
from tests.support.weights import MIB, assert_nothing_left, ensuring, opened, serve, weights

pytestmark = pytest.mark.usefixtures("forked_runs")

BIG = weights(32 * MIB, "part")
MIDDLING = weights(4 * MIB, "part")
PATH = "/lora.safetensors"
# Each object comes by one connection (concurrency=1): what is asked for a second time because a
# busy machine was slow, or it stands at a gate, says nothing about single part.


@pytest.fixture
def cache(root: Path) -> Iterator[WeightsDownloadCache]:
    with opened(root, concurrency=1) as cache:
        yield cache


class Callers:
    """Threads that each ask once."""

    def __init__(self, count: int, ask: Callable[[], Path]) -> None:
        self.paths: list[Path] = []
        self.errors: list[BaseException] = []
        self._ask = ask
        self.threads = [threading.Thread(target=self._run) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def wait(self) -> None:
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()

    def _run(self) -> None:
        try:
            self.paths.append(self._ask())
        except BaseException as error:
            self.errors.append(error)


class InjectedError(BaseException):
    """What a server raises in the thread of a prediction that is cancelled."""


def _function(thread: threading.Thread) -> str:
    """Return the name of the function that `thread` is in.

    Before Python 3.13 all threads wait for ever if garbage is collected while the frames are listed
    (https://github.com/python/cpython/issues/106883).
    """
    gc.disable()
    try:
        return sys._current_frames()[thread.ident or 0].f_code.co_name
    finally:
        gc.enable()


def inject(thread: threading.Thread) -> None:
    """Raise InjectedError in `thread`, once that waits: before, nothing may have begun."""
    eventually(lambda: _function(thread) == "wait")
    number = ctypes.c_ulong(thread.ident or 0)
    raised = ctypes.pythonapi.PyThreadState_SetAsyncExc(number, ctypes.py_object(InjectedError))
    assert raised == 1


def gated(server: Server) -> Gate:
    """Serve something of 4 MiB; the first answer stops at the gate when a part of it has come."""
    gate = Gate()
    serve(server, MIDDLING, faults=[GateAfter(MIB + 600_000, gate, when=When(request=1))])
    return gate


def test_threads_and_processes_that_ask_for_one_key_cause_one_download(
    server: Server, root: Path
) -> None:
    gate = Gate()
    url = serve(server, BIG, faults=[GateAfter(None, gate, when=When(request=1))])
    with opened(root, concurrency=1) as cache, ExitStack() as stack:
        others = [stack.enter_context(ensuring(root, url, concurrency=1)) for _ in range(8)]
        for other in others:
            assert said(other) == "ready"
        callers = Callers(32, lambda: cache.ensure(url))
        gate.wait_reached()
        gate.open()
        callers.wait()
        paths = {str(path) for path in callers.paths} | {said(other) for other in others}
    assert callers.errors == []
    assert len(callers.paths) == 32
    assert len(paths) == 1
    assert Path(paths.pop()).read_bytes() == BIG
    assert len(BIG) <= server.sent(PATH) <= 1.05 * len(BIG)


def test_when_the_one_who_fetches_is_killed_another_goes_on(server: Server, root: Path) -> None:
    gate = Gate()
    url = serve(server, BIG, faults=[GateAfter(MIB + 600_000, gate, when=When(request=1))])
    with ExitStack() as stack:
        first = stack.enter_context(ensuring(root, url, concurrency=1))
        assert said(first) == "ready"
        gate.wait_reached()
        (claimed,) = (root / "partial").iterdir()
        eventually(lambda: written(claimed / "object").size >= MIB)
        others = [stack.enter_context(ensuring(root, url, concurrency=1)) for _ in range(3)]
        with opened(root, concurrency=1) as cache:
            callers = Callers(4, lambda: cache.ensure(url))
            for other in others:
                assert said(other) == "ready"
            first.kill()
            first.wait()
            gate.open()
            callers.wait()
            assert callers.errors == []
            paths = {str(path) for path in callers.paths} | {said(other) for other in others}
        for other in others:
            tell(other)
            assert other.wait(30) == 0
    assert len(paths) == 1
    assert Path(paths.pop()).read_bytes() == BIG
    # What the first had fetched was not asked for again.
    assert server.sent(PATH) < len(BIG) + MIB // 2
    assert_nothing_left(root)


def test_different_keys_do_not_wait_for_each_other(
    server: Server, cache: WeightsDownloadCache
) -> None:
    gate = Gate()
    serve(server, MIDDLING, faults=midway(MIB, gate))
    held = Callers(1, lambda: cache.ensure(server.url(PATH)))
    gate.wait_reached()
    other = serve(server, path="/other.safetensors")
    assert cache.ensure(other).read_bytes() == weights()
    with ensuring(cache.path, other, serve(server, path="/third.safetensors")) as process:
        assert said(process) == "ready"
        assert [Path(said(process)).read_bytes() for _ in range(2)] == [weights()] * 2
    assert held.paths == []
    gate.open()
    held.wait()
    assert held.errors == []


def test_ensure_many_fetches_side_by_side(server: Server, cache: WeightsDownloadCache) -> None:
    gates = [Gate(), Gate()]
    urls = [
        serve(server, weights(seed=name), f"/{name}.safetensors", faults=[GateAfter(100, gate)])
        for name, gate in zip("ab", gates, strict=True)
    ]
    callers: list[Path] = []
    thread = threading.Thread(target=lambda: callers.extend(cache.ensure_many([*urls, urls[0]])))
    thread.start()
    for gate in gates:
        gate.wait_reached()
    for gate in gates:
        gate.open()
    thread.join(30)
    assert [path.read_bytes() for path in callers] == [weights(seed=name) for name in "aba"]
    assert len(server.requests) == 2


def test_the_first_failure_of_several_stops_the_others(
    server: Server, cache: WeightsDownloadCache
) -> None:
    gone = serve(server, path="/gone", faults=[Status(404, "no such thing")])
    stuck = serve(server, MIDDLING, faults=[SilenceAfter(600_000)])
    with pytest.raises(HttpStatusError, match="no such thing"):
        cache.ensure_many([stuck, gone])
    server.wait_until(lambda: server.open == 0)
    serve(server, MIDDLING)
    assert cache.ensure(stuck).read_bytes() == MIDDLING


def test_who_waits_is_told_how_far_it_is(server: Server, root: Path) -> None:
    gate = gated(server)
    url = server.url(PATH)
    events = Events()
    options = {"concurrency": 1}
    with opened(root, **options) as first, opened(root, progress=events, **options) as second:
        fetching = Callers(1, lambda: first.ensure(url))
        gate.wait_reached()
        waiting = Callers(1, lambda: second.ensure(url))
        eventually(lambda: any("of 4" in event.reason for event in events.of(Waiting)))
        gate.open()
        for callers in (fetching, waiting):
            callers.wait()
            assert callers.errors == []
        assert (first.cache_info().misses, second.cache_info().hits) == (1, 1)


def test_a_failure_of_the_one_who_fetches_is_not_that_of_who_waits(
    server: Server, root: Path
) -> None:
    gate = Gate()
    # It is asked for once more without a range before that is an error.
    refusal = Status(403, "not you", None, when=When(request=range(1, 3)))
    url = serve(server, faults=[refusal, GateAfter(None, gate, when=When(request=1))])
    with opened(root, concurrency=1) as cache:
        first = Callers(1, lambda: cache.ensure(url))
        gate.wait_reached()
        others = Callers(3, lambda: cache.ensure(url))
        gate.open()
        first.wait()
        others.wait()
        assert isinstance(first.errors[0], HttpStatusError)
        assert (others.errors, len(others.paths)) == ([], 3)
    assert len(server.requests) == 3


# ------------------------------------------------------------------- tasks, and cancelled ones


def test_tasks_of_a_loop_share_one_download(server: Server, cache: WeightsDownloadCache) -> None:
    url = serve(server, MIDDLING)

    async def ask() -> list[Path]:
        several = asyncio.create_task(cache.ensure_many_async([url, url]))
        one = await asyncio.gather(*(cache.ensure_async(url) for _ in range(20)))
        return [*one, *await several, await cache.ensure_async(url)]

    paths = asyncio.run(ask())
    assert len(paths) == 23
    assert {path.read_bytes() for path in paths} == {MIDDLING}
    assert server.sent(PATH) <= 1.05 * len(MIDDLING)
    # Inside a running loop the plain call works as well, and holds it up.

    async def plain() -> Path:
        return cache.ensure(url)

    assert asyncio.run(plain()) == paths[0]


def test_cancelling_one_who_waits_does_not_cancel_the_others(
    server: Server, cache: WeightsDownloadCache
) -> None:
    gate = gated(server)
    url = server.url(PATH)

    async def ask() -> list[Path]:
        fetching = asyncio.create_task(cache.ensure_async(url))
        await asyncio.to_thread(gate.wait_reached)
        waiting = [asyncio.create_task(cache.ensure_async(url)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting[1]
        gate.open()
        return [await fetching, await waiting[0], await waiting[2]]

    paths = asyncio.run(ask())
    assert [path.read_bytes() for path in paths] == [MIDDLING] * 3
    assert server.sent(PATH) < len(MIDDLING) + MIB


def test_when_the_one_who_fetches_is_cancelled_another_goes_on(server: Server, root: Path) -> None:
    gate = gated(server)
    url = server.url(PATH)
    landed = threading.Event()

    def hear(event: Event) -> None:
        if isinstance(event, Progressed) and event.done >= MIB + 600_000:
            landed.set()

    async def ask(cache: WeightsDownloadCache) -> list[Path]:
        fetching = asyncio.create_task(cache.ensure_async(url))
        await asyncio.to_thread(gate.wait_reached)
        # What is still in the sockets would be lost.
        await asyncio.to_thread(landed.wait, 30)
        waiting = [asyncio.create_task(cache.ensure_async(url)) for _ in range(3)]
        await asyncio.sleep(0)
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching
        return list(await asyncio.gather(*waiting))

    with opened(root, progress=hear, concurrency=1) as cache:
        paths = asyncio.run(ask(cache))
        assert (cache.cache_info().misses, cache.cache_info().hits) == (1, 2)
    assert [path.read_bytes() for path in paths] == [MIDDLING] * 3
    # What had come was not asked for again, but for what no note was taken of.
    assert server.sent(PATH) < len(MIDDLING) + MIB


@pytest.mark.parametrize("who", ["fetching", "waiting", "many"])
def test_an_exception_injected_into_a_caller_ends_it_and_nobody_else(
    server: Server, cache: WeightsDownloadCache, who: str
) -> None:
    gate = gated(server)
    url = server.url(PATH)
    ask = (lambda: cache.ensure_many([url])[0]) if who == "many" else (lambda: cache.ensure(url))
    first = Callers(1, ask)
    gate.wait_reached()
    others = Callers(3, lambda: cache.ensure(url))
    hit = others if who == "waiting" else first
    inject(hit.threads[0])
    hit.threads[0].join(30)
    assert not hit.threads[0].is_alive()
    assert [type(error) for error in hit.errors] == [InjectedError]
    gate.open()
    for callers in (first, others):
        callers.wait()
    assert len(first.paths) + len(others.paths) == 3
    assert {path.read_bytes() for path in others.paths} == {MIDDLING}
    assert len(first.errors) + len(others.errors) == 1
    cache.close()
    assert_nothing_left(cache.path)


def test_an_exception_injected_under_a_lease_gives_it_back(
    server: Server, cache: WeightsDownloadCache
) -> None:
    url = serve(server)
    inside = threading.Event()
    never = threading.Event()

    def hold() -> Path:
        with cache.lease(url) as path:
            inside.set()
            while not never.wait(0.01):
                pass
            return path

    caller = Callers(1, hold)
    assert inside.wait(30)
    assert cache.entries()[0].leased_by
    inject(caller.threads[0])
    caller.wait()
    assert isinstance(caller.errors[0], InjectedError)
    assert not cache.entries()[0].leased_by


def test_what_leaves_as_soon_as_it_has_come_is_fetched_again(server: Server, root: Path) -> None:
    url = serve(server)
    failures: list[BaseException] = []
    done = threading.Event()

    def ensure() -> None:
        for _ in range(300):
            try:
                cache.ensure(url)
            except CacheError:
                pass  # it was taken away in the very moment in which it was put there
            except BaseException as error:
                failures.append(error)
        done.set()

    with opened(root) as cache, opened(root) as other:
        ensuring = threading.Thread(target=ensure)
        ensuring.start()
        while not done.is_set():
            other.remove(url)
        ensuring.join(20)
    assert failures == []
