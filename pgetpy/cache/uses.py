"""When entries were used last: on disk, shared by processes, and written at each hit.

Each process writes to a file of its own, in which every key has a place: a hit is one small write,
whatever others do. A use is noted before the entry's record is looked at, as a lease is, so that
who evicts sees what is being handed out. When a process has ended, its uses are moved to the times
of change of the entries' records.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
import time
from collections.abc import Callable

from pgetpy.cache.holders import LeaseFile
from pgetpy.cache.layout import CachePaths, discard

_SLOT = struct.Struct("<32sQ")
_TIME = struct.Struct("<Q")
_TIME_AT = _SLOT.size - _TIME.size
_SECOND = 1_000_000_000


class Clock:
    """Nanoseconds since the epoch, which go on from the latest use where a clock was set back."""

    def __init__(self, layout: CachePaths, now: Callable[[], int] = time.time_ns) -> None:
        self._path = layout.at("clock")
        self._now = now
        self._last = 0

    def now(self) -> int:
        """Return a time behind every use that has been noted, give or take a second."""
        wall = self._now()
        try:
            latest = os.stat(self._path).st_mtime_ns
        except OSError:
            latest = 0
        floor = max(latest, self._last)
        self._last = wall if wall > floor else floor + 1
        if wall <= latest or self._last - latest > _SECOND:
            with contextlib.suppress(OSError):
                os.utime(self._path, ns=(self._last, self._last))
        return self._last


class Uses:
    """The uses of this process."""

    def __init__(self, layout: CachePaths, holder: LeaseFile, clock: Clock) -> None:
        self._layout = layout
        self._holder = holder
        self._clock = clock
        self._lock = threading.Lock()
        self._fd = -1
        self._slots: dict[str, int] = {}

    def note(self, key: str) -> None:
        """Write down that `key` is used now. A full disk keeps nobody from a hit."""
        with self._lock:
            slot = self._slots.get(key)
            now = self._clock.now()
            with contextlib.suppress(OSError):
                if self._fd < 0 or not os.fstat(self._fd).st_nlink:
                    self._make()
                    slot = None
                if slot is None:
                    slot = len(self._slots)
                    os.pwrite(self._fd, _SLOT.pack(bytes.fromhex(key), now), slot * _SLOT.size)
                    self._slots[key] = slot
                else:
                    os.pwrite(self._fd, _TIME.pack(now), slot * _SLOT.size + _TIME_AT)

    def close(self) -> None:
        """Move the uses to the records."""
        with self._lock:
            if self._fd >= 0:
                with contextlib.suppress(OSError):
                    fold(self._layout, self._holder.owner)
                self._close()

    def abandon(self) -> None:
        """Let go without a word: this is the copy of a process that lives on."""
        if self._fd >= 0:
            self._close()

    def __del__(self) -> None:
        self.abandon()

    def _make(self) -> None:
        if self._fd >= 0:
            self._close()
        # Who sweeps would take it for that of a dead process before there is a holder.
        self._holder.stand()
        path = self._layout.at("uses", self._holder.owner)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o666)

    def _close(self) -> None:
        os.close(self._fd)
        self._fd = -1
        self._slots.clear()


def read_uses(layout: CachePaths, owner: str) -> dict[str, int]:
    """Return what `owner` was handed out, and when."""
    try:
        with open(layout.at("uses", owner), "rb") as file:
            data = file.read()
    except OSError:
        return {}
    whole = len(data) // _SLOT.size * _SLOT.size
    return {raw.hex(): used for raw, used in _SLOT.iter_unpack(data[:whole])}


def fold(layout: CachePaths, owner: str) -> None:
    """Move the uses of `owner`, who has ended, to the records; again, where that was cut off."""
    for key, used in read_uses(layout, owner).items():
        record = layout.record(key)
        with contextlib.suppress(OSError):
            if os.stat(record).st_mtime_ns < used:
                os.utime(record, ns=(used, used))
    discard(layout.at("uses", owner))
