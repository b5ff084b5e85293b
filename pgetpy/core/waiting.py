"""Bytes that came before their turn."""

from __future__ import annotations

from pgetpy.core.ranges import Span, Spans


class Waiting:
    """Holds pieces of an object until those before them have been dealt with; none twice.

    Attributes:
        size: bytes that wait.
    """

    def __init__(self) -> None:
        self.size = 0
        self._pieces: dict[int, bytes] = {}
        # What has ever waited, so that a second copy of it does not wait as well.
        self._seen = Spans()

    def __bool__(self) -> bool:
        return self.size > 0

    def keep(self, pos: int, data: memoryview) -> None:
        """Hold a copy of what of `data`, the bytes from `pos` on, is new."""
        for span in list(self._seen.missing(pos, pos + len(data))):
            self._pieces[span.start] = bytes(data[span.start - pos : span.stop - pos])
            self._seen.add(span.start, span.stop)
            self.size += span.size

    def take(self, front: int) -> tuple[int, bytes] | None:
        """Return the lowest piece and where it begins, if that is not behind `front`."""
        pos = min(self._pieces, default=front + 1)
        if pos > front:
            return None
        piece = self._pieces.pop(pos)
        self.size -= len(piece)
        return pos, piece

    def read(self, span: Span) -> bytes | None:
        """Return the bytes of `span`, which go on waiting; None where one of them has not come."""
        data = bytearray(span.size)
        missing = span.size
        for pos, piece in self._pieces.items():
            start, stop = max(pos, span.start), min(pos + len(piece), span.stop)
            if start < stop:
                data[start - span.start : stop - span.start] = piece[start - pos : stop - pos]
                missing -= stop - start
        return bytes(data) if not missing else None

    def clear(self) -> None:
        """Hold nothing any more."""
        self._pieces.clear()
        self.size = 0
