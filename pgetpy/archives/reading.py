"""What reads an archive's headers, whatever the format: `TarReader` and `ZipReader` are such."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pgetpy.core.archives.member_policy import AdmittedMember
from pgetpy.core.archives.members import Member
from pgetpy.core.archives.remarks import Remarks
from pgetpy.core.http.ranges import Span

# Says how to write a member; None where there is nothing to make.
Admit = Callable[[Member], AdmittedMember | None]


class Reader(Protocol):
    """Says which bytes it wants, is fed exactly those, and moves on.

    Attributes:
        wanted: the bytes of the archive that `feed` takes next, never before earlier ones.
        ended: whether it wants no more.
        remarks: what is odd about the archive.
    """

    wanted: Span
    ended: bool
    remarks: Remarks

    def feed(self, data: bytes) -> Member | None:
        """Take exactly the bytes of `wanted`; return the member that they complete, if they do.

        Raises:
            ArchiveError: they are not headers, or their values are impossible.
        """

    def feed_file(self, data: memoryview, most: int) -> Member | None:
        """Take the header of a plain file at the start of `data`, with less than `most` bytes.

        `data` begins where `wanted` does and holds all of the file as well; None, and nothing is
        taken, where it does not begin with such a file.
        """

    def finish(self, total: int, rest: bytes = b"") -> None:
        """Check that the archive may end after `total` bytes, of which `rest` were wanted last.

        Raises:
            TruncatedArchiveError: its end is missing.
        """
