"""A rate as a bucket of tokens: how long to pause for the bytes just taken."""

from __future__ import annotations

# What may be taken at once after a rest, in seconds of the rate.
_BURST = 0.1


class TokenBucket:
    """Lets `rate` bytes a second through, on the average of any longer while."""

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
