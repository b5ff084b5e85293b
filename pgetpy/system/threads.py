"""Daemon threads for blocking calls, each awaited from the event loop.

Unlike concurrent.futures' pool they never hold up the end of the interpreter: a thread stuck in a
name look-up or in a pipe that nobody reads must not turn Ctrl-C into a hang.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_IDLE_SECONDS = 20.0


class Workers:
    """As many threads as there are calls at one time; idle ones are used again, then end."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0

    def submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Run `work` in a thread; call it from the running loop, which gets the result."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self.start(lambda: _settle(work, future, loop))
        return future

    def start(self, work: Callable[[], None]) -> None:
        """Run `work`, which raises nothing, in a thread."""
        with self._lock:
            spawn = self._idle == 0
            if not spawn:
                self._idle -= 1
        self._queue.put(work)
        if spawn:
            threading.Thread(target=self._serve, name="pgetpy-worker", daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                work = self._queue.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    if self._idle == 0:
                        continue  # a call was promised to this thread just now
                    self._idle -= 1
                return
            work()
            del work
            with self._lock:
                self._idle += 1


class WorkersExecutor(concurrent.futures.Executor):
    """The threads of `workers` for libraries that take an executor."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    def submit(
        self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[T]:
        """Run `work` in a thread."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def done() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        self._workers.start(done)
        return future


def _settle(
    work: Callable[[], Any], future: asyncio.Future[Any], loop: asyncio.AbstractEventLoop
) -> None:
    try:
        deliver = partial(future.set_result, work())
    except BaseException as error:
        deliver = partial(future.set_exception, error)
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(lambda: future.done() or deliver())
