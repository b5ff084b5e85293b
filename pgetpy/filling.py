"""One reference becomes an entry of a cache: a hit that may be given to its caller, or fetched.

Of all who want one key one fetches it; the others wait, and take over if that one dies. An entry
appears when its size, its digest where one is known, and its structure have been checked.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from pgetpy.cache.checking import Verdict
from pgetpy.cache.contents import Entry, digest_of
from pgetpy.cache.fills import allocated
from pgetpy.cache.store import Store
from pgetpy.cache.tickets import Fill
from pgetpy.core.answers import Identity
from pgetpy.core.digests import Checksum
from pgetpy.core.entries import About, State
from pgetpy.core.events import Event, Progressed, Report, Waiting
from pgetpy.core.jobs import Job
from pgetpy.core.names import name_from_url
from pgetpy.core.references import Reference, Wanted
from pgetpy.core.roster import Limits
from pgetpy.core.safetensors import head_size, parse_head
from pgetpy.core.units import format_size
from pgetpy.core.weightfiles import REFUSED, TELLING, Likeness, look_at
from pgetpy.disk import remove_tree
from pgetpy.engine import Engine
from pgetpy.errors import (
    ArchiveError,
    BadReferenceError,
    BadSafetensorsError,
    CacheFullError,
    DigestMismatchError,
    InterruptedTransferError,
    NotWeightsError,
    ObjectChangedError,
    PgetError,
)
from pgetpy.extraction.local import unpack
from pgetpy.settings import Settings
from pgetpy.settling import Settler
from pgetpy.sinks.file import disk_error
from pgetpy.transports.base import seen_through
from pgetpy.workers import Workers

_SLICE = 0.05
# How long a caller who was shown to have access to what another fetched need not show it again.
_TRUSTED_SECONDS = 600.0
_MOST_TRUSTED = 4096
# Whoever fetched an entry has computed its digest and flushed it by then, or has ended.
_OVERDUE_SECONDS = 600.0
# Room for a mark and a suffix in a file's name.
_LONGEST_STEM = 80
_SUFFIX = ".safetensors"
_BLOCK = 1 << 20
T = TypeVar("T")


@dataclass(frozen=True)
class Demand:
    """What a caller asks of an entry.

    Attributes:
        digest: what the object must hash to.
        fresh: whether the server is to be asked if it still has the same version.
        any_file: whether it need not be weights.
    """

    digest: Checksum | None = None
    fresh: bool = False
    any_file: bool = False


class Filler:
    """Brings what references name into `store`."""

    def __init__(self, store: Store, settings: Settings, settler: Settler) -> None:
        self._store = store
        self._settings = replace(settings, force=True, fsync=False, min_free=0)
        self._settler = settler
        self._workers = Workers()
        self._pid = os.getpid()
        # Until when a scope may have a key's content.
        self._trusted: dict[tuple[str, str], float] = {}
        # Generations of lower entries, which cannot be noted as flushed, that were verified here.
        self._verified: set[str] = set()
        self._overdue: set[str] = set()

    def at_hand(self, reference: Reference, demand: Demand) -> Entry | None:
        """Return the entry if it may be given out as it is, without asking anybody."""
        entry = self._store.lookup(reference.key)
        if entry is None or not self._sound(entry):
            return None
        if demand.digest is not None or demand.fresh or reference.local:
            return None
        if not self._open_to(entry, reference):
            return None
        self._see_to(entry)
        return entry

    async def obtain(
        self, reference: Reference, demand: Demand, report: Report
    ) -> tuple[Entry, bool]:
        """Return the entry, and whether it was fetched just now.

        Raises:
            PgetError: it cannot be had.
        """
        engine = Engine(self._settings)
        told = ""
        rejected = ""
        try:
            while True:
                entry = self._store.lookup(reference.key)
                if entry is not None and entry.record.generation != rejected:
                    if await self._acceptable(entry, reference, demand, engine):
                        self._see_to(entry)
                        return entry, False
                    rejected = entry.record.generation
                fill = self._store.try_fill(reference.key)
                if fill is None:
                    told = self._tell_waiting(reference, report, told)
                    await asyncio.sleep(_SLICE)
                    continue
                with fill:
                    there = fill.entry.record.generation if fill.entry is not None else rejected
                    if there == rejected:
                        entry = await self._fetch(fill, reference, demand, engine, report)
                        # Under pressure it may have left already.
                        if entry.path.exists():
                            return entry, True
        finally:
            await engine.close()

    # ------------------------------------------------------------------- what is there already

    async def _acceptable(
        self, entry: Entry, reference: Reference, demand: Demand, engine: Engine
    ) -> bool:
        if not self._sound(entry) and not await self._survived(entry):
            return False
        if demand.digest is not None and not await self._has_digest(
            entry, reference, demand.digest
        ):
            return False
        if reference.local:
            now = _local_identity(reference)
            return now is None or now.agrees(_identity_of(entry))
        if demand.fresh or not self._open_to(entry, reference):
            now = await engine.identify(reference.url)
            if not now.agrees(_identity_of(entry)):
                return False
            if demand.fresh and not (now.etag or now.last_modified):
                return False  # that the size is the same says nothing
            self._trust(entry, reference)
        return True

    def _sound(self, entry: Entry) -> bool:
        return entry.state is State.SOUND or entry.record.generation in self._verified

    async def _survived(self, entry: Entry) -> bool:
        """Whether what was not flushed when its machine went down is what it was."""
        if entry.state is not State.UNFLUSHED:
            return False
        if not entry.lower:
            verdict = await self._in_thread(lambda: self._store.verify(entry.key))
            return verdict is Verdict.SOUND
        wanted = entry.record.digest
        if not wanted or await self._in_thread(lambda: digest_of(entry.path)) != wanted:
            return False
        self._verified.add(entry.record.generation)
        return True

    def _see_to(self, entry: Entry) -> None:
        """Have the digest of an entry computed whose fetcher has ended before he came to that."""
        record = entry.record
        if entry.lower or (record.digest and record.flushed) or record.generation in self._overdue:
            return
        if time.time() - record.created > _OVERDUE_SECONDS:
            self._overdue.add(record.generation)
            self._settler.put(entry.key)

    def _in_thread(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Do `work`, which blocks; a fork has none of its parent's threads."""
        if self._pid != os.getpid():
            self._pid, self._workers = os.getpid(), Workers()
        return self._workers.submit(work)

    def _trust(self, entry: Entry, reference: Reference) -> None:
        now = time.monotonic()
        if len(self._trusted) >= _MOST_TRUSTED:
            # Links may be signed anew for each call.
            self._trusted = {who: until for who, until in self._trusted.items() if until > now}
        self._trusted[entry.key, reference.scope] = now + _TRUSTED_SECONDS

    def _open_to(self, entry: Entry, reference: Reference) -> bool:
        """Whether who gives `reference` may have the entry: it is anybody's, or was his before."""
        if entry.record.about.scope in ("", reference.scope):
            return True
        return self._trusted.get((entry.key, reference.scope), 0.0) > time.monotonic()

    async def _has_digest(self, entry: Entry, reference: Reference, wanted: Checksum) -> bool:
        if reference.wanted is not Wanted.FILE:
            # What an archive hashed to was noted when it came, if it was asked for.
            return entry.record.about.details.get("archive") == str(wanted)
        known: str | None = entry.record.digest
        if not known:
            known = await self._in_thread(lambda: digest_of(entry.path))
        return known == str(wanted)

    def _tell_waiting(self, reference: Reference, report: Report, told: str) -> str:
        progress = self._store.progress(reference.key)
        so_far = ""
        if progress is not None and progress.total:
            so_far = f" ({format_size(progress.done)} of {format_size(progress.total)})"
        reason = f"another is fetching it{so_far}"
        if reason != told:
            report(Waiting(0, str(reference), reason))
        return reason

    # ------------------------------------------------------------------- what has to be fetched

    async def _fetch(
        self, fill: Fill, reference: Reference, demand: Demand, engine: Engine, report: Report
    ) -> Entry:
        try:
            identity = await self._brought(fill, reference, demand, engine, report)
            source = await self._in_thread(lambda: _content(fill.folder, reference))
            name = await self._in_thread(lambda: _examined(source, reference, demand))
        except (NotWeightsError, ArchiveError, DigestMismatchError):
            # The next try is not to begin with what has just been refused.
            fill.release(keep=False)
            raise
        if identity.total is None or reference.wanted is not Wanted.FILE:
            await self._paid_for(fill)
        about = About(
            reference=str(reference),
            validator=identity.etag or identity.last_modified or "",
            scope=reference.scope,
            details=_details(identity, reference, demand),
        )
        digest = str(demand.digest) if demand.digest and reference.wanted is Wanted.FILE else ""
        entry = fill.publish(source, about, name=name, digest=digest)
        self._settler.put(reference.key)
        self._store.lookup(reference.key)  # from now on it is in use
        return entry

    async def _paid_for(self, fill: Fill) -> None:
        """Make room for what has come where that is not what was reserved.

        Raises:
            CacheFullError: there is none for it.
        """
        try:
            await self._in_thread(lambda: fill.reserve(allocated(fill.folder)[0]))
        except CacheFullError:
            fill.release(keep=False)
            raise

    async def _brought(
        self, fill: Fill, reference: Reference, demand: Demand, engine: Engine, report: Report
    ) -> Identity:
        """Bring the object to the fill's folder; return its version."""
        found: list[Identity] = []

        def admit(identity: Identity) -> None:
            found.append(identity)
            if identity.total is not None:
                fill.reserve(identity.total)

        def heard(event: Event) -> None:
            if isinstance(event, Progressed):
                fill.progress(event.done, event.total or 0)
            report(event)

        archive = reference.wanted is not Wanted.FILE
        dest = fill.folder / ("members" if archive else "object")
        if reference.local:
            limits = self._settings.limits
            stop = threading.Event()
            copying = self._in_thread(
                lambda: _copied(reference, dest, admit, demand, limits, stop.is_set)
            )
            return await seen_through(copying, stop.set)
        if archive:
            await seen_through(self._in_thread(lambda: _begin_anew(dest)), lambda: None)
        job = Job(reference.url, str(dest), demand.digest, extract=archive, admit=admit)
        await engine.download(job, heard)
        # Whoever died just before he could publish it has fetched all of it.
        return found[-1] if found else await engine.identify(reference.url)


