"""Who may use a pipeline: those with the same LoRAs together, others one after the other.

As in `system.interruptible_lock`, a place in the queue is an object that is referenced weakly, and
ends with it: an exception that a cancelled prediction raises anywhere leaves nothing locked.

    queue   [ A, over ] [ B, using ] [ B, using ] [ C, waits ] [ B, waits ]

The order of arrival is kept, so no request waits for ever. Threads that use one pipeline and wait
for another could wait for each other: the last of them to wait gets an error instead.
"""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections.abc import Callable, Hashable

from pgetpy.errors import UsageError
from pgetpy.system import polling

# A thread that waits looks once in so many times whether that would be for ever.
_LOOKS = 20
_WAIT_NUMBERS = itertools.count(1)
# What each thread waits for, of any pipeline and store.
_WAITING: dict[int, weakref.ref[PipelineTurn]] = {}
_OF_THREAD = threading.local()


class PipelineTurns:
    """The queue of one pipeline."""

    def __init__(self) -> None:
        self._queue: list[weakref.ref[PipelineTurn]] = []

    def take(self, composition: Hashable) -> PipelineTurn:
        """Return a place in the queue. Its `wait` comes next.

        It is at the end, unless this thread is using the pipeline in this way already: others that
        wait for that must not be waited for.
        """
        turn = PipelineTurn(self._queue, composition)
        for at, place in enumerate(self._queue[:]):
            own = place()
            if own is not None and own.is_like(turn):
                # Nothing is removed from the queue as long as `own` is not over.
                self._queue.insert(at + 1, weakref.ref(turn))
                return turn
        self._queue.append(weakref.ref(turn))
        return turn

    def in_use(self) -> bool:
        """Whether there is anyone in the queue."""
        turns = [place() for place in self._queue[:]]
        return any(turn is not None and not turn.over for turn in turns)


class PipelineTurn:
    """A place in the queue, until it is `over`, but no longer than this object exists.

    Attributes:
        over: whether the use has ended.
    """

    def __init__(self, queue: list[weakref.ref[PipelineTurn]], composition: Hashable) -> None:
        self.over = False
        self._composition = composition
        self._thread = threading.get_ident()
        self._began = False
        self._queue = queue
        self._is_composed: Callable[[], bool] = lambda: False
        # Of a wait of a thread that is using another pipeline meanwhile; otherwise 0.
        self._number = 0

    def wait(self, is_composed: Callable[[], bool]) -> bool:
        """Wait until the pipeline may be used, or may be composed.

        Args:
            is_composed: whether the pipeline has the LoRAs of this turn.

        Returns:
            Whether it still has to be composed; no other request uses it then.

        Raises:
            UsageError: this thread is using the pipeline with other LoRAs, or another pipeline that
                is waited for by a thread that uses this one.
        """
        used = _used_by_this_thread()
        self._is_composed = is_composed
        self._number = next(_WAIT_NUMBERS) if used else 0
        try:
            for look in itertools.count():
                ahead = self._ahead()
                if all(turn._composition == self._composition for turn in ahead):
                    composed = is_composed()
                    if composed or not ahead:
                        break
                if look == 0:
                    _WAITING[self._thread] = weakref.ref(self)
                if used and look % _LOOKS == 0:
                    self._check_for_deadlock()
                time.sleep(polling.TURN)
        finally:
            _WAITING.pop(self._thread, None)
        if not ahead:
            self._forget_past()
        self._began = True
        _OF_THREAD.turns = [*used, weakref.ref(self)]
        return not composed

    def is_like(self, other: PipelineTurn) -> bool:
        """Whether the thread of `other` is using the pipeline with the same LoRAs."""
        running = self._began and not self.over and self._thread == other._thread
        return running and self._composition == other._composition

    def _check_for_deadlock(self) -> None:
        """Raise UsageError if this turn would wait for its own thread.

        Of several threads that wait for each other, the one that began last raises it.
        """
        if self._thread in self._waits_for():
            raise UsageError(
                "this thread is using the same base with other LoRAs, or one that serves a "
                "request at a time: leave that `with` block first"
            )
        # Threads that cannot go on before this one does. Each is found after what it waits for, so
        # it could not have gone on meanwhile.
        stuck, grew = {self._thread}, True
        while grew:
            found = {
                turn._thread
                for place in list(_WAITING.values())
                if (turn := place()) is not None
                and turn._number < self._number
                and turn._waits_for() & stuck
            }
            grew = not found <= stuck
            stuck |= found
        if self._waits_for() & stuck:
            raise UsageError(
                "this thread and another would wait for pipelines that the other is using: leave "
                "the outer `with` block first, or nest them in the same order in all threads"
            )

    def _waits_for(self) -> set[int]:
        """Return the threads that keep this turn waiting."""
        ahead = self._ahead()
        others = [turn for turn in ahead if turn._composition != self._composition]
        if self.over or (not others and self._is_composed()):
            return set()
        return {turn._thread for turn in others or ahead}

    def _ahead(self) -> list[PipelineTurn]:
        """Return all before this one that are not over."""
        found: list[PipelineTurn] = []
        for place in self._queue[:]:
            turn = place()
            if turn is self:
                break
            # One that never began, of the thread that is here, was interrupted while it waited.
            stale = turn is not None and turn._thread == self._thread and not turn._began
            if turn is not None and not turn.over and not stale:
                found.append(turn)
        return found

    def _forget_past(self) -> None:
        """Remove what is before this turn, all of which is over.

        A copy of the queue is right for this prefix: others only join at the end, and one turn at a
        time has none ahead.
        """
        at = [place() for place in self._queue[:]].index(self)
        del self._queue[:at]


def _used_by_this_thread() -> list[weakref.ref[PipelineTurn]]:
    """Return the turns by which this thread is using pipelines."""
    turns: list[weakref.ref[PipelineTurn]] = getattr(_OF_THREAD, "turns", [])
    return [place for place in turns if (turn := place()) is not None and not turn.over]
