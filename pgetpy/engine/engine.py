"""The engine: many transfers at a time over shared hosts, connections and limits.

It lives on one event loop, and owns every task and connection of the transfers it runs. A job's way
through it:

    job.url --parse--> reference --policy--> already a link? ----------------> Transfer
                                                  | no                            ^
                                                  +--> source.locate --> RemoteFile

A service's errors are turned into its own terms on the way back (`explaining`): a 403 of the Hub is
a gated repository, one of a bucket a missing right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from pgetpy.core.http.answers import Identity
from pgetpy.core.http.urls import parse_link
from pgetpy.core.lazy_dataclass import replace
from pgetpy.core.references.jobs import Follower, Job
from pgetpy.core.references.reference import Reference
from pgetpy.core.report.events import Failed, Finished, Queued, Report
from pgetpy.core.report.results import DownloadFailure, DownloadResult
from pgetpy.engine.context import EngineContext
from pgetpy.engine.hosts import Hosts, descriptor_limit
from pgetpy.engine.transfer import Transfer
from pgetpy.engine.transports.base import Transport
from pgetpy.engine.transports.direct import DirectTransport
from pgetpy.errors import HttpStatusError, PgetError
from pgetpy.errors.redact import redact
from pgetpy.settings import Settings
from pgetpy.sources.base import Located, RemoteFile, only_object
from pgetpy.sources.table import explained, locate, parse_reference
from pgetpy.system.filesystem import ReservedPaths
from pgetpy.system.threads import WORKERS, Workers

if TYPE_CHECKING:
    from pgetpy.destinations.sinks.parts import Choose
    from pgetpy.engine.metrics import Metrics
    from pgetpy.engine.node_access import NodeAccess
    from pgetpy.engine.service_client import EngineServiceClient
    from pgetpy.engine.small_transfer import SmallTransfers
    from pgetpy.engine.transports.small_request import SmallRequest
    from pgetpy.settings.fleet_settings import FleetSettings

# Of several files, so many begin at once: while one waits for its answer, another is written.
_SIDE_BY_SIDE = 4


class Engine:
    """Runs transfers with one set of settings. An async context manager.

    It is made and used on one event loop. Transfers of one engine share connections and limits;
    those of two engines share threads and pipes alone.
    """

    def __init__(self, settings: Settings) -> None:
        settings = settings.under_policy()
        self._settings = settings
        workers = WORKERS
        hosts = Hosts(settings, workers)
        direct = DirectTransport(workers)
        rate = settings.limit_rate
        self._full: Any = _Deferred(lambda: full_transport(workers))
        self._client: Any = _Deferred(self._service_client)
        local: Any = _Deferred(lambda: _local_transport(workers))
        self._context = EngineContext(
            settings=settings,
            hosts=hosts,
            workers=workers,
            direct=direct,
            full=self._full,
            throttle=None if rate is None else _throttle(rate),
            paths=ReservedPaths(),
            local=local,
            nodes=None if settings.fleet is None else _node_access(settings.fleet, settings, hosts),
        )
        self._direct = direct
        self._lane: SmallTransfers | None = None  # once several files are fetched
        self._metrics: Metrics | None = None
        if settings.metrics_endpoint is not None or settings.metrics_file is not None:
            from pgetpy.engine.metrics import Metrics

            self._metrics = Metrics(settings, workers, hosts.tls)

    def _service_client(self) -> EngineServiceClient:
        from pgetpy.engine.service_client import EngineServiceClient

        return EngineServiceClient(self._context)

    @cached_property
    def _children(self) -> asyncio.Semaphore:
        """Bounds the processes that run hf_transfer."""
        from pgetpy.engine.hf_transfer import MOST_CHILDREN

        return asyncio.Semaphore(MOST_CHILDREN)

    async def locate(self, reference: Reference) -> Located:
        """Return where the bytes of `reference` are, which may take requests to its service.

        Raises:
            TransferError: the service refuses, or does not answer.
        """
        with self.explaining(reference):
            return await locate(reference, self._settings.sources, self._client)

    @contextmanager
    def _told(self, job: Job, report: Report, key: int) -> Iterator[None]:
        """Report a failure within the block as an event, and have it counted."""
        try:
            yield
        except PgetError as error:
            if self._metrics is not None:
                self._metrics.failed(job.url, error)
            report(Failed(key, redact(job.url), job.dest or "", error))
            raise

    @contextmanager
    def explaining(self, reference: Reference) -> Iterator[None]:
        """Have HTTP errors within the block explained by the source of `reference`."""
        try:
            yield
        except HttpStatusError as error:
            meaning = explained(reference, error, self._settings.sources)
            if meaning is error:
                raise
            raise meaning from error

    async def identify(self, remote: RemoteFile) -> Identity:
        """Return which version of an object the server has, by asking for its first byte.

        Raises:
            TransferError: it is forbidden, or cannot be reached.
        """
        found: Identity = await self._client.identify(remote)
        return found

    async def pick(
        self, reference: Reference, choose: Choose, first: int, follow: Follower
    ) -> bool:
        """Fetch parts of what `reference` names; False if only the whole can be fetched.

        Args:
            reference: one object.
            choose: says which parts, given the first bytes; see
                `destinations.sinks.parts.PartsSink`.
            first: how many bytes to fetch in any case.
            follow: is shown what has landed, and keeps it.

        Raises:
            PgetError: it failed.
        """
        if reference.local:
            return False
        located = await self.locate(reference)
        if located.folder or located.extract:
            return False
        from pgetpy.destinations.sinks.parts import PartsSink
        from pgetpy.engine.partial import WholeOnlyError, pick

        sink = PartsSink(first, choose)
        try:
            with self.explaining(reference):
                await pick(self._context, located.objects[0], sink, first, follow)
        except WholeOnlyError:
            return False
        finally:
            sink.close()
        return True

    def begin_anew(self) -> None:
        """Forget the paths of earlier downloads, so that they may be downloaded to again."""
        self._context.paths.clear()

    async def download(
        self, job: Job, report: Report, key: int = 0, *, begun: SmallRequest | None = None
    ) -> DownloadResult:
        """Run one job, whose URL may be a reference that a source knows.

        Args:
            job: what to fetch, and where to.
            report: gets the events.
            key: tells the events of this job from others.
            begun: the first request for it, if that has been sent already.

        Raises:
            PgetError: it failed.
        """
        with self._told(job, report, key):
            sources, policy = self._settings.sources, self._settings.policy
            reference = job.reference or parse_reference(job.url, settings=sources)
            if policy is not None and not (job.link is not None and job.link.trusted):
                policy.check_reference(reference)
            if job.link is not None and reference.is_folder:
                # One file of a folder that has been listed.
                with self.explaining(reference):
                    result = await self._carry(job, key, report, vetted=True, begun=begun)
            elif reference.link is not None:
                # A server's Content-Disposition goes before the name in the URL.
                name = reference.name if reference.local else ""
                link = job.link or reference.link
                found = replace(job, url=reference.text, link=link, name=name)
                result = await self._carry(found, key, report, vetted=True, begun=begun)
            else:
                with self.explaining(reference):
                    remote = only_object(reference, await self.locate(reference))
                    result = await self._carry_located(remote, job, key, report, vetted=True)
        self._finish(job, result, report, key)
        return result

    def _finish(self, job: Job, result: DownloadResult, report: Report, key: int) -> None:
        if self._metrics is not None:
            self._metrics.finished(job.url, result)
        report(Finished(key, result))

    async def fetch(self, remote: RemoteFile, job: Job, report: Report, key: int = 0) -> None:
        """Run `job` for an object that has been located.

        Raises:
            PgetError: it failed.
        """
        with self._told(job, report, key):
            result = await self._carry_located(remote, job, key, report)
        if self._metrics is not None:
            self._metrics.filled(result)

    async def _carry_located(
        self, remote: RemoteFile, job: Job, key: int, report: Report, *, vetted: bool = False
    ) -> DownloadResult:
        """Run `job` for a located object: by hf_transfer where that was asked for, and the digest
        lets its result be checked."""
        # The user's own checksum and link go before those that the source knows.
        found = replace(
            job,
            url=remote.url,
            checksum=job.checksum or remote.digest,
            link=job.link or remote.link,
            name=remote.name,
        )
        if remote.hf_transfer and found.checksum == remote.digest:
            from pgetpy.engine.hf_transfer import HfTransfer

            turns = self._children
            transfer = HfTransfer(self._context, found, key, report, turns=turns, vetted=vetted)
            return await transfer.run()
        return await self._carry(found, key, report, vetted=vetted, size=remote.size)

    async def _carry(
        self,
        job: Job,
        key: int,
        report: Report,
        *,
        vetted: bool,
        size: int | None = None,
        begun: SmallRequest | None = None,
    ) -> DownloadResult:
        """Run `job`, whose object has `size` bytes if that is known."""
        context, lane = self._context, self._lane
        if lane is not None and lane.takes(job) and not self._goes_by_nodes(job):
            return await lane.carry(job, key, report, vetted=vetted, size=size, begun=begun)
        if lane is not None:
            lane.slots.note(size)
        return await Transfer(context, job, key, report, vetted=vetted).run()

    def _goes_by_nodes(self, job: Job) -> bool:
        """Whether the object of `job` comes from cache nodes, of which the lane knows nothing."""
        nodes = self._context.nodes
        return nodes is not None and nodes.takes(job.url, job.link or parse_link(job.url))

    async def run_all(self, works: Sequence[Callable[[], Awaitable[None]]]) -> None:
        """Do `works`, each of which fetches a file, several at a time.

        Where one fails, or we are cancelled, the others end first.
        """
        waiting = iter(works)  # one iterator for all, so each is done once, in order

        async def step() -> bool:
            work = next(waiting, None)
            if work is not None:
                await work()
            return work is not None

        if len(works) == 1:
            self._context.hosts.start = 1
            await step()
        elif works:
            await self._prepare_several(len(works)).work_off(step, len(works))

    def _prepare_several(self, count: int) -> SmallTransfers:
        """Get ready for `count` files at a time; return the lane for small ones."""
        hosts = self._context.hosts
        hosts.start = max(1, min(count, _SIDE_BY_SIDE))
        if self._lane is None:
            from pgetpy.engine.small_transfer import SmallTransfers

            most = min(self._settings.max_concurrent_files, hosts.ceiling)
            self._lane = SmallTransfers(self._context, self._direct, most)
        return self._lane

    async def download_all(
        self, jobs: Sequence[Job], report: Report, *, fail_fast: bool
    ) -> tuple[DownloadResult | DownloadFailure, ...]:
        """Run `jobs`, some at a time, and return what became of each, in their order.

        Raises:
            PgetError: with `fail_fast`, the first failure; the others are stopped.
        """
        report(Queued(len(jobs)))
        outcomes: list[DownloadResult | DownloadFailure | None] = [None] * len(jobs)

        async def fetch(key: int, begun: SmallRequest | None = None) -> None:
            job = jobs[key]
            try:
                outcomes[key] = await self.download(job, report, key, begun=begun)
            except PgetError as error:
                if fail_fast:
                    raise
                outcomes[key] = DownloadFailure(redact(job.url), job.dest or "", error)

        def finished(key: int, result: DownloadResult) -> None:
            outcomes[key] = result
            self._finish(jobs[key], result, report, key)

        if len(jobs) < 2:
            await self.run_all([partial(fetch, key) for key in range(len(jobs))])
        else:
            from pgetpy.engine.small_files import SmallFiles

            lane = self._prepare_several(len(jobs))
            files = SmallFiles(self._context, lane, jobs, report, finished, fetch)
            await lane.work_off(files.step, len(jobs))
        return tuple(outcome for outcome in outcomes if outcome is not None)

    async def __aenter__(self) -> Engine:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all connections."""
        await self._context.direct.close()
        if self._full.is_made:
            await self._full.close()
        if self._metrics is not None:
            await self._metrics.close()


class _Deferred:
    """Stands for what `make` imports and makes, which happens at the first use.

    Few downloads need it, and the imports would take time at every start.
    """

    def __init__(self, make: Callable[[], object]) -> None:
        self._make = make
        self.is_made = False

    @cached_property
    def _made(self) -> object:
        self.is_made = True
        return self._make()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._made, name)


def full_transport(workers: Workers) -> Transport:
    from pgetpy.engine.transports.aio import AioTransport

    return AioTransport(workers, descriptor_limit())


def _local_transport(workers: Workers) -> Transport:
    from pgetpy.engine.transports.local import LocalTransport

    return LocalTransport(workers)


def _node_access(fleet: FleetSettings, settings: Settings, hosts: Hosts) -> NodeAccess | None:
    """Return the way to the cache nodes, if there are any."""
    if fleet.nodes is None:
        return None
    from pgetpy.engine.node_access import NodeAccess
    from pgetpy.fleet.nodes import shared_nodes

    return NodeAccess(shared_nodes(fleet), settings, hosts)


def _throttle(rate: int) -> Callable[[int], float]:
    from pgetpy.engine.throttle import shared_throttle

    return shared_throttle(rate)