def _begin_anew(members: Path) -> None:
    """Where members have been extracted but not published, take away all that is there: they may
    be of another version, and would be joined by those of this one."""
    if members.exists():
        for path in list(members.parent.iterdir()):
            remove_tree(path)


def _local_path(reference: Reference) -> Path:
    return Path(unquote(urlsplit(reference.url).path, errors="surrogateescape"))


def _local_identity(reference: Reference) -> Identity | None:
    """Return which version of a local file is there; None where there is none."""
    try:
        status = _local_path(reference).stat()
    except OSError:
        return None
    return Identity(status.st_size, f'"{status.st_ino:x}-{status.st_mtime_ns:x}"')


def _copied(
    reference: Reference,
    dest: Path,
    admit: Callable[[Identity], object],
    demand: Demand,
    limits: Limits,
    stop: Callable[[], bool],
) -> Identity:
    """Bring a local file, or what is in it, to `dest`; return its version."""
    source = _local_path(reference)
    identity = _local_identity(reference)
    if identity is None or not source.is_file():
        raise BadReferenceError(reference.url, "there is no such file")
    admit(identity)
    try:
        found = digest_of(source, stop) if demand.digest is not None else None
        if reference.wanted is Wanted.FILE:
            _copy(source, dest, stop)
        else:
            remove_tree(dest)
            dest.mkdir()
            unpack(source, dest, limits, stop)
    except OSError as error:
        if isinstance(error, PgetError):
            raise
        raise disk_error(error, Path(error.filename or source)) from error
    if demand.digest is not None and found != str(demand.digest):
        raise DigestMismatchError(reference.url, str(demand.digest), found or "")
    now = _local_identity(reference)
    if now is not None and not now.agrees(identity):
        raise ObjectChangedError(reference.url, str(identity), str(now))
    return identity


