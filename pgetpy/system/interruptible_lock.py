"""A lock for the threads of a process that survives exceptions injected into them.

Cog cancels a prediction by raising an exception in its thread, between any two bytecodes. It can
strike after `lock.acquire()` has returned and before the `try` whose `finally` would release the
lock, which then stays taken for ever. No order of statements prevents that.

So this lock is not a state that has to be reset, but a place in a queue that is kept alive by a
local variable. The queue holds weak references:

    queue   [ A, over ] [ B, collected ] [ C, waiting ] [ D, waiting ]
                                           ^ C's turn: everything before it is gone

A slot stops counting in three ways: its `with` block has ended (`over`); its object is gone, since
an exception unwound the frame that held it; or its thread takes another slot, so the older one must
have been interrupted. The last is for slots that a traceback still keeps alive.

No other lock guards the queue, for the same reason. It needs only operations that the interpreter
makes atomic: appending at the end, copying, and deleting a prefix. The prefix is deleted by the
thread whose turn it is, and by no other.

Waiting threads look every 10 ms. A condition to wake them would be one more lock.
"""

from __future__ import annotations

import threading
import time
import weakref

from pgetpy.system import polling


class InterruptibleLock:
    """Admits one thread at a time, in the order in which they came. A thread may not nest it."""

    def __init__(self) -> None:
        self._queue: list[weakref.ref[QueueSlot]] = []

    def take(self) -> QueueSlot:
        """Return a slot: a context manager whose entry waits until all slots before it are over."""
        return QueueSlot(self._queue)


class QueueSlot:
    """A place in the queue, from entry to exit, but no longer than this object exists.

    Attributes:
        thread: which thread entered it. A thread has one slot at a time.
        over: whether its block has ended.
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
                # The copy is still right for this prefix: others only join at the end.
                del self._queue[:at]
                return True
            if slot is not None and not slot.over and slot.thread != self.thread:
                return False
        return False  # cannot be: it is in the queue itself
