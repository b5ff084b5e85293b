"""An in-memory network: objects by URL, and a script of what goes wrong.

    store = {"http://h/x": Stored(b"...", script=[Turn(cut_after=100)])}
    transport = MemoryTransport(store)  # the first answer breaks off, the second is complete

It honours Range and If-Range as RFC 9110 (sections 13 and 14) has it, opens no connection and
resolves no name.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pgetpy.core.http.answers import Answer
from pgetpy.core.http.heads import Head
from pgetpy.core.http.ranges import EVERYTHING, Span
from pgetpy.core.http.sink import Sink
from pgetpy.engine.transports.base import Begun, Exchange, Request, UnsupportedResponseError
from pgetpy.engine.transports.small_request import SmallRequest
from pgetpy.errors import ConnectionFailedError
from pgetpy.system.event_loop import wait_uncancelled

_PIECE = 64 * 1024


@dataclass(frozen=True)
class Turn:
    """How one request is answered differently from normal. Fields that are not set change nothing.

    Attributes:
        status: instead of 200 or 206. From 400 on, the body is `body`, else empty.
        headers: replace the normal ones, by lower-case name; None removes one.
        body: instead of the right bytes.
        cut_after: close the connection after this many bytes of the body.
        silent_after: send nothing after this many bytes of the body; negative: not even a status
            line.
        not_for_me: raise UnsupportedResponseError with this reason instead of answering, as a
            transport does that leaves an answer to another.
    """

    status: int | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    body: bytes | None = None
    cut_after: int | None = None
    silent_after: int | None = None
    not_for_me: str = ""


@dataclass(frozen=True)
class Stored:
    """One object, and a script for its first requests, one turn each.

    Requests after the end of the script are answered normally.

    Attributes:
        body: the object's bytes.
        etag: its ETag header; None for none.
        last_modified: its Last-Modified header; None for none.
        headers: further headers.
        ranges: whether range requests are honoured.
        script: how to answer the first requests.
    """

    body: bytes
    etag: str | None = '"1"'
    last_modified: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    ranges: bool = True
    script: Sequence[Turn] = ()


class MemoryTransport:
    """A transport that answers from `objects`, which may be changed while it is in use.

    Attributes:
        objects: what to serve, by URL.
        requests: all requests so far, in order.
    """

    def __init__(self, objects: Mapping[str, Stored]) -> None:
        self.objects = objects
        self.requests: list[Request] = []
        self._asked: Counter[str] = Counter()
        self._begun: dict[Begun, tuple[Stored, Turn]] = {}

    async def carry(self, exchange: Exchange) -> None:
        """See `Transport.carry`."""
        begun, exchange.begun = exchange.begun, None
        if begun is None:
            stored, turn = self._next(exchange.request)
        else:
            stored, turn = self._begun.pop(begun)
        if turn.not_for_me:
            raise UnsupportedResponseError(turn.not_for_me)
        await asyncio.sleep(0)
        if turn.silent_after is not None and turn.silent_after < 0:
            await _silence(exchange)
        head, body = _answer(stored, turn, exchange.request, exchange.asked)
        try:
            answer, sink = exchange.judge(head)
            await _pour(exchange, turn, answer, sink, body)
        finally:
            exchange.mark()

    async def begin(self, begun: SmallRequest) -> None:
        """See `SmallTransport.begin`."""
        stored, turn = self._begun[begun] = self._next(begun.request)
        if turn.not_for_me:
            begun.error = UnsupportedResponseError(turn.not_for_me)
            return
        head, body = _answer(stored, turn, begun.request, EVERYTHING)
        try:
            await begun.ask(_MemoryAnswer(head, body, turn))
        except OSError as error:
            begun.fail(ConnectionFailedError(begun.request.url, str(error)))

    def end(self, begun: SmallRequest) -> None:
        """See `SmallTransport.end`."""
        del self._begun[begun]

    async def close(self) -> None:
        """Do nothing: there is no connection to close."""

    def _next(self, request: Request) -> tuple[Stored, Turn]:
        """Return what `request` asks for, and how it is answered."""
        self.requests.append(request)
        nth = self._asked[request.url]
        self._asked[request.url] += 1
        stored = self.objects.get(request.url, Stored(b"", script=[Turn(404)] * (nth + 1)))
        return stored, stored.script[nth] if nth < len(stored.script) else Turn()


class _MemoryAnswer:
    """An answer as bytes, for a `SmallRequest`; see `AnswerStream`."""

    def __init__(self, head: Head, body: bytes, turn: Turn) -> None:
        self.fresh = True
        self.has_more = False
        lines = [f"HTTP/1.1 {head.status} -", *(f"{n}: {v}" for n, v in head.headers.items())]
        start = "\r\n".join([*lines, "", ""]).encode()
        ends = [n for n in (turn.cut_after, turn.silent_after) if n is not None]
        self._left = (start + body)[: max(0, len(start) + min(ends)) if ends else None]
        if turn.silent_after is not None and turn.silent_after < 0:
            self._left = b""
        self._silent = turn.silent_after is not None
        self._heard: Callable[[], None] | None = None

    async def ask(self, request: Request) -> None:
        await asyncio.sleep(0)

    def send_now(self, request: bytes) -> bool:
        return False  # the network has to be told of each request

    def silent(self) -> bool:
        return True

    def listen(self, heard: Callable[[], None] | None) -> None:
        self._heard = heard
        self._tell_later()

    def receive_now(self, buffer: memoryview) -> int | None:
        count = min(len(buffer), len(self._left), _PIECE)
        if not count and self._silent:
            return None
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        self._tell_later()
        return count

    def close(self) -> None:
        self._heard = None

    def _tell_later(self) -> None:
        """Say that something can be received, unless it is silent from here on."""
        if self._heard is not None and (self._left or not self._silent):
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        if self._heard is not None:
            self._heard()


def _answer(stored: Stored, turn: Turn, request: Request, asked: Span | None) -> tuple[Head, bytes]:
    """Return the head and body of the normal answer, changed as `turn` says."""
    span = asked if stored.ranges and _if_range_holds(stored, request) else None
    status, headers, body = _honest(stored, span)
    if turn.status is not None:
        status = turn.status
    if turn.body is not None:
        body = turn.body
    elif status >= 400:
        body = b""
    headers["content-length"] = str(len(body))
    for name, value in turn.headers.items():
        headers.pop(name, None)
        if value is not None:
            headers[name] = value
    words = body.decode(errors="replace")[:200] if status >= 400 else ""
    return Head(status, headers, words=words), body


def _honest(stored: Stored, span: Span | None) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body for `span` of the object; all of it for None."""
    total = len(stored.body)
    headers = dict(stored.headers)
    if stored.etag is not None:
        headers["etag"] = stored.etag
    if stored.last_modified is not None:
        headers["last-modified"] = stored.last_modified
    if span is None:
        return 200, headers, stored.body
    if span.start >= total:
        return 416, {"content-range": f"bytes */{total}"}, b""
    stop = min(span.stop, total)
    headers["content-range"] = f"bytes {span.start}-{stop - 1}/{total}"
    return 206, headers, stored.body[span.start : stop]