def _copy(source: Path, dest: Path, stop: Callable[[], bool]) -> None:
    block = memoryview(bytearray(_BLOCK))
    with source.open("rb", buffering=0) as file, dest.open("wb", buffering=0) as copy:
        while count := file.readinto(block):
            if stop():
                raise InterruptedTransferError(str(dest), copy.tell(), None)
            written = 0
            while written < count:
                written += copy.write(block[written:count])


def _content(folder: Path, reference: Reference) -> Path:
    """Return what of the fetched object is to be kept.

    Raises:
        ArchiveError: it does not hold exactly one .safetensors.
    """
    if reference.wanted is Wanted.FILE:
        return folder / "object"
    members = folder / "members"
    if reference.wanted is Wanted.FOLDER:
        return members
    found = sorted(path for path in _files(members) if path.name.lower().endswith(_SUFFIX))
    if len(found) == 1:
        return found[0]
    names = ", ".join(str(path.relative_to(members)) for path in found[:5])
    raise ArchiveError(
        f"it holds {len(found)} {_SUFFIX} files ({names}), and one is needed"
        if found
        else f"it holds no {_SUFFIX} file",
        hint='ask for all of it with wanted="folder" (--wanted folder)',
    )


def _files(folder: Path) -> Iterator[Path]:
    for here, _, names in os.walk(folder):
        for name in names:
            path = Path(here, name)
            if path.is_file() and not path.is_symlink():
                yield path


