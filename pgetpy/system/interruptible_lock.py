"""One after the other, among the threads of a process, whatever is thrown at whichever of them.

A lock that is let go of in `finally` stays taken for ever if an exception is injected into a thread
(Cog's cancellation) just after it was taken. Here whoever wants a turn stands in a line, and stands
there for no longer than the object does that says so.
"""

from __future__ import annotations

import threading
import time
import weakref
from types import TracebackType

from pgetpy.system import polling


class Turns:
    """The line."""

    def __init__(self) -> None:
        self._line: list[weakref.ref[Turn]] = []

    def take(self) -> Turn:
        """Return a turn: a context manager that waits on entry until all before it are over."""
        return Turn(self._line)


class Turn:
    """A place in the line, from entry to exit, and no longer than this object is there.

    A thread has one turn at a time: what it has left in the line has been interrupted.
    """

    def __init__(self, line: list[weakref.ref[Turn]]) -> None:
        self.thread = threading.get_ident()
        self.over = False
        self._line = line

    def __enter__(self) -> Turn:
        self.thread = threading.get_ident()
        self._line.append(weakref.ref(self))
        while not self._come():
            time.sleep(polling.TURN)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.over = True

    def _come(self) -> bool:
        """Whether nobody stands before this one."""
        line = self._line[:]
        for at, place in enumerate(line):
            turn = place()
            if turn is self:
                # Others only join at the end.
                del self._line[:at]
                return True
            if turn is not None and not turn.over and turn.thread != self.thread:
                return False
        return False  # cannot be: it stands there itself