def _if_range_holds(stored: Stored, request: Request) -> bool:
    conditions = [value for name, value in request.headers if name.lower() == "if-range"]
    return all(value in (stored.etag, stored.last_modified) for value in conditions)


async def _pour(exchange: Exchange, turn: Turn, answer: Answer, sink: Sink, body: bytes) -> None:
    """Send the body piece by piece to the sink, up to where the turn cuts it off."""
    part = exchange.part
    view = memoryview(body)
    ends = [n for n in (turn.cut_after, turn.silent_after) if n is not None]
    reach, first = min([len(body), *ends]), answer.start - answer.skip
    while (at := part.pos - first) < reach and not _arrived(exchange):
        stop = min(reach, at + _PIECE)
        if part.stop is not None:
            stop = min(stop, part.stop - first)
        await _store(exchange, sink, view[at:stop])
    if _arrived(exchange) or (part.stop is None and not ends):
        return
    if turn.silent_after is not None and reach == turn.silent_after:
        await _silence(exchange)
    raise ConnectionFailedError(
        exchange.request.url,
        f"closed by the server {part.rest} bytes before the end of the answer",
    )


def _arrived(exchange: Exchange) -> bool:
    return exchange.part.stop is not None and exchange.part.pos >= exchange.part.stop


async def _store(exchange: Exchange, sink: Sink, data: memoryview) -> None:
    """Hand `data` to the sink in a thread: a sink may block."""

    def stop() -> None:
        exchange.cancelled = True

    exchange.part.waiting = False
    storing = asyncio.ensure_future(asyncio.to_thread(exchange.store, sink, data))
    await wait_uncancelled(storing, stop)
    exchange.part.waiting = True


async def _silence(exchange: Exchange) -> None:
    """Wait until cancelled, like a connection that has gone silent."""
    exchange.part.waiting = True
    await asyncio.get_running_loop().create_future()
