"""One transfer: a job becomes a file. How the bytes come is an attempt's business.

    for the URL, then each mirror                  the next one after a TransferError
      +-> wait until the destination is ours       or another run has published the file
      |   fetch by an attempt
      +-- StartOverError, ObjectChangedError       held bytes are of another version
    settle, hash, check the content
      +-- wrong digest, broken archive             all over, once, if old bytes may be to blame
    publish, by rename

Every way back to the start is bounded. Bytes of an earlier run are doubted once (`_may_restart`).
An object that changes is fetched again once. The second time its servers probably disagree, so
everything has to come in one answer (`_single`); the third time is an error. Likewise, if answers
with different ETags were combined because a digest would tell, and it is wrong, the next is single.

Invariant: a file gets its name after its digest and its content were checked, or not at all.
Otherwise `_release` keeps what the next run can use.
"""

from __future__ import annotations

import asyncio
import sys
from functools import cached_property
from typing import TYPE_CHECKING

from pgetpy.core.http.answers import Answer, Identity
from pgetpy.core.http.plan import Plan
from pgetpy.core.http.ranges import Span, Spans
from pgetpy.core.http.sink import Sink
from pgetpy.core.http.urls import parse_link
from pgetpy.core.references.jobs import Job
from pgetpy.core.report.events import Report
from pgetpy.core.report.results import DownloadResult
from pgetpy.destinations import open_destination
from pgetpy.destinations.base import BusyError, DestinationOptions, ResumeError
from pgetpy.engine.attempt import Attempt
from pgetpy.engine.byte_verifier import ByteVerifier
from pgetpy.engine.context import AttemptCallbacks, EngineContext, StartOverError
from pgetpy.engine.provenance import Provenance
from pgetpy.engine.requests import Route, try_in_turn
from pgetpy.engine.transfer_report import TransferReport
from pgetpy.engine.transports.base import Begun
from pgetpy.engine.watchdog import TransferCounts
from pgetpy.errors import (
    ArchiveError,
    DigestMismatchError,
    NotAllowedError,
    ObjectChangedError,
)
from pgetpy.settings import Settings
from pgetpy.system.event_loop import wait_uncancelled
from pgetpy.system.filesystem import disk_errors

if TYPE_CHECKING:
    from pgetpy.engine.node_use import NodeUse

FIRST_RANGE = 1 << 20  # what the probe asks for where it does not ask for everything
_LOCK_POLL = 0.1  # seconds between two looks at a lock that another run holds
_FLUSH_EVERY = 15.0  # seconds of download that a power cut may cost
_CONTRADICTORY = "the server's answers contradict each other in ETag or date"


