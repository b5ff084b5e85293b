"""A body moved on the event loop, block by block, for a connection without a thread.

The number of threads is limited, and a body that waits for its sink's reader holds one for as long.
If all were held that way, the very request that the reader waits for could never be carried. So a
connection that finds no free thread is served here. It is slower: there is no splice, and each
block passes through the loop.

A step that may sleep (a pipe's reader, a rate limit) must not run on the loop. It takes a thread
for one block only.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from pgetpy.core.http.answers import Answer
from pgetpy.core.http.content_codings import content_codings
from pgetpy.core.http.heads import Head, words_of
from pgetpy.core.http.sink import Sink
from pgetpy.engine.transports.base import Exchange
from pgetpy.engine.transports.body import BodyDecoder
from pgetpy.engine.transports.connection import Connection
from pgetpy.engine.transports.failures import failed
from pgetpy.errors import ConnectionFailedError, TransferError
from pgetpy.system.event_loop import wait_for, wait_uncancelled
from pgetpy.system.threads import Workers

_BUFFER = 64 * 1024
_WORDS_SECONDS = 1.0
# Receiving a body of this size on the loop takes less time than handing it to a thread.
_SMALL = 256 * 1024


async def move_on_loop(
    exchange: Exchange, connection: Connection, head: Head, rest: memoryview, workers: Workers
) -> bool:
    """Have `head` judged and move the body; whether the connection holds more than was wanted.

    Args:
        rest: the bytes of the body that came with its head.

    Raises:
        TransferError: see `Transport.carry`.
    """
    answer, sink = exchange.judge(head)
    if answer.decode or "content-length" not in head.headers:
        body = BodyDecoder(exchange.request.url, head, answer.decode)
        pieces = _pieces(exchange, connection, rest)
        await _decode(exchange, pieces, body, answer.skip, sink, workers)
        return body.surplus or not body.complete
    return await _copy(exchange, connection, answer, rest, sink, workers)


async def _copy(
    exchange: Exchange,
    connection: Connection,
    answer: Answer,
    rest: memoryview,
    sink: Sink,
    workers: Workers,
) -> bool:
    """Move a body of known length that needs no decoding."""
    part = exchange.part
    # Unwanted bytes before the wanted ones may reach beyond what came with the head.
    rest, skip = rest[answer.skip :], max(0, answer.skip - len(rest))
    early = rest[: part.rest]
    await _store(exchange, sink, early, workers)
    buffer = memoryview(bytearray(_BUFFER))
    while part.rest:
        count = await _receive(exchange, connection, buffer[: skip + part.rest])
        if not count:
            raise ended_early(exchange)
        await _store(exchange, sink, buffer[min(skip, count) : count], workers)
        skip = max(0, skip - count)
    return len(rest) > len(early) or part.stop != answer.stop


async def _decode(
    exchange: Exchange,
    pieces: AsyncIterator[bytes],
    body: BodyDecoder,
    skip: int,
    sink: Sink,
    workers: Workers,
) -> None:
    """Move a body through `body`, without its first `skip` bytes."""
    part = exchange.part
    async for data in pieces:
        for plain in body.feed(data):
            wanted, skip = plain[skip:], max(0, skip - len(plain))
            if part.stop is not None:
                wanted = wanted[: part.rest]
            await _store(exchange, sink, memoryview(wanted), workers)
        if body.complete or (part.stop is not None and not part.rest):
            break
    if part.stop is not None and not part.rest:
        # Stopped early on purpose: that the body is incomplete is not an error.
        return
    body.end()
    if part.rest:
        raise ended_early(exchange)


async def _pieces(
    exchange: Exchange, connection: Connection, rest: memoryview
) -> AsyncIterator[bytes]:
    """Yield the bytes of the body as they come, until the connection ends."""
    yield bytes(rest)
    buffer = memoryview(bytearray(_BUFFER))
    while count := await _receive(exchange, connection, buffer):
        yield bytes(buffer[:count])


async def _receive(exchange: Exchange, connection: Connection, buffer: memoryview) -> int:
    """Receive what there is, waiting for the first byte; 0 at the end of the stream."""
    try:
        return await connection.receive_into(buffer)
    except OSError as error:
        raise failed(exchange.request, error) from error


async def _store(exchange: Exchange, sink: Sink, data: memoryview, workers: Workers) -> None:
    """Give `data` to the sink; in a thread where that may sleep, and always until it is done."""
    if not exchange.may_sleep:
        exchange.store(sink, data)
        return

    def stop() -> None:
        exchange.cancelled = True

    # Silence is the reader's now, not the network's.
    exchange.part.waiting = False
    await wait_uncancelled(workers.submit(lambda: exchange.store(sink, data)), stop)
    exchange.part.waiting = True


def ended_early(exchange: Exchange) -> ConnectionFailedError:
    """Return the error for a connection that the server closed within the body."""
    part = exchange.part
    return ConnectionFailedError(
        exchange.request.url,
        f"closed by the server {part.rest} bytes before the end of the answer",
    )


async def read_words(head: Head, rest: memoryview, connection: Connection) -> Head:
    """Return `head` with the beginning of its body, waiting a moment for it."""
    codings = content_codings(head.headers.get("content-encoding", ""))
    body = BodyDecoder("", head, codings[0] if len(codings) == 1 else "")
    words = b""
    buffer = memoryview(bytearray(2048))
    with contextlib.suppress(OSError, asyncio.TimeoutError, TransferError):
        words = b"".join(body.feed(bytes(rest)))
        while not words and not body.complete:
            count = await wait_for(_WORDS_SECONDS, connection.receive_into(buffer))
            if not count:
                break
            words = b"".join(body.feed(bytes(buffer[:count])))
    return words_of(head, words[:2048])


def is_small(head: Head) -> bool:
    """Whether the body may be received on the loop: it is short and needs no decoding."""
    length = head.headers.get("content-length")
    if length is None or content_codings(head.headers.get("content-encoding", "")):
        return not head.brings_object  # of other answers no body is kept
    # What is not a number is refused by the judge; it may be long.
    return not length.isdecimal() or int(length[:9]) <= _SMALL
