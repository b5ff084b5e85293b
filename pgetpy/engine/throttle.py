"""A limit of the rate at which an engine receives."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from pgetpy.core.http.rate_limit import TokenBucket


def shared_throttle(rate: int) -> Callable[[int], float]:
    """Return what paces all connections of an engine together; it is called from many threads."""
    bucket = TokenBucket(rate, time.monotonic())
    lock = threading.Lock()

    def take(count: int) -> float:
        with lock:
            return bucket.take(count, time.monotonic())

    return take
