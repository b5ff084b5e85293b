"""What every form of archive is: something that takes the archive's bytes and makes its members."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Iterable

from pgetpy.core.http.ranges import Span
from pgetpy.core.http.sink import Place


class ArchiveExtractor(ABC):
    """Takes the bytes of one archive from many threads. Positions are those of the archive.

    Attributes:
        resumable: whether a later run can go on from here, and the archive be read back.
        spooled: whether the archive has to be on disk before members can be made of it.
    """

    resumable: bool = False
    spooled: bool = False

    def place(self, pos: int) -> Place | None:
        """See `Sink.place`."""
        return None

    @abstractmethod
    def write(self, pos: int, data: memoryview) -> None:
        """See `Sink.write`.

        Raises:
            ArchiveError: the archive has to be refused.
        """

    def mark(self, start: int, stop: int) -> None:  # noqa: B027  most have nothing to note
        """See `Sink.mark`."""

    def settled(self) -> list[Span]:
        """Return, once each, the spans that a later run would find where they belong."""
        return []

    def tidy(self, busy: Iterable[Span]) -> None:  # noqa: B027
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
