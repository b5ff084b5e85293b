"""What every form of archive is: something that takes the archive's bytes and makes its members."""

from __future__ import annotations

import io
from abc import abstractmethod
from collections.abc import Iterable

from pgetpy.core.http.ranges import Span
from pgetpy.core.http.sink import Sink


class ArchiveExtractor(Sink):
    """A sink for the bytes of one archive; `write` may raise ArchiveError: it has to be refused.

    `write`, `place` and `mark` are called from several threads, and `tidy` from the engine at the
    same time. `finish` comes last, in a thread, and `halt` while it waits.

    Attributes:
        resumable: whether a later run can continue from here, and the archive be read back.
        spooled: why the archive has to be on disk before members are made of it, a clause; empty
            where it does not.
    """

    resumable: bool = False
    spooled: str = ""

    @property
    def remarks(self) -> tuple[str, ...]:
        """Clauses on what is odd about the archive; complete once `finish` has returned."""
        return ()

    def take_settled(self) -> list[Span]:
        """Return the spans that a later run would find in place, each span once.

        They go into the journal. Written bytes count only when it is also on disk where they
        belong: bytes behind a header that is not noted yet are left out.
        """
        return []

    def tidy(self, busy: Iterable[Span]) -> None:
        """Close files that are complete. Never waits.

        Args:
            busy: the spans that transports are writing at this moment. A file within one stays
                open, because its descriptor is in use.

        Raises:
            ArchiveError: a check in the background has found that the archive must be refused.
        """

    @abstractmethod
    def finish(self, total: int) -> None:
        """All `total` bytes have come: complete the members, waiting for work in the background.

        Raises:
            ArchiveError: they are not a whole archive.
        """

    @abstractmethod
    def halt(self) -> None:
        """Have a `finish` that waits in another thread give up."""

    def read(self, pos: int, buffer: memoryview) -> int:
        """Read the archive back from `pos` on into `buffer`: bytes read, at least one."""
        raise io.UnsupportedOperation("decoded bytes are gone")

    @abstractmethod
    def close(self) -> None:
        """Close everything; nothing is written any more."""
