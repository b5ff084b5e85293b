"""Background work on entries that were given out already: digests, flushing to disk.

Content of an entry whose digest no one has given is hashed after `ensure` has returned, so that the
caller does not wait. The thread is niced, since its caller is probably loading a model.

    put --> queue --> settle: hash, record --> after 5 quiet seconds: flush to stable storage

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

from pgetpy.cache.store import Store
from pgetpy.errors import CacheError, ThreadLimitError
from pgetpy.system.forks import call_in_children
from pgetpy.system.threads import start_thread

# By then the system has written most of it by itself. A process cannot end while its thread waits
# for the disk, and an entry that was not flushed is merely verified once after a power cut.
_FLUSH_AFTER = 5.0
_FLUSH = ""
# Recording a digest takes moments, unless the disk hangs.
_LAST_SECONDS = 1.0
_NICE = 10
# Enough for several gigabytes on a common processor, and no longer than people accept at exit.
_END_SECONDS = 10.0


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
        self._keys: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._done = threading.Condition()
        self._thread: threading.Thread | None = None
        self._unknown = 0
        self._unflushed: list[str] = []
        self._noting = False

    def put(self, key: str) -> None:
        """Queue the entry `key`. An entry that needs nothing costs one look at its record."""
        with self._done:
            self._unknown += 1
            self._keys.put(key)
            self._start()

    def wait(self, seconds: float | None = None, *, flush: bool = False) -> bool:
        """Wait until all digests are known and, if wanted, all entries are flushed.

        Returns:
            False if that took longer than `seconds`.
        """
        if flush:
            self._keys.put(_FLUSH)
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

    def _start(self) -> None:
        """Start the thread if needed. Without a thread, those who wait do the work."""
        if self._thread is None and (self._unknown or self._unflushed):
            with contextlib.suppress(ThreadLimitError):
                self._thread = start_thread(self._run, "pgetpy-hasher", tries=1)

    def _work_off(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._see_to(self._keys.get_nowait())

    def _run(self) -> None:
        if sys.platform == "linux":
            # Niced: a predictor that has just received its weights is about to use the processor.
            # On Linux threads have priorities of their own; elsewhere this is the whole process's.
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while True:
            try:
                key = self._keys.get(timeout=_FLUSH_AFTER if self._unflushed else None)
            except queue.Empty:
                key = _FLUSH
            self._see_to(key)

    def _see_to(self, key: str) -> None:
        if key == _FLUSH:
            self._flush()
        else:
            self._note(key)

    def _note(self, key: str) -> None:
        with self._done:
            self._noting = True
        # An entry that cannot be settled is listed as pending; no caller is waiting for an error.
        with contextlib.suppress(CacheError, OSError):
            if not self._stopped:
                self._store.settle(key, stop=lambda: self._stopped, fsync=False)
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
