"""A lock for the threads of a process that survives exceptions injected into them.

A lock released in `finally` stays taken for ever if an exception (Cog's cancellation) strikes the
thread just after it was taken. Here the threads queue, and a queue slot is released by garbage
collection: an exception can strike anywhere.
"""

from __future__ import annotations

import threading
import time
import weakref

from pgetpy.system import polling


class InterruptibleLock:
    """Admits one thread at a time, in the order in which they came."""

    def __init__(self) -> None:
        self._queue: list[weakref.ref[QueueSlot]] = []

    def take(self) -> QueueSlot:
        """Return a slot: a context manager that waits on entry until all before it are over."""
        return QueueSlot(self._queue)


class QueueSlot:
    """A place in the queue, from entry to exit, and no longer than this object exists.

    A thread has one slot at a time: any other that it left in the queue was interrupted.
    """

    def __init__(self, queue: list[weakref.ref[QueueSlot]]) -> None:
        self.thread = threading.get_ident()
        self.over = False
        self._queue = queue

    def __enter__(self) -> QueueSlot:
        self.thread = threading.get_ident()
        self._queue.append(weakref.ref(self))
        while not self._come():
            time.sleep(polling.TURN)
        return self

    def __exit__(self, *error: object) -> None:
        self.over = True

    def _come(self) -> bool:
        """Whether no other slot is before this one."""
        queue = self._queue[:]
        for at, place in enumerate(queue):
            slot = place()
            if slot is self:
                # Others only join at the end.
                del self._queue[:at]
                return True
            if slot is not None and not slot.over and slot.thread != self.thread:
                return False
        return False  # cannot be: it is in the queue itself
