"""Written pages: started on their way to the disk, and dropped where memory is short.

A container is charged for the pages that it dirties. With less memory than the file it can be
killed, or come to a halt in reclaim, although the program itself uses 30 MB. So there each stretch
goes through three steps, 32 stretches behind each other:

    written --> sync_file_range(WRITE), does not wait --> ... 32 later: wait, then drop the pages

By the time its turn comes a stretch is mostly on disk, so the wait is short. Stretches that a
digest has not read yet stay (`hold`). With enough memory none of this is done: the kernel decides
better, and asking it costs 0.6 s for each GiB.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from pgetpy.core.http.ranges import Span
from pgetpy.system.filesystem import system_call

_SYNC_WAIT_BEFORE, _SYNC_WRITE, _SYNC_WAIT_AFTER = 1, 2, 4
# Stretches on their way at one time: enough to keep the disk busy, few enough to fit.
_IN_FLIGHT = 32
_UNLIMITED = 1 << 60


class WriteBack:
    """Writes back and drops the pages of one file as they are written.

    Args:
        fd: the file.
        hold: returns the first byte that a digest will still read from the page cache.
    """

    def __init__(self, fd: int, hold: Callable[[], int] | None = None) -> None:
        self._fd = fd
        self._hold = hold
        self._lock = threading.Lock()
        self._queue: deque[Span] = deque()

    def note_written(self, start: int, stop: int) -> None:
        """The bytes from `start` up to `stop` have been written."""
        sync_range(self._fd, start, stop - start, _SYNC_WRITE)
        with self._lock:
            self._queue.append(Span(start, stop))
            due = [self._queue.popleft()] if len(self._queue) > _IN_FLIGHT else []
            if due and self._hold is not None and due[0].stop > self._hold():
                self._queue.append(due.pop())
        for span in due:
            self._drop(span)

    def finish(self) -> None:
        """Drop what is left."""
        with self._lock:
            due = list(self._queue)
            self._queue.clear()
        for span in due:
            self._drop(span)

    def _drop(self, span: Span) -> None:
        flags = _SYNC_WAIT_BEFORE | _SYNC_WRITE | _SYNC_WAIT_AFTER
        sync_range(self._fd, span.start, span.size, flags)
        if hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):
                os.posix_fadvise(self._fd, span.start, span.size, os.POSIX_FADV_DONTNEED)


def sync_range(fd: int, start: int, count: int, flags: int) -> None:
    """Call sync_file_range(2) where there is one; it is advice, so failures do not matter."""
    call = system_call("sync_file_range", 32, 64, 64, 32)
    if call is not None:
        call(fd, start, count, flags)


@lru_cache(maxsize=1)
def memory_limit(root: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc/self")) -> int:
    """Return the memory limit of this process's control group in bytes, 1 << 60 without one.

    Both versions of control groups are read: memory.max, and memory.limit_in_bytes of version 1.
    """
    limits = [_UNLIMITED]
    with contextlib.suppress(OSError, ValueError):
        for line in (proc / "cgroup").read_text("utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                limits += _limits(root, path, "memory.max")
            elif "memory" in controllers.split(","):
                limits += _limits(root / "memory", path, "memory.limit_in_bytes")
    return min(limits)


def _limits(root: Path, path: str, name: str) -> list[int]:
    """Return the limits of a group and those above it.

    In a container /proc names a path that is not mounted there; the container's own group is then
    the root, which is reached as the last parent.
    """
    found = []
    folder = root / path.strip("/")
    for group in (folder, *folder.parents):
        if not group.is_relative_to(root):
            break
        with contextlib.suppress(OSError, ValueError):
            found.append(int((group / name).read_text("utf-8")))
    return found
