"""A tar archive that becomes its members while it arrives, in any order.

Headers say which byte of the archive is which byte of which file. What lies inside a known member
goes straight to its place; the first byte of which nothing is known yet, the horizon, is what is
wanted most, and what comes from behind it waits in memory until the headers between are there.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from pgetpy.core.members import Kind, Member
from pgetpy.core.plan import Window
from pgetpy.core.ranges import Span, Spans
from pgetpy.core.roster import Roster
from pgetpy.core.tar import TarReader
from pgetpy.core.waiting import Waiting
from pgetpy.errors import ArchiveError
from pgetpy.extraction.folder import LARGE, MemberFile, MemberFolder
from pgetpy.extraction.layout import Layout
from pgetpy.sinks.base import Place

# Bytes that may wait for the headers before them.
AHEAD = 16 << 20
# Files that may be open for their bytes at a time; the horizon waits for those before it then.
_MOST_OPEN = 32
_WORTH_SPLICING = 64 * 1024


@dataclass(frozen=True)
class _Extent:
    """The archive's bytes `start` up to `stop` are those of `file` from `offset` on."""

    start: int
    stop: int
    offset: int
    file: MemberFile


class TarSink:
    """Takes a tar archive's bytes from many threads.

    Args:
        folder: makes the members.
        roster: says which may be made.
        window: is moved as headers come.
        layout: keeps what is no member's data, for a later run or a digest; None to keep nothing.
        parallel: whether bytes come from several threads, in any order; `tidy` must be called then.
        readable: whether the archive will be read back, see `read`.

    Attributes:
        held: the bytes that an earlier run left.
    """

    def __init__(
        self,
        folder: MemberFolder,
        roster: Roster,
        window: Window,
        layout: Layout | None = None,
        *,
        parallel: bool = True,
        readable: bool = False,
    ) -> None:
        self.held = Spans()
        self.window = window
        window.size = AHEAD
        self._folder = folder
        self._roster = roster
        self._layout = layout
        self._parallel = parallel
        self._readable = readable
        self._reader = TarReader(longest_header=roster.limits.header_bytes)
        self._partial = bytearray()
        self._ahead = Waiting()
        # Bytes that are where they belong, and those that `settled` has still to give out.
        self._landed = Spans()
        self._unsettled = Spans()
        # Of the files under way, in the archive's order; of all where it will be read back.
        self._starts: list[int] = []
        self._extents: list[_Extent] = []
        self._open: dict[MemberFile, None] = {}
        self._lock = threading.Lock()

    # ------------------------------------------------------------------ an earlier run's work

    def restore(self, held: Spans) -> Spans:
        """Take over what an earlier run left; return what of `held` is there.

        Raises:
            ArchiveError: what was left makes no sense.
        """
        assert self._layout is not None
        lost = Spans()
        kept: set[tuple[str, ...]] = set()
        while not self._reader.ended:
            wanted = self._reader.wanted
            data = self._recorded(wanted)
            if len(data) < wanted.size or not held.covers(wanted.start, wanted.stop):
                break
            member = self._reader.feed(data)
            if member is not None:
                kept |= self._adopt(member, held, lost)
        # What was made of members whose headers have not been noted would stand in their way.
        self._folder.sweep(kept)
        for span in held:
            for part in lost.missing(span.start, min(span.stop, self._known)):
                self.held.add(part.start, part.stop)
        for span in self.held:
            self._landed.add(span.start, span.stop)
        self._move_horizon()
        return self.held

    def _recorded(self, wanted: Span) -> bytes:
        assert self._layout is not None
        data = bytearray(wanted.size)
        filled = 0
        while filled < wanted.size:
            room = memoryview(data)[filled:]
            count = self._layout.read(wanted.start + filled, room)
            if not count:
                break
            filled += count
        return bytes(data[:filled])

    def _adopt(self, member: Member, held: Spans, lost: Spans) -> set[tuple[str, ...]]:
        entry = self._roster.admit(member)
        if entry is None:
            return set()
        if entry.replaces:
            raise ArchiveError("a member stands in it twice")
        whole = all(held.covers(extent.start, extent.stop) for extent in member.extents)
        needed = member.size if whole else _size_needed(member, held)
        there, file = self._folder.adopt(entry, needed=needed, whole=whole)
        if not there:
            for extent in member.extents:
                lost.add(extent.start, extent.stop)
        if file is not None and file.fd < 0:
            if self._readable:
                self._add_extents(member, file)
        elif file is not None:
            self._add(member, file)
            if there:
                file.landed = _held_of(member, held)
        return {entry.parts}

    # ------------------------------------------------------------------ bytes as they come

    def place(self, pos: int) -> Place | None:
        with self._lock:
            extent = self._extent_at(pos)
            if extent is None or not extent.file.large or extent.file.fd < 0:
                return None
            room = extent.stop - pos
            if room < _WORTH_SPLICING:
                return None
            return Place(extent.file.fd, extent.offset + pos - extent.start, room)

    def write(self, pos: int, data: memoryview) -> None:
        while data:
            with self._lock:
                count, extent = self._step(pos, data)
                if extent is None:
                    self._release()
            if extent is not None:
                # Whoever writes here keeps the file from being closed, see `tidy`.
                extent.file.write(extent.offset + pos - extent.start, data[:count])
            pos += count
            data = data[count:]

    def mark(self, start: int, stop: int) -> None:
        with self._lock:
            self._unsettled.add(start, stop)
            for extent in self._extents_between(start, stop):
                begin, end = max(start, extent.start), min(stop, extent.stop)
                self._landed.add(begin, end)
                extent.file.landed.add(begin, end)

    def settled(self) -> list[Span]:
        """Return, once each, the spans that a later run would find where they belong."""
        with self._lock:
            known = self._known
            ready = [Span(s.start, min(s.stop, known)) for s in self._unsettled if s.start < known]
            later = [Span(max(s.start, known), s.stop) for s in self._unsettled if s.stop > known]
            self._unsettled = Spans(later)
            if self._layout is not None:
                self._layout.write()
        return ready

    def tidy(self, busy: Iterable[Span]) -> None:
        """Finish the files that have got all their bytes; nobody writes but to `busy` spans.

        Does nothing for now where others are at work: it never waits.
        """
        spans = Spans(busy)
        if not self._lock.acquire(blocking=False):
            return
        try:
            for file in [file for file in self._open if file.whole]:
                extents = file.entry.member.extents
                if not any(spans.overlaps(e.start, e.stop) for e in extents):
                    self._finish(file)
        finally:
            self._lock.release()

    def finish(self, total: int) -> None:
        """All `total` bytes have come: see that the archive is whole, and close its files.

        Raises:
            TruncatedArchiveError: its end is missing.
        """
        with self._lock:
            self._reader.finish(total)
            for file in list(self._open):
                self._finish(file)

    def close(self) -> None:
        """Close the files as they are."""
        with self._lock:
            for file in self._open:
                self._folder.close(file)
            for extent in self._extents:
                extent.file.unpin()

    def read(self, pos: int, buffer: memoryview) -> int:
        """Read the archive back from `pos` on into `buffer`: bytes read, at least one."""
        with self._lock:
            extent = self._extent_at(pos)
            if extent is None:
                assert self._layout is not None
                return self._layout.read(pos, buffer)
            file = extent.file
            fd = file.fd if file.fd >= 0 else file.pinned
            buffer = buffer[: extent.stop - pos]
            offset = extent.offset + pos - extent.start
            if fd >= 0:
                return os.preadv(fd, [buffer], offset)
            # Without the lock another member could take its name first.
            fd = os.open(file.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return os.preadv(fd, [buffer], offset)
        finally:
            os.close(fd)

    # ------------------------------------------------------------------ with the lock held

    @property
    def _known(self) -> int:
        """Of every byte before this one it is known where it belongs."""
        return (1 << 63) if self._reader.ended else self._reader.wanted.start

    def _step(self, pos: int, data: memoryview) -> tuple[int, _Extent | None]:
        """Take some of `data`: how much, and the extent of a large file that it is to go to."""
        extent = self._extent_at(pos)
        if extent is not None and extent.file.fd >= 0:
            count = min(len(data), extent.stop - pos)
            if extent.file.large:
                return count, extent
            self._write_small(extent, pos, data[:count])
            return count, None
        if pos < self._known:
            return self._note(pos, data), None
        return self._read_header(pos, data), None

    def _write_small(self, extent: _Extent, pos: int, data: memoryview) -> None:
        file = extent.file
        file.write(extent.offset + pos - extent.start, data)
        file.landed.add(pos, pos + len(data))
        self._landed.add(pos, pos + len(data))
        if file.whole:
            self._finish(file)

    def _note(self, pos: int, data: memoryview) -> int:
        """Note what is no member's data, and pass over what has landed before."""
        end = min(pos + len(data), self._known)
        gap = next(self._landed.missing(pos, end), None)
        if gap is None:
            return end - pos
        if gap.start > pos:
            return gap.start - pos
        stop = min(gap.stop, self._next_extent(pos))
        self._record(pos, data[: stop - pos])
        return stop - pos

    def _record(self, pos: int, data: memoryview) -> None:
        self._landed.add(pos, pos + len(data))
        if self._layout is not None:
            self._layout.add(pos, data)

    def _read_header(self, pos: int, data: memoryview) -> int:
        wanted = self._reader.wanted
        needed = wanted.start + len(self._partial)
        if pos > needed:
            self._ahead.keep(pos, data)
            return len(data)
        if pos < needed:
            return min(len(data), needed - pos)
        count = min(len(data), wanted.stop - needed)
        self._partial += data[:count]
        if len(self._partial) == wanted.size:
            header = bytes(self._partial)
            self._partial.clear()
            member = self._reader.feed(header)
            self._record(wanted.start, memoryview(header))
            if member is not None:
                count += self._admit(member, data[count:])
        self._move_horizon()
        return count

    def _admit(self, member: Member, data: memoryview) -> int:
        """Make `member`; where `data`, which follows its header, holds all of it, write it too."""
        entry = self._roster.admit(member)
        if entry is None:
            return 0
        if entry.replaces and self._readable:
            self._pin(entry.parts)
        large = self._parallel and member.kind is Kind.FILE and member.size >= LARGE
        file = self._folder.make(entry, large=large)
        if file is None:
            return 0
        whole = len(member.extents) == 1 and len(data) >= member.extents[0].size
        if file.whole or (whole and not large and not self._readable):
            # Should this fail, `close` finds it there.
            self._open[file] = None
            for extent in member.extents:
                file.write(extent.offset, data[: extent.size])
                self._landed.add(extent.start, extent.stop)
            self._folder.finish(file)
            del self._open[file]
            return sum(extent.size for extent in member.extents)
        self._add(member, file)
        return 0

    def _add(self, member: Member, file: MemberFile) -> None:
        self._add_extents(member, file)
        self._open[file] = None

    def _add_extents(self, member: Member, file: MemberFile) -> None:
        for extent in member.extents:
            if extent.size:
                self._starts.append(extent.start)
                self._extents.append(_Extent(extent.start, extent.stop, extent.offset, file))

    def _pin(self, parts: tuple[str, ...]) -> None:
        """Another member takes the place of the one at `parts`, which is still to be read back."""
        for extent in self._extents:
            if extent.file.entry.parts == parts:
                extent.file.pin()

    def _finish(self, file: MemberFile) -> None:
        self._folder.finish(file)
        del self._open[file]
        if not self._readable:
            kept = [extent for extent in self._extents if extent.file is not file]
            self._extents = kept
            self._starts = [extent.start for extent in kept]
        self._move_horizon()

    def _move_horizon(self) -> None:
        if self._reader.ended:
            # What follows the end marker is of no interest, but has to come.
            self.window.horizon = self._known
            return
        self.window.horizon = self._reader.wanted.start + len(self._partial)
        self.window.size = AHEAD if len(self._open) < _MOST_OPEN else 0

    def _release(self) -> None:
        """Put what has waited where it belongs, as far as that is known now."""
        while (piece := self._ahead.take(self.window.horizon)) is not None:
            pos, data = piece[0], memoryview(piece[1])
            while data:
                count, extent = self._step(pos, data)
                if extent is not None:
                    extent.file.write(extent.offset + pos - extent.start, data[:count])
                pos += count
                data = data[count:]

    def _extent_at(self, pos: int) -> _Extent | None:
        index = bisect_right(self._starts, pos) - 1
        if index >= 0 and pos < self._extents[index].stop:
            return self._extents[index]
        return None

    def _next_extent(self, pos: int) -> int:
        index = bisect_right(self._starts, pos)
        return self._starts[index] if index < len(self._starts) else 1 << 63

    def _extents_between(self, start: int, stop: int) -> list[_Extent]:
        first = max(0, bisect_right(self._starts, start) - 1)
        last = bisect_right(self._starts, stop)
        return [e for e in self._extents[first:last] if e.start < stop and start < e.stop]


def _held_of(member: Member, held: Spans) -> Spans:
    """What of `held` are bytes of `member`."""
    pairs = [(extent, span) for extent in member.extents for span in held]
    parts = [(max(e.start, s.start), min(e.stop, s.stop)) for e, s in pairs]
    return Spans(Span(start, stop) for start, stop in parts if start < stop)


def _size_needed(member: Member, held: Spans) -> int:
    """The least size of a file of `member` that holds what it has of `held`."""
    there = _held_of(member, held)
    ends = [
        extent.offset + min(span.stop, extent.stop) - extent.start
        for extent in member.extents
        for span in there
        if span.start < extent.stop and extent.start < span.stop
    ]
    return max(ends, default=0)
