"""Turns a reference into a cache entry: a hit that its caller may have, or a fetched one.

Of all callers that want a key, one fetches it. The others wait, and one of them takes over if it
dies. An entry appears only after its size, its structure and, where known, its digest have been
checked.

Waiting happens twice: callers of this process wait for a future, those of other processes poll the
claim on disk. After each wait everything is judged again from the start, because the entry that
another caller fetched may be closed to this one (other credentials, another digest).

An entry that exists and may not be returned as it is has three ways on:

    other credentials, or too old     one small request: the origin confirms version and access
    not flushed before a power cut    hashed again
    another digest or version         fetched again; the new entry replaces it by rename
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pgetpy.cache.checking import Verdict
from pgetpy.cache.contents import Entry, digest_of
from pgetpy.cache.fills import allocated
from pgetpy.cache.store import Store
from pgetpy.cache.tickets import Fill
from pgetpy.core.cache.records import About, State
from pgetpy.core.http.answers import Identity
from pgetpy.core.references.checksums import Checksum
from pgetpy.core.references.jobs import Follower, Job
from pgetpy.core.references.reference import Reference
from pgetpy.core.report.events import Event, Progressed, Report, Waiting
from pgetpy.core.text.units import format_size
from pgetpy.engine.engine import Engine
from pgetpy.engine.transports.local import version_at
from pgetpy.errors import (
    ArchiveError,
    BadSettingError,
    CacheFullError,
    DigestMismatchError,
    NotAllowedError,
    NotWeightsError,
)
from pgetpy.settings import Settings
from pgetpy.sources.base import RemoteFile
from pgetpy.system import polling
from pgetpy.system.forks import call_in_children
from pgetpy.system.logs import RoomLog
from pgetpy.system.threads import WORKERS
from pgetpy.weights.access import AccessRules, LookupOptions, digest_scope, identity_of, is_recent
from pgetpy.weights.arriving_digest import ArrivingDigest
from pgetpy.weights.background_hash import BackgroundHasher
from pgetpy.weights.fetch_request import FetchRequest, FetchResult
from pgetpy.weights.kept_archive import discard_members, extract_kept
from pgetpy.weights.origin import is_current, version_of
from pgetpy.weights.repository import gather
from pgetpy.weights.size_limit import SizeBudget
from pgetpy.weights.validate import check_safetensors, chosen_content, examine

if TYPE_CHECKING:
    from pgetpy.weights.remote_copies import RemoteCopies

# Hashing this much takes no longer than queueing it for the background thread.
_SMALL = 4 << 20
_LOG = RoomLog("weights")


class Fetcher:
    """Fetches references into `store`, from `remote` where that has them, else from the origin."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        hasher: BackgroundHasher,
        access: AccessRules,
        remote: RemoteCopies | None = None,
    ) -> None:
        self._store = store
        self._access = access
        self._settings = replace(settings, force=True, fsync=False, min_free=0)
        self._hasher = hasher
        self._remote = remote
        self._begin()
        call_in_children(self._begin)

    async def obtain(
        self,
        reference: Reference,
        lookup: LookupOptions,
        report: Report,
        follow: Follower | None = None,
    ) -> tuple[Entry, str]:
        """Return the entry, and what served it: `cache`, `remote` or `origin`.

        Args:
            reference: what to fetch.
            lookup: what the caller requires of it.
            report: is called with events.
            follow: is told what arrives, if the entry is a single file that is fetched just now.

        Raises:
            PgetError: it could not be fetched.
        """
        told = ""
        while (other := self._under_way.get(reference.key)) is not None:
            told = self._tell_waiting(reference, report, told)
            await asyncio.wait([other], timeout=polling.OTHERS)
        ended = self._under_way[reference.key] = asyncio.get_running_loop().create_future()
        async with Engine(self._settings) as engine:
            try:
                return await self._obtain(FetchRequest(reference, lookup, engine, report, follow))
            finally:
                del self._under_way[reference.key]
                ended.set_result(None)

    async def _obtain(self, request: FetchRequest) -> tuple[Entry, str]:
        """As `obtain`, for the one caller in this process that handles the key."""
        reference = request.reference
        told = ""
        rejected = ""
        while True:
            entry = self._store.lookup(reference.key)
            if entry is not None and entry.record.generation != rejected:
                if await self._acceptable(entry, request):
                    checking = partial(self._access.check_content, entry, reference)
                    await self._in_thread(checking)
                    self._access.see_to(entry)
                    return entry, "cache"
                rejected = entry.record.generation
            fill = self._store.try_fill(reference.key)
            if fill is None:
                told = self._tell_waiting(reference, request.report, told)
                await asyncio.sleep(polling.SLICE)
                continue
            with fill:
                there = fill.entry.record.generation if fill.entry is not None else rejected
                if there == rejected:
                    request.engine.begin_anew()
                    entry, served_from = await self._fetch(fill, request)
                    # If the disk is nearly full it may have been evicted already. Then try again.
                    if entry.path.exists():
                        return entry, served_from

    # ------------------------------------------------------------------- what is there already

    async def _acceptable(self, entry: Entry, request: FetchRequest) -> bool:
        reference, lookup, engine = request.reference, request.lookup, request.engine
        if not self._access.is_sound(entry) and not await self._check_survival(entry):
            return False
        if lookup.digest is not None:
            if not await self._has_digest(entry, reference, lookup.digest):
                return False
            if entry.record.about.scope == digest_scope(lookup.digest):
                return True
        if lookup.proven and not entry.record.digest and not await self._is_proven(entry, request):
            return False
        if reference.local:
            now = version_at(reference.text)
            return now is None or now.agrees(identity_of(entry))
        recent = is_recent(entry, lookup)
        if not recent or not self._access.is_open_to(entry, reference):
            there = identity_of(entry)
            if not await is_current(there, reference, engine, proven=not recent):
                return False
            self._access.trust(entry, reference)
        return True

    async def _is_proven(self, entry: Entry, request: FetchRequest) -> bool:
        """Whether the service gives the content's digest and it matches; it is recorded then."""
        located = await request.engine.locate(request.reference)
        known = None if located.folder or located.extract else located.objects[0].digest
        if known is None or await self._in_thread(lambda: digest_of(entry.path)) != str(known):
            return False
        await self._in_thread(lambda: self._store.note_digest(entry, str(known)))
        return True

    async def _check_survival(self, entry: Entry) -> bool:
        """Whether an entry that was not flushed before the machine went down is still intact."""
        if entry.state is not State.UNFLUSHED:
            return False
        if not entry.lower:
            verdict = await self._in_thread(lambda: self._store.verify(entry.key))
            return verdict is Verdict.SOUND
        wanted = entry.record.digest
        if not wanted or await self._in_thread(lambda: digest_of(entry.path)) != wanted:
            return False
        self._access.verified(entry)
        return True

    def _begin(self) -> None:
        """Start with nothing under way; also in forked children."""
        self._in_thread = WORKERS.submit
        # Keys that a caller in this process is handling; its other callers need not poll the disk.
        self._under_way: dict[str, asyncio.Future[None]] = {}

    async def _has_digest(self, entry: Entry, reference: Reference, wanted: Checksum) -> bool:
        archive = entry.record.about.details.get("archive")
        if archive is not None or entry.path.is_dir():
            # What an archive hashed to was noted when it came, if it was asked for.
            return archive == str(wanted)
        known: str | None = entry.record.digest
        if not known:
            known = await self._in_thread(lambda: digest_of(entry.path))
        return known == str(wanted)

    def _tell_waiting(self, reference: Reference, report: Report, told: str) -> str:
        progress = self._store.progress(reference.key)
        so_far = ""
        if progress is not None and progress.total:
            so_far = f" ({format_size(progress.done)} of {format_size(progress.total)})"
        reason = f"another call is downloading it{so_far}"
        if reason != told:
            _LOG.debug("%s: waiting: %s", reference, reason)
            report(Waiting(0, str(reference), reason))
        return reason

    # ------------------------------------------------------------------- what has to be fetched

    async def _fetch(self, fill: Fill, request: FetchRequest) -> tuple[Entry, str]:
        """Fetch from the remote tier or from the origin, check and publish; see `obtain`.

        A failure keeps what was received for the next attempt, unless the content was rejected.
        """
        result = await extract_kept(fill, request, self._store, self._access, self._settings)
        if result is None and self._remote is not None:
            result = await self._remote.tier.fetch(
                fill, request, lambda found: is_current(found, request.reference, request.engine)
            )
        try:
            if result is None:
                result = await self._bring(fill, request)
            source, name = await self._check(fill, request, result)
        except (NotAllowedError, NotWeightsError, ArchiveError, DigestMismatchError):
            # The next attempt must not start from what was just rejected.
            fill.release(keep=False)
            raise
        entry = await self._publish(fill, request, result, source, name)
        if self._remote is not None and result.served_from == "origin":
            self._remote.offer(entry, request)
        return entry, result.served_from

    async def _check(
        self, fill: Fill, request: FetchRequest, result: FetchResult
    ) -> tuple[Path, str]:
        """Check that what was fetched is what it should be; return what to keep, and its name."""
        policy, reference = self._settings.policy, request.reference
        source, called = await self._in_thread(
            lambda: chosen_content(fill.folder, reference, result.name)
        )
        if policy is not None and policy.only_safetensors:
            await self._in_thread(lambda: check_safetensors(source, reference))
        name = await self._in_thread(
            lambda: examine(source, reference, called, any_file=request.lookup.any_file)
        )
        return source, name

    async def _publish(
        self, fill: Fill, request: FetchRequest, result: FetchResult, source: Path, name: str
    ) -> Entry:
        """Make `source` the entry, and note in its record what later hits will have to know."""
        policy, reference, identity = self._settings.policy, request.reference, result.identity
        as_it_came = source.name == "object"
        if identity.total is None or not as_it_came:
            await self._make_room_for(fill)
        details = {"identity": json.dumps(asdict(identity)), **result.details}
        if policy is not None:
            details["policy"] = policy.mark
        digest = str(result.digest or "")
        if not as_it_came:
            details.setdefault("archive", digest)
            digest = ""
        if not digest:
            digest = await self._in_thread(lambda: _digest_if_small(source))
        about = About(
            reference=str(reference),
            validator=identity.etag or identity.last_modified or "",
            scope=reference.scope if result.scope is None else result.scope,
            details=details,
        )
        if request.follow is not None:
            request.follow.verified(source)
        entry = fill.publish(source, about, name=name, digest=digest)
        self._hasher.put(reference.key, result.arriving if as_it_came else None)
        self._store.lookup(reference.key)  # from now on it is in use
        return entry

    async def _make_room_for(self, fill: Fill) -> None:
        """Make room for the actual size, if it differs from what was reserved.

        Raises:
            CacheFullError: there is not enough.
        """
        try:
            await self._in_thread(lambda: fill.reserve(allocated(fill.folder)[0]))
        except CacheFullError:
            fill.release(keep=False)
            raise

    async def _bring(self, fill: Fill, request: FetchRequest) -> FetchResult:
        """Fetch the object into the fill's folder."""
        reference, lookup, engine = request.reference, request.lookup, request.engine
        found: list[Identity] = []
        budget = SizeBudget(reference, self._settings.largest)

        def admit(identity: Identity) -> None:
            found.append(identity)
            budget.note(0, identity.total)
            if identity.total is not None:
                fill.reserve(identity.total)

        def heard(event: Event) -> None:
            if isinstance(event, Progressed):
                fill.progress(event.done, event.total or 0)
            request.report(event)

        located = await engine.locate(reference)
        with engine.explaining(reference):
            if located.folder:
                _refuse_digest(reference, lookup.digest)
                scope = reference.scope
                await gather(fill, located, engine, heard, self._settings, budget, scope)
                return FetchResult(version_of(located), reference.name)
            remote = located.objects[0]
            dest = fill.folder / ("members" if located.extract else "object")
            await discard_members(fill)
            checksum = _agreed(remote, lookup.digest)
            extract, follow = located.extract, None if located.extract else request.follow
            arriving = None
            if not extract and follow is None and checksum is None:
                follow = arriving = ArrivingDigest(self._hasher.hash_along)
            job = Job(
                remote.url,
                str(dest),
                checksum,
                extract=extract,
                # A local file: only the reference itself may lead to one, never a redirect or a
                # service.
                link=reference.link if reference.local else None,
                admit=admit,
                follow=follow,
            )
            await engine.fetch(remote, job, heard)
            # A process that died just before publishing has left all of it.
            identity = found[-1] if found else await engine.identify(remote)
        name = remote.name or reference.name
        return FetchResult(identity, name, checksum, arriving=arriving)


def _digest_if_small(source: Path) -> str:
    """Return the digest of a file that can be read in moments; empty for larger ones."""
    if source.is_dir() or source.stat().st_size > _SMALL:
        return ""
    return digest_of(source) or ""


def _refuse_digest(reference: Reference, digest: Checksum | None) -> None:
    if digest is not None:
        raise BadSettingError(
            "digest", str(digest), f"is for a single file, and {reference} has several"
        )


def _agreed(remote: RemoteFile, wanted: Checksum | None) -> Checksum | None:
    """Return the digest that an object must have.

    Raises:
        DigestMismatchError: the service already gives another one.
    """
    known = remote.digest
    if wanted is not None and known is not None and wanted != known:
        raise DigestMismatchError(remote.url, str(wanted), str(known))
    return wanted or known
