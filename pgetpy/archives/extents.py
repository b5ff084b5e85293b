"""Which bytes of an archive are which file's, found by position."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from pgetpy.archives.member_file import MemberFile

_NOWHERE = 1 << 63


class DiskExtent(NamedTuple):
    """The archive's bytes `start` up to `stop` are those of `file.fd` from `offset` on."""

    start: int
    stop: int
    offset: int
    file: MemberFile

    def offset_of(self, pos: int) -> int:
        """Where in the file byte `pos` of the archive is."""
        return self.offset + pos - self.start


class DiskExtents:
    """The extents of files, which are added in the archive's order."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._extents: list[DiskExtent] = []

    def __iter__(self) -> Iterator[DiskExtent]:
        return iter(self._extents)

    def add(self, file: MemberFile) -> None:
        """Add those of `file`."""
        for extent in file.entry.member.extents:
            if extent.size:
                offset = extent.start if file.spooled else extent.offset
                self._starts.append(extent.start)
                self._extents.append(DiskExtent(extent.start, extent.stop, offset, file))

    def drop(self, file: MemberFile) -> None:
        """Take those of `file` away."""
        self._extents = [extent for extent in self._extents if extent.file is not file]
        self._starts = [extent.start for extent in self._extents]

    def at(self, pos: int) -> DiskExtent | None:
        """Return the one that byte `pos` is in."""
        if not self._starts:
            return None
        index = bisect_right(self._starts, pos) - 1
        if index >= 0 and pos < self._extents[index].stop:
            return self._extents[index]
        return None

    def next_start(self, pos: int) -> int:
        """Return where the first one behind `pos` begins."""
        index = bisect_right(self._starts, pos)
        return self._starts[index] if index < len(self._starts) else _NOWHERE

    def between(self, start: int, stop: int) -> list[DiskExtent]:
        """Return those that have bytes between `start` and `stop`."""
        first = max(0, bisect_right(self._starts, start) - 1)
        last = bisect_right(self._starts, stop)
        return [e for e in self._extents[first:last] if e.start < stop and start < e.stop]
