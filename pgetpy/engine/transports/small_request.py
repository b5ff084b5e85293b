"""A request whose answer is probably small: head and body come into one buffer, on the loop.

    open a connection    ask         head      body
    ---------------------|===========|=========|----> the whole body is in the buffer
                         ^------ interrupt ----^

The loop's callback receives what comes, and reports once, when the whole answer is there: to a task
(`ask`), or to a function that is called at once (`expect`). Waking a task for each piece would take
longer than receiving the piece.

If the answer is late, large or odd, an exchange takes the request over, with its connection and
what has come (`Exchange.begun`), so nothing is asked for twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from pgetpy.core.http.heads import Head
from pgetpy.core.lazy_dataclass import replace
from pgetpy.engine.transports.base import Request
from pgetpy.engine.transports.request_head import RequestHeads
from pgetpy.engine.transports.wire import HeadReader


class AnswerStream(Protocol):
    """What a request is sent and answered on.

    Attributes:
        fresh: whether no answer has come over it yet.
        has_more: whether something was received that the buffer had no room for. `listen` does not
            tell of that.
    """

    fresh: bool
    has_more: bool

    async def ask(self, request: Request) -> None:
        """Send `request`."""

    def send_now(self, request: bytes) -> bool:
        """Send `request` without waiting; False where it has to be sent another way."""

    def silent(self) -> bool:
        """Whether nothing waits to be received, which would be taken for the next answer."""

    def listen(self, heard: Callable[[], None] | None) -> None:
        """Have `heard` called on the loop whenever something can be received; None ends that."""

    def receive_now(self, buffer: memoryview) -> int | None:
        """Receive what there is into `buffer`; 0 at the end, None if nothing has come."""

    def close(self) -> None:
        """Close it."""


class SmallRequest:
    """One request, and what was received of its answer. `renew` turns it into the next request.

    Args:
        buffer: takes head and body.
        length_of: returns how long the body is, None if an exchange has to receive it.

    Attributes:
        stream: delivers the answer; None before it is open, and once it is closed or given back.
        reader: holds what has come.
        head: of the answer; None until it is complete.
        answered: when the head was complete, in loop time.
        complete: whether the whole body has come.
        error: why there is no answer.
        failure: what ended the wait for the answer, for the transport, which makes `error` of it.
    """

    def __init__(
        self, request: Request, buffer: bytearray, length_of: Callable[[Head], int | None]
    ) -> None:
        self.buffer = buffer
        self.stream: AnswerStream | None = None
        self.reader = HeadReader(buffer)
        self.head: Head | None = None
        self.answered = 0.0
        self.complete = False
        self.error: Exception | None = None
        self.failure: Exception | None = None
        self._request = request
        self._url = request.url
        self._heads: RequestHeads | None = None
        self._usual_size = len(buffer)
        self._length_of = length_of
        self._loop = asyncio.get_running_loop()
        self._ended: Callable[[], None] | None = None
        self._size = 0

    @property
    def request(self) -> Request:
        """The request that is being answered."""
        if self._request.url != self._url:
            self._request = replace(self._request, url=self._url)
        return self._request

    def renew(self, url: str, length_of: Callable[[Head], int | None]) -> bytes | None:
        """Become the request for `url`, of the same host and with the same headers.

        The body before is lost: its buffer is used again, unless it had grown. Thousands of files
        are requested so, and an object for each request would take longer than sending it.

        Returns:
            The request as it is sent; None where it has to be sent another way.
        """
        if self._heads is None:
            self._heads = RequestHeads(self._request)
        self._url, self._length_of = url, length_of
        self.head, self.complete, self._size = None, False, 0
        if len(self.buffer) == self._usual_size:
            self.reader.restart()
        else:
            self.buffer = bytearray(self._usual_size)
            self.reader = HeadReader(self.buffer)
        return self._heads.of(url)

    @property
    def body(self) -> memoryview:
        """The bytes of the body received so far, up to the size that `length_of` gave."""
        return self.reader.rest[: self._size]

    @property
    def surplus(self) -> bool:
        """Whether more has come than belongs to the answer."""
        return self.reader.rest_size > self._size

    async def ask(self, stream: AnswerStream) -> None:
        """Send the request over `stream` and wait for the answer, unless `interrupt` is called.

        Raises:
            OSError: the connection failed before the head was complete.
            UnsupportedResponseError: what came is not HTTP/1.
        """
        if self.reader.received:
            self.reader = HeadReader(self.buffer)
        self.stream, self.failure = stream, None
        await stream.ask(self.request)
        ended = asyncio.Event()
        self.expect(stream, ended.set)
        try:
            await ended.wait()
        finally:
            self._ended = None
            stream.listen(None)
        if self.failure is not None:
            raise self.failure

    def expect(self, stream: AnswerStream, ended: Callable[[], None]) -> None:
        """Receive the answer to the request, which `stream` has sent.

        Args:
            ended: is called once: when all has come (`complete`), `interrupt` was called, or the
                wait ended otherwise. Until `stream` is listened to by others, or no more, what
                comes then is left where it is.
        """
        self.stream, self._ended = stream, ended
        stream.listen(self._hear)

    def interrupt(self) -> None:
        """End the wait for the answer, so that an exchange can take over."""
        # A request that is not sent completely cannot be taken over.
        self._end(complete=False)

    def forget(self) -> None:
        """Tell no one any more how it ends."""
        self._ended = None

    def fail(self, error: Exception) -> None:
        """Record that there is no answer, because of `error`."""
        self.error = error
        self.close()

    def close(self) -> None:
        """Close the stream: no one waits for the answer any more."""
        if self.stream is not None:
            self.stream.close()
            self.stream = None

    def _hear(self) -> None:
        """Receive what there is; tell if it was the last, or an exchange is needed."""
        stream = self.stream
        if self._ended is None or stream is None:
            return
        try:
            complete = self._receive(stream)
            while complete is None and stream.has_more:
                complete = self._receive(stream)
        except Exception as error:  # for the one who waits, not for the loop
            self.failure, complete = error, False
        if complete is not None:
            self._end(complete=complete)

    def _end(self, *, complete: bool) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            self.complete = complete
            ended()

    def _receive(self, stream: AnswerStream) -> bool | None:
        """Receive once; whether all has come, False if it will not come here, None for not yet."""
        if self.head is not None:
            return self._receive_body(stream)
        reader = self.reader
        count = stream.receive_now(reader.space)
        if count is None:
            return None
        if not count:
            raise ConnectionError("closed by the server before it answered")
        head = self.head = reader.feed(count)
        if head is None:
            return None
        stream.fresh = False
        self.answered = self._loop.time()
        size = self._length_of(head)
        if size is None:
            return False
        self._size = size
        self.buffer = reader.make_room(size + 1)  # see `_receive_body`
        return True if reader.rest_size >= size else None

    def _receive_body(self, stream: AnswerStream) -> bool | None:
        """As `_receive`, once the head is there.

        One byte more than the body is asked for. If it comes, it cannot belong to the next answer,
        whose request has not been sent: `surplus` says so, and the connection is closed.
        """
        missing = self._size - self.reader.rest_size
        try:
            count = stream.receive_now(self.reader.space[: missing + 1])
        except OSError:
            return False
        if count is None:
            return None
        self.reader.add_body(count)
        return False if not count else (True if count >= missing else None)
