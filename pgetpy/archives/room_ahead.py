"""How many bytes may wait in memory for the headers before them.

Many keep all connections busy. But if members are made more slowly than bytes arrive, more bytes
would only wait, and a small room, which stays in the processor's cache, is as fast.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

_MOST = 16 << 20
_LEAST = 2 << 20
# Members are made too slowly if that takes this part of the time, over so many seconds.
_ALL = 0.7
_PERIOD = 0.02


class RoomAhead:
    """Follows how much of the time it takes to make members; one thread at a time may call it.

    Attributes:
        size: of the room, in bytes.
    """

    def __init__(self) -> None:
        self.size = _MOST
        self._since = time.monotonic()
        self._worked = 0.0

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Count the time of the block as spent on members."""
        begin = time.monotonic()
        yield
        self._worked += time.monotonic() - begin

    def adapt(self) -> None:
        """Halve the room if making members took all of the time since the last call, else double
        it. Does nothing if that was a moment ago."""
        now = time.monotonic()
        if now - self._since < _PERIOD:
            return
        slow = self._worked > _ALL * (now - self._since)
        self.size = max(_LEAST, self.size // 2) if slow else min(_MOST, self.size * 2)
        self._since, self._worked = now, 0.0
