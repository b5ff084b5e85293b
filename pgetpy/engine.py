"""The engine: many transfers at a time over shared hosts, connections and limits.

It lives on one event loop, and owns every task and connection of the transfers it runs.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence

from pgetpy.core.answers import Identity
from pgetpy.core.events import Failed, Finished, Queued, Report
from pgetpy.core.jobs import Job
from pgetpy.core.limits import Bucket
from pgetpy.core.results import DownloadFailure, DownloadResult
from pgetpy.destinations.base import Claims
from pgetpy.errors import PgetError
from pgetpy.hosts import Hosts, descriptor_limit
from pgetpy.identifying import identify
from pgetpy.metrics import Metrics
from pgetpy.redact import redact
from pgetpy.session import Services
from pgetpy.settings import Settings
from pgetpy.transfer import Transfer
from pgetpy.transports.aio import AioTransport
from pgetpy.transports.direct import DirectTransport
from pgetpy.workers import Workers

# Of several files so many are begun at once: while one waits for its answer another is written.
_SIDE_BY_SIDE = 4


class Engine:
    """Runs transfers with one set of settings. Close it when done."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        workers = Workers()
        hosts = Hosts(settings, workers)
        self._services = Services(
            settings=settings,
            hosts=hosts,
            workers=workers,
            direct=DirectTransport(workers),
            full=AioTransport(descriptor_limit()),
            throttle=_throttle(settings.limit_rate),
            claims=Claims(),
        )
        self._metrics = Metrics(settings.metrics_endpoint, workers, hosts.tls)

    async def download(self, job: Job, report: Report, key: int = 0) -> DownloadResult:
        """Run one job.

        Raises:
            PgetError: it failed.
        """
        try:
            result = await Transfer(self._services, job, key, report).run()
        except PgetError as error:
            self._metrics.failed(job.url, error)
            report(Failed(key, redact(job.url), job.dest or "", error))
            raise
        self._metrics.finished(job.url, result)
        report(Finished(key, result))
        return result

    async def identify(self, url: str) -> Identity:
        """Return which version of an object the server has, by asking for its first byte.

        Raises:
            TransferError: it may not be had, or not be reached.
        """
        return await identify(self._services, url)

    async def download_all(
        self, jobs: Sequence[Job], report: Report, *, fail_fast: bool
    ) -> tuple[DownloadResult | DownloadFailure, ...]:
        """Run `jobs`, some at a time, and return what became of each, in their order.

        Raises:
            PgetError: with `fail_fast`, the first failure; the others are stopped.
        """
        report(Queued(len(jobs)))
        outcomes: list[DownloadResult | DownloadFailure | None] = [None] * len(jobs)
        waiting = iter(enumerate(jobs))

        async def work() -> None:
            for key, job in waiting:
                try:
                    outcomes[key] = await self.download(job, report, key)
                except PgetError as error:
                    if fail_fast:
                        raise
                    outcomes[key] = DownloadFailure(redact(job.url), job.dest or "", error)

        self._services.hosts.start = min(len(jobs), _SIDE_BY_SIDE)
        count = min(self._settings.max_concurrent_files, self._services.hosts.ceiling, len(jobs))
        await _all_or_none([asyncio.ensure_future(work()) for _ in range(count)])
        return tuple(outcome for outcome in outcomes if outcome is not None)

    async def close(self) -> None:
        """Close all connections."""
        await self._services.direct.close()
        await self._services.full.close()
        await self._metrics.close()


async def _all_or_none(tasks: list[asyncio.Task[None]]) -> None:
    """Wait for `tasks`; when one fails, or we are cancelled, end the others first."""
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _throttle(rate: int | None) -> Callable[[int], float] | None:
    if rate is None:
        return None
    bucket = Bucket(rate, time.monotonic())
    lock = threading.Lock()

    def take(count: int) -> float:
        with lock:
            return bucket.take(count, time.monotonic())

    return take
