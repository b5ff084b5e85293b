"""What one transfer tells its user, as events and in the log.

    waiting*  started  progressed*  verifying*                     then the engine reports the end
                 ^     retrying*, remark*   |
                 +---------- lost <---------+                      everything begins anew

`started` waits until the destination knows whether a later run could resume from what lands: of an
archive that depends on its first bytes. After `lost` it is sent again.
"""

from __future__ import annotations

from pgetpy.core.http.plan import Plan
from pgetpy.core.lazy_dataclass import dataclass
from pgetpy.core.references.jobs import Job
from pgetpy.core.report.events import (
    Progressed,
    Remarked,
    Report,
    Retrying,
    Started,
    StartedOver,
    Verifying,
    Waiting,
)
from pgetpy.core.report.results import DownloadResult
from pgetpy.destinations.base import Destination
from pgetpy.engine.byte_verifier import ByteVerifier
from pgetpy.engine.provenance import Provenance
from pgetpy.engine.watchdog import TransferCounts
from pgetpy.errors import PgetError
from pgetpy.errors.redact import redact
from pgetpy.system.logs import RoomLog

REPORT_EVERY = 0.1
_LOG = RoomLog("engine")


@dataclass(eq=False)
class TransferReport:
    """Sends the events of one transfer.

    Attributes:
        report: gets them.
        key: tells them from those of other transfers.
        job: that is being carried out.
        destination: names the file, and says what is kept.
        counts: what has been counted so far, bytes by source among it.
    """

    report: Report
    key: int
    job: Job
    destination: Destination
    counts: TransferCounts
    _announced: bool = False
    _reported_at: float = 0.0

    @property
    def label(self) -> str:
        return self.destination.label

    def waiting(self) -> None:
        """Report that another run holds the destination's lock."""
        _LOG.debug("%s: waiting: %s", self.label, self.destination.obstacle)
        self.report(Waiting(self.key, self.label, self.destination.obstacle))

    def started(self, total: int | None, resumed: int, *, keeps: bool = True) -> None:
        """Report the size, `total` (None: unknown), and how many bytes an earlier run has left.

        `keeps` says whether what lands survives if this run ends early.
        """
        self._announced = True
        url = redact(self.job.url)
        _LOG.debug("%s: %s bytes from %s, %d held already", self.label, total, url, resumed)
        self.report(Started(self.key, url, self.label, total, resumed, keeps))

    def started_once(self, total: int | None, resumed: int, *, last: bool) -> None:
        """As `started`, once, as soon as the destination knows whether it keeps what lands."""
        keeps = self.destination.keeps
        if not self._announced and (last or keeps is not None):
            self.started(total, resumed, keeps=bool(keeps))
            if self.destination.remark:
                self.remark(self.destination.remark)

    def progressed(self, now: float, plan: Plan, *, last: bool) -> None:
        """Report progress, at most every `REPORT_EVERY` seconds and at the `last`."""
        if last or now - self._reported_at >= REPORT_EVERY:
            self._reported_at = now
            self.stands_at(plan.done, plan.total, len(plan.parts))

    def stands_at(self, done: int, total: int | None, connections: int) -> None:
        """Report that `done` bytes of `total` have landed, and how many connections are open."""
        sources = dict(self.counts.by_source)
        self.report(Progressed(self.key, done, total, connections, sources))

    def verifying(self, done: int, size: int) -> None:
        """Report that `done` bytes of `size` have been hashed."""
        self.report(Verifying(self.key, self.label, done, size))

    def retrying(self, error: PgetError, after: float) -> None:
        """Report a failure, and that the next try is made after `after` seconds."""
        _LOG.debug("%s: retrying in %.2f s: %s", self.label, after, error)
        self.report(Retrying(self.key, self.label, error, after))

    def remark(self, remark: str) -> None:
        """Report something that is worth knowing but not a failure."""
        _LOG.debug("%s: %s", self.label, remark)
        self.report(Remarked(self.key, self.label, remark))

    def result(
        self,
        source: Provenance,
        verifier: ByteVerifier,
        size: int,
        seconds: float,
        resumed: int,
    ) -> DownloadResult:
        """Return what the caller is told of a transfer that has ended well.

        Args:
            source: where the bytes came from.
            verifier: has compared their digest, if one was known.
            size: of the object.
            seconds: since the call.
            resumed: bytes that an earlier run had left.
        """
        counts, job = self.counts, self.job
        return DownloadResult(
            url=redact(job.url),
            final_url=redact(source.url),
            dest=self.label,
            size=size,
            digest=str(job.checksum) if job.checksum else None,
            seconds=seconds,
            bytes_per_second=counts.moved / seconds if seconds > 0 else 0.0,
            retries=counts.retries,
            requests=counts.requests,
            connections=counts.connections,
            resumed=resumed,
            validator=source.validator,
            length_known=source.answer.delimited,
            single_stream=source.single_stream,
            shared=source.shared,
            members=self.destination.members,
            store_checksum=str(verifier.stored or ""),
            unverified=verifier.unverified,
            verified=_verified(job, verifier),
            bytes_by_source=dict(counts.by_source),
        )

    def lost(self, reason: str) -> None:
        """Report that everything received is discarded, and why."""
        self._announced = False
        if self.job.follow is not None:
            self.job.follow.lost()
        _LOG.debug("%s: starting over: %s", self.label, reason)
        self.report(StartedOver(self.key, self.label, reason))


def _verified(job: Job, verifier: ByteVerifier) -> str:
    """Return what has vouched for the bytes; see `DownloadResult.verified`."""
    if job.checksum is not None:
        return "digest"
    return "store_checksum" if verifier.stored is not None else "none"
