"""A request whose answer is probably small: head and body come into one buffer, on the loop.

    open a connection    ask         head      fill
    ---------------------|===========|=========|----> the whole body is in the buffer
                         ^------ interrupt ----^

If the answer is late, large or odd, an exchange takes the request over, with its connection and
what has come (`Exchange.begun`), so nothing is asked for twice.
"""

from __future__ import annotations

from typing import Protocol

from pgetpy.core.http.heads import Head
from pgetpy.engine.transports.base import Request
from pgetpy.engine.transports.wire import HeadReader


class InterruptedWait(Exception):  # noqa: N818  not an error: `SmallRequest.interrupt` was called
    """Nothing has come yet; the stream can still be read."""


class AnswerStream(Protocol):
    """What a request is sent and answered on.

    Attributes:
        fresh: whether no answer has come over it yet.
    """

    fresh: bool

    async def ask(self, request: Request) -> None:
        """Send `request`."""

    async def receive_into(self, buffer: memoryview) -> int:
        """Receive what there is into `buffer`, waiting for the first byte; 0 at the end."""

    def interrupt(self, reason: Exception) -> None:
        """Raise `reason` in the task that waits for the stream, if any."""

    def close(self) -> None:
        """Close it."""


class SmallRequest:
    """One request, and what has come of its answer.

    Args:
        buffer: takes head and body.

    Attributes:
        stream: delivers the answer; None before it is open, and once it is closed or given back.
        reader: holds what has come.
        head: of the answer; None until it is complete.
        error: why there is no answer.
    """

    def __init__(self, request: Request, buffer: bytearray) -> None:
        self.request = request
        self.buffer = buffer
        self.stream: AnswerStream | None = None
        self.reader = HeadReader(buffer)
        self.head: Head | None = None
        self.error: Exception | None = None
        self._asked = False
        self._size = 0

    @property
    def body(self) -> memoryview:
        """What has come of the body, up to the size that `fill` was given."""
        return self.reader.rest[: self._size]

    @property
    def surplus(self) -> bool:
        """Whether more has come than belongs to the answer."""
        return len(self.reader.rest) > self._size

    async def ask(self, stream: AnswerStream) -> None:
        """Send the request over `stream` and wait for the head, unless `interrupt` is called.

        Raises:
            OSError: the connection failed.
            UnsupportedResponseError: what came is not HTTP/1.
        """
        self.stream, self._asked = stream, False
        self.reader = HeadReader(self.buffer)
        await stream.ask(self.request)
        self._asked = True
        try:
            while self.head is None:
                count = await stream.receive_into(self.reader.space)
                if not count:
                    raise ConnectionError("closed by the server before it answered")
                self.head = self.reader.feed(count)
        except InterruptedWait:
            return
        stream.fresh = False

    async def fill(self, size: int) -> bool:
        """Wait for `size` bytes of the body; False where they do not come, or not soon.

        No more than `size` bytes are received on purpose: what follows belongs to the next answer
        of the connection. If more came with the head, `surplus` says so, and it is closed.
        """
        assert self.stream is not None
        self._size = size
        self.buffer = self.reader.make_room(size)
        try:
            while (missing := size - len(self.reader.rest)) > 0:
                count = await self.stream.receive_into(self.reader.space[:missing])
                if not count:
                    return False
                self.reader.add_body(count)
        except (InterruptedWait, OSError):
            return False
        return True

    def interrupt(self) -> None:
        """End the wait for the answer, so that an exchange can take over."""
        # A request that is not sent completely cannot be taken over.
        if self._asked and self.stream is not None:
            self.stream.interrupt(InterruptedWait())

    def fail(self, error: Exception) -> None:
        """Record that there is no answer, because of `error`."""
        self.error = error
        self.close()

    def close(self) -> None:
        """Close the stream: no one waits for the answer any more."""
        if self.stream is not None:
            self.stream.close()
            self.stream = None
