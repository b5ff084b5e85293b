"""A rate as a bucket of tokens: how long to pause for the bytes just taken.

The bucket fills at `rate` and holds a tenth of a second's worth. Taking may leave it below zero,
since the bytes have arrived already; the pause is then the time in which it fills up to zero.
"""

from __future__ import annotations

# The bucket's size: the burst after a pause, in seconds at the rate.
_BURST = 0.1


class TokenBucket:
    """Lets `rate` bytes a second through, averaged over more than a moment. Not thread-safe."""

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self._tokens = rate * _BURST
        self._then = now

    def take(self, count: int, now: float) -> float:
        """Take `count` bytes and return the seconds to wait before the next."""
        refill = (now - self._then) * self.rate
        self._tokens = min(self.rate * _BURST, self._tokens + refill) - count
        self._then = now
        return max(0.0, -self._tokens / self.rate)
