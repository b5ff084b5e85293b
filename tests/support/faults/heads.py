"""Faults of the answer's head: another range than asked, headers that lie, conflict or overflow."""

from dataclasses import dataclass, replace

from ..resources import Answer, multipart, part
from .base import Exchange, Fault


@dataclass(frozen=True)
class OtherRange(Fault):
    """206 for another range than asked: shifted, starting earlier, or longer.

    With ``claims_asked`` the head says what was asked and the bytes are those of elsewhere.
    """

    start_by: int = 1
    stop_by: int = 1
    claims_asked: bool = False

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        if answer.span is None:
            return answer
        total = len(exchange.resource.body)
        start = min(max(answer.span[0] + self.start_by, 0), total - 1)
        stop = min(max(answer.span[1] + self.stop_by, start + 1), total)
        other = part(exchange.resource, start, stop)
        if not self.claims_asked:
            return replace(other, delivery=answer.delivery)
        padded = bytes(other.body)[: len(answer.body)].ljust(len(answer.body), b"\0")
        return replace(answer, body=padded)


@dataclass(frozen=True)
class ShorterRange(Fault):
    """An honest 206 with at most ``length`` bytes."""

    length: int

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        if answer.span is None:
            return answer
        start, stop = answer.span
        shorter = part(exchange.resource, start, min(stop, start + self.length))
        return replace(shorter, delivery=answer.delivery)


@dataclass(frozen=True)
class NoContentRange(Fault):
    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        return answer.without("Content-Range")


@dataclass(frozen=True)
class StatedTotal(Fault):
    """A Content-Range that ends in ``/total``: an unknown one by ``*``, or a wrong number."""

    total: int | str = "*"

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        stated = answer.header("Content-Range")
        if stated is None or answer.status != 206:
            return answer
        return answer.having("Content-Range", f"{stated.partition('/')[0]}/{self.total}")


@dataclass(frozen=True)
class ContentRangeOn200(Fault):
    """The right piece with its Content-Range, but status 200."""

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        return replace(answer, status=200) if answer.status == 206 else answer


@dataclass(frozen=True)
class Multipart(Fault):
    """multipart/byteranges for a single range."""

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        if answer.span is None:
            return answer
        return replace(multipart(exchange.resource, [answer.span]), delivery=answer.delivery)


@dataclass(frozen=True)
class LengthConflict(Fault):
    """``by`` bytes more or fewer than Content-Range says, and Content-Length agrees with them."""

    by: int

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        if answer.span is None:
            return answer
        start, stop = answer.span
        body = exchange.resource.body[start : max(start, stop + self.by)]
        return answer.carrying(body.ljust(stop - start + self.by, b"\0"))


@dataclass(frozen=True)
class Headers(Fault):
    """Headers taken away, then put in place (once), then added (as often as they stand here)."""

    remove: tuple[str, ...] = ()
    put: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        answer = answer.without(*self.remove)
        for name, value in self.put:
            answer = answer.having(name, value)
        return replace(answer, headers=(*answer.headers, *self.add))


@dataclass(frozen=True)
class ObsFold(Fault):
    """A header value folded over two lines, which RFC 9112 forbids to send."""

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        return answer.having("X-Folded", "one\r\n two")


@dataclass(frozen=True)
class EnormousHead(Fault):
    size: int = 1024 * 1024

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        return answer.having("X-Enormous", "a" * self.size)


@dataclass(frozen=True)
class Garbage(Fault):
    """Bytes in the place of an answer, such as are no HTTP, then the end of the connection."""

    data: bytes = b"\x16\x03\x01 this is not HTTP\r\n\r\n"
    close: bool = True

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        return replace(answer, body=b"").delivered(raw_head=self.data, close=self.close)


@dataclass(frozen=True)
class Interim(Fault):
    """Interim answers before the final one."""

    statuses: tuple[int, ...] = (103,)

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        names = {100: "Continue", 102: "Processing", 103: "Early Hints"}
        link = "Link: </style.css>; rel=preload\r\n"
        return answer.delivered(
            before=tuple(
                f"HTTP/1.1 {s} {names[s]}\r\n{link if s == 103 else ''}\r\n".encode()
                for s in self.statuses
            )
        )


@dataclass(frozen=True)
class DripHead(Fault):
    """The head in pieces of ``size`` bytes, apart from the body."""

    size: int = 1

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        return answer.delivered(drip=self.size)