def _examined(source: Path, reference: Reference, demand: Demand) -> str:
    """Return the name that loaders are to see, if `source` is what it should be.

    Raises:
        NotWeightsError: it is no weights file, or a broken one.
    """
    stem, suffix = _stem(reference, source)
    if source.is_dir():
        return stem
    size = source.stat().st_size
    with source.open("rb") as file:
        look = look_at(file.read(TELLING))
        if look.likeness is Likeness.SAFETENSORS:
            try:
                file.seek(0)
                length = head_size(file.read(8), size)
                file.seek(0)
                parse_head(file.read(length), size)
            except BadSafetensorsError as error:
                what = f"a broken safetensors file: {error.reason}"
                raise NotWeightsError(reference.url, what) from error
            return stem + _SUFFIX
    if demand.any_file:
        return stem + suffix
    if look.likeness in REFUSED or suffix.lower() == _SUFFIX:
        raise NotWeightsError(
            reference.url, look.likeness.value, look.words, hint=_hint(look.likeness)
        )
    return stem + suffix


def _hint(likeness: Likeness) -> str:
    if likeness in (Likeness.PICKLE, Likeness.JSON, Likeness.TEXT):
        return "pass any_file=True (--any-file) if that is what you want"
    return ""


def _stem(reference: Reference, source: Path) -> tuple[str, str]:
    """Return the beginning of an entry's name and its suffix."""
    named = source.name if reference.wanted is Wanted.WEIGHTS else name_from_url(reference.url)
    stem, suffix = os.path.splitext(named or "weights")
    short = stem.encode(errors="replace")[:_LONGEST_STEM].decode(errors="ignore")
    return short or "weights", suffix[:16].encode(errors="replace").decode()


def _details(identity: Identity, reference: Reference, demand: Demand) -> dict[str, str]:
    details = {"identity": json.dumps(asdict(identity))}
    if demand.digest is not None and reference.wanted is not Wanted.FILE:
        details["archive"] = str(demand.digest)
    return details


def _identity_of(entry: Entry) -> Identity:
    return Identity(**json.loads(entry.record.about.details.get("identity", '{"total": null}')))
