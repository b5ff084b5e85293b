"""Questions put to servers: which version of an object is there, what a service says.

Each is an `Attempt` that ends early. So it is retried, paced and kept within the policy like any
transfer, by the same code. To end one, a callback that the attempt promises to let through raises
an exception which carries the answer:

    identify   one byte is asked for; opening the sink raises with the version
    head       judging the first head raises with its fields, also for a redirect
    describe   the same, of the whole object
    read       nothing raises: the whole body goes to a sink in memory
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from pgetpy.core.http.answers import Answer, Identity
from pgetpy.core.http.heads import Head
from pgetpy.core.http.manner import Manner
from pgetpy.core.http.plan import Plan
from pgetpy.core.http.ranges import Spans
from pgetpy.core.http.sink import Sink
from pgetpy.core.http.urls import Link
from pgetpy.core.lazy_dataclass import dataclass
from pgetpy.destinations.sinks.memory import MemorySink
from pgetpy.engine.attempt import Attempt
from pgetpy.engine.context import AttemptCallbacks, EngineContext
from pgetpy.engine.requests import Route
from pgetpy.engine.transports.base import Exchange
from pgetpy.engine.watchdog import TransferCounts
from pgetpy.errors import TransferError
from pgetpy.sources.base import RemoteFile

T = TypeVar("T")


class _HeadReceivedError(Exception):
    """The answer has been believed: its body is not wanted."""

    def __init__(self, identity: Identity) -> None:
        super().__init__(identity)
        self.identity = identity


class _AnsweredError(Exception):
    """There is an answer; redirects are not followed."""

    def __init__(self, head: Head) -> None:
        super().__init__(head)
        self.head = head


class _FirstAnswer(Attempt):
    """Ends at the first answer that is not an error."""

    def _judge(self, call: Exchange, head: Head) -> tuple[Answer, Sink]:
        # Errors are judged as usual, so that they are retried.
        if not head.is_redirect:
            super()._judge(call, head)
        raise _AnsweredError(head)


class _Bounded(MemorySink):
    """An answer in memory, of at most `most` bytes: a server must not fill it."""

    def __init__(self, url: str, most: int) -> None:
        super().__init__()
        self._url = url
        self._most = most

    def write(self, pos: int, data: memoryview) -> None:
        if pos + len(data) > self._most:
            raise TransferError(self._url, f"the answer has more than {self._most} bytes")
        super().write(pos, data)


@dataclass(frozen=True)
class EngineServiceClient:
    """What sources use to ask their services; see `sources.base.ServiceClient`.

    It is in the engine because its requests count towards the same hosts: their pace, their pauses
    after a 429, their addresses under a policy.
    """

    context: EngineContext

    async def identify(self, remote: RemoteFile) -> Identity:
        """See `identify_link`."""
        return await self.identify_link(remote.link)

    async def identify_link(self, link: Link) -> Identity:
        """Ask for the first byte of an object and return which version it belongs to.

        Raises:
            TransferError: it is forbidden, or cannot be reached.
        """

        def begin(answer: Answer, _: Spans) -> Sink:
            raise _HeadReceivedError(answer.identity)

        # Settled: a refusal of the range is what the caller wants to know.
        attempt = Attempt(*self._at(link, begin, first=1), manner=Manner(settled=True))
        try:
            answer = await attempt.run()
        except _HeadReceivedError as known:
            return known.identity
        return answer.identity

    async def head(self, remote: RemoteFile) -> Mapping[str, str]:
        """Return the fields of the first answer; see `sources.base.ServiceClient`."""
        attempt = _FirstAnswer(*self._about(remote, lambda *_: MemorySink(), first=1))
        try:
            await attempt.run()
        except _AnsweredError as answered:
            return {**answered.head.headers, ":status": str(answered.head.status)}
        raise AssertionError("unreachable")

    async def describe(self, link: Link) -> Head:
        """Return the head of the answer to a GET of the whole object, whose body is not read.

        Raises:
            PgetError: the service refuses, or does not answer.
        """
        manner = Manner(whole=True, settled=True)
        attempt = _FirstAnswer(*self._at(link, lambda *_: MemorySink(), first=1), manner=manner)
        try:
            await attempt.run()
        except _AnsweredError as answered:
            return answered.head
        raise AssertionError("unreachable")

    async def read(self, remote: RemoteFile, *, most: int = 4 << 20) -> bytes:
        """Return the whole answer; see `sources.base.ServiceClient`."""
        sink = _Bounded(remote.url, most)
        # Services seldom serve ranges of an answer that they compute: a plain GET at once.
        about = self._about(remote, lambda *_: sink, first=most)
        attempt = Attempt(*about, manner=Manner(whole=True, settled=True))
        await attempt.run()
        return bytes(sink.data)

    @property
    def exclusive(self) -> bool:
        """See `sources.base.ServiceClient`: another client would not know these settings."""
        from pgetpy.engine.authorities import authorities

        settings = self.context.settings
        return settings.policy is not None or bool(authorities(settings) or settings.resolve)

    @property
    def retries(self) -> int:
        """See `sources.base.ServiceClient`."""
        return self.context.settings.retries

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run `work`, which blocks, in a thread, and return its result."""
        return await self.context.workers.submit(work)

    def _about(
        self, remote: RemoteFile, begin: Callable[[Answer, Spans], Sink], *, first: int
    ) -> tuple[EngineContext, Route, Plan, AttemptCallbacks, TransferCounts]:
        """Return the arguments of an attempt at `remote` that begins with `first` bytes."""
        return self._at(remote.link, begin, first=first)

    def _at(
        self, link: Link, begin: Callable[[Answer, Spans], Sink], *, first: int
    ) -> tuple[EngineContext, Route, Plan, AttemptCallbacks, TransferCounts]:
        route = Route(link, self.context.hosts, self.context.settings)
        callbacks = AttemptCallbacks(begin, lambda _: None, lambda *_: None, lambda _: None)
        return self.context, route, Plan(chunk_size=first, first=first), callbacks, TransferCounts()
