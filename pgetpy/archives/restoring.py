"""What an earlier run made of an archive, taken over member by member.

Three things are left by a run that was killed: the journal, which says what bytes of the archive
have landed; the layout with the headers; and the staged folder with files. The headers are parsed
again from the layout, as far as the journal goes, and each member is compared with what is staged:

    found                                     result
    ---------------------------------------   ----------------------------------------------
    all bytes, no CRC to compare              closed, `held` None: nothing left to be done
    all bytes, a CRC                          `held` all of them: read again and checked
    some bytes, and a file as long as that    `held` those: the file is opened again
    a file too short, another kind, nothing   `held` empty: made anew, its bytes are fetched again
    deflated, already delivered               closed, unless the spool lacks what is read back
    deflated, in the spool                    `held` those: inflated again from the start

The layout is written before the journal claims its bytes, and a header counts only if both have it.
Whatever cannot be explained is an ArchiveError, and the extraction starts over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pgetpy.archives.layout import ArchiveLayout
from pgetpy.archives.member_file import LARGE, MemberFile
from pgetpy.archives.member_folder import MemberFolder
from pgetpy.archives.reading import Admit, Reader
from pgetpy.core.archives.member_policy import AdmittedMember
from pgetpy.core.archives.members import Member
from pgetpy.core.http.ranges import Span, Spans
from pgetpy.errors import ArchiveError


@dataclass(frozen=True)
class Restored:
    """One member of an earlier run.

    Attributes:
        entry: the member.
        file: None if it is not a file; closed if nothing is left to be done with it.
        held: which of its bytes are there; None if it is complete and none of them is needed.
    """

    entry: AdmittedMember
    file: MemberFile | None
    held: Spans | None


@dataclass(frozen=True)
class Restorer:
    """Reads an archive's headers from `layout`, as far as the bytes `held` go.

    If the archive will be `readable`, a deflated member must also be in the spool as it was sent:
    its content alone cannot be turned back into the same bytes.
    """

    reader: Reader
    admit: Admit
    folder: MemberFolder
    layout: ArchiveLayout
    held: Spans
    readable: bool

    def members(self) -> Iterator[Restored]:
        """Yield the members whose headers are known, in the archive's order.

        Raises:
            ArchiveError: what was left contradicts itself.
        """
        kept: set[tuple[str, ...]] = set()
        while not self.reader.ended:
            wanted = self.reader.wanted
            data = self.layout.record(wanted)
            if len(data) < wanted.size or not self.held.covers(wanted.start, wanted.stop):
                break
            member = self.reader.feed(data)
            entry = self.admit(member) if member is not None else None
            if entry is None:
                continue
            if entry.replaces:
                raise ArchiveError("an earlier run left one member twice")
            kept.add(entry.parts)
            yield (
                self._restore_deflated(entry)
                if entry.member.compression is not None
                else self._restore_plain(entry)
            )
        # Files of members whose headers were lost: they would be in the way when those come again.
        self.folder.sweep(kept)

    def _restore_plain(self, entry: AdmittedMember) -> Restored:
        member = entry.member
        held = self._held_of(member)
        whole = all(self.held.covers(extent.start, extent.stop) for extent in member.extents)
        needed = member.size if whole else _size_needed(member, held)
        # With a CRC the content is checked again, because the disk may have lost some of it.
        closed = whole and member.crc32 is None
        there, file = self.folder.adopt(entry, needed=needed, whole=closed)
        if there and (file is None or file.fd < 0):
            return Restored(entry, file, None)
        if whole and there and file is not None:
            # Complete files are only read again. There may be more of them than can be open.
            self.folder.close(file)
        return Restored(entry, file, held if there else Spans())

    def _restore_deflated(self, entry: AdmittedMember) -> Restored:
        member, spool = entry.member, self.layout.spool
        extent, held = member.extents[0], self._held_of(member)
        delivered = self.folder.claim_delivered(entry)
        there = max((span.stop for span in held), default=0) <= spool.size
        if delivered or held.covers(extent.start, extent.start + 1):
            # After delivery the spool's bytes are released. The journal may still claim them, or
            # not claim them yet, so the spool itself has to be looked at.
            there = there and spool.holds(extent.start, extent.stop)
        held = held if there else Spans()
        if delivered and (not self.readable or held.covers(extent.start, extent.stop)):
            return Restored(entry, self.folder.adopt_delivered(entry), None)
        file = self.folder.defer(entry, spool.fd, large=extent.size >= LARGE)
        return Restored(entry, file, held)

    def _held_of(self, member: Member) -> Spans:
        """What of the bytes held are bytes of `member`."""
        pairs = [(extent, span) for extent in member.extents for span in self.held]
        parts = [(max(e.start, s.start), min(e.stop, s.stop)) for e, s in pairs]
        return Spans(Span(start, stop) for start, stop in parts if start < stop)


def _size_needed(member: Member, held: Spans) -> int:
    """The least size of a file of `member` that holds what it has of `held`."""
    ends = [
        extent.offset + min(span.stop, extent.stop) - extent.start
        for extent in member.extents
        for span in held
        if span.start < extent.stop and extent.start < span.stop
    ]
    return max(ends, default=0)
