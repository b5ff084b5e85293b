"""What is done with a cache's entries after they have been handed out: digests, stable storage."""

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
from pgetpy.system.thread_limit import start_thread

# Until then the system has written most of it by itself; a process whose thread waits for the disk
# cannot end, and what was not flushed is only verified once after a power cut.
_FLUSH_AFTER = 5.0
_FLUSH = ""
# Noting a digest takes moments, unless the disk hangs.
_LAST_SECONDS = 1.0
_NICE = 10
# Several gigabytes at the rate of a common processor; whoever ends a process does not wait longer.
_END_SECONDS = 10.0


_HASHERS: weakref.WeakSet[BackgroundHasher] = weakref.WeakSet()


class BackgroundHasher:
    """Computes digests that nobody has told, and flushes entries, in a thread of its own."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stopped = False
        self._begin()
        call_in_children(self._begin)
        _HASHERS.add(self)

    def _begin(self) -> None:
        """Begin with nothing to do, and no thread."""
        self._keys: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._done = threading.Condition()
        self._thread: threading.Thread | None = None
        self._unknown = 0
        self._unflushed: list[str] = []
        self._noting = False

    def put(self, key: str) -> None:
        """See to the entry `key` when there is time."""
        with self._done:
            self._unknown += 1
            self._keys.put(key)
            self._start()

    def wait(self, seconds: float | None = None, *, flush: bool = False) -> bool:
        """Wait until all digests are known, and all is on stable storage if it is to be flushed.

        False where that takes longer than `seconds`.
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
        """See that digests are known before this process ends: nobody else may compute them later
        without knowing that nothing was changed meanwhile. Give up where that takes long."""
        with contextlib.suppress(KeyboardInterrupt):
            if not self._stopped and self._unknown:
                self.wait(_END_SECONDS)

    def stop(self) -> None:
        """Begin with nothing more; a digest that is being noted is, if it can be."""
        self._stopped = True
        with self._done:
            self._done.wait_for(lambda: not self._noting, _LAST_SECONDS)

    def _start(self) -> None:
        """Start the thread if it is needed; where none can be had whoever waits does the work."""
        if self._thread is None and (self._unknown or self._unflushed):
            with contextlib.suppress(ThreadLimitError):
                self._thread = start_thread(self._run, "pgetpy-hasher", tries=1)

    def _work_off(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._see_to(self._keys.get_nowait())

    def _run(self) -> None:
        if sys.platform == "linux":
            # Nobody waits for it, and a predictor that has just got its weights is about to begin.
            # Threads have priorities of their own here; elsewhere the number would be a process's.
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
        # What cannot be settled shows in the listing as pending; nobody waits here to be told.
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
