"""The event loop: a thread that runs one, and what waits for tasks without losing any of them.

The thread is for callers that have no loop or may not block theirs:

    caller's thread   run_blocking ---- waits in slices of 50 ms ---- result, or an exception
                           |                                              ^        |
    engine thread          '-> task on the loop --------------------------'   cancel()

An exception injected into the caller (Cog's cancellation, Ctrl-C) is raised only when that thread
runs bytecode again, not while it waits in C. Hence the slices. The task is cancelled then, and has
a moment to close its journal, at the latest when the interpreter ends.

The second half is for tasks. asyncio's own helpers return while something that they started may
still run. Here nothing does: after a cancellation all tasks and threads that write to a file have
ended before the call returns, so the file can be renamed, or used by the next run.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import functools
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from pgetpy.core.lazy_dataclass import dataclass
from pgetpy.system import polling
from pgetpy.system.forks import call_in_children
from pgetpy.system.threads import start_thread

P = ParamSpec("P")
T = TypeVar("T")
# How long the interpreter's end waits for transfers that have been cancelled.
_GRACE = 1.0


class EngineThread:
    """The thread and its loop. A process has one at most, and a forked child begins without."""

    _lock = threading.Lock()
    _current: EngineThread | None = None

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._running: set[asyncio.Task[Any]] = set()
        start_thread(self._serve, "pgetpy-engine")
        atexit.register(self._end)

    @classmethod
    def get(cls) -> EngineThread:
        """Return this process's thread."""
        with cls._lock:
            if cls._current is None:
                cls._current = cls()
            return cls._current

    @classmethod
    def forget(cls) -> None:
        """Begin without a thread: a forked child has not got its parent's."""
        if cls._current is not None:
            atexit.unregister(cls._current._end)
        cls._lock = threading.Lock()
        cls._current = None

    def start(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run `work` on the loop."""
        return asyncio.run_coroutine_threadsafe(self._track(work), self._loop)

    async def _track(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            return await work
        finally:
            self._running.discard(task)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        while True:
            # A progress callback may raise these, and asyncio lets them end the loop. Its caller
            # gets them from the task, and the loop goes on for other transfers.
            with contextlib.suppress(KeyboardInterrupt, SystemExit):
                self._loop.run_forever()

    def _end(self) -> None:
        """Cancel what still runs and wait a moment for it."""
        if self._running:
            ending = asyncio.run_coroutine_threadsafe(self._cancel_all(), self._loop)
            # A second Ctrl-C ends the waiting, without a traceback.
            with contextlib.suppress(BaseException):
                ending.result(_GRACE)

    async def _cancel_all(self) -> None:
        running = list(self._running)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)


call_in_children(EngineThread.forget)


def begin(work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
    """Run `work` on the engine thread; cancelling the future cancels it."""
    try:
        thread = EngineThread.get()
    except BaseException:
        work.close()  # or Python warns that it was never awaited
        raise
    return thread.start(work)


def done(result: T) -> concurrent.futures.Future[T]:
    """Return a future for work that is done already."""
    future: concurrent.futures.Future[T] = concurrent.futures.Future()
    future.set_result(result)
    return future


def run_blocking(work: Coroutine[Any, Any, T], check: Callable[[], None] | None = None) -> T:
    """Run `work` on the engine thread and return what it returns, or raise what it raises.

    Args:
        work: the coroutine.
        check: is called every `polling.SLICE`. If it raises, `work` is cancelled, and has ended
            before that is raised, so the files that it wrote to can be removed.
    """
    ended = threading.Event()
    future = begin(work if check is None else _set_at_end(work, ended))
    try:
        while True:
            try:
                return future.result(timeout=polling.SLICE)
            except concurrent.futures.TimeoutError:
                # It may have ended since, or with a TimeoutError of its own.
                if future.done():
                    return future.result()
                if check is not None:
                    check()
    finally:
        # Does nothing if it is done. It is not if an exception struck this thread.
        if future.cancel() and check is not None:
            # The future counts as done at once, while the task still closes its files.
            ended.wait(_GRACE)


async def _set_at_end(work: Coroutine[Any, Any, T], ended: threading.Event) -> T:
    """Return what `work` returns; set `ended` when it has ended, however it does."""
    try:
        return await work
    finally:
        ended.set()


def plain(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Return coroutine function `NAME_async` as the plain function `NAME`, for any thread."""
    name = function.__name__.removesuffix("_async")

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        # A caller's generator may block, or call us: it must not run on the engine thread.
        given: Any = [_read(value) for value in args]
        named: Any = {key: _read(value) for key, value in kwargs.items()}
        return run_blocking(function(*given, **named))

    call.__name__, call.__qualname__ = name, name
    call.__doc__ = f"{function.__doc__}\n    `{name}` waits, `{name}_async` is awaited.\n    "
    return call


def _read(value: object) -> object:
    lazy = isinstance(value, Iterable) and not isinstance(value, (str, Sequence, Mapping))
    return list(value) if lazy else value  # type: ignore[call-overload]


async def in_engine(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on the engine thread for a caller on another loop."""
    return await asyncio.wrap_future(begin(work))


# ------------------------------------------------------------------------------- waiting for tasks


async def wait_uncancelled(work: asyncio.Future[T], stop: Callable[[], None]) -> T:
    """Return the result of `work`, which a thread does and which may write to a sink.

    A thread cannot be cancelled. If this call is, it calls `stop`, and still waits until the thread
    has ended, however often it is cancelled: afterwards nothing may be written.
    """
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        stop()
        while not work.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # marks it as retrieved, or asyncio logs it
        raise


async def gather_or_cancel(tasks: Sequence[asyncio.Future[T]]) -> list[T]:
    """Return what `tasks` return.

    If one fails, or this call is cancelled, the others are cancelled, and have ended before it
    returns. asyncio.gather leaves them running.
    """
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def wait_for(
    seconds: float, work: Coroutine[Any, Any, T], undo: Callable[[T], None] | None = None
) -> T:
    """Return what `work` returns, if that takes no longer than `seconds`.

    Unlike asyncio.wait_for before Python 3.12, this never swallows a cancellation that comes
    together with the result.

    Args:
        seconds: how long to wait.
        work: is cancelled after that.
        undo: gets a result that came too late, a connection say, to close it.

    Raises:
        asyncio.TimeoutError: it took longer than `seconds`.
    """
    task = asyncio.ensure_future(work)
    in_time: set[asyncio.Future[T]] = set()
    try:
        in_time, _ = await asyncio.wait([task], timeout=seconds)
    finally:
        if not in_time:
            task.add_done_callback(lambda late: _ended_late(late, undo))
            task.cancel()
            await asyncio.wait([task])
    if not in_time:
        raise asyncio.TimeoutError
    return task.result()


def _ended_late(late: asyncio.Future[T], undo: Callable[[T], None] | None) -> None:
    if not late.cancelled() and late.exception() is None and undo is not None:
        undo(late.result())


async def gather_limited(works: Sequence[Callable[[], Awaitable[T]]], most: int) -> list[T]:
    """Do `works`, at most `most` at a time; failures are as in `gather_or_cancel`."""
    limit = asyncio.Semaphore(most)

    async def done(work: Callable[[], Awaitable[T]]) -> T:
        async with limit:
            return await work()

    return await gather_or_cancel([asyncio.ensure_future(done(work)) for work in works])


@dataclass(eq=False)
class Sleeper:
    """Lets a task sleep until it is roused, or for a while. Used on `loop` alone."""

    loop: asyncio.AbstractEventLoop
    _sleep: asyncio.Future[None] | None = None
    _roused: bool = False

    async def wait(self, seconds: float) -> None:
        """Sleep until `rouse` is called, at most so long; not at all if it was since the last."""
        if self._roused:
            self._roused = False
            return
        self._sleep = self.loop.create_future()
        tick = self.loop.call_later(seconds, self.rouse)
        try:
            await self._sleep
        finally:
            tick.cancel()
            self._roused = False

    def rouse(self, _: object = None) -> None:
        """Wake the task, or have its next sleep end at once."""
        self._roused = True
        if self._sleep is not None and not self._sleep.done():
            self._sleep.set_result(None)
