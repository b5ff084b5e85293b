"""Failure in, waiting time out: again after t seconds, or give up.

The wait doubles from 0.1 s to 20 s, with random jitter so that many clients that failed at the same
moment do not return at the same moment. `limit` counts failures in a row: a transfer of hours over
a bad line may fail hundreds of times, and goes on as long as bytes arrive in between.

Several requests of a transfer are under way at a time, and one outage fails them all. Counting each
would use up all tries at once. So a failure is an echo if its request was made before the last
failure was known; echoes wait, but count only once:

    request A  |----------X              1st failure
    request B     |-----------X          echo: asked before the 1st was known
    request C              |-----X       2nd failure
"""

from __future__ import annotations

from pgetpy.core.lazy_dataclass import dataclass
from pgetpy.errors import (
    ConnectionFailedError,
    HttpStatusError,
    PgetError,
    RangeNotHonouredError,
    StalledError,
)

# 408, 425 and 429 ask for another try by definition; 5xx are the server's trouble.
RETRIED_STATUSES = frozenset({408, 425, 429})
# Too many requests: fewer connections help, not just waiting.
OVERLOADED = frozenset({429, 503})
# How a URL with a time-limited signature answers once it has expired.
EXPIRED_STATUSES = frozenset({401, 403, 404, 410})
_FIRST_DELAY = 0.1
_LONGEST_DELAY = 20.0
# A server may ask for a long pause, but a cold start cannot wait for an hour.
LONGEST_RETRY_AFTER = 120.0


@dataclass
class Retries:
    """Counts the failures of one transfer, which may have `limit` in a row without progress."""

    limit: int
    made: int = 0
    _in_a_row: int = 0

    def progressed(self) -> None:
        """Bytes have arrived since the last failure."""
        self._in_a_row = 0

    def delay(self, error: PgetError, jitter: float, *, echo: bool = False) -> float | None:
        """Return how long to wait before the next try, or None to give up.

        A server's Retry-After goes before the backoff, unless it asks for so long that waiting
        makes no sense.

        Args:
            error: the failure.
            jitter: a random number from 0 up to 1.
            echo: whether the request was made before the last failure was known.
        """
        if not retryable(error) or (self._in_a_row >= self.limit and not echo):
            return None
        asked = error.retry_after if isinstance(error, HttpStatusError) else None
        if asked is not None and asked > LONGEST_RETRY_AFTER:
            return None
        backoff = min(_LONGEST_DELAY, _FIRST_DELAY * 2.0**self._in_a_row)
        self._in_a_row += not echo
        self.made += 1
        if asked is not None:
            return asked + jitter * min(1.0, _FIRST_DELAY + asked / 10)
        return backoff * (0.5 + jitter / 2)

    def first_byte_patience(self, seconds: float) -> float:
        """Return how long to wait for an answer to begin, where `seconds` are right for the first.

        A server that produces the object on request may take longer than `seconds` each time, and
        asking again does not speed it up. So the patience grows with each try.
        """
        return seconds * self.attempts

    def left(self, error: PgetError) -> bool:
        """Whether there is another try after `error`."""
        return retryable(error) and self._in_a_row < self.limit

    @property
    def attempts(self) -> int:
        """Tries made in a row, the last failure included."""
        return self._in_a_row + 1


def retryable(error: PgetError) -> bool:
    """Whether the same request may succeed when it is made again."""
    if isinstance(error, HttpStatusError):
        return error.status in RETRIED_STATUSES or 500 <= error.status <= 599
    if isinstance(error, ConnectionFailedError):
        return not error.permanent
    return isinstance(error, (StalledError, RangeNotHonouredError))
