"""An archive whose headers say which byte is which member's, put into its files in any order.

Headers are known one after the other, but several connections bring bytes from anywhere:

    | H | data | H | data of a large member ...... | H : bytes that came early |
    |<----------- known: each byte has a place --->|   ^ horizon

- Known, a member's data: written to its file. For large files `place` gives out the descriptor, and
  the kernel moves bytes from the socket without Python.
- Known, headers and padding: written to the layout, for a later run or a digest.
- At the horizon, the byte wanted most: gathered in `_partial` until the header is complete. The
  reader then says where the next one is, and all data between becomes known.
- Behind the horizon: kept in `_ahead`, within the window, and handed on as the horizon passes.
All state is behind one lock. Only large writes are made without it: see `busy` of `tidy`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable

from pgetpy.archives.base import ArchiveExtractor
from pgetpy.archives.checking import content_of
from pgetpy.archives.extents import DiskExtent
from pgetpy.archives.layout import ArchiveLayout
from pgetpy.archives.member_file import LARGE, MemberFile
from pgetpy.archives.member_folder import MemberFolder
from pgetpy.archives.open_members import OpenMembers
from pgetpy.archives.reading import Admit, Reader
from pgetpy.archives.restoring import Restored, Restorer
from pgetpy.archives.room_ahead import RoomAhead
from pgetpy.archives.small_members import SmallMembers
from pgetpy.core.archives.member_policy import AdmittedMember
from pgetpy.core.archives.members import Kind, Member
from pgetpy.core.http.range_request import Window
from pgetpy.core.http.ranges import Span, Spans
from pgetpy.core.http.reorder_buffer import ReorderBuffer
from pgetpy.core.http.sink import Place
from pgetpy.system.filesystem import closing_fd

# Files that may be open for their bytes at a time; the horizon waits for those before it then.
_MOST_OPEN = 32
_WORTH_SPLICING = 64 * 1024


class RandomAccessExtractor(ArchiveExtractor):
    """Takes an archive's bytes from many threads.

    Args:
        folder: makes the members.
        reader: reads the headers.
        admit: says which members may be made.
        window: is moved as headers come.
        layout: keeps all bytes outside members' data, for a later run or a digest; may be None.
        parallel: whether bytes come from several threads, in any order; `tidy` must be called then.
        readable: whether the archive will be read back, see `read`.
    """

    resumable = True

    def __init__(
        self,
        folder: MemberFolder,
        reader: Reader,
        admit: Admit,
        window: Window,
        layout: ArchiveLayout | None = None,
        *,
        parallel: bool = True,
        readable: bool = False,
    ) -> None:
        self.window: Window = window
        self._room_ahead = RoomAhead()
        self._folder = folder
        self._reader = reader
        self._admit = admit
        self._layout = layout
        self._parallel = parallel
        self._readable = readable
        self._partial = bytearray()
        self._ahead = ReorderBuffer()
        # Bytes that are where they belong, and those that `take_settled` has still to give out.
        self._landed = Spans()
        self._unsettled = Spans()
        spool = layout.spool if layout is not None else None
        self._open = OpenMembers(folder, spool, readable=readable)
        self._extents = self._open.extents
        registry = self._open if readable else None
        self._small = SmallMembers(folder, reader, admit, layout, self._landed, registry)
        self._lock = threading.Lock()
        self._move_horizon()

    @property
    def remarks(self) -> tuple[str, ...]:
        return self._reader.remarks.clauses()

    def restore(self, held: Spans) -> Spans:
        """Take over what an earlier run left; return what of `held` is there.

        Raises:
            ArchiveError: what was left makes no sense.
        """
        assert self._layout is not None
        there = Spans()
        lost = Spans()
        restorer = Restorer(
            self._reader, self._admit, self._folder, self._layout, held, self._readable
        )
        for restored in restorer.members():
            for extent in restored.entry.member.extents:
                if restored.held is None:
                    there.add(extent.start, extent.stop)
                    continue
                for gap in restored.held.missing(extent.start, extent.stop):
                    lost.add(gap.start, gap.stop)
            self._take_over(restored)
        self._open.check_all_behind()
        for span in held:
            for part in lost.missing(span.start, min(span.stop, self._known)):
                there.add(part.start, part.stop)
        for part in there:
            self._landed.add(part.start, part.stop)
        self._move_horizon()
        return there

    def _take_over(self, restored: Restored) -> None:
        file = restored.file
        if file is None:
            return
        if restored.held is None:
            self._open.add_closed(file)
        else:
            for span in restored.held:
                file.land(span.start, span.stop)
            self._open.add(file)

    def pass_over(self, start: int, stop: int) -> None:
        """Note that `start` to `stop` belongs to no member, and is in the layout already."""
        with self._lock:
            self._landed.add(start, stop)

    def place(self, pos: int) -> Place | None:
        with self._lock:
            extent = self._extents.at(pos)
            if extent is None or not extent.file.large or extent.file.fd < 0:
                return None
            room = extent.stop - pos
            if room < _WORTH_SPLICING:
                return None
            return Place(extent.file.fd, extent.offset_of(pos), room)

    def write(self, pos: int, data: memoryview) -> None:
        while data:
            with self._lock, self._room_ahead.working():
                count, extent = self._steps(pos, data)
            if extent is not None:
                # The span is busy while we write, so `tidy` does not close the file.
                pos, data = pos + count, data[count:]
                count = min(len(data), extent.stop - pos)
                extent.file.write(extent.offset_of(pos), data[:count])
            pos, data = pos + count, data[count:]

    def mark(self, start: int, stop: int) -> None:
        with self._lock:
            self._unsettled.add(start, stop)
            for extent in self._extents.between(start, stop):
                begin, end = max(start, extent.start), min(stop, extent.stop)
                self._land(extent.file, begin, end)

    def take_settled(self) -> list[Span]:
        with self._lock:
            known = self._known
            ready = [Span(s.start, min(s.stop, known)) for s in self._unsettled if s.start < known]
            later = [Span(max(s.start, known), s.stop) for s in self._unsettled if s.stop > known]
            self._unsettled = Spans(later)
            if self._layout is not None:
                self._layout.write()
        return ready

    def tidy(self, busy: Iterable[Span]) -> None:
        """See `ArchiveExtractor.tidy`. Does nothing if the lock is taken: it is called again."""
        self._open.verifier.raise_failure()
        spans = Spans(busy)
        if not self._lock.acquire(blocking=False):
            return
        try:
            self._room_ahead.adapt()
            self._open.finish_ready(spans)
            self.window.files = self._open.large_spans()
            self._move_horizon()
        finally:
            self._lock.release()

    def make_room(self) -> None:
        """Wait until few files are open. Only for bytes that come in order, from one thread."""
        if len(self._open) >= _MOST_OPEN:
            # The last may still be incomplete.
            self._open.verifier.wait(left=1)
            self.tidy(())

    def finish(self, total: int) -> None:
        with self._lock:
            self._reader.finish(total, bytes(self._partial))
        self._open.verifier.wait()
        with self._lock:
            self._open.finish_all()
            self._move_horizon()

    def halt(self) -> None:
        self._open.verifier.halt()

    def close(self) -> None:
        """See `ArchiveExtractor.close`. The files stay as they are."""
        self._open.verifier.stop()
        with self._lock:
            self._open.close()
            self._folder.close_folder()

    def read(self, pos: int, buffer: memoryview) -> int:
        assert self._layout is not None
        with self._lock:
            extent = self._extents.at(pos)
            if extent is None:
                return self._layout.read(pos, buffer) or self._read_partial(pos, buffer)
            buffer = buffer[: extent.stop - pos]
            if extent.file.spooled:
                return self._layout.spool.read(pos, buffer)
            # Within the lock, or another member could take the file's name first.
            fd = extent.file.open_again()
        with closing_fd(fd):
            return os.preadv(fd, [buffer], extent.offset_of(pos))

    # ------------------------------------------------------------------ with the lock held

    @property
    def _known(self) -> int:
        """The layout of the archive is known up to this offset."""
        return (1 << 63) if self._reader.ended else self._reader.wanted.start

    def _read_partial(self, pos: int, buffer: memoryview) -> int:
        """Read what has come of the next header."""
        start = pos - self._reader.wanted.start
        part = self._partial[start : start + len(buffer)] if start >= 0 else b""
        buffer[: len(part)] = part
        return len(part)

    def _steps(self, pos: int, data: memoryview) -> tuple[int, DiskExtent | None]:
        """Take what of `data` comes before bytes of a large file: how much, and their extent."""
        taken = 0
        while taken < len(data):
            count, extent = self._step(pos + taken, data[taken:])
            if extent is not None:
                return taken, extent
            taken += count
            if self._ahead:
                self._release()
        return taken, None

    def _step(self, pos: int, data: memoryview) -> tuple[int, DiskExtent | None]:
        """Take some of `data`: how much, and the extent of a large file that it is to go to."""
        extent = self._extents.at(pos)
        if extent is not None and extent.file.fd >= 0:
            count = min(len(data), extent.stop - pos)
            if extent.file.large:
                return count, extent
            self._write_small(extent, pos, data[:count])
            return count, None
        if pos < self._known:
            return self._note(pos, data), None
        return self._read_header(pos, data), None

    def _write_small(self, extent: DiskExtent, pos: int, data: memoryview) -> None:
        file = extent.file
        file.write(extent.offset_of(pos), data)
        self._land(file, pos, pos + len(data))
        if file.ready:
            self._open.finish(file)
            self._move_horizon()

    def _land(self, file: MemberFile, start: int, stop: int) -> None:
        self._landed.add(start, stop)
        self._open.land(file, start, stop)

    def _note(self, pos: int, data: memoryview) -> int:
        """Keep bytes outside members' data, and pass over what has landed before."""
        end = min(pos + len(data), self._known)
        gap = next(self._landed.missing(pos, end), None)
        if gap is None:
            return end - pos
        if gap.start > pos:
            return gap.start - pos
        stop = min(gap.stop, self._extents.next_start(pos))
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
        if not self._partial and (taken := self._small.take(pos, data)):
            self._move_horizon()
            return taken
        count = min(len(data), wanted.stop - needed)
        self._partial += data[:count]
        if needed + count == wanted.stop:
            header = bytes(self._partial)
            self._partial.clear()
            member = self._reader.feed(header)
            self._record(wanted.start, memoryview(header))
            if member is not None:
                count += self._make(member, pos + count, data[count:])
        self._move_horizon()
        return count

    def _make(self, member: Member, pos: int, data: memoryview) -> int:
        """Make `member`; return how much of `data`, the bytes from `pos` on, was used for it.

        If `data` holds all of a small member, it is written at once: no file is kept open for it.
        """
        entry = self._admit(member)
        if entry is None:
            return 0
        if entry.replaces:
            self._open.pin(entry.parts)
        if entry.member.kind is Kind.FILE and self._is_within(entry.member, pos + len(data)):
            return self._put(entry, pos, data)
        size = sum(part.size for part in entry.member.extents)
        self._open.make(entry, large=self._parallel and size >= LARGE)
        self.window.files = self._open.large_spans()
        return 0

    def _is_within(self, member: Member, stop: int) -> bool:
        """Whether all of a member is in memory, up to `stop`, and may be written from there."""
        if not member.extents:
            return True
        if self._parallel and member.size >= LARGE:
            return False
        return len(member.extents) == 1 and member.extents[0].stop <= stop

    def _put(self, entry: AdmittedMember, pos: int, data: memoryview) -> int:
        """Make a file, all of it in `data`, the bytes from `pos` on; how much of that is used."""
        member = entry.member
        if not member.extents:
            self._folder.put(entry, 0, content_of(member, data[:0]))
            return 0
        (extent,) = member.extents
        start, stop = extent.start - pos, extent.stop - pos
        if start:
            self._record(pos, data[:start])
        self._folder.put(entry, extent.offset, content_of(member, data[start:stop]))
        if self._readable:
            if member.compression is not None:
                assert self._layout is not None
                self._layout.spool.write(extent.start, data[start:stop])
            self._open.add_closed(self._folder.closed_file(entry))
        self._landed.add(extent.start, extent.stop)
        padding = data[stop : max(stop, self._known - pos)]
        if padding:
            self._record(pos + stop, padding)
        return stop + len(padding)

    def _move_horizon(self) -> None:
        if self._reader.ended:
            # What follows the end marker is of no interest, but has to come.
            self.window.horizon = self._known
            return
        self.window.horizon = self._reader.wanted.start + len(self._partial)
        self.window.size = self._room_ahead.size if len(self._open) < _MOST_OPEN else 0

    def _release(self) -> None:
        while (piece := self._ahead.take(self.window.horizon)) is not None:
            pos, data = piece[0], memoryview(piece[1])
            while data:
                count, extent = self._step(pos, data)
                if extent is not None:
                    extent.file.write(extent.offset_of(pos), data[:count])
                    self._land(extent.file, pos, pos + count)
                pos += count
                data = data[count:]
