"""Who may use a pipeline: those with the same LoRAs together, others one after the other.

As in `system.interruptible_lock`, a place in the queue is an object that is referenced weakly, and
ends with it: an exception that a cancelled prediction raises anywhere leaves nothing locked.

    queue   [ A, over ] [ B, using ] [ B, using ] [ C, waits ] [ B, waits ]

The order of arrival is kept, so no request waits for ever.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Hashable

from pgetpy.errors import UsageError
from pgetpy.system import polling


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

    def wait(self, is_composed: Callable[[], bool]) -> bool:
        """Wait until the pipeline may be used, or may be composed.

        Args:
            is_composed: whether the pipeline has the LoRAs of this turn.

        Returns:
            Whether it still has to be composed; no other request uses it then.

        Raises:
            UsageError: this thread is using the pipeline with other LoRAs.
        """
        while True:
            ahead = self._ahead()
            if all(turn._composition == self._composition for turn in ahead):
                composed = is_composed()
                if composed or not ahead:
                    self._began = True
                    return not composed
            elif any(turn._blocks(self) for turn in ahead):
                raise UsageError(
                    "this thread is using the same base with other LoRAs, or one that serves a "
                    "request at a time: leave that `with` block first"
                )
            time.sleep(polling.TURN)

    def is_like(self, other: PipelineTurn) -> bool:
        """Whether the thread of `other` is using the pipeline with the same LoRAs."""
        running = self._began and not self.over and self._thread == other._thread
        return running and self._composition == other._composition

    def _blocks(self, other: PipelineTurn) -> bool:
        """Whether `other` waits for its own thread."""
        return (
            self._thread == other._thread
            and self._began
            and self._composition != other._composition
        )

    def _ahead(self) -> list[PipelineTurn]:
        """Return all before this one that are not over."""
        queue = self._queue[:]
        found: list[PipelineTurn] = []
        for at, place in enumerate(queue):
            turn = place()
            if turn is self:
                if not found:
                    # The copy is still right for this prefix: others only join at the end, and one
                    # turn at a time has none ahead.
                    del self._queue[:at]
                return found
            # One that never began, of the thread that is here, was interrupted while it waited.
            stale = turn is not None and turn._thread == self._thread and not turn._began
            if turn is not None and not turn.over and not stale:
                found.append(turn)
        return found
