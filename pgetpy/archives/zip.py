"""A zip that becomes its members while it arrives.

What a zip holds is said at its end. So the end is asked for first, and no member is made before all
of them have been admitted:

    1. survey    `window.only` asks for the end, the directory and the targets of links
    2. admit     every entry is judged, as the directory lists them
    3. members   the window opens, and a RandomAccessExtractor takes bytes in any order

    | members ............................................ | directory | end |
      ^ 3. in any order                                      ^ 1.

The first request was under way before it was known that this is a zip, and delivers its beginning.
Until step 3 such bytes are written to the spool, at their positions in the archive; then they are
read back and handed to the extractor (`_begin`).

Where nothing can be asked for out of order (no ranges, or a link that is good for one answer) the
whole archive is spooled, and members are made of it afterwards: `SpooledZip`. The same happens if
more than 256 MiB came before the directory: moving so much at once would hold up the connections.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from pgetpy.archives.base import ArchiveExtractor
from pgetpy.archives.layout import ArchiveLayout
from pgetpy.archives.random_access import RandomAccessExtractor
from pgetpy.archives.reading import Admit, Reader
from pgetpy.core.archives.member_policy import AdmittedMember, MemberPolicy
from pgetpy.core.archives.members import Member
from pgetpy.core.archives.remarks import Remarks
from pgetpy.core.archives.zip import ZipReader, survey
from pgetpy.core.archives.zip_entries import ZipMember
from pgetpy.core.http.range_request import Window
from pgetpy.core.http.ranges import Span, Spans, joined
from pgetpy.core.http.sink import Place
from pgetpy.errors import ArchiveError

_PIECE = 1 << 20
_ENDLESS = 1 << 62
# Bytes between wanted spans, in total, that may be fetched as well to send fewer requests.
_BETWEEN = 16 << 20
# If more than this has come before the directory, members are made only when all has come.
_MOST_SPOOLED = 256 << 20

# Makes the extractor, once the members are known.
MakeExtractor = Callable[[Reader, Admit], RandomAccessExtractor]


class DirectoryReader:
    """Surveys a zip, and hands over to an extractor when its members are known.

    Args:
        total: the archive's bytes.
        policy: says which members may be made.
        window: `only` is set to the spans that the survey needs next.
        layout: keeps the directory for a later run, and has the spool.
        extractor: makes the extractor, once the members are known.
    """

    def __init__(
        self,
        total: int,
        policy: MemberPolicy,
        window: Window,
        layout: ArchiveLayout,
        extractor: MakeExtractor,
    ) -> None:
        self._window = window
        self._policy = policy
        self._layout = layout
        self._make_extractor = extractor
        self._spooled = Spans()
        self._failure: BaseException | None = None
        self._members_stop = 0
        self._remarks = Remarks()
        self._survey = survey(total, policy.limits, self._remarks)
        window.keeps_all = True
        self._want(next(self._survey))

    def restore(self, held: Spans) -> tuple[RandomAccessExtractor, Spans]:
        """Return what takes the bytes, and what of `held` is there.

        See `RandomAccessExtractor.restore`.
        """

        def read(span: Span) -> bytes:
            part = self._layout.record(span)
            if len(part) < span.size:
                raise ArchiveError("an earlier run had not read its directory yet")
            self._spool(span.start, memoryview(part))
            return part

        extractor = self._read_all(read)
        try:
            there = extractor.restore(held)
        except BaseException:
            extractor.close()
            raise
        return self._begin(extractor), there

    def take(self, pos: int, data: memoryview) -> ArchiveExtractor | None:
        """Take `data`; return what takes the rest once it is known what the archive holds.

        Called by one thread at a time.
        """
        if self._failure is not None:
            raise self._failure
        self._spool(pos, data)
        extractor = None
        while extractor is None:
            # There may be one span for each of many links, so those that have come are not looked
            # for again.
            while self._missing and self._spooled.covers(*self._missing[-1]):
                self._missing.pop()
            if self._missing:
                return None
            if self._spooled.size > _MOST_SPOOLED:
                return self._spool_all()
            parts = [self._read(span) for span in self._wanted]
            for span, part in zip(self._wanted, parts, strict=True):
                self._layout.add(span.start, memoryview(part))
            extractor = self._advance(parts)
        return self._begin(extractor)

    def read_spool(self) -> tuple[RandomAccessExtractor, int]:
        """Return an extractor for the archive in the spool, and where its last member ends."""

        return self._read_all(self._read), self._members_stop

    def _read(self, span: Span) -> bytes:
        part = bytearray(span.size)
        self._layout.spool.read(span.start, memoryview(part))
        return bytes(part)

    def _spool(self, pos: int, data: memoryview) -> None:
        self._layout.spool.write(pos, data)
        self._spooled.add(pos, pos + len(data))

    def _spool_all(self) -> SpooledZip:
        """Return a sink that spools the rest, too; see `_MOST_SPOOLED`."""

        def survey_anew(total: int) -> DirectoryReader:
            window = Window(0)
            return DirectoryReader(total, self._policy, window, self._layout, self._make_extractor)

        self._window.only = ()
        why = f"its end came after more than {_MOST_SPOOLED >> 20} MiB of the rest"
        return SpooledZip(self._window, self._layout, survey_anew, why)

    def _read_all(self, read: Callable[[Span], bytes]) -> RandomAccessExtractor:
        """Finish the survey of an archive of which `read` gives everything."""
        while True:
            extractor = self._advance([read(span) for span in self._wanted])
            if extractor is not None:
                return extractor

    def _want(self, spans: Sequence[Span]) -> None:
        self._wanted = tuple(spans)
        self._missing = list(self._wanted)
        self._window.only = joined(self._wanted, _BETWEEN // max(1, len(self._wanted)))

    def _advance(self, parts: Sequence[bytes]) -> RandomAccessExtractor | None:
        """Send the survey the bytes it asked for; return the extractor after the last step."""
        try:
            try:
                self._want(self._survey.send(parts))
                return None
            except StopIteration as end:
                members: tuple[ZipMember, ...] = end.value
            self._members_stop = max((found.stop for found in members), default=0)
            admit = _admit_all(members, self._policy)
            return self._make_extractor(ZipReader(members, self._remarks), admit)
        except ArchiveError as error:
            # Other threads may still bring bytes; `take` raises this for them as well.
            self._failure = error
            raise

    def _begin(self, extractor: RandomAccessExtractor) -> RandomAccessExtractor:
        """Hand `extractor` the bytes received so far, and all that follow."""
        try:
            buffer = memoryview(bytearray(_PIECE))
            for span in self._spooled:
                members_stop = min(span.stop, max(span.start, self._members_stop))
                # The directory and all behind it are in the layout already.
                extractor.pass_over(members_stop, span.stop)
                for pos in range(span.start, members_stop, _PIECE):
                    count = self._layout.spool.read(pos, buffer[: members_stop - pos])
                    # The extractor writes deflated members to the spool again, each when it is
                    # known; until then their room is free.
                    self._layout.spool.release(pos, pos + count)
                    extractor.write(pos, buffer[:count])
        except BaseException as error:
            self._failure = error
            extractor.close()
            raise
        self._window.only = ()
        return extractor


class SpooledZip(ArchiveExtractor):
    """Takes a zip whose end comes last: spools all of it, and makes members in `finish`.

    Args:
        window: is opened for the whole archive.
        layout: has the spool.
        survey: returns a `DirectoryReader`, given the archive's size.
        why: why members cannot be made earlier, for people.
    """

    resumable = True

    def __init__(
        self,
        window: Window,
        layout: ArchiveLayout,
        survey: Callable[[int], DirectoryReader],
        why: str = "the server serves no ranges",
    ) -> None:
        self.spooled = why
        window.size = _ENDLESS
        self._spool = layout.spool
        self._survey = survey
        self._extractor: RandomAccessExtractor | None = None
        self._halted = False

    @property
    def remarks(self) -> tuple[str, ...]:
        return self._extractor.remarks if self._extractor is not None else ()

    def place(self, pos: int) -> Place:
        return Place(self._spool.fd, pos, _ENDLESS)

    def write(self, pos: int, data: memoryview) -> None:
        self._spool.write(pos, data)

    def read(self, pos: int, buffer: memoryview) -> int:
        """See `ArchiveExtractor.read`."""
        return self._spool.read(pos, buffer)

    def finish(self, total: int) -> None:
        """See `ArchiveExtractor.finish`."""
        extractor, members_stop = self._survey(total).read_spool()
        self._extractor = extractor
        buffer = memoryview(bytearray(_PIECE))
        pos = 0
        while pos < members_stop and not self._halted:
            count = self._spool.read(pos, buffer[: members_stop - pos])
            if not count:
                raise ArchiveError("it was truncated on disk by another process")
            extractor.write(pos, buffer[:count])
            extractor.mark(pos, pos + count)
            extractor.make_room()
            pos += count
        extractor.finish(total)

    def halt(self) -> None:
        """See `ArchiveExtractor.halt`."""
        self._halted = True
        if self._extractor is not None:
            self._extractor.halt()

    def close(self) -> None:
        """See `ArchiveExtractor.close`."""
        if self._extractor is not None:
            self._extractor.close()


def _admit_all(members: Sequence[ZipMember], policy: MemberPolicy) -> Admit:
    """Admit all members; return the function that says how to write each.

    Of several members with one name the last wins. The others are not made at all: bytes come in
    any order, and an earlier one might be written over a later one.

    Raises:
        ArchiveError: one of them is refused.
    """
    entries: dict[tuple[str, ...], AdmittedMember] = {}
    for found in members:
        entry = policy.admit(_localised(found))
        if entry is not None:
            entries[entry.parts] = entry._replace(replaces=False)
    by_position = {entry.member.position: entry for entry in entries.values()}

    def admit(member: Member) -> AdmittedMember | None:
        entry = by_position.get(member.position)
        if entry is None:
            return None
        return entry._replace(member=member._replace(mtime=entry.member.mtime))

    return admit


def _localised(found: ZipMember) -> Member:
    """Return the member with a DOS time read as local time of this machine, as unzip does."""
    if not found.local_time:
        return found.member
    moment = time.gmtime(found.member.mtime // 10**9)
    seconds = time.mktime((*moment[:8], -1))
    return found.member._replace(mtime=int(seconds) * 10**9)
