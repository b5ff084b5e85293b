"""A zip that becomes its members while it arrives.

What it holds stands at its end, which is asked for first; nothing is written before all of it has
been admitted. From then on it is scattered like a tar. Where a server has no ranges the archive is
spooled to disk until its end is there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence

from pgetpy.archives.layout import Layout
from pgetpy.archives.random_access import Scatter
from pgetpy.archives.reading import Admit, Reader
from pgetpy.core.archives.member_policy import Entry, Roster
from pgetpy.core.archives.members import Member
from pgetpy.core.archives.zip import ZipReader, survey
from pgetpy.core.archives.zip_entries import ZipMember
from pgetpy.core.http.plan import Window
from pgetpy.core.http.ranges import Span, Spans, joined
from pgetpy.core.http.reorder_buffer import Waiting
from pgetpy.core.http.sink import Place
from pgetpy.errors import ArchiveError

_PIECE = 1 << 20
_ENDLESS = 1 << 62
# Bytes that may wait for the sake of asking less often.
_BETWEEN = 16 << 20

# Makes what takes the bytes once it is known where they go.
MakeScatter = Callable[[Reader, Admit], Scatter]


class Zip:
    """Takes a zip's bytes from many threads.

    Args:
        total: the archive's bytes; None where they come in order only, and the end last.
        roster: says which members may be made.
        window: is moved as it becomes known what is wanted.
        layout: keeps what is no member's data.
        scatter: makes what takes the bytes once the members are known.
    """

    def __init__(
        self,
        total: int | None,
        roster: Roster,
        window: Window,
        layout: Layout,
        scatter: MakeScatter,
    ) -> None:
        self.window = window
        self._total = total
        self._roster = roster
        self._layout = layout
        self._make_scatter = scatter
        self._waiting = Waiting()
        self._marked = Spans()
        self._scatter: Scatter | None = None
        self._failure: BaseException | None = None
        self._halted = False
        self._lock = threading.Lock()
        if total is None:
            window.size = _ENDLESS
        else:
            self._start(total)

    @property
    def resumable(self) -> bool | None:
        """See `Form.resumable`."""
        return True if self.spooled or self._scatter is not None else None

    @property
    def spooled(self) -> bool:
        """Whether the archive is spooled to disk as a whole."""
        return self._total is None

    def restore(self, held: Spans) -> Spans:
        """See `Restorable.restore`."""
        scatter = None
        while scatter is None:
            parts = [self._layout.record(span) for span in self._wanted]
            if any(len(part) < span.size for part, span in zip(parts, self._wanted, strict=True)):
                raise ArchiveError("what it holds was not known yet")
            for part, span in zip(parts, self._wanted, strict=True):
                self._waiting.keep(span.start, memoryview(part))
            scatter = self._advance(parts)
        try:
            there = scatter.restore(held)
        except BaseException:
            scatter.close()
            raise
        self._begin(scatter)
        return there

    def place(self, pos: int) -> Place | None:
        if self._scatter is not None:
            return self._scatter.place(pos)
        return Place(self._layout.spool.fd, pos, _ENDLESS) if self.spooled else None

    def write(self, pos: int, data: memoryview) -> None:
        if self._scatter is None:
            if self.spooled:
                return self._layout.spool.write(pos, data)
            with self._lock:
                if self._scatter is None:
                    return self._take(pos, data)
        return self._scatter.write(pos, data)

    def mark(self, start: int, stop: int) -> None:
        with self._lock:
            if self._scatter is None:
                self._marked.add(start, stop)
                return
            marked, self._marked = self._marked, Spans()
        self._scatter.mark(start, stop)
        for span in marked:
            self._scatter.mark(span.start, span.stop)

    def settled(self) -> list[Span]:
        """See `Form.settled`."""
        return self._scatter.settled() if self._scatter is not None else []

    def tidy(self, busy: Iterable[Span]) -> None:
        """See `Form.tidy`."""
        if self._scatter is not None:
            self._scatter.tidy(busy)

    def finish(self, total: int) -> None:
        """See `Form.finish`."""
        if self.spooled:
            self._unspool(total)
        if self._scatter is None:
            raise ArchiveError("what it holds cannot be found out")
        self._scatter.finish(total)

    def halt(self) -> None:
        """See `Form.halt`."""
        self._halted = True
        if self._scatter is not None:
            self._scatter.halt()

    def read(self, pos: int, buffer: memoryview) -> int:
        """See `Form.read`."""
        if self._scatter is None or self.spooled:
            return self._layout.spool.read(pos, buffer)
        return self._scatter.read(pos, buffer)

    def close(self) -> None:
        """See `Form.close`."""
        if self._scatter is not None:
            self._scatter.close()

    def _start(self, total: int) -> None:
        self._survey = survey(total, self._roster.limits)
        self._want(next(self._survey))

    def _want(self, spans: Sequence[Span]) -> None:
        self._wanted = tuple(spans)
        self._missing = list(self._wanted)
        self.window.only = joined(self._wanted, _BETWEEN // max(1, len(self._wanted)))

    def _take(self, pos: int, data: memoryview) -> None:
        """Take `data` while it is not known yet what the archive holds."""
        if self._failure is not None:
            raise self._failure
        self._waiting.keep(pos, data)
        scatter = None
        while scatter is None:
            # As many as there are links: each is looked for until it has come, and no more.
            while self._missing and self._waiting.has_seen(self._missing[-1]):
                self._missing.pop()
            if self._missing:
                return
            found = (self._waiting.read(span) for span in self._wanted)
            parts = [part for part in found if part is not None]
            for span, part in zip(self._wanted, parts, strict=True):
                self._layout.add(span.start, memoryview(part))
            scatter = self._advance(parts)
        self._begin(scatter)

    def _advance(self, parts: Sequence[bytes]) -> Scatter | None:
        """Go on with the survey, which gets the bytes it wanted; at its end, say what takes all."""
        try:
            try:
                self._want(self._survey.send(parts))
                return None
            except StopIteration as end:
                members: tuple[ZipMember, ...] = end.value
            self._members_stop = max((found.stop for found in members), default=0)
            admit = _admitting(members, self._roster)
            return self._make_scatter(ZipReader(members), admit)
        except ArchiveError as error:
            # Others may still be bringing bytes.
            self._failure = error
            raise

    def _begin(self, scatter: Scatter) -> None:
        """Give `scatter` what has come before it was there, and all that is still to come."""
        try:
            while (piece := self._waiting.take(_ENDLESS)) is not None:
                pos, data = piece[0], memoryview(piece[1])
                room = max(0, self._members_stop - pos)
                # The directory and what follows it have been kept as they were wanted.
                scatter.pass_over(pos + room, pos + len(data))
                scatter.write(pos, data[:room])
        except BaseException as error:
            self._failure = error
            scatter.close()
            raise
        self._scatter = scatter
        self.window.only = ()

    def _unspool(self, total: int) -> None:
        """Make members of the archive, which is on disk now."""
        self._start(total)
        spool = self._layout.spool
        while self._scatter is None:
            parts = []
            for span in self._wanted:
                part = memoryview(bytearray(span.size))
                spool.read(span.start, part)
                parts.append(bytes(part))
            self._scatter = self._advance(parts)
        buffer = memoryview(bytearray(_PIECE))
        pos = 0
        while pos < self._members_stop and not self._halted:
            count = spool.read(pos, buffer[: self._members_stop - pos])
            if not count:
                raise ArchiveError("it was cut short on disk meanwhile")
            self._scatter.write(pos, buffer[:count])
            self._scatter.mark(pos, pos + count)
            self._scatter.make_room()
            pos += count


def _admitting(members: Sequence[ZipMember], roster: Roster) -> Admit:
    """Admit all members; return what says how to write each. Of several of one name the last is.

    Raises:
        ArchiveError: one of them is refused.
    """
    entries: dict[tuple[str, ...], Entry] = {}
    for found in members:
        entry = roster.admit(_localised(found))
        if entry is not None:
            entries[entry.parts] = entry._replace(replaces=False)
    by_position = {entry.member.position: entry for entry in entries.values()}

    def admit(member: Member) -> Entry | None:
        entry = by_position.get(member.position)
        if entry is None:
            return None
        return entry._replace(member=member._replace(mtime=entry.member.mtime))

    return admit


def _localised(found: ZipMember) -> Member:
    """Return the member with its time in this machine's zone, which a DOS time is taken to mean."""
    if not found.local_time:
        return found.member
    moment = time.gmtime(found.member.mtime // 10**9)
    seconds = time.mktime((*moment[:8], -1))
    return found.member._replace(mtime=int(seconds) * 10**9)
