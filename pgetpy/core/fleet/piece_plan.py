"""A plan for an object that comes from cache nodes, each of which serves some of its pieces.

    piece 0        piece 1        piece 2        piece 3        piece 4
    |==============|==============|==============|==============|=======|
                                  ^ begins here, and ends where it began

No range crosses the border of a piece, because the next piece is another node's. A file begins at a
piece of its own choice: machines that begin together would otherwise all ask the same node for the
first piece, then the next. What is read in order (archives, streams, a reader that follows) begins
at 0.

A late answer is not asked for a second time: the node may be filling, and another one would fetch
the same piece from the origin again.
"""

from __future__ import annotations

from pgetpy.core.http.plan import Plan
from pgetpy.core.http.range_request import RangeRequest
from pgetpy.core.http.ranges import Span, Spans

# Bytes of the first request. Few objects have just this size, and of one that has it is not certain
# that its server does not give the range's end for the object's.
_FIRST = 1_000_003


class PiecePlan(Plan):
    """A plan whose ranges stop at the borders of pieces.

    Args:
        piece: bytes of a piece.
        chunk_size, first, held: see `Plan`.

    Attributes:
        piece: bytes of a piece; None once everything is asked of the origin.
        first_piece: where a file begins.
        blocked: pieces that must not be asked for at the moment.
    """

    def __init__(self, *, chunk_size: int, first: int, piece: int, held: Spans) -> None:
        super().__init__(chunk_size=chunk_size, first=first, held=held)
        self.piece: int | None = piece
        self.first_piece = 0
        self.blocked: set[int] = set()

    @classmethod
    def of(cls, plan: Plan, piece: int) -> PiecePlan:
        """Return `plan`, which has not begun, with the borders of pieces."""
        first = min(plan.first, _FIRST)
        made = cls(chunk_size=plan.chunk_size, first=first, held=plan.held, piece=piece)
        made.window = plan.window
        return made

    def piece_of(self, pos: int) -> int:
        """Return the index of the piece that the byte at `pos` belongs to."""
        assert self.piece is not None
        return pos // self.piece

    @property
    def pieces(self) -> int:
        """How many pieces the object has; 0 if its size is not known."""
        if self.total is None or self.piece is None:
            return 0
        return -(-self.total // self.piece)

    def probe(self, now: float, total: int | None = None) -> RangeRequest:
        probe = super().probe(now, total)
        if self.piece is not None and probe.stop is not None:
            probe.reads_on = False
            probe.stop = min(probe.stop, (self.piece_of(probe.start) + 1) * self.piece)
        return probe

    def probe_again(self, now: float) -> RangeRequest | None:
        return None if self.piece is not None else super().probe_again(now)

    def take_back(self, part: RangeRequest) -> None:
        """Take `part` back, which was not asked for, and block its piece."""
        self.parts.remove(part)
        self.blocked.add(self.piece_of(part.start))

    def _late(self, part: RangeRequest, now: float, rate: float) -> bool:
        return self.piece is None and super()._late(part, now, rate)

    def _gap(self) -> tuple[Span | None, int]:
        if self.piece is None or self.total is None:
            return super()._gap()
        if self.window is None:
            taken = self._taken(self.total)
            return self._first_open(taken, self.piece), self.total - taken.size
        gap, unasked = super()._gap()
        if gap is None or self.piece_of(gap.start) in self.blocked:
            return None, unasked
        stop = min(gap.stop, (self.piece_of(gap.start) + 1) * self.piece)
        return Span(gap.start, stop), unasked

    def _first_open(self, taken: Spans, piece: int) -> Span | None:
        """Return the first missing bytes of one piece, from the first piece on and round."""
        total = self.total or 0
        begin = min(self.first_piece * piece, total)
        for start, stop in ((begin, total), (0, begin)):
            for gap in taken.missing(start, stop):
                at = gap.start
                while at < gap.stop:
                    border = min(gap.stop, (self.piece_of(at) + 1) * piece)
                    if self.piece_of(at) not in self.blocked:
                        return Span(at, border)
                    at = border
        return None
