"""Bytes that came before their turn."""

from __future__ import annotations

from bisect import bisect_right, insort

from pgetpy.core.http.ranges import Span, Spans


class ReorderBuffer:
    """Holds pieces of an object until those before them have been dealt with; none twice.

    Attributes:
        size: bytes that wait.
    """

    def __init__(self) -> None:
        self.size = 0
        self._pieces: dict[int, bytes] = {}
        self._starts: list[int] = []
        # What has ever waited, so that a second copy of it does not wait as well.
        self._seen = Spans()

    def __bool__(self) -> bool:
        return self.size > 0

    def keep(self, pos: int, data: memoryview) -> None:
        """Hold a copy of what of `data`, the bytes from `pos` on, is new."""
        for span in list(self._seen.missing(pos, pos + len(data))):
            self._pieces[span.start] = bytes(data[span.start - pos : span.stop - pos])
            insort(self._starts, span.start)
            self._seen.add(span.start, span.stop)
            self.size += span.size

    def take(self, front: int) -> tuple[int, bytes] | None:
        """Return the lowest piece and where it begins, if that is not behind `front`."""
        if not self._starts or self._starts[0] > front:
            return None
        pos = self._starts.pop(0)
        piece = self._pieces.pop(pos)
        self.size -= len(piece)
        return pos, piece

    def has_seen(self, span: Span) -> bool:
        """Whether all of `span` has come."""
        return self._seen.covers(span.start, span.stop)

    def read(self, span: Span) -> bytes | None:
        """Return the bytes of `span`, which go on waiting; None where one of them does not."""
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
        """Hold nothing any more."""
        self._pieces.clear()
        self._starts.clear()
        self.size = 0
