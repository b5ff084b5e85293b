"""What every sink is: a place that takes the bytes of one object in any order.

Bytes reach a sink in one of two ways. A transport that can splice asks `place` for a file
descriptor and an offset, has the kernel move the bytes there, and Python never sees them. Any other
transport calls `write`. In both cases `mark` follows once the bytes are really there: a journal may
record them, and a run that is killed finds them again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from pgetpy.core.http.range_request import Window


class Place(NamedTuple):
    """Where a byte goes on disk: `room` bytes may be written to `fd` from `offset` on."""

    fd: int
    offset: int
    room: int


class Sink(ABC):
    """Takes bytes from many threads at once. Positions are offsets in the object.

    Attributes:
        window: how far ahead one may write; None for anywhere.
        hashes: whether `write` takes as long as hashing the bytes.
    """

    window: Window | None = None
    hashes: bool = False

    def place(self, pos: int) -> Place | None:
        """Return where byte `pos` goes on disk, or None where only `write` will do."""
        return None

    @abstractmethod
    def write(self, pos: int, data: memoryview) -> None:
        """Take `data`, the bytes from `pos` on."""

    def mark(self, start: int, stop: int) -> None:  # noqa: B027  most have nothing to note
        """Note that the bytes from `start` up to `stop` have been written."""
