"""When a transfer brings too little to be worth waiting for, as curl's --speed-limit has it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

# Seconds between two looks that are remembered.
_GRAIN = 1.0


@dataclass
class SpeedLimit:
    """Fewer than `rate` bytes a second over `seconds` of waiting for the network are too few.

    Time in which nobody waited for the network does not count. A `rate` or `seconds` of 0 allows
    everything.
    """

    rate: float
    seconds: float
    _waited: float = 0.0
    _seen_at: float | None = None
    # Seconds waited, and bytes that had come by then.
    _looks: deque[tuple[float, int]] = field(default_factory=deque)

    def undercut(self, now: float, moved: int, *, waiting: bool) -> bool:
        """Whether too little has come up to `now`, of `moved` bytes in all; `waiting` says whether
        the network was waited for since the last look."""
        elapsed = now - self._seen_at if self._seen_at is not None else 0.0
        self._seen_at = now
        if not waiting or self.rate <= 0 or self.seconds <= 0:
            return False
        # Who was stopped, or had no processor, did not wait for the network in that time.
        self._waited += min(elapsed, _GRAIN)
        looks = self._looks
        if not looks or self._waited - looks[-1][0] >= _GRAIN:
            looks.append((self._waited, moved))
        while len(looks) > 1 and self._waited - looks[1][0] >= self.seconds:
            looks.popleft()
        waited, before = looks[0]
        enough = self._waited - waited >= self.seconds
        return enough and moved - before < self.rate * self.seconds
