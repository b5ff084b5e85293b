"""What is done with a cache's entries after they have been handed out: digests, stable storage."""

from __future__ import annotations

import contextlib
import os
import queue
import threading

from pgetpy.cache.store import Store
from pgetpy.errors import CacheError

# Noting a digest takes moments, unless the disk hangs.
_LAST_SECONDS = 1.0


class Settler:
    """Computes digests that nobody has told, and flushes entries, in a thread of its own."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stopped = False
        self._begin()

    def _begin(self) -> None:
        """Know of nothing; a fork has none of its parent's threads, nor who holds their locks."""
        self._keys: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._done = threading.Condition()
        self._thread: threading.Thread | None = None
        self._unfinished = 0
        self._noting = False
        self._pid = os.getpid()

    def put(self, key: str) -> None:
        """See to the entry `key` when there is time."""
        if self._pid != os.getpid():
            self._begin()
        with self._done:
            self._unfinished += 1
            self._keys.put(key)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="pgetpy-settler", daemon=True
                )
                self._thread.start()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until all has been seen to; False where that takes longer than `seconds`."""
        if self._pid != os.getpid():
            self._begin()
        with self._done:
            return self._done.wait_for(lambda: self._unfinished == 0, seconds)

    def stop(self) -> None:
        """Leave the rest to who asks for it next; a digest that is being noted is, if it can be."""
        self._stopped = True
        with self._done:
            self._done.wait_for(lambda: not self._noting, _LAST_SECONDS)

    def _run(self) -> None:
        while True:
            key = self._keys.get()
            # What cannot be settled shows in the listing as pending; nobody waits here to be told.
            with contextlib.suppress(CacheError, OSError):
                self._settle(key)
            with self._done:
                self._unfinished -= 1
                self._done.notify_all()

    def _settle(self, key: str) -> None:
        with self._done:
            if self._stopped:
                return
            self._noting = True
        try:
            self._store.settle(key, stop=lambda: self._stopped, fsync=False)
        finally:
            with self._done:
                self._noting = False
                self._done.notify_all()
        if not self._stopped:
            # It may take minutes, and nobody who ends is to wait for it.
            self._store.settle(key, stop=lambda: self._stopped)
