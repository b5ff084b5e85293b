"""Threads that their owner cannot do without, where the system lets few be started.

`ulimit -u` counts the threads of all processes of a user, a container's limit of pids all of its.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from pgetpy.errors import ThreadLimitError

# How often, and how far apart, it is tried.
_TRIES = 10
_TRY_SECONDS = 0.02
# Have threads end that only wait for work.
SHED: list[Callable[[], None]] = []


def start_thread(
    run: Callable[..., object], name: str, *args: object, tries: int = _TRIES
) -> threading.Thread:
    """Start a thread that calls `run` with `args`; idle ones make room for it.

    Raises:
        ThreadLimitError: the system lets no more be started.
    """
    for attempt in range(tries):
        if attempt:
            for shed in SHED:
                shed()
            time.sleep(_TRY_SECONDS)
        thread = threading.Thread(target=run, name=name, args=args, daemon=True)
        with contextlib.suppress(RuntimeError, MemoryError):
            thread.start()
            return thread
    raise ThreadLimitError
