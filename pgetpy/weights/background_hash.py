"""Background work on entries: digests, flushing to disk.

Content whose digest no one has given is hashed while it arrives, as far as the processor has time,
and the rest after `ensure` has returned, so that the caller does not wait. The thread is niced,
since its caller is probably loading a model.

    hash_along --> queue --> hash what has landed
    put        --> queue --> settle: hash the rest, record --> after 5 quiet seconds: flush

Each cache object has one such thread, so its hashing takes one core at most. An entry whose digest
is not known yet is complete and usable; what it lacks is the proof for `verify`, and being found by
another reference to the same bytes.

The work cannot be left to a later process: only the one that received the content knows that
nothing has changed it since. So at exit a process waits a few seconds for what is outstanding.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

from pgetpy.cache.contents import digest_of
from pgetpy.cache.store import Store
from pgetpy.errors import CacheError, ThreadLimitError
from pgetpy.system.forks import call_in_children
from pgetpy.system.threads import start_thread
from pgetpy.weights.arriving_digest import ArrivingDigest

# By then the system has written most of it by itself. A process cannot end while its thread waits
# for the disk, and an entry that was not flushed is merely verified once after a power cut.
_FLUSH_AFTER = 5.0
# Instead of a key: flush what was settled; hash a file that is arriving.
_FLUSH, _ARRIVING = "", "+"
# Recording a digest takes moments, unless the disk hangs.
_LAST_SECONDS = 1.0
_NICE = 10
# Enough for several gigabytes on a common processor, and no longer than people accept at exit.
_END_SECONDS = 10.0


# An entry, and the digest that has followed its file; or a file that is arriving.
_Work = tuple[str, ArrivingDigest | None]
_HASHERS: weakref.WeakSet[BackgroundHasher] = weakref.WeakSet()


class BackgroundHasher:
    """Computes missing digests and flushes entries, in a thread of its own."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stopped = False
        self._begin()
        call_in_children(self._begin)
        _HASHERS.add(self)

    def _begin(self) -> None:
        """Start with an empty queue and no thread; also in forked children."""
        self._queue: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self._done = threading.Condition()
        self._thread: threading.Thread | None = None
        self._unknown = 0
        self._unflushed: list[str] = []
        self._noting = False

    def put(self, key: str, arriving: ArrivingDigest | None = None) -> None:
        """Queue the entry `key`. An entry that needs nothing costs one look at its record.

        Args:
            arriving: has followed its file.
        """
        with self._done:
            self._unknown += 1
            self._queue.put((key, arriving))
            self._start()

    def hash_along(self, arriving: ArrivingDigest) -> None:
        """Have what has landed of a file hashed, once nothing else is to be done."""
        with self._done:
            self._queue.put((_ARRIVING, arriving))
            self._start(arriving=True)

    def wait(self, seconds: float | None = None, *, flush: bool = False) -> bool:
        """Wait until all digests are known and, if wanted, all entries are flushed.

        Returns:
            False if that took longer than `seconds`.
        """
        if flush:
            self._queue.put((_FLUSH, None))
        with self._done:
            self._start()
            alone = self._thread is None
        if alone:
            self._work_off()
        with self._done:
            return self._done.wait_for(
                lambda: not self._unknown and not (flush and self._unflushed), seconds
            )

    def finish(self) -> None:
        """Compute the outstanding digests before this process ends, within a time limit.

        No other process could do so later, as it would not know whether the content was changed.
        """
        with contextlib.suppress(KeyboardInterrupt):
            if not self._stopped and self._unknown:
                self.wait(_END_SECONDS)

    def stop(self) -> None:
        """Start nothing more. A digest that is just being recorded still is, if possible."""
        self._stopped = True
        with self._done:
            self._done.wait_for(lambda: not self._noting, _LAST_SECONDS)

    def _start(self, *, arriving: bool = False) -> None:
        """Start the thread if needed. Without a thread, those who wait do the work."""
        if self._thread is None and (arriving or self._unknown or self._unflushed):
            with contextlib.suppress(ThreadLimitError):
                self._thread = start_thread(self._run, "pgetpy-hasher", tries=1)

    def _work_off(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._see_to(*self._queue.get_nowait())

    def _run(self) -> None:
        if sys.platform == "linux":
            # Niced: a predictor that has just received its weights is about to use the processor.
            # On Linux threads have priorities of their own; elsewhere this is the whole process's.
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while True:
            try:
                work = self._queue.get(timeout=_FLUSH_AFTER if self._unflushed else None)
            except queue.Empty:
                work = (_FLUSH, None)
            self._see_to(*work)

    def _see_to(self, key: str, arriving: ArrivingDigest | None) -> None:
        if key == _FLUSH:
            self._flush()
        elif key != _ARRIVING:
            self._note(key, arriving)
        elif arriving is not None:
            arriving.advance(lambda: self._stopped)

    def _note(self, key: str, arriving: ArrivingDigest | None) -> None:
        def hashed(path: Path, stop: Callable[[], bool]) -> str | None:
            found = arriving.finish(stop) if arriving is not None else None
            return found or digest_of(path, stop)

        with self._done:
            self._noting = True
        # An entry that cannot be settled is listed as pending; no caller is waiting for an error.
        with contextlib.suppress(CacheError, OSError):
            if not self._stopped:
                self._store.settle(key, stop=lambda: self._stopped, fsync=False, hashed=hashed)
        with self._done:
            self._noting = False
            self._unknown -= 1
            self._unflushed.append(key)
            self._done.notify_all()

    def _flush(self) -> None:
        for key in list(self._unflushed):
            with contextlib.suppress(CacheError, OSError):
                if not self._stopped:
                    self._store.settle(key, stop=lambda: self._stopped)
            with self._done:
                self._unflushed.remove(key)
                self._done.notify_all()


def _finish_all() -> None:
    if issubclass(getattr(sys, "last_type", None) or Exception, KeyboardInterrupt):
        return  # who has ended it so does not want to wait
    for hasher in list(_HASHERS):
        hasher.finish()


atexit.register(_finish_all)
