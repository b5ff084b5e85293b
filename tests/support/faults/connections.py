"""Faults of the framing and of the connection: cut off, silent, slow, closed without a word.

Those that act after ``size`` body bytes do nothing to a body shorter than that.
"""

from dataclasses import dataclass, field, replace
from functools import partial

from ..delivery import Cut, Gate
from ..resources import Answer, whole
from .base import Exchange, Fault, When, at_least


@dataclass(frozen=True)
class Chunked(Fault):
    """The chunked transfer coding; ``size_line`` stands in for every chunk's true size line."""

    size: int = 4096
    size_line: bytes | None = None
    trailers: bytes = b""

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        chunked = answer.without("Content-Length").having("Transfer-Encoding", "chunked")
        return chunked.delivered(
            chunk=self.size, chunk_size_line=self.size_line, trailers=self.trailers
        )


@dataclass(frozen=True)
class NoLength(Fault):
    """No Content-Length: the end of the connection ends the body."""

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        bare = answer.without("Content-Length").having("Connection", "close")
        return bare.delivered(close=True)


@dataclass(frozen=True)
class Http10(Fault):
    """The whole body from an HTTP/1.0 server, ended by the end of the connection."""

    length: bool = False

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        old = whole(exchange.resource).without("Accept-Ranges")
        old = old if self.length else old.without("Content-Length")
        # It knows no chunks, whatever another fault has made of the body.
        old = replace(old, version="HTTP/1.0", delivery=replace(answer.delivery, chunk=None))
        return old.delivered(close=True)


@dataclass(frozen=True)
class ResetAfter(Fault):
    """RST after ``size`` body bytes, once they have arrived."""

    size: int = 0

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        return answer.delivered(cut_after=self.size, cut=Cut.RESET)


@dataclass(frozen=True)
class ResetAt(Fault):
    """RST where an answer comes to byte ``offset`` of the resource, however the ranges are cut."""

    offset: int

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        start = answer.span[0] if answer.span else 0
        reached = start <= self.offset < start + len(answer.body)
        return answer.delivered(cut_after=self.offset - start, cut=Cut.RESET) if reached else answer


@dataclass(frozen=True)
class FinAfter(Fault):
    """A clean end of the connection after ``size`` body bytes."""

    size: int = 0

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        return answer.delivered(cut_after=self.size, cut=Cut.FIN)


@dataclass(frozen=True)
class SilenceAfter(Fault):
    """Nothing more after ``size`` body bytes; the connection stays open until the client goes."""

    size: int = 0

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        return answer.delivered(cut_after=self.size, cut=Cut.SILENCE)


@dataclass(frozen=True)
class SilenceBeforeHead(Fault):
    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        return answer.delivered(head_silent=True)


@dataclass(frozen=True)
class Late(Fault):
    """Answers after ``seconds``, as stores far away do, and those that have to wake up."""

    seconds: float

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        return answer.delivered(head_after=self.seconds)


@dataclass(frozen=True)
class GateAfter(Fault):
    """Holds after ``size`` body bytes (None: before the head) until the test opens the gate."""

    size: int | None
    gate: Gate

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        if self.size is None:
            return answer.delivered(head_gate=self.gate)
        return answer.delivered(gate_after=self.size, gate=self.gate)


def midway(size: int, gate: Gate) -> tuple[Fault, ...]:
    """The first answer holds after ``size`` body bytes and all others before their heads, until the
    test opens the gate: so much has come, whoever is asked for the rest."""
    first, others = When(request=1), When(request=at_least(2))
    return GateAfter(size, gate, when=first), GateAfter(None, gate, when=others)


@dataclass(frozen=True)
class Dam(Fault):
    """Holds once ``size`` body bytes of the resource have gone out in all, until the gate opens.

    Unlike a ``GateAfter`` it lets no more through where more connections ask: however late the test
    looks, what is midway is still midway.
    """

    size: int
    gate: Gate = field(default_factory=Gate)

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        ration = partial(exchange.tally.let, most=self.size)
        return answer.delivered(ration=ration, dam=self.gate)


@dataclass(frozen=True)
class Crawl(Fault):
    """``rate`` bytes per second from ``after`` body bytes on, by sleeping between small writes."""

    rate: float
    after: int = 0

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        return answer.delivered(rate=self.rate, rate_after=self.after)


@dataclass(frozen=True)
class Pace(Fault):
    """The connection limited to ``rate`` bytes per second by the kernel, from this answer on."""

    rate: int

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        return answer.delivered(pace=self.rate)


@dataclass(frozen=True)
class ExtraBytes(Fault):
    """Bytes after the end of the body; the connection stays open."""

    data: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nextra!"

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        return answer.delivered(extra=self.data)


@dataclass(frozen=True)
class Close(Fault):
    """Closes after the answer; ``says`` so with Connection: close or does not."""

    says: bool = True

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        answer = answer.having("Connection", "close") if self.says else answer
        return answer.delivered(close=True)


@dataclass(frozen=True)
class IdleClose(Fault):
    """Closes a connection that has been idle for so many seconds after the answer."""

    seconds: float = 0.05

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        return answer.delivered(idle=self.seconds)