class Transfer:
    """Fetches `job`, once; events go to `report` under `key`.

    Args:
        vetted: whether the policy on content is enforced here, and not by the caller afterwards.
    """

    def __init__(
        self, context: EngineContext, job: Job, key: int, report: Report, *, vetted: bool = False
    ) -> None:
        self._context = context
        self._job = job
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        links = [job.link or parse_link(job.url), *map(parse_link, job.mirrors)]
        self._routes = [Route(link, context.hosts, context.settings) for link in links]
        for mirror in self._routes[1:]:
            mirror.source = mirror.link.origin.host
        if context.settings.fleet is not None:
            from pgetpy.engine.cache_service import service_routes

            self._routes[:0] = service_routes(context.settings, context.hosts, job.url, links[0])
        options = DestinationOptions.of(job, links[0].key, context.paths)
        self._destination = open_destination(job.dest, options, context.settings)
        signer = links[0].signer
        if signer is not None and signer.whole_first:
            # Only a plain file can go on to ranges after the whole was asked for.
            self._routes[0].whole_first = not self._destination.blocks
        self._begun: Begun | None = None  # a request that the first attempt goes on with
        self._policy = context.settings.policy if vetted else None
        if self._policy is not None:
            from pgetpy.engine.content_policy import check_destination

            check_destination(self._policy, job, self._destination)
        self._counts = TransferCounts()
        self._report = TransferReport(report, key, job, self._destination, self._counts)
        self._held = Spans()  # what the next attempt need not fetch
        self._expected: Identity | None = None  # the version that it belongs to
        self._resumed = 0  # bytes of it that an earlier run has left
        self._flushing: asyncio.Future[None] | None = None
        self._flushed_at = self._started
        self._restarts = 0  # for bytes of an earlier run
        self._changes = 0  # of the object on the server
        self._drifted = False  # answers differed in their ETag, see `AnswerGate`
        self._single = False  # whether everything has to come in one answer
        self._nodes: NodeUse | None = None
        if context.nodes is not None:
            from pgetpy.engine.node_use import NodeUse

            self._nodes = NodeUse(context.nodes, job.url)

    @cached_property
    def _verifier(self) -> ByteVerifier:
        return ByteVerifier(self._job.checksum, self._destination, self._context.workers)

    async def run(self) -> DownloadResult:
        """Fetch, verify, publish.

        Raises:
            PgetError: it failed; what a next run can use is kept.
        """
        try:
            while True:
                try:
                    source = await self._from_any()
                    size = source.answer.identity.total or self._held.size
                    await self._settle(size)
                except ArchiveError:
                    if self._may_leave_caches():
                        reason = "the archive from the cache is broken: asking the origin"
                    elif self._may_restart():
                        reason = "the files left by an earlier run contradict each other"
                    else:
                        raise
                    await self._start_over(reason)
                    continue
                actual = await self._hash(size)
                if actual == self._verifier.expected:
                    break
                await self._mismatched(actual)
            await self._check_content(size)
            if not source.shared:
                await self._publish(size)
            seconds, resumed = self._loop.time() - self._started, self._resumed
            return self._report.result(source, self._verifier, size, seconds, resumed)
        finally:
            await self._release()

    async def _from_any(self) -> Provenance:
        """Fetch from the URL, or from a mirror of it."""
        return await try_in_turn(self._routes, self._from)

    async def _from(self, route: Route) -> Provenance:
        """Fetch by `route`, and again from the start where what is held proves useless."""
        while True:
            if self._destination.blocks:  # it hashes what passes
                verifier = self._verifier
                self._counts.requests += await verifier.learn_early(self._context, route)
                self._destination.new_digest = verifier.new_hash if verifier.expected else None
            await self._wait_for_others()
            try:
                if self._destination.finished is not None:
                    await self._verifier.trust_other_run()
                    return await self._shared(route)
                return await self._fetch(route)
            except (BusyError, ResumeError):
                continue  # another run was faster, or left bytes here meanwhile: look again
            except StartOverError as error:
                await self._start_over(error.reason)
            except ObjectChangedError as error:
                if self._single:
                    raise
                # The first time, it may have been replaced. The second time, servers that answer in
                # turn probably disagree; but the bytes of one answer belong together.
                self._single = self._changes > 0
                self._changes += 1
                await self._start_over(error.what())

    async def _fetch(self, route: Route) -> Provenance:
        """Make one attempt by `route` at what is not held yet."""
        callbacks = AttemptCallbacks(
            self._begin,
            lambda now: self._tick(now, attempt),
            self._report.retrying,
            self._report.lost,
            self._report.remark,
        )
        plan = self._plan(self._held)
        attempt = Attempt(self._context, route, plan, callbacks, self._counts)
        if self._nodes is not None and not self._single:
            attempt = self._nodes.attempt_like(attempt, in_order=self._job.follow is not None)
        plan = attempt.plan
        attempt.begun, self._begun = self._begun, None
        attempt.gate.expected = self._expected
        attempt.gate.verified = self._job.checksum is not None
        if self._single:
            attempt.manner.stay_single(_CONTRADICTORY)
        attempt.blocking = self._destination.blocks
        try:
            with disk_errors(self._destination.path):
                answer = await attempt.run()
        finally:
            # A mirror, or a new attempt at the same server, continues from here.
            self._held = plan.held
            self._drifted |= attempt.gate.drifted
            if attempt.gate.answer is not None:
                self._expected = attempt.gate.answer.identity
            if self._nodes is not None:
                self._nodes.learn(attempt)
        self._tick(self._loop.time(), attempt, last=True)
        if route.whole_first:
            context, gate = self._context, attempt.gate
            self._counts.requests += await self._verifier.learn_late(context, route, gate)
        # Unless it was asked for: the whole in answer to a range means that there are no ranges.
        unasked = answer.whole and not (attempt.gate.repeatable or route.whole_first)
        single = attempt.manner.single or unasked
        return Provenance(route.target.url, answer, single)

    async def _shared(self, route: Route) -> Provenance:
        """Check that the file which another run has just published is the version on the server."""
        finished = self._destination.finished
        from pgetpy.destinations.sinks.null import NullSink

        assert finished is not None
        self._destination.finished = None
        total = finished.total or 0
        self._held = Spans()
        plan = self._plan(Spans([Span(0, total)]))
        callbacks = AttemptCallbacks(
            lambda *_: NullSink(), lambda _: None, self._report.retrying, self._report.lost
        )
        attempt = Attempt(self._context, route, plan, callbacks, self._counts)
        attempt.gate.expected = finished
        answer = await attempt.run()
        self._report.started(total, total)
        return Provenance(route.target.url, answer, shared=True)

    async def _wait_for_others(self) -> None:
        """Wait until the destination is ours; take over what an earlier run left."""
        told = False
        while not self._destination.prepare():
            if not told:
                told = True
                self._report.waiting()
            await asyncio.sleep(_LOCK_POLL)
        if self._destination.held:
            self._held, self._destination.held = self._destination.held, Spans()
            self._expected = self._destination.expected
            self._resumed = self._held.size

    async def _start_over(self, reason: str) -> None:
        """Discard what is held, and tell the user the `reason`."""
        await self._verifier.forget()
        self._held = Spans()
        self._expected = None
        self._resumed = 0
        self._report.lost(reason)

    async def _mismatched(self, actual: str) -> None:
        """Start over where the wrong digest may be due to old or mixed bytes; else raise."""
        if self._may_leave_caches():
            await self._start_over("the checksum does not match: asking without caches")
            return
        if self._may_restart():
            await self._start_over("the checksum does not match, perhaps because of an earlier run")
            return
        if self._drifted and not self._single:
            self._single = True
            await self._start_over("the checksum does not match: answers may have been mixed")
            return
        expected = self._verifier.expected
        await self._verifier.stop()
        error = DigestMismatchError(self._job.url, expected, actual)
        if self._destination.passes_on:
            error.hint = "do not use what was written; check the URL and the checksum"
        elif self._verifier.asked is None:
            error.hint = "the store itself gave that checksum; nothing was written: try again"
        self._destination.discard()
        raise error

    def _may_leave_caches(self) -> bool:
        """Whether bytes of caches may be to blame for a failure; True once at most."""
        if self._routes[0].is_cache:
            del self._routes[0]
            return True
        return self._nodes is not None and self._nodes.leave()

    def _may_restart(self) -> bool:
        """Whether bytes of an earlier run may be to blame for a failure; True once at most."""
        if not self._resumed or self._restarts:
            return False
        self._restarts += 1
        return True

    async def _settle(self, size: int) -> None:
        """Wait for what the destination still does with the bytes that have come."""
        if self._destination.blocks:
            settling = self._context.workers.submit(lambda: self._destination.settle(size))
            await wait_uncancelled(settling, self._destination.halt)
            for oddity in self._destination.oddities:
                self._report.remark(oddity)

    async def _hash(self, size: int) -> str:
        """Return the digest of the whole; empty if there is nothing to compare it with."""
        return await self._verifier.finish(size, self._report.verifying)

    async def _check_content(self, size: int) -> None:
        """Check the content against the policy, before the file gets its name.

        Raises:
            NotAllowedError: the policy forbids it.
        """
        policy = self._policy
        if policy is None:
            return
        from pgetpy.engine.content_policy import check_content

        looking = self._context.workers.submit(
            lambda: check_content(policy, self._job, self._destination, size)
        )
        try:
            await wait_uncancelled(looking, lambda: None)
        except NotAllowedError:
            await self._verifier.stop()
            self._destination.discard()
            raise

    async def _publish(self, size: int) -> None:
        """Give the file its name, once nothing reads or flushes the part file any more."""
        await self._verifier.stop()
        if self._flushing is not None:
            await self._flushing
        if self._destination.slow:
            publishing = self._context.workers.submit(lambda: self._destination.publish(size))
            # Not interruptible: what is half published can neither be kept nor be discarded.
            await wait_uncancelled(publishing, lambda: None)
        else:
            self._destination.publish(size)

    async def _release(self) -> None:
        """Release the destination; unless it was published, keep what a next run can use."""
        await self._verifier.stop()
        if self._flushing is not None:
            await asyncio.wait([self._flushing])
        self._destination.keep()

    def _begin(self, answer: Answer, held: Spans) -> Sink:
        """Open the sink, after the first answer was believed. Called in any thread."""
        if self._job.admit is not None:
            self._job.admit(answer.identity)
        self._verifier.check_version(answer.identity)
        resumable = self._job.checksum is not None or answer.identity.strong
        hold = self._verifier.hold
        sink = self._destination.begin(answer, held, hold, resumable=resumable)
        place, total = sink.place(0), answer.identity.total
        if self._job.follow is not None and place is not None and total is not None:
            self._job.follow.began(place.fd, total)
        return self._verifier.hashing(sink, answer) if self._job.claimed else sink

    def _plan(self, held: Spans) -> Plan:
        settings = self._context.settings
        # The end of a zip is wanted next: a single connection would have to be cut off for it.
        is_zip = self._job.extract and self._routes[0].link.url.partition("?")[0].endswith(".zip")
        alone = is_zip and settings.concurrency == 1
        # A limit on the size of ranges holds for the first request as well.
        open_ended = settings.chunk_size >= Settings.chunk_size and not alone
        return Plan(
            chunk_size=settings.chunk_size, first=FIRST_RANGE, open_ended=open_ended, held=held
        )

    def _tick(self, now: float, attempt: Attempt, *, last: bool = False) -> None:
        if attempt.gate.answer is None:
            return
        plan = attempt.plan
        if self._job.follow is not None:
            self._job.follow.landed(plan.landed)
        self._report.started_once(plan.total, self._resumed, last=last)
        # Without ranges a failure means that everything comes again: hash nothing before the end.
        signed = attempt.route.target.signer is not None
        if signed and attempt.gate.head is not None:
            self._verifier.learn(attempt.gate.head)
        if not attempt.gate.restarts:
            self._verifier.advance(plan.front)
        # A request whose stop was lowered may still be writing the block at its position.
        self._destination.tidy(
            Span(f.pos, max(f.stop or sys.maxsize, f.pos + 1)) for f in plan.parts
        )
        self._report.progressed(now, plan, last=last)
        if now - self._flushed_at >= _FLUSH_EVERY and not last:
            self._flush(now)

    def _flush(self, now: float) -> None:
        """Write what has landed to stable storage, so that a power cut costs only what follows."""
        self._flushed_at = now
        if self._flushing is None or self._flushing.done():
            self._flushing = self._context.workers.submit(self._destination.flush)
