"""Which bytes of an archive are which file's, found by position.

Headers are read in order, so extents are added in order, and a list that is searched by bisection
is enough. An archive has a million members and few are open: closed files are dropped.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from pgetpy.archives.member_file import MemberFile

_NOWHERE = 1 << 63


class DiskExtent(NamedTuple):
    """The archive's bytes `start` up to `stop` are those of `file.fd` from `offset` on.

    For a deflated member `file.fd` is the spool, where positions are the archive's own.
    """

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
        self._extents: list[DiskExtent] = []

    def __iter__(self) -> Iterator[DiskExtent]:
        return iter(self._extents)

    def add(self, file: MemberFile) -> None:
        """Add the extents of `file`, which lie behind all that were added before."""
        for extent in file.entry.member.extents:
            if extent.size:
                offset = extent.start if file.spooled else extent.offset
                self._extents.append(DiskExtent(extent.start, extent.stop, offset, file))

    def drop(self, file: MemberFile) -> None:
        """Remove the extents of `file`."""
        self._extents = [extent for extent in self._extents if extent.file is not file]

    def at(self, pos: int) -> DiskExtent | None:
        """Return the extent with byte `pos`, None between extents."""
        index = self._after(pos) - 1
        if index >= 0 and pos < self._extents[index].stop:
            return self._extents[index]
        return None

    def next_start(self, pos: int) -> int:
        """Return where the first extent behind `pos` begins, a huge number if there is none."""
        index = self._after(pos)
        return self._extents[index].start if index < len(self._extents) else _NOWHERE

    def between(self, start: int, stop: int) -> list[DiskExtent]:
        """Return the extents with bytes between `start` and `stop`."""
        first = max(0, self._after(start) - 1)
        found = self._extents[first : self._after(stop)]
        return [extent for extent in found if extent.start < stop and start < extent.stop]

    def _after(self, pos: int) -> int:
        """Return the index of the first extent that begins behind `pos`."""
        return bisect_right(self._extents, (pos, _NOWHERE))
