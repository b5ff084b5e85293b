"""Bytes that arrived before their turn.

A decoder wants bytes in order; ranges arrive in any order. The buffer keeps what lies ahead of the
decoder's front:

    front
      |          [ piece ]  [ piece ][ piece ]
      |  missing            ^ pieces never overlap: `keep` stores only what is new

Two requests may deliver the same bytes, the second copy even after the first has been taken out
again. `_seen` remembers everything that was ever kept, so that the second copy is dropped.
"""

from __future__ import annotations

from bisect import bisect_right, insort

from pgetpy.core.http.ranges import Span, Spans


class ReorderBuffer:
    """Holds pieces of an object until those before them have been consumed; none twice.

    Attributes:
        size: bytes held at present.
    """

    def __init__(self) -> None:
        self.size = 0
        self._pieces: dict[int, bytes] = {}
        self._starts: list[int] = []
        # Everything that was ever kept, so that a second copy of it is not.
        self._seen = Spans()

    def __bool__(self) -> bool:
        return self.size > 0

    def keep(self, pos: int, data: memoryview) -> None:
        """Keep a copy of those of `data`, the bytes from `pos` on, that are new."""
        for span in list(self._seen.missing(pos, pos + len(data))):
            self._pieces[span.start] = bytes(data[span.start - pos : span.stop - pos])
            insort(self._starts, span.start)
            self._seen.add(span.start, span.stop)
            self.size += span.size

    def take(self, front: int) -> tuple[int, bytes] | None:
        """Remove and return the lowest piece, with its position; None if it begins after `front`.

        It may begin before `front`: then the caller drops the overlap.
        """
        if not self._starts or self._starts[0] > front:
            return None
        pos = self._starts.pop(0)
        piece = self._pieces.pop(pos)
        self.size -= len(piece)
        return pos, piece

    def read(self, span: Span) -> bytes | None:
        """Return the bytes of `span` without removing them; None unless all of them are held."""
        first = max(0, bisect_right(self._starts, span.start) - 1)
        parts = []
        reached = span.start
        for pos in self._starts[first : bisect_right(self._starts, span.stop - 1)]:
            piece = self._pieces[pos]
            if pos <= reached < pos + len(piece):
                parts.append(piece[reached - pos : span.stop - pos])
                reached += len(parts[-1])
        return b"".join(parts) if reached >= span.stop else None

    def clear(self) -> None:
        """Drop all pieces; what was seen stays seen."""
        self._pieces.clear()
        self._starts.clear()
        self.size = 0
