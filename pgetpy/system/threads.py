"""Daemon threads for blocking calls, each awaited from the event loop.

Unlike concurrent.futures' pool they never hold up the end of the interpreter: a thread stuck in a
name look-up or in a pipe without a reader must not turn Ctrl-C into a hang.

A process has one bounded set of them, whatever runs in it, with two queues:

    short   look-ups, disk calls      may use every thread
    long    bodies, hashing           at most `_most_long()` threads at a time

         threads  [ long | long | long | ... | short or idle, at least one ]
                   <------ _most_long ------>

Work that takes as long as a server likes would otherwise fill all threads, and the look-up that the
next connection needs would wait for the end of a download. With a limit of one thread the two
cannot be kept apart, and long work may take it.

The limit adapts. If the system refuses to start a thread (`ulimit -u`, the pids limit of a
container), the number that runs becomes the limit, and a second later it is tried again, since
other processes end. If no thread at all can be started, work is done by the caller at once: slower,
but it is done. Idle threads end after 20 s, or at once if `shed` asks them to.

Counts, all under `_changed`: `_threads` exist, `_busy` of them have work, the others are free.
`_waiting` is the work that could begin if it had a thread, so `_put` starts one only if more waits
than is free.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from pgetpy.errors import ThreadLimitError
from pgetpy.system.forks import call_in_children

if TYPE_CHECKING:
    import asyncio

P = ParamSpec("P")
T = TypeVar("T")
# Work may return a function to call once its thread counts as free again. It tells the loop of the
# result, and what the loop then submits finds this thread free instead of starting another one.
_Work = Callable[[], Callable[[], object] | None]
_IDLE_SECONDS = 20.0
# A container often allows a hundred processes and threads. Bodies that get no thread are moved on
# the event loop.
_MOST = 80
# How many threads are left to short work: this many, or a quarter of a low limit.
_SPARE = 4
# How long a refusal counts. Other processes of the user end, so the limit may be higher later.
_ASK_AGAIN_SECONDS = 1.0
# How often `start_thread` tries, and how far apart.
_TRIES = 10
_TRY_SECONDS = 0.02


class Workers:
    """At most `most` threads; idle ones are used again, then end.

    Work must never wait for other work that is done here: with all threads waiting, none would be
    left to do it. Work that takes as long as a server or a disk likes has to say that it is `long`.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._begin()
        call_in_children(self._begin)

    def _begin(self) -> None:
        """Begin without threads and work; also in a forked child, which has not got the threads."""
        self._changed = threading.Condition()
        self._short: deque[_Work] = deque()
        self._long: deque[_Work] = deque()
        self._limit = self._most
        self._refused_at = 0.0
        self._threads = 0
        self._busy = 0
        self._long_running = 0
        self._surplus = 0

    def submit(self, work: Callable[[], T], *, long: bool = False) -> asyncio.Future[T]:
        """Run `work` in a thread, and deliver its result to the running loop.

        If no thread can be started it has been run, in this one, when this returns.
        """
        # Commands on the cache start threads, too, and run no event loop.
        import asyncio

        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._put(lambda: _run(work, future, loop), long=long)
        return future

    def submit_now(self, work: Callable[[], T]) -> asyncio.Future[T] | None:
        """Run long `work` if it can begin at once, else return None.

        Two threads must be free: one for it, and one for the next short work. A caller that gets
        None moves the body on the event loop.
        """
        import asyncio

        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        with self._changed:
            if not (self._may_run_long(len(self._long)) and self._two_free()):
                return None
            self._long.append(lambda: _run(work, future, loop))
            self._changed.notify()
        return future

    def start(self, work: Callable[[], object], *, long: bool = False) -> None:
        """Run `work`, which raises nothing, in a thread."""

        def run() -> None:
            work()

        self._put(run, long=long)

    def _put(self, work: _Work, *, long: bool) -> None:
        with self._changed:
            (self._long if long else self._short).append(work)
            if self._waiting() <= self._free or self._start_thread() or self._threads:
                self._changed.notify()
                return
            alone = [*self._short, *self._long]
            self._short.clear()
            self._long.clear()
        for each in alone:
            if (tell := each()) is not None:
                tell()

    def shed(self) -> None:
        """Have idle threads end, because another part needs a thread of its own."""
        with self._changed:
            self._surplus = max(0, self._free - self._waiting())
            self._changed.notify_all()

    # ---------------------------------------------------------- with the lock held from here on

    @property
    def _free(self) -> int:
        """How many threads have nothing to do."""
        return self._threads - self._busy

    def _two_free(self) -> bool:
        """Whether two more pieces of work would begin now; starts threads for them if need be."""
        while self._free - self._waiting() < 2:
            if not self._start_thread():
                return False
        return True

    def _waiting(self) -> int:
        """How many pieces of work could begin if there were threads."""
        may_begin = max(0, self._most_long() - self._long_running)
        return len(self._short) + min(len(self._long), may_begin)

    def _most_long(self) -> int:
        return max(1, self._limit - max(1, min(_SPARE, self._limit // 4)))

    def _may_run_long(self, queued: int) -> bool:
        return self._limit > 1 and self._long_running + queued < self._most_long()

    def _start_thread(self) -> bool:
        """Start one more; False if the limit is reached or the system refuses."""
        now = time.monotonic()
        if self._limit < self._most and now - self._refused_at > _ASK_AGAIN_SECONDS:
            self._limit = self._most
        if self._threads >= self._limit:
            return False
        self._threads += 1
        try:
            threading.Thread(target=self._serve, name="pgetpy-worker", daemon=True).start()
        except (RuntimeError, MemoryError):
            self._threads -= 1
            self._limit, self._refused_at = self._threads, now
            return False
        return True

    def _take(self) -> _Work | None:
        if self._short:
            self._busy += 1
            return self._short.popleft()
        if self._long and self._long_running < self._most_long():
            self._busy += 1
            self._long_running += 1
            return partial(self._run_long, self._long.popleft())
        return None

    def _next(self) -> _Work | None:
        """Return the next work, waiting for it; None if this thread has to end."""
        deadline = time.monotonic() + _IDLE_SECONDS
        while (work := self._take()) is None:
            left = deadline - time.monotonic()
            if left <= 0 or self._surplus:
                self._surplus = max(0, self._surplus - 1)
                self._threads -= 1
                return None
            self._changed.wait(left)
        return work

    # ------------------------------------------------------------------------ in a thread, without

    def _serve(self) -> None:
        while True:
            with self._changed:
                work = self._next()
            if work is None:
                return
            tell = work()
            with self._changed:
                self._busy -= 1
            if tell is not None:
                tell()
            del work, tell

    def _run_long(self, work: _Work) -> Callable[[], object] | None:
        try:
            return work()
        finally:
            with self._changed:
                self._long_running -= 1


# All of this process's.
WORKERS = Workers()


def start_thread(
    run: Callable[..., object],
    name: str,
    *args: object,
    tries: int = _TRIES,
    workers: Workers = WORKERS,
) -> threading.Thread:
    """Start a daemon thread that calls `run` with `args`, for an owner that cannot do without it.

    `ulimit -u` counts the threads of all processes of a user, and the pids limit of a container all
    in it. So a refusal may be over in a moment: idle threads of our own are asked to end, others
    end by themselves, and it is tried again for 0.2 s.

    Args:
        run: what the thread does.
        name: of the thread, for debuggers.
        args: for `run`.
        tries: 1 for a thread that is useful but not needed.
        workers: whose idle threads are asked to end.

    Raises:
        ThreadLimitError: the system refuses to start another.
    """
    for attempt in range(tries):
        if attempt:
            workers.shed()
            time.sleep(_TRY_SECONDS)
        thread = threading.Thread(target=run, name=name, args=args, daemon=True)
        with contextlib.suppress(RuntimeError, MemoryError):
            thread.start()
            return thread
    raise ThreadLimitError


def _run(
    work: Callable[[], Any], future: asyncio.Future[Any], loop: asyncio.AbstractEventLoop
) -> Callable[[], object]:
    """Do `work`; return what tells `future` of its outcome."""
    try:
        deliver = partial(future.set_result, work())
    except BaseException as error:
        deliver = partial(future.set_exception, error)

    def tell() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, so nothing waits any more
            loop.call_soon_threadsafe(lambda: future.done() or deliver())

    return tell


class Permits:
    """At most so many threads at a time; SimpleQueue is C, threading.Semaphore is Python."""

    def __init__(self, most: int) -> None:
        self._free: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(most):
            self._free.put(None)

    def __enter__(self) -> None:
        self._free.get()

    def __exit__(self, *_: object) -> None:
        self._free.put(None)
