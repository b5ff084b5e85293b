"""Threads that their owner cannot do without (a decoder, the event loop), where few can be started.

`ulimit -u` counts the threads of all processes of a user, and the pids limit of a container all in
it. So a refusal may be over in a moment: idle threads of our own are asked to end, others end by
themselves, and it is tried again for 0.2 s.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from pgetpy.errors import ThreadLimitError

# How often it is tried, and how far apart.
_TRIES = 10
_TRY_SECONDS = 0.02
# Functions that have idle threads end; each set of threads adds its own.
SHED: list[Callable[[], None]] = []


def start_thread(
    run: Callable[..., object], name: str, *args: object, tries: int = _TRIES
) -> threading.Thread:
    """Start a daemon thread that calls `run` with `args`, after having idle ones end if need be.

    Args:
        run: what the thread does.
        name: of the thread, for debuggers.
        args: for `run`.
        tries: 1 for a thread that is useful but not needed.

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
