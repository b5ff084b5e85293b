"""What every sink is: a place that takes the bytes of one object in any order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pgetpy.core.http.plan import Window
from pgetpy.core.http.ranges import Spans


@dataclass(frozen=True)
class Place:
    """Where a byte goes on disk: `room` bytes may be written to `fd` from `offset` on."""

    fd: int
    offset: int
    room: int


class Sink(Protocol):
    """Takes bytes from many threads at once. Positions are those of the object.

    Attributes:
        held: the bytes an earlier run left here.
    """

    held: Spans

    @property
    def window(self) -> Window | None:
        """How far ahead one may write; None for anywhere."""

    def place(self, pos: int) -> Place | None:
        """Return where byte `pos` goes on disk, or None where only `write` will do."""

    def write(self, pos: int, data: memoryview) -> None:
        """Take `data`, the bytes from `pos` on."""

    def mark(self, start: int, stop: int) -> None:
        """The bytes from `start` up to `stop` have been written."""
