"""When entries were last used: on disk, shared by all processes, updated on each hit.

Each process has a file of its own with a slot for each key, so a hit costs one small write and no
lock. A use is noted before the record is looked up, just as with leases: a process that evicts then
sees which entries are being given out right now. When a process ends, its uses are moved to the
modification times of the entries' records.

    uses/OWNER    slots of 40 bytes: 32 of the key, 8 of the time in nanoseconds, little-endian

A slot is written once with its key, and after that only its time is. So a reader sees the old time
or the new one, and a kill leaves at most a slot at the end that is not whole, which is ignored.

Times of uses are compared across processes and decide what is evicted, so they come from `Clock`
and not from the system: a clock that was set back would make the entry in use the oldest one.
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
    """Nanoseconds since the epoch that never run backwards, even if the system clock is set back.

    The latest time that was given out is kept as the modification time of a file.
    """

    def __init__(self, layout: CachePaths, now: Callable[[], int] = time.time_ns) -> None:
        self._path = layout.at("clock")
        self._now = now
        self._last = 0

    def now(self) -> int:
        """Return a time later than every use noted so far, within about a second."""
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
        """Note that `key` is used now. A full disk does not prevent a hit."""
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
        """Close the file, and leave the uses in it: in a forked child they are the parent's."""
        if self._fd >= 0:
            self._close()

    def __del__(self) -> None:
        self.abandon()

    def _make(self) -> None:
        if self._fd >= 0:
            self._close()
        # Without a lease file, a sweep would take the uses for a dead process's.
        self._holder.ensure_file()
        path = self._layout.at("uses", self._holder.owner)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o666)

    def _close(self) -> None:
        os.close(self._fd)
        self._fd = -1
        self._slots.clear()


def read_uses(layout: CachePaths, owner: str) -> dict[str, int]:
    """Return the keys that process `owner` was given, and when."""
    try:
        with open(layout.at("uses", owner), "rb") as file:
            data = file.read()
    except OSError:
        return {}
    whole = len(data) // _SLOT.size * _SLOT.size
    return {raw.hex(): used for raw, used in _SLOT.iter_unpack(data[:whole])}


def fold(layout: CachePaths, owner: str) -> None:
    """Move the uses of the ended process `owner` to the records. Safe to repeat after a crash."""
    for key, used in read_uses(layout, owner).items():
        record = layout.record(key)
        with contextlib.suppress(OSError):
            if os.stat(record).st_mtime_ns < used:
                os.utime(record, ns=(used, used))
    discard(layout.at("uses", owner))
