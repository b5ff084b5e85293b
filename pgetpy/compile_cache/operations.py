"""Loads, saves and transfers that run beside the program, and can really be cancelled."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from pgetpy.system.threads import start_thread

T = TypeVar("T")


class CancelledOperationError(BaseException):
    """Ends the work of an operation that was cancelled; it never reaches a caller.

    Not an Exception, as nothing on the way may take it for a failure and go on.
    """


class CancelFlag:
    """Says whether the work is to stop. The work asks between any two steps."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Have the work stop."""
        self._event.set()

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Raise CancelledOperationError if the work is to stop."""
        if self._event.is_set():
            raise CancelledOperationError("cancelled")


class BackgroundOperation(Generic[T]):
    """Work in a thread of its own.

    Args:
        work: does it; is given the flag by which it is cancelled, and must end soon after that
            is set, with nothing left behind.
    """

    def __init__(self, work: Callable[[CancelFlag], T]) -> None:
        self._flag = CancelFlag()
        self._work = work
        self._ended = threading.Event()
        self._result: T | None = None
        self._error: BaseException | None = None
        start_thread(self._run, "pgetpy-compile-cache")

    def _run(self) -> None:
        try:
            self._result = self._work(self._flag)
        except BaseException as error:  # it is raised where the result is asked for
            self._error = error
        finally:
            self._ended.set()

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._ended.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, at most `timeout` seconds; return whether it has."""
        return self._ended.wait(timeout)

    def cancel(self, timeout: float | None = None) -> bool:
        """Stop the work and wait until it has stopped, at most `timeout` seconds.

        Returns:
            Whether it has stopped; False if it had ended before.
        """
        if self.done:
            return False
        self._flag.set()
        return self._ended.wait(timeout)

    @property
    def result(self) -> T:
        """What came of it; waits until it has ended.

        Raises:
            Exception: what the work raised.
        """
        self._ended.wait()
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]
