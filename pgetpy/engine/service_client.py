"""Questions put to servers: which version of an object is there, what a service says.

They are retried, paced and kept within the policy like any transfer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from pgetpy.core.http.answers import REDIRECTS, Answer, Identity
from pgetpy.core.http.heads import Head
from pgetpy.core.http.manner import Manner
from pgetpy.core.http.plan import Plan
from pgetpy.core.http.ranges import Spans
from pgetpy.core.http.sink import Sink
from pgetpy.destinations.sinks.memory import MemorySink
from pgetpy.engine.attempt import Attempt
from pgetpy.engine.authorities import authorities
from pgetpy.engine.context import AttemptCallbacks, EngineContext
from pgetpy.engine.requests import Route
from pgetpy.engine.transports.base import Exchange
from pgetpy.engine.watchdog import TransferCounts
from pgetpy.errors import TransferError
from pgetpy.sources.base import RemoteFile

T = TypeVar("T")


class _HeadReceivedError(Exception):
    """The answer has been believed: nothing more is wanted."""

    def __init__(self, identity: Identity) -> None:
        super().__init__(identity)
        self.identity = identity


class _AnsweredError(Exception):
    """There is an answer, wherever it leads."""

    def __init__(self, head: Head) -> None:
        super().__init__(head)
        self.head = head


class _FirstAnswer(Attempt):
    """Ends at the first answer that is no error."""

    def _judge(self, call: Exchange, head: Head) -> tuple[Answer, Sink]:
        if head.status not in REDIRECTS:
            super()._judge(call, head)
        raise _AnsweredError(head)


class _Bounded(MemorySink):
    """An answer in memory, of `most` bytes."""

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
    """The questions of the sources, by the means of an engine."""

    context: EngineContext

    async def identify(self, remote: RemoteFile) -> Identity:
        """Ask for the first byte of an object and return which version it is of.

        Raises:
            TransferError: it may not be had, or not be reached.
        """

        def begin(answer: Answer, _: Spans) -> Sink:
            raise _HeadReceivedError(answer.identity)

        attempt = Attempt(*self._about(remote, begin, first=1), manner=Manner(settled=True))
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

    async def read(self, remote: RemoteFile, *, most: int = 4 << 20) -> bytes:
        """Return the whole answer; see `sources.base.ServiceClient`."""
        sink = _Bounded(remote.url, most)
        about = self._about(remote, lambda *_: sink, first=most)
        attempt = Attempt(*about, manner=Manner(whole=True, settled=True))
        await attempt.run()
        return bytes(sink.data)

    @property
    def exclusive(self) -> bool:
        """See `sources.base.ServiceClient`: of these settings the environment tells nobody else."""
        settings = self.context.settings
        return settings.policy is not None or bool(authorities(settings) or settings.resolve)

    @property
    def retries(self) -> int:
        """See `sources.base.ServiceClient`."""
        return self.context.settings.retries

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, which blocks."""
        return await self.context.workers.submit(work)

    def _about(
        self, remote: RemoteFile, begin: Callable[[Answer, Spans], Sink], *, first: int
    ) -> tuple[EngineContext, Route, Plan, AttemptCallbacks, TransferCounts]:
        route = Route(remote.link, self.context.hosts, self.context.settings)
        callbacks = AttemptCallbacks(begin, lambda _: None, lambda *_: None, lambda _: None)
        return self.context, route, Plan(chunk_size=first, first=first), callbacks, TransferCounts()
