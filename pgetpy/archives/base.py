"""What every form of archive is: something that takes the archive's bytes and makes its members."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from pgetpy.core.http.ranges import Span, Spans
from pgetpy.core.http.sink import Place


class Form(Protocol):
    """Takes the bytes of one archive from many threads. Positions are those of the archive."""

    @property
    def resumable(self) -> bool | None:
        """Whether a later run can go on from here, and the archive be read back.

        None as long as it is not known what the archive holds.
        """

    def place(self, pos: int) -> Place | None:
        """See `Sink.place`."""

    def write(self, pos: int, data: memoryview) -> None:
        """See `Sink.write`.

        Raises:
            ArchiveError: the archive has to be refused.
        """

    def mark(self, start: int, stop: int) -> None:
        """See `Sink.mark`."""

    def settled(self) -> list[Span]:
        """Return, once each, the spans that a later run would find where they belong."""

    def tidy(self, busy: Iterable[Span]) -> None:
        """Finish what is whole; nobody writes but to `busy` spans. Never waits.

        Raises:
            ArchiveError: what was done behind the bytes has shown that it has to be refused.
        """

    def finish(self, total: int) -> None:
        """All `total` bytes have come: wait for what is still being done with them.

        Raises:
            ArchiveError: they are no whole archive.
        """

    def halt(self) -> None:
        """Wake a `finish` that is not wanted any more."""

    def read(self, pos: int, buffer: memoryview) -> int:
        """Read the archive back from `pos` on into `buffer`: bytes read, at least one."""

    def close(self) -> None:
        """Let go of everything; nothing is written any more."""


class Restorable(Form, Protocol):
    """A form of which an earlier run may have left something."""

    def restore(self, held: Spans) -> Spans:
        """Take over what an earlier run left; return what of `held` is there.

        Raises:
            ArchiveError: what was left makes no sense.
        """
