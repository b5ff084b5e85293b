"""When a transfer is too slow to be worth waiting for, as with curl's --speed-limit.

The average is taken over a window of `seconds` of waiting, not of wall time: time in which a disk,
a reader or a rate limit of ours held the transfer up says nothing about the network. `_looks` keeps
one sample a second, (seconds waited, bytes by then), and the oldest one is the start of the window.
"""

from __future__ import annotations

from collections import deque

from pgetpy.core.lazy_dataclass import dataclass, field

# Seconds between two samples.
_GRAIN = 1.0


@dataclass
class SpeedLimit:
    """Fewer than `rate` bytes a second over `seconds` of waiting for the network are too few.

    Time not spent waiting for the network does not count. A `rate` or `seconds` of 0 allows
    everything.
    """

    rate: float
    seconds: float
    _waited: float = 0.0
    _seen_at: float | None = None
    # Seconds waited, and bytes that had come by then.
    _looks: deque[tuple[float, int]] = field(default_factory=deque)

    def undercut(self, now: float, moved: int, *, waiting: bool) -> bool:
        """Whether the transfer is too slow.

        Args:
            now: seconds, monotonic.
            moved: bytes received so far.
            waiting: whether the transfer has waited for the network since the last call.
        """
        elapsed = now - self._seen_at if self._seen_at is not None else 0.0
        self._seen_at = now
        if not waiting or self.rate <= 0 or self.seconds <= 0:
            return False
        # A longer gap means that this process was stopped or had no processor.
        self._waited += min(elapsed, _GRAIN)
        looks = self._looks
        if not looks or self._waited - looks[-1][0] >= _GRAIN:
            looks.append((self._waited, moved))
        while len(looks) > 1 and self._waited - looks[1][0] >= self.seconds:
            looks.popleft()
        waited, before = looks[0]
        enough = self._waited - waited >= self.seconds
        return enough and moved - before < self.rate * self.seconds
