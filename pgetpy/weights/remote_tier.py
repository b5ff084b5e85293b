"""A cache's second tier, in a bucket: where a miss is looked for before the origin is asked.

    miss --> record of the key --> current? --> blobs, verified --> an entry like any other
               | none             | no            | wrong, or the store fails
               v                  v               v
             the origin; afterwards a copy of what it sent goes to the tier (`remote_copies`)

Nothing that the tier does wrong is an error: the origin is there. Blobs are read with their sha256,
so what arrives is what was put there. A record is believed as long as `max_age`; after that the
origin has to confirm its version, by the validators that confirm a cached entry.

A caller's digest finds content under any key. But that proves nothing about this origin, so the
entry is given only to callers who name it by the same digest.

Two kinds of failure must not be mixed up. If the store fails, it is left alone for a minute and the
origin is asked (`_RemoteError` keeps its errors apart). If the origin refuses while it is asked to
confirm a record, that is the caller's error, just as without a tier: the copy of a file that has
been made private must not be given out.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256

from pgetpy.cache.tickets import Fill
from pgetpy.core.cache.remote_records import (
    LONGEST_RECORD,
    RemoteBlob,
    RemoteRecord,
    parse_record,
    record_name,
)
from pgetpy.core.http.answers import Identity
from pgetpy.core.references.checksums import Checksum
from pgetpy.core.references.jobs import Job
from pgetpy.core.references.policy import Policy
from pgetpy.core.references.reference import Reference, Wanted
from pgetpy.core.report.events import Event, Progressed, StartedOver
from pgetpy.engine.engine import Engine
from pgetpy.errors import (
    ConnectionFailedError,
    DigestMismatchError,
    NotAllowedError,
    NotFoundError,
    PgetError,
    SizeMismatchError,
    StalledError,
    TransferError,
    UnsafeMemberError,
)
from pgetpy.settings import Settings
from pgetpy.sources.base import Located, RemoteFile
from pgetpy.system.filesystem import remove_tree
from pgetpy.system.logs import RoomLog
from pgetpy.system.threads import WORKERS
from pgetpy.weights.access import digest_scope
from pgetpy.weights.fetch_request import FetchRequest, FetchResult
from pgetpy.weights.remote_store import RemoteStore
from pgetpy.weights.repository import gather
from pgetpy.weights.size_limit import SizeBudget

_LOG = RoomLog("weights")
_WRONG = (DigestMismatchError, SizeMismatchError, UnsafeMemberError)
# The version of content whose origin was not asked: no answer agrees with it.
_UNKNOWN = Identity(-1)
# A record from further in the future was written by a clock that is off.
_LONGEST_SKEW = 300.0


@dataclass
class RemoteTier:
    """Looks for misses in `store`.

    Attributes:
        store: holds what was put there by this process and others.
        settings: of the cache: its policy, and the largest size.
        max_age: seconds for which a record is believed without asking the origin.
        damaged: digests of blobs that were found to be wrong; copies replace them.
    """

    store: RemoteStore
    settings: Settings
    max_age: float

    def __post_init__(self) -> None:
        self.damaged: set[str] = set()

    async def fetch(
        self, fill: Fill, request: FetchRequest, current: Callable[[Identity], Awaitable[bool]]
    ) -> FetchResult | None:
        """Fetch what is wanted into the fill's folder; None if the origin has to be asked.

        Args:
            fill: gets the content.
            request: what is wanted.
            current: asks the origin whether a version is its latest.

        Raises:
            PgetError: the disk is full, a limit is exceeded, or the origin refuses to confirm.
        """
        reference = request.reference
        if reference.local or request.lookup.proven or self.store.reading.is_off:
            return None
        try:
            record = await self._find(request, current)
        except _RemoteError as failed:
            self.store.reading.fail(self.store.shown, failed.error)
            return None
        if record is None:
            return None
        budget = SizeBudget(reference, self.settings.largest)
        budget.note(0, record.size)
        await WORKERS.submit(lambda: fill.reserve(record.size))
        try:
            await self._bring(fill, record, request, budget)
        except NotAllowedError:
            raise
        except _WRONG as error:
            self._ignore(record, request, error)
            return None
        except TransferError as error:
            self._fail(request, error)
            return None
        self.store.reading.warned = False
        _LOG.debug("%s: %s has it", reference, self.store.shown)
        return _result_of(record, request)

    # ---------------------------------------------------------------------------- the record

    async def _find(
        self, request: FetchRequest, current: Callable[[Identity], Awaitable[bool]]
    ) -> RemoteRecord | None:
        """Return the record to go by.

        Raises:
            _RemoteError: the store failed.
            PgetError: the origin refuses to confirm.
        """
        reference, digest = request.reference, request.lookup.digest
        with _failures_of_the_store():
            found = await self.store.read(record_name(reference.key))
        record = None
        if found is not None:
            readable = len(found.text) <= LONGEST_RECORD
            record = parse_record(found.text, reference.key) if readable else None
            if record is None:
                _LOG.warning("%s: its record in %s is damaged", reference, self.store.shown)
        if record is not None and await self._fits(record, request, current):
            return record
        if digest is None or reference.several or reference.wanted is not Wanted.FILE:
            return None
        with _failures_of_the_store():
            size = await self.store.size(str(digest))
        if size is None:
            return None
        blob = RemoteBlob("", size, str(digest))
        return RemoteRecord(reference.key, reference.name, False, (blob,), _UNKNOWN)

    async def _fits(
        self,
        record: RemoteRecord,
        request: FetchRequest,
        current: Callable[[Identity], Awaitable[bool]],
    ) -> bool:
        """Whether what `record` describes may be given for the request."""
        reference, lookup = request.reference, request.lookup
        if record.folder is not (reference.wanted is Wanted.FOLDER):
            return False
        if not _alike(record, reference, self.settings.policy):
            return False
        if lookup.digest is not None:
            return record.digest == str(lookup.digest)
        age = time.time() - record.checked
        if reference.by_content or (not lookup.fresh and -_LONGEST_SKEW < age < self.max_age):
            return True
        try:
            return await current(record.identity)
        except (ConnectionFailedError, StalledError) as error:
            if lookup.fresh:
                raise
            _LOG.warning(
                "%s: using the copy in %s, which the origin could not confirm: %s",
                reference,
                self.store.shown,
                error.sentence(),
            )
            return True

    # --------------------------------------------------------------------------- the content

    async def _bring(
        self, fill: Fill, record: RemoteRecord, request: FetchRequest, budget: SizeBudget
    ) -> None:
        """Fetch the blobs of `record` into the fill's folder, verified.

        Raises:
            PgetError: the store or the disk failed, or a blob is wrong.
        """

        def heard(event: Event) -> None:
            if isinstance(event, Progressed):
                fill.progress(event.done, event.total or 0)
                received = sum(event.bytes_by_source.values())
                event = replace(event, bytes_by_source={"remote": received})
            request.report(event)

        async with Engine(self.store.settings) as engine:
            files = [await self._remote_file(blob) for blob in record.blobs]
            if record.folder:
                version = sha256(repr(record.blobs).encode()).hexdigest()
                located = Located(tuple(files), folder=True, version=version)
                scope = request.reference.scope
                await gather(fill, located, engine, heard, self.settings, budget, scope)
                await WORKERS.submit(lambda: _set_executable(fill, record))
            else:
                # Beside what the origin has sent, which is not to be continued with these bytes.
                path = fill.folder / "remote"
                job = Job(files[0].url, str(path), follow=request.follow)
                await engine.fetch(files[0], job, heard)
                await WORKERS.submit(lambda: _take_over(fill))

    async def _remote_file(self, blob: RemoteBlob) -> RemoteFile:
        remote = await self.store.blob(blob.digest)
        return RemoteFile(
            remote.url,
            name=blob.name,
            digest=Checksum.parse(blob.digest),
            size=blob.size,
            authorization=remote.authorization,
            trusted=remote.trusted,
            signer=remote.signer,
        )

    def _ignore(self, record: RemoteRecord, request: FetchRequest, error: PgetError) -> None:
        """Warn that the content of `record` is wrong, and forget what was received."""
        self.damaged |= {blob.digest for blob in record.blobs}
        _LOG.warning(
            "%s: the copy in %s is wrong and ignored: %s",
            request.reference,
            self.store.shown,
            error.sentence(),
        )
        _start_over(request, "the copy in the cache's remote is wrong")

    def _fail(self, request: FetchRequest, error: PgetError) -> None:
        """Leave the store alone, unless only a blob is missing, and forget what was received."""
        if isinstance(error, NotFoundError) or getattr(error, "status", 0) == 404:
            _LOG.warning(
                "%s: %s has its record but not its content", request.reference, self.store.shown
            )
        else:
            self.store.reading.fail(self.store.shown, error)
        _start_over(request, "the cache's remote failed")


class _RemoteError(Exception):
    """The store failed with `error`."""

    def __init__(self, error: PgetError) -> None:
        super().__init__(error)
        self.error = error


@contextlib.contextmanager
def _failures_of_the_store() -> Iterator[None]:
    """Tell errors of the store within the block from those of an origin."""
    try:
        yield
    except PgetError as error:
        raise _RemoteError(error) from None


def _alike(record: RemoteRecord, reference: Reference, policy: Policy | None) -> bool:
    """Whether content under `record` may be given under `policy`.

    As for entries, see `AccessRules.is_open_to`: what was fetched under looser rules was not judged
    by these. Services are trusted to be the same for all.
    """
    return policy is None or bool(reference.service) or record.policy == policy.mark


def _start_over(request: FetchRequest, reason: str) -> None:
    request.report(StartedOver(0, str(request.reference), reason))
    if request.follow is not None:
        request.follow.lost()


def _take_over(fill: Fill) -> None:
    """Make the blob that was fetched the object, and delete what the origin had sent.

    Both are downloads of their own with a journal each; bytes of one never continue the other.
    """
    remove_tree(fill.folder / "members")
    os.replace(fill.folder / "remote", fill.folder / "object")


def _set_executable(fill: Fill, record: RemoteRecord) -> None:
    for blob in record.blobs:
        if blob.executable:
            path = fill.folder / "members" / blob.name
            mode = stat.S_IMODE(path.stat().st_mode)
            # For whom it may be read.
            path.chmod(mode | (mode & 0o444) >> 2)


def _result_of(record: RemoteRecord, request: FetchRequest) -> FetchResult:
    details = {} if record.archive is None else {"archive": record.archive}
    digest = None if record.folder else Checksum.parse(record.blobs[0].digest)
    named = request.lookup.digest
    by_digest = record.identity == _UNKNOWN and named is not None
    return FetchResult(
        record.identity,
        record.name,
        digest,
        "remote",
        digest_scope(named) if by_digest and named is not None else None,
        details,
    )
