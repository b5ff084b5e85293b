"""What every form of archive is: something that takes the archive's bytes and makes its members."""

from __future__ import annotations

import io
from abc import abstractmethod
from collections.abc import Iterable

from pgetpy.core.http.ranges import Span
from pgetpy.core.http.sink import Sink


class ArchiveExtractor(Sink):
    """A sink for the bytes of one archive; `write` may raise ArchiveError: it has to be refused.

    Attributes:
        resumable: whether a later run can go on from here, and the archive be read back.
        spooled: whether the archive has to be on disk before members can be made of it.
    """

    resumable: bool = False
    spooled: bool = False

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is odd about the archive, clauses; all of them are known when `finish` returns."""
        return ()

    def take_settled(self) -> list[Span]:
        """Return, once each, the spans that a later run would find where they belong."""
        return []

    def tidy(self, busy: Iterable[Span]) -> None:
        """Finish what is whole; nobody writes but to `busy` spans. Never waits.

        Raises:
            ArchiveError: what was done behind the bytes has shown that it has to be refused.
        """

    @abstractmethod
    def finish(self, total: int) -> None:
        """All `total` bytes have come: wait for what is still being done with them.

        Raises:
            ArchiveError: they are not a whole archive.
        """

    @abstractmethod
    def halt(self) -> None:
        """Wake a `finish` that is not wanted any more."""

    def read(self, pos: int, buffer: memoryview) -> int:
        """Read the archive back from `pos` on into `buffer`: bytes read, at least one."""
        raise io.UnsupportedOperation("decoded bytes are gone")

    @abstractmethod
    def close(self) -> None:
        """Close everything; nothing is written any more."""
