"""A transfer of what is probably small: one answer brings all of it, in one buffer.

It replaces one step of a `Transfer`, receiving: a plan, a watchdog, a journal and a thread cost
more than a small file. Whatever is not that simple goes the usual way, with the request that has
been sent: larger objects, refusals, odd framings, answers that are late or break off. So failures
are not judged here.

    request --> head --> small, plain, in time?  yes --> body into one buffer --> sink --> publish
                              | no
                              '--> an `Attempt` takes over the request and the bytes received

Taking over is what keeps the lane simple: nothing has been decided yet that an attempt could not
decide otherwise, and no byte is requested twice.
"""

from __future__ import annotations

from pgetpy.core.http.answers import Answer, Redirected
from pgetpy.core.http.heads import Head
from pgetpy.core.http.ranges import EVERYTHING, Span, Spans
from pgetpy.core.http.small_answers import judge_small, plain_length
from pgetpy.core.references.jobs import Job
from pgetpy.core.report.events import Report
from pgetpy.core.report.results import DownloadResult
from pgetpy.destinations.file import SMALL, FileDestination
from pgetpy.engine.context import EngineContext
from pgetpy.engine.provenance import Provenance
from pgetpy.engine.requests import Route
from pgetpy.engine.small_lane import SmallLane
from pgetpy.engine.transfer import Transfer
from pgetpy.engine.transports.small_request import SmallRequest
from pgetpy.errors import TransferError
from pgetpy.system.filesystem import disk_errors


class SmallTransfer(Transfer):
    """A transfer that goes by `lane` as far as it can.

    Args:
        begun: the first request, if it has been sent already.
    """

    def __init__(
        self,
        context: EngineContext,
        job: Job,
        key: int,
        report: Report,
        *,
        lane: SmallLane,
        begun: SmallRequest | None = None,
        vetted: bool = False,
        size: int | None = None,
    ) -> None:
        super().__init__(context, job, key, report, vetted=vetted)
        self._begun = begun
        self._lane: SmallLane | None = lane
        self._sized = size is not None
        if self._sized:
            lane.slots.note(size)
        self._answer: Answer | None = None
        self._redirect: Redirected | None = None
        self._found: str | None = None  # the digest; empty if none was wanted

    async def _from_any(self) -> Provenance:
        lane, self._lane = self._lane, None  # the first time only
        if lane is not None:
            route = self._routes[0]
            if await self._received(lane, route):
                assert self._answer is not None
                if not self._sized:
                    lane.slots.note_small()
                route.delivered()
                single = self._answer.whole and not route.whole_first
                return Provenance(route.target.url, self._answer, single)
            head = self._begun.head if isinstance(self._begun, SmallRequest) else None
            if not self._sized:
                lane.slots.note(plain_length(head) if head is not None else None)
        return await super()._from_any()

    async def _release(self) -> None:
        if self._begun is not None:
            self._begun.close()
        await super()._release()

    async def _hash(self, size: int) -> str:
        found, self._found = self._found, None  # after a mismatch, of other bytes
        return await super()._hash(size) if found is None else found

    async def _received(self, lane: SmallLane, route: Route) -> bool:
        """Whether the object was received, and written.

        False leaves the request that was sent, with what it has received, in `self._begun`: the
        attempt that follows begins with it. Redirects are followed here, since stores of small
        files redirect each of them; an odd one starts again from the first URL, the usual way.
        """
        if not self._is_untouched():
            return False
        while True:
            begun = await self._answered(lane, route)
            if begun is None or (self._redirect is None and not begun.complete):
                return False
            if self._redirect is None:
                self._write(route, begun)
            self._counts.requests += 1
            self._begun = None
            if begun.complete:
                lane.end(begun)
            else:
                begun.close()
            if self._redirect is None:
                return True
            try:
                route.redirected(self._redirect, begun.request.url)
            except TransferError:
                route.start_again()
                return False

    async def _answered(self, lane: SmallLane, route: Route) -> SmallRequest | None:
        """Return the next request, answered as far as the lane can; None if it may not be made.

        It sets `_answer` or `_redirect`, or neither.
        """
        self._answer = self._redirect = None
        if isinstance(self._begun, SmallRequest):
            head = self._begun.head
            if head is not None:
                self._length_of(head)
            return self._begun if self._redirect is not None else None
        try:
            host = await route.host()
        except TransferError:
            return None
        if not await lane.may_ask(host):
            return None
        begun = self._begun = lane.request(route.request(host, EVERYTHING, None), self._length_of)
        await lane.receive(host, begun)
        return begun

    def _is_untouched(self) -> bool:
        """Whether the destination is a file, and no other run works on it or has left bytes."""
        destination = self._destination
        if not isinstance(destination, FileDestination) or not destination.prepare():
            return False
        return not destination.held and destination.finished is None

    def _length_of(self, head: Head) -> int | None:
        """Return the length of the body of `head` if it is all of a small object, or unwanted.

        Only what needs no decision is accepted: a plain length, the whole object, a size within the
        limits. The body of a redirect is read and thrown away, to keep the connection.
        """
        target = self._routes[0].target
        if head.status >= 300 and target.signer is not None:
            return None  # perhaps it only has to be signed differently
        length, largest = plain_length(head), self._context.settings.largest
        most = SMALL if largest is None else min(SMALL, largest[0])
        verified = self._job.checksum is not None
        try:
            self._answer = judge_small(target.url, head, verified=verified, most=most)
        except Redirected as redirect:
            self._redirect = redirect
            return length if length is not None and length <= SMALL else None
        return None if self._answer is None else length

    def _write(self, route: Route, begun: SmallRequest) -> None:
        """Write the body of `begun`, which is the whole object, to the part file.

        On the event loop: for so few bytes the page cache answers at once, and handing them to a
        thread takes longer. The digest is taken from the buffer, without reading the file again.
        """
        assert self._answer is not None
        body, size = begun.body, len(begun.body)
        if route.target.signer is not None and begun.head is not None:
            self._verifier.learn(begun.head)
        sink = self._begin(self._answer, Spans())
        with disk_errors(self._destination.label):
            sink.write(0, body)
        if self._job.follow is not None:
            self._job.follow.landed(Spans([Span(0, size)]))
        self._found = self._verifier.of(body)
        self._counts.add(size, route.source)
        self._counts.connections = 1
        self._report.started_once(size, 0, last=True)
        self._report.stands_at(size, size, 0)


class SmallTransfers(SmallLane):
    """The lane, with the transfers that go by it."""

    async def carry(
        self,
        job: Job,
        key: int,
        report: Report,
        *,
        vetted: bool,
        size: int | None,
        begun: SmallRequest | None = None,
    ) -> DownloadResult:
        """Run `job`, one that `takes` has accepted, of `size` bytes if that is known.

        For `begun` see `SmallTransfer`.

        Raises:
            PgetError: it failed.
        """
        transfer = SmallTransfer(
            self.context, job, key, report, lane=self, begun=begun, vetted=vetted, size=size
        )
        return await transfer.run()
