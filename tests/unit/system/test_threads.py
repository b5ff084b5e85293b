"""One bounded set of threads, and fewer where the system lets no more be started."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from pgetpy.errors import ThreadLimitError
from pgetpy.system.threads import Workers, start_thread
from tests.support.waiting import eventually


class Few:
    """Lets `left` threads be started and refuses all others, as the system does."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.running = 0
        self._own = threading.Thread.start

    def start(self, thread: threading.Thread) -> None:
        if not self.left:
            raise RuntimeError("can't start new thread")
        self.left -= 1
        self._own(thread)


def allow(monkeypatch: pytest.MonkeyPatch, count: int) -> Few:
    few = Few(count)
    # A function, which becomes a method of threads.
    monkeypatch.setattr(threading.Thread, "start", lambda thread: few.start(thread))  # noqa: PLW0108
    return few


class Blocked:
    """Work that blocks until it is let go; how much of it runs at a time is counted."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.running = self.most = self.done = 0
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        assert self.gate.wait(30)
        with self._lock:
            self.running -= 1
            self.done += 1


@pytest.fixture
def blocked() -> Iterator[Blocked]:
    blocked = Blocked()
    yield blocked
    blocked.gate.set()


@pytest.mark.parametrize("long", [False, True])
def test_there_are_never_more_threads_than_that(blocked: Blocked, long: bool) -> None:
    workers = Workers(8)
    for _ in range(100):
        workers.start(blocked, long=long)
    expected = 6 if long else 8  # two are left to what is short
    eventually(lambda: blocked.running == expected)
    blocked.gate.set()
    eventually(lambda: blocked.done == 100)
    assert blocked.most == expected


def test_what_takes_long_leaves_a_thread_to_what_is_short(blocked: Blocked) -> None:
    workers = Workers(2)
    for _ in range(5):
        workers.start(blocked, long=True)
    short = threading.Event()
    workers.start(short.set)
    assert short.wait(30)


def test_the_next_uses_the_thread_of_the_one_before() -> None:
    async def work() -> set[int]:
        workers = Workers()
        return {await workers.submit(threading.get_ident) for _ in range(100)}

    # The one before may not have come back for more when it has delivered.
    assert len(asyncio.run(work())) <= 3


def test_where_few_can_be_had_they_do_all_the_work(
    monkeypatch: pytest.MonkeyPatch, blocked: Blocked
) -> None:
    workers = Workers(50)
    allow(monkeypatch, 3)
    for at in range(40):
        workers.start(blocked, long=at % 2 == 0)
    eventually(lambda: blocked.running == 3)
    blocked.gate.set()
    eventually(lambda: blocked.done == 40)


def test_where_none_can_be_had_the_caller_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers()
    allow(monkeypatch, 0)

    async def work() -> list[object]:
        caller = threading.get_ident()
        assert await workers.submit(threading.get_ident) == caller
        with pytest.raises(ValueError, match="as it was"):
            await workers.submit(lambda: int("as it was"))
        return [workers.submit_now(lambda: 1) for _ in range(3)]

    assert asyncio.run(work()) == [None] * 3


def test_who_has_another_way_is_told_that_no_thread_is_free(
    monkeypatch: pytest.MonkeyPatch, blocked: Blocked
) -> None:
    workers = Workers()
    allow(monkeypatch, 3)

    async def work() -> int:
        begun = [workers.submit_now(blocked) for _ in range(10)]
        # Before what is short would have none.
        await workers.submit(lambda: None)
        blocked.gate.set()
        waiting = [each for each in begun if each is not None]
        await asyncio.gather(*waiting)
        return len(waiting)

    assert 1 <= asyncio.run(work()) <= 3


def test_threads_that_may_be_started_again_are(
    monkeypatch: pytest.MonkeyPatch, blocked: Blocked
) -> None:
    monkeypatch.setattr("pgetpy.system.threads._ASK_AGAIN_SECONDS", 0.0)
    workers = Workers(8)
    few = allow(monkeypatch, 1)
    for _ in range(4):
        workers.start(blocked)
    eventually(lambda: blocked.running == 1)
    few.left = 100
    workers.start(blocked)
    workers.start(blocked)
    eventually(lambda: blocked.running == 3)


def test_an_idle_thread_makes_room_for_one_that_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    few = allow(monkeypatch, 1)

    class Shedding(Workers):
        def shed(self) -> None:
            before = threading.active_count()
            super().shed()
            eventually(lambda: threading.active_count() < before)
            few.left = 1

    workers = Shedding()
    ran = threading.Event()
    workers.start(ran.set)
    assert ran.wait(30)
    done = threading.Event()
    start_thread(done.set, "needed", workers=workers).join(30)
    assert done.is_set()


def test_a_thread_that_cannot_be_had_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch, 0)
    with pytest.raises(ThreadLimitError, match=r"cannot start a thread.*ulimit -u"):
        start_thread(print, "needed")
