"""WeightsDownloadCache: a URL in, a path that can be trusted out.

The plain calls work in any thread, inside a running loop too, and end when their caller is
interrupted. A hit looks at the disk and at nothing else.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pgetpy.cache.checking import Verdict
from pgetpy.cache.listing import Listing, Totals
from pgetpy.cache.store import Store
from pgetpy.core.references.policy import Policy
from pgetpy.core.references.reference import Reference
from pgetpy.core.report.events import Event, Queued, Report
from pgetpy.core.weights.safetensors import LONGEST_FOR_STRANGERS, LONGEST_HEADER
from pgetpy.errors import BadSettingError, PgetError
from pgetpy.hits import Demand, Hits
from pgetpy.naming import Chosen, Naming, Secret, named, parse_digest
from pgetpy.relaying import Relay
from pgetpy.settings import CacheSettings, Settings
from pgetpy.settling import Settler

if TYPE_CHECKING:
    from concurrent.futures import Future

    from typing_extensions import Unpack

    from pgetpy.cache.contents import Entry
    from pgetpy.cache.tickets import Lease
    from pgetpy.core.references.jobs import Follower
    from pgetpy.destinations.sinks.parts import Choose
    from pgetpy.filling import Filler

GIB = 1 << 30
PathLike = os.PathLike[str]


class CacheInfo(NamedTuple):
    """What this object has done: counts of `ensure`, and the bytes that were fetched for it."""

    hits: int
    misses: int
    bytes: int


class Held(NamedTuple):
    """A path, and the lease that keeps there what it names until it is released."""

    path: Path
    lease: Lease


class WeightsDownloadCache:
    """Weights on disk, shared by all processes that name the same folder.

    Args:
        cache_dir: the folder; by default `pgetpy` in the user's cache folder, or what
            PGET_CACHE_DIR names. `base_dir` is another name for it.
        min_disk_free: bytes that have to stay free on its disk; `min_disk_free_gb` gives them in
            GiB; by default what PGET_MIN_DISK_FREE says, else 10 GiB. Entries used longest ago
            leave when it is less.
        max_bytes: bytes that the entries may take; by default what PGET_MAX_BYTES says, else any.
        lower: caches that are looked at first and only read, baked into an image for example.
        refresh: `never` asks nobody about what is there; `check` asks the server each time whether
            it still has the same version, and fetches anew what it names no version of.
        any_file: take files that are no weights (JSON, text, pickles) as well.
        policy: what may be fetched, and given out, where strangers give the references, as
            `Policy.public()`; by default that of the settings, which is none unless PGET_POLICY
            names one.
        settings: how to fetch; by default from the environment.
        progress: is given the events of what is fetched.

    Raises:
        CacheError: the folder is no cache, and cannot become one.
        BadSettingError: an argument that makes no sense.
    """

    def __init__(  # noqa: PLR0913  two spellings are in use
        self,
        cache_dir: str | PathLike | None = None,
        min_disk_free: int | None = None,
        max_bytes: int | None = None,
        *,
        base_dir: str | PathLike | None = None,
        min_disk_free_gb: float | None = None,
        lower: Sequence[str | PathLike] = (),
        refresh: str = "never",
        any_file: bool = False,
        policy: Policy | None = None,
        settings: Settings | None = None,
        progress: Report | None = None,
    ) -> None:
        _refuse_both("cache_dir", cache_dir, "base_dir", base_dir)
        _refuse_both("min_disk_free", min_disk_free, "min_disk_free_gb", min_disk_free_gb)
        usual = CacheSettings.from_environment(os.environ)
        folder = base_dir if cache_dir is None else cache_dir
        free = usual.min_disk_free if min_disk_free is None else min_disk_free
        if min_disk_free_gb is not None:
            free = int(min_disk_free_gb * GIB)
        if refresh not in ("never", "check"):
            raise BadSettingError("refresh", refresh, "is neither never nor check")
        chosen = settings if settings is not None else Settings.from_environment(os.environ)
        chosen = replace(chosen, policy=policy or chosen.policy).under_policy()
        self._store = Store(
            folder if folder is not None else usual.folder,
            min_disk_free=free,
            max_bytes=usual.max_bytes if max_bytes is None else max_bytes,
            lower=lower,
        )
        self._fresh = refresh == "check"
        self._any_file = any_file
        self._most_at_once = chosen.max_concurrent_files
        self._progress = progress or _ignore
        self._settler = Settler(self._store)
        self._settings = chosen
        self._hits = Hits(self._store, self._settler, chosen.policy)
        self._fetching: Filler | None = None
        self._lock = threading.Lock()
        self._info = CacheInfo(0, 0, 0)

    @property
    def path(self) -> Path:
        """The cache's folder."""
        return self._store.root

    # ------------------------------------------------------------------------------------ weights

    def ensure(
        self,
        url: str,
        *,
        digest: str | None = None,
        wanted: str = "auto",
        allow_patterns: Chosen = None,
        ignore_patterns: Chosen = None,
        hf_api_token: str | Secret | None = None,
        civitai_api_token: str | Secret | None = None,
    ) -> Path:
        """Return a path at which the object that `url` names is, whole and checked.

        It stays there for as long as it can: what was returned to a process that lives leaves after
        all else. Where it must stay, hold a `lease`.

        Args:
            url: an http, https, file or data URL, or a reference to a service, as
                hf://OWNER/NAME@REVISION/FILE (see README.md). Of a repository, and of what is an
                archive, the path is that of the one .safetensors in it.
            digest: `sha256:HEX`, or HEX alone: what the object must hash to.
            wanted: `file`: the object as it is, whatever it is called; `weights`: the one
                .safetensors of an archive or repository; `folder`: all of it, in a folder.
            allow_patterns, ignore_patterns: which files of a repository are meant: a file has to
                match one of the first and none of the second (`*.json`, `unet/*`).
            hf_api_token, civitai_api_token: for references to these services.

        Raises:
            NotWeightsError: what the server gave are no weights.
            CacheFullError: there is no room for it, and nothing that may leave.
            NotAllowedError: the policy forbids it.
            TransferError, IntegrityError, ArchiveError, CacheError, UsageError: it cannot be had.
        """
        reference = self._allowed(
            url,
            wanted=wanted,
            allow_patterns=allow_patterns,
            ignore_patterns=ignore_patterns,
            hf_api_token=hf_api_token,
            civitai_api_token=civitai_api_token,
        )
        demand = self._demand(digest)
        entry = self._hit(reference, demand)
        if entry is not None:
            return entry.path
        from pgetpy.system.event_loop import wait_for

        return wait_for(self._obtained(reference, demand))

    async def ensure_async(
        self, url: str, *, digest: str | None = None, **naming: Unpack[Naming]
    ) -> Path:
        """Return a path at which the object that `url` names is; see `ensure`."""
        reference = self._allowed(url, **naming)
        demand = self._demand(digest)
        entry = self._hit(reference, demand)
        if entry is not None:
            return entry.path
        from pgetpy.system.event_loop import in_engine

        return await in_engine(self._obtained(reference, demand))

    def follow(
        self, url: str, follower: Follower, *, digest: str | None = None, **naming: Unpack[Naming]
    ) -> Future[Path]:
        """As `ensure`, but return at once; `follower` is shown what is fetched while it is.

        It is shown nothing of what is there already, nor of what another process fetches, nor of
        archives and folders. Until the path is there nothing that was shown has been verified.
        Cancelling the future ends the fetching.
        """
        reference = self._allowed(url, **naming)
        demand = self._demand(digest)
        entry = self._hit(reference, demand)
        from pgetpy.system.event_loop import begin, done

        if entry is not None:
            return done(entry.path)
        return begin(self._obtained(reference, demand, follow=follower))

    def pick(
        self, url: str, choose: Choose, first: int, follower: Follower, **naming: Unpack[Naming]
    ) -> Future[Path | None]:
        """As `follow`, but of what is not there fetch only the parts that `choose` wants.

        They are not kept, and are verified by nobody: None comes in place of a path. Where parts
        cannot be had it is fetched as a whole.

        Args:
            choose, first: see `destinations.sinks.parts.PartsSink`.
        """
        reference = self._allowed(url, **naming)
        demand = self._demand(None)
        entry = self._hit(reference, demand)
        from pgetpy.system.event_loop import begin, done

        if entry is not None:
            return done(entry.path)
        return begin(self._picked(reference, demand, choose, first, follower))

    def ensure_many(self, urls: Iterable[str], **naming: Unpack[Naming]) -> list[Path]:
        """Return the paths of several, fetched side by side; none leaves until all are there.

        Args:
            naming: `wanted`, patterns and tokens, as `ensure` takes them, for all of them.

        Raises:
            PgetError: the first failure; the others are stopped.
        """
        references = [self._allowed(url, **naming) for url in urls]
        from pgetpy.system.event_loop import wait_for

        return wait_for(self._obtained_all(references))

    async def ensure_many_async(self, urls: Iterable[str], **naming: Unpack[Naming]) -> list[Path]:
        """Return the paths of several; see `ensure_many`."""
        references = [self._allowed(url, **naming) for url in urls]
        from pgetpy.system.event_loop import in_engine

        return await in_engine(self._obtained_all(references))

    def lookup(self, url: str, **naming: Unpack[Naming]) -> Path | None:
        """Return the path of what is there of `url`, None for a miss; asks no server.

        What another's token has fetched is a miss until `ensure` has shown that this one opens it.

        Args:
            naming: `wanted`, patterns and tokens, as `ensure` takes them.

        Raises:
            NotAllowedError: the policy forbids to give it out.
        """
        entry = self._hits.at_hand(self._allowed(url, **naming), Demand())
        return entry.path if entry is not None else None

    def repository(self, url: str, **naming: Unpack[Naming]) -> str:
        """Return how a whole repository that `url` names is spelt; empty where it names a file, or
        where patterns choose."""
        reference = self._reference(url, **naming)
        return str(reference) if reference.several and not reference.patterns else ""

    @contextlib.contextmanager
    def lease(
        self, url: str, *, digest: str | None = None, **naming: Unpack[Naming]
    ) -> Iterator[Path]:
        """Ensure `url`, and keep it where it is for as long as the block lasts; see `ensure`."""
        with self.hold(url, **naming):
            yield self.ensure(url, digest=digest, **naming)

    def hold(self, url: str, **naming: Unpack[Naming]) -> Lease:
        """Keep what `url` names where it is, once it is there, until the lease is released."""
        return self._store.lease(self._reference(url, **naming).key)

    def hold_many(self, urls: Iterable[str], **naming: Unpack[Naming]) -> list[Held]:
        """Ensure several side by side, and keep each where it is until its lease is released.

        Args:
            naming: `wanted`, patterns and tokens, as `ensure` takes them, for all of them.

        Raises:
            PgetError: the first failure; the others are stopped, and nothing is held.
        """
        references = [self._allowed(url, **naming) for url in urls]
        leases: list[Lease] = []
        try:
            for reference in references:
                leases.append(self._store.lease(reference.key))
            paths = self._paths_at_hand(references)
            if paths is None:
                from pgetpy.system.event_loop import wait_for

                paths = wait_for(self._obtained_all(references))
            return [Held(*pair) for pair in zip(paths, leases, strict=True)]
        except BaseException:
            for lease in leases:
                lease.release()
            raise

    # ------------------------------------------------------------------------------------ upkeep

    def pin(self, url: str, **naming: Unpack[Naming]) -> None:
        """Keep what `url` names (see `ensure`), now or later, until it is unpinned."""
        self._store.pin(self._reference(url, **naming).key)

    def unpin(self, url: str, **naming: Unpack[Naming]) -> bool:
        """Take a pin back; False where there was none."""
        return self._store.unpin(self._reference(url, **naming).key)

    def remove(self, url: str, **naming: Unpack[Naming]) -> int | None:
        """Take an entry away; return its bytes, None where there is none.

        Raises:
            CacheError: it is pinned or leased.
        """
        return self._store.remove(self._reference(url, **naming).key)

    def verify(self, url: str, *, repair: bool = True, **naming: Unpack[Naming]) -> Verdict:
        """Hash what is kept of `url` and compare; what is damaged is fetched anew.

        Returns:
            What was found, before it was repaired.
        """
        reference = self._reference(url, **naming)
        self._store.settle(reference.key)
        verdict = self._store.verify(reference.key)
        if verdict is Verdict.DAMAGED and repair:
            self.ensure(url, **naming)
        return verdict

    def verify_all(self) -> dict[str, Verdict]:
        """Hash every entry; return what was found, by key. Who asks next repairs the damaged."""
        keys = [row.record.key for row in self._store.entries()]
        return {key: self._store.verify(key) for key in keys}

    def evict(self, needed: int = 0) -> int:
        """Make room for `needed` bytes more; return the bytes of entries that left.

        Raises:
            CacheFullError: that cannot be.
        """
        return self._store.make_room(needed)

    def entries(self) -> list[Listing]:
        """Return all entries, the one used last first."""
        return self._store.entries()

    def totals(self) -> Totals:
        """Return what the cache takes; it looks at every entry."""
        return self._store.totals()

    def cache_info(self) -> CacheInfo:
        """Return what `ensure` has done so far."""
        return self._info

    def sweep(self) -> int:
        """Take away what processes that died have left; return the bytes gained."""
        return self._store.sweep()

    def settle(self, seconds: float | None = None, *, flush: bool = False) -> bool:
        """Wait until the digests of what was fetched are known; False after `seconds`.

        Args:
            flush: until it is on stable storage, too.
        """
        return self._settler.wait(seconds, flush=flush)

    @property
    def longest_header(self) -> int:
        """Bytes of the longest header of a safetensors file that its policy lets be read."""
        policy = self._settings.policy
        strict = policy is not None and policy.only_safetensors
        return LONGEST_FOR_STRANGERS if strict else LONGEST_HEADER

    def close(self) -> None:
        """This process uses nothing of it any more."""
        self._settler.stop()
        self._store.close()

    def __enter__(self) -> WeightsDownloadCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------ innards

    async def _obtained(
        self,
        reference: Reference,
        demand: Demand,
        number: int = 0,
        follow: Follower | None = None,
    ) -> Path:
        relay = Relay(self._progress, number, reference)
        try:
            entry, fetched = await self._filler().obtain(reference, demand, relay, follow)
        except PgetError as error:
            relay.failed(error)
            raise
        relay.finished(entry, fetched=fetched)
        if fetched:
            self._count_miss(entry.size)
        else:
            self._count_hits(1)
        return entry.path

    async def _picked(
        self, reference: Reference, demand: Demand, choose: Choose, first: int, follow: Follower
    ) -> Path | None:
        from pgetpy.engine.engine import Engine

        engine = Engine(self._settings)
        try:
            if await engine.pick(reference, choose, first, follow):
                return None
        finally:
            await engine.close()
        return await self._obtained(reference, demand, follow=follow)

    def _paths_at_hand(self, references: Sequence[Reference]) -> list[Path] | None:
        """Return the paths if nobody needs to be asked for any of them, and count the hits."""
        here = [self._hits.at_hand(reference, self._demand(None)) for reference in references]
        paths = [entry.path for entry in here if entry is not None]
        if len(paths) < len(here):
            return None
        self._count_hits(len(paths))
        return paths

    async def _obtained_all(self, references: Sequence[Reference]) -> list[Path]:
        from pgetpy.gathering import side_by_side

        demand = self._demand(None)
        with ExitStack() as leases:
            for reference in references:
                leases.enter_context(self._store.lease(reference.key))
            here = [self._hits.at_hand(each, demand) for each in references]
            missing = [number for number, entry in enumerate(here) if entry is None]
            if len(missing) > 1:
                self._progress(Queued(len(missing)))
            works = [partial(self._obtained, references[at], demand, at) for at in missing]
            fetched = iter(await side_by_side(works, self._most_at_once))
            self._count_hits(len(here) - len(missing))
            return [entry.path if entry is not None else next(fetched) for entry in here]

    def _filler(self) -> Filler:
        # Most calls are hits, and need none of what fetches.
        from pgetpy.filling import Filler

        with self._lock:
            if self._fetching is None:
                self._fetching = Filler(self._store, self._settings, self._settler, self._hits)
            return self._fetching

    def _hit(self, reference: Reference, demand: Demand) -> Entry | None:
        """Return the entry if nobody needs to be asked, and count it."""
        entry = self._hits.at_hand(reference, demand)
        if entry is not None:
            self._count_hits(1)
        return entry

    def _allowed(self, url: str, **naming: Unpack[Naming]) -> Reference:
        """Return the reference of what may be given out.

        Raises:
            NotAllowedError: the policy forbids it.
        """
        reference = self._reference(url, **naming)
        if self._settings.policy is not None:
            self._settings.policy.check_reference(reference)
        return reference

    def _reference(self, url: str, **naming: Unpack[Naming]) -> Reference:
        return named(url, self._settings.sources, **naming)

    def _demand(self, digest: str | None) -> Demand:
        return Demand(parse_digest(digest), self._fresh, self._any_file)

    def _count_hits(self, count: int) -> None:
        with self._lock:
            self._info = self._info._replace(hits=self._info.hits + count)

    def _count_miss(self, size: int) -> None:
        with self._lock:
            hits, misses, fetched = self._info
            self._info = CacheInfo(hits, misses + 1, fetched + size)


def usual_cache() -> WeightsDownloadCache:
    """Return the cache that the environment names, one for all of this process."""
    return _usual(CacheSettings.from_environment(os.environ).folder)


@lru_cache(maxsize=4)
def _usual(folder: Path) -> WeightsDownloadCache:
    return WeightsDownloadCache(folder)


def _refuse_both(name: str, value: object, other_name: str, other: object) -> None:
    if value is not None and other is not None:
        raise BadSettingError(other_name, str(other), f"is given together with {name}")


def _ignore(event: Event) -> None:
    """No progress is wanted."""
