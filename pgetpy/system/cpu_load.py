"""How busy the processors are. More connections help only if there is time left to serve them."""

from __future__ import annotations

import os
import time

from pgetpy.core.http.pace import CpuTimes

_STAT = "/proc/stat"


def machine_load(path: str = _STAT) -> CpuTimes:
    """Return the seconds that this process has used, and that all processors were idle.

    Both count from some moment in the past, so only differences mean something. The second is from
    the first line of /proc/stat (proc(5)): idle and iowait, in ticks of all processors; None where
    there is no such file. A control group's quota does not show there.
    """
    try:
        with open(path, "rb", buffering=0) as stat:
            fields = stat.read(256).split(b"\n", 1)[0].split()
        idle = (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return CpuTimes(time.process_time(), None)
    return CpuTimes(time.process_time(), idle)
