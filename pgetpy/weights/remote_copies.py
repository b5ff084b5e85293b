"""Copies to a cache's remote tier, made in the background once an entry has been given out.

Of all who have fetched an entry, one copies it:

    record there already? --> claim --> blobs, each unless it is there --> record --> read back

A claim ends by itself, so a process that dies while it copies does not hold up the others for long,
and what it had sent of a blob never appears. Copies are of public content alone: what a secret
opened, or a header of the operator's may have opened, stays on the machine.

A failure never reaches the caller, who has the entry already. One of the store turns copying off
for a minute, with one warning; one of this machine (evicted meanwhile, a full disk) is a debug
line, since the store is not to blame.

The entry is leased while it is copied, and read from its file, not from the download: the digest
that names the blob is computed after the content is complete.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import sys
import threading
import time
import weakref
from pathlib import Path

from pgetpy.cache.contents import Entry, all_in, digest_of, files_in
from pgetpy.cache.layout import token
from pgetpy.cache.store import Store
from pgetpy.core.cache.remote_records import (
    LONGEST_RECORD,
    MOST_FILES,
    RemoteBlob,
    RemoteRecord,
    UploadClaim,
    claim_name,
    format_claim,
    format_record,
    parse_claim,
    parse_record,
    record_name,
)
from pgetpy.core.report.events import Remarked
from pgetpy.errors import PgetError, TransferError
from pgetpy.settings import Settings
from pgetpy.system.event_loop import begin
from pgetpy.system.forks import call_in_children
from pgetpy.system.logs import RoomLog
from pgetpy.system.threads import WORKERS
from pgetpy.weights.access import identity_of
from pgetpy.weights.background_hash import BackgroundHasher
from pgetpy.weights.fetch_request import FetchRequest
from pgetpy.weights.remote_store import RemoteStore, SmallObject
from pgetpy.weights.remote_tier import RemoteTier

_AT_A_TIME = 2
# A claim lasts as long as a slow network needs; no other process copies the entry meanwhile.
_CLAIM_SECONDS = 300.0
_SLOWEST_RATE = 5e6
# A claim that lasts longer by this was written by a clock that is off, and could last for years.
_LONGEST_SKEW = 900.0
# As for digests: no longer than people accept at exit.
END_SECONDS = 10.0
_LOG = RoomLog("weights")
_COPIES: weakref.WeakSet[RemoteCopies] = weakref.WeakSet()


class RemoteCopies:
    """Copies entries of `store` to `tier`.

    Args:
        store: has the entries.
        tier: gets the copies.
        settings: of the cache: what is sent to origins, and the policy.
        hasher: computes the digests of entries.
        writes: whether to copy at all.
    """

    def __init__(
        self,
        store: Store,
        tier: RemoteTier,
        settings: Settings,
        hasher: BackgroundHasher,
        *,
        writes: bool,
    ) -> None:
        self.tier = tier
        self._store = store
        self._writes = writes
        self._remote: RemoteStore = tier.store
        self._settings = settings
        self._hasher = hasher
        self._begin()
        call_in_children(self._begin)
        _COPIES.add(self)
        # The latest registered runs first: this has to come before the engine thread's own end,
        # which was registered when that thread began, at the latest for the fetch that needs this.
        atexit.unregister(_finish_all)
        atexit.register(_finish_all)

    def _begin(self) -> None:
        """Start with nothing under way; also in forked children."""
        self._lock = threading.Lock()
        self._under_way: set[concurrent.futures.Future[None]] = set()
        self._slots: asyncio.Semaphore | None = None

    def offer(self, entry: Entry, request: FetchRequest) -> None:
        """Begin to copy `entry`, which came from its origin just now, if anyone may have it.

        Called on the engine's loop.
        """
        if not self._writes or self._remote.writing.is_off or not self._is_public(request):
            return
        remark = f"a copy goes to {self._remote.shown}"
        request.report(Remarked(0, str(request.reference), remark))
        future = begin(self._copy(entry))
        with self._lock:
            self._under_way.add(future)
        future.add_done_callback(self._ended)

    def _is_public(self, request: FetchRequest) -> bool:
        """Whether the origin sends this to anyone, and the policy lets it be copied."""
        settings, reference = self._settings, request.reference
        if reference.scope or reference.token or reference.local:
            return False
        if settings.headers or settings.origin_authorization or settings.use_netrc:
            return False
        return settings.policy is None or settings.policy.share

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until no copy is being made; return False if that took longer than `seconds`."""
        with self._lock:
            under_way = list(self._under_way)
        return not concurrent.futures.wait(under_way, seconds).not_done

    def finish(self, seconds: float = END_SECONDS) -> None:
        """Wait for the copies that are being made, and end those that take longer."""
        with contextlib.suppress(KeyboardInterrupt):
            self.wait(seconds)
        self.stop()
        self._remote.close()

    def stop(self) -> None:
        """End the copies that are being made; what was sent of them does not appear."""
        with self._lock:
            under_way = list(self._under_way)
        for future in under_way:
            future.cancel()

    def _ended(self, future: concurrent.futures.Future[None]) -> None:
        with self._lock:
            self._under_way.discard(future)

    # ------------------------------------------------------------------------------ one copy

    async def _copy(self, entry: Entry) -> None:
        if self._slots is None:
            self._slots = asyncio.Semaphore(_AT_A_TIME)
        async with self._slots:
            if self._remote.writing.is_off:
                return
            try:
                with self._store.lease(entry.key):
                    await self._copy_leased(entry.key)
            except TransferError as error:
                self._remote.writing.fail(self._remote.shown, error)
            except (PgetError, OSError) as error:
                # Evicted, changed, or a full disk: matters of this machine, not of the store.
                _LOG.debug("%s gets no copy: %s", entry.key, error)

    async def _copy_leased(self, key: str) -> None:
        await WORKERS.submit(self._hasher.wait, long=True)
        entry = self._store.peek(key)
        record = None
        if entry is not None:
            found = entry
            record = await WORKERS.submit(lambda: record_of(found), long=True)
        if entry is None or record is None:
            return
        before = await self._remote.read(record_name(key))
        there = parse_record(before.text, key) if before is not None else None
        if there is not None and self._is_enough(there, record):
            return
        claimed = await self._claim(record)
        if not claimed:
            _LOG.debug("%s is being copied by another", key)
            return
        try:
            await self._upload(entry, record, before)
        finally:
            # It would end by itself. A key need not be allowed to delete.
            with contextlib.suppress(PgetError):
                await self._remote.delete(claim_name(key))

    async def _upload(self, entry: Entry, record: RemoteRecord, before: SmallObject | None) -> None:
        """Upload blobs and record; the record last, since it names the blobs."""
        for blob in record.blobs:
            path = entry.path / blob.name if record.folder else entry.path
            damaged = blob.digest in self.tier.damaged
            await self._remote.upload(path, blob.digest, replacing=damaged)
            self.tier.damaged.discard(blob.digest)
        name = record_name(record.key)
        data = format_record(record)
        written = await self._remote.write(name, data, over=before)
        # Some stores overwrite whatever the condition says, and another writer may have come after.
        now = await self._remote.read(name)
        if written and (now is None or now.text != data.decode()):
            _LOG.debug("%s: another record is in %s", entry.key, self._remote.shown)
        self._remote.writing.warned = False
        _LOG.debug("%s is in %s", entry.key, self._remote.shown)

    async def _claim(self, record: RemoteRecord) -> bool:
        """Whether it is this process that copies the entry of `record`.

        The claim is read back, because some stores accept two conditional writes at once. If both
        processes believe theirs, the entry is copied twice, to the same names.
        """
        name, now = claim_name(record.key), time.time()
        claim = UploadClaim(token(), now + _CLAIM_SECONDS + record.size / _SLOWEST_RATE)
        other = await self._remote.read(name)
        held = parse_claim(other.text) if other is not None else None
        if held is not None and now < held.until < claim.until + _LONGEST_SKEW:
            return False
        if not await self._remote.write(name, format_claim(claim), over=other):
            return False
        there = await self._remote.read(name)
        return there is not None and parse_claim(there.text) == claim

    def _is_enough(self, there: RemoteRecord, record: RemoteRecord) -> bool:
        """Whether the tier needs no copy of `record`, because it has `there`.

        A record that readers find too old gets the time at which the origin sent the content.
        """
        damaged = any(blob.digest in self.tier.damaged for blob in record.blobs)
        too_old = record.checked - there.checked >= self.tier.max_age
        return there.covers(record) and not damaged and not too_old


