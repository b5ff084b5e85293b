"""Daemon threads for blocking calls, each awaited from the event loop.

Unlike concurrent.futures' pool they never hold up the end of the interpreter: a thread stuck in a
name look-up or in a pipe that nobody reads must not turn Ctrl-C into a hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
_IDLE_SECONDS = 20.0
_Work = tuple[Callable[[], Any], "asyncio.Future[Any]", asyncio.AbstractEventLoop]


class Workers:
    """As many threads as there are calls at one time; idle ones are used again, then end."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0

    def submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Run `work` in a thread; call it from the running loop, which gets the result."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        with self._lock:
            spawn = self._idle == 0
            if not spawn:
                self._idle -= 1
        self._queue.put((work, future, loop))
        if spawn:
            threading.Thread(target=self._serve, name="pgetpy-worker", daemon=True).start()
        return future

    def _serve(self) -> None:
        while True:
            try:
                work, future, loop = self._queue.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    if self._idle == 0:
                        continue  # a call was promised to this thread just now
                    self._idle -= 1
                return
            _settle(work, future, loop)
            del work, future, loop
            with self._lock:
                self._idle += 1


def _settle(
    work: Callable[[], Any], future: asyncio.Future[Any], loop: asyncio.AbstractEventLoop
) -> None:
    result: Any = None
    error: BaseException | None = None
    try:
        result = work()
    except BaseException as raised:
        error = raised
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(_deliver, future, result, error)


def _deliver(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
