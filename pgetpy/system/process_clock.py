"""How long this process has been running, its interpreter's own start included."""

from __future__ import annotations

import os
import time

_LOADED = time.monotonic()


def _process_age() -> float:
    """Return seconds since the process began; 0.0 where the system does not say.

    Linux: field 22 of /proc/self/stat is the start in ticks of the clock that runs from the boot
    (proc_pid_stat(5)). The name in field 2 may contain blanks and parentheses.
    """
    try:
        with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
    # In a container with a time namespace of its own the two clocks do not agree.
    return age if 0.0 <= age < 3600.0 else 0.0


_BEGAN = _LOADED - _process_age()


def seconds_running() -> float:
    """Return seconds since the process began; since this module was imported where that is unknown.

    In a forked child: since its parent began, because the parent's start-up is its own as well.
    """
    return time.monotonic() - _BEGAN