def record_of(entry: Entry) -> RemoteRecord | None:
    """Return the record of `entry` for a tier; None if it is nothing that a tier can hold.

    A folder with links, special files, empty folders or too many files is not: what came back
    would be another one.
    """
    about = entry.record.about
    blobs = _blobs_of(entry.path) if entry.record.folder else _blob_of(entry)
    if not blobs:
        return None
    record = RemoteRecord(
        entry.key,
        entry.record.name,
        entry.record.folder,
        blobs,
        identity_of(entry),
        about.details.get("archive"),
        about.details.get("policy", ""),
        entry.record.created,
    )
    return record if len(format_record(record)) <= LONGEST_RECORD else None


def _blob_of(entry: Entry) -> tuple[RemoteBlob, ...]:
    """Return the content of a file; nothing if it was changed before it was hashed."""
    digest = entry.record.digest
    return (RemoteBlob("", entry.size, digest),) if digest else ()


def _blobs_of(folder: Path) -> tuple[RemoteBlob, ...]:
    """Return the files of a folder, hashed; nothing if there is something else in it."""
    files = sorted(files_in(folder))
    if any(path.is_symlink() or not path.is_file() for path in files) or len(files) > MOST_FILES:
        return ()
    full = {parent for path in files for parent in path.parents}
    if any(path not in full for path in all_in(folder) if path.is_dir()):
        return ()
    blobs = []
    for path in files:
        status, name = path.stat(), path.relative_to(folder).as_posix()
        if not _is_text(name):
            return ()
        blobs.append(
            RemoteBlob(name, status.st_size, digest_of(path) or "", bool(status.st_mode & 0o100))
        )
    return tuple(blobs)


def _is_text(name: str) -> bool:
    """Whether `name` is valid Unicode: an archive's names may be any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _finish_all() -> None:
    """At exit: wait for copies, but not after Ctrl-C; `sys.last_type` says what ended us."""
    interrupted = issubclass(getattr(sys, "last_type", None) or Exception, KeyboardInterrupt)
    for copies in list(_COPIES):
        copies.finish(0.0 if interrupted else END_SECONDS)
