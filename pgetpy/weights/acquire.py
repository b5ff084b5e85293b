"""One cache object's calls: hits are given out, misses are fetched, and both are counted.

The hit path imports neither the engine nor asyncio: a predictor that finds its weights in the cache
should not pay for a network stack. So everything that fetches is imported when the first miss
occurs, and one `Fetcher` serves all later ones.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pgetpy.cache.store import Store
from pgetpy.core.references.reference import Reference
from pgetpy.core.report.events import Queued, Report
from pgetpy.errors import PgetError
from pgetpy.settings import Settings
from pgetpy.system.logs import RoomLog
from pgetpy.system.metrics_file import METRICS_FILE
from pgetpy.weights.access import AccessRules, LookupOptions
from pgetpy.weights.background_hash import BackgroundHasher
from pgetpy.weights.progress import EventAdapter

# References fetched at the same time; each may be a folder of many files.
_AT_A_TIME = 20

if TYPE_CHECKING:
    from pgetpy.cache.contents import Entry
    from pgetpy.core.references.jobs import Follower
    from pgetpy.destinations.sinks.parts import Choose
    from pgetpy.weights.fetch import Fetcher
    from pgetpy.weights.remote_copies import RemoteCopies


class CacheInfo(NamedTuple):
    """Counters of one cache object: calls of `ensure`, and bytes fetched for them."""

    hits: int
    misses: int
    bytes: int


_LOG = RoomLog("weights")


class Acquisition:
    """Gives out entries of `store`, and has missing ones fetched.

    Attributes:
        info: the counters so far.

    Args:
        remote: opens the remote tier when something is fetched; None if there is none.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        hasher: BackgroundHasher,
        progress: Report,
        remote: Callable[[], RemoteCopies] | None = None,
    ) -> None:
        self.info = CacheInfo(0, 0, 0)
        self._store = store
        self._settings = settings
        self._hasher = hasher
        self._progress = progress
        self._access = AccessRules(store, hasher, settings.policy)
        self._remote = remote
        self._the_fetcher: Fetcher | None = None
        self._copies: RemoteCopies | None = None
        if settings.metrics_file is not None:
            METRICS_FILE.write_to(settings.metrics_file)
        self._lock = threading.Lock()

    def peek(
        self, reference: Reference, lookup: LookupOptions, *, used: bool = True
    ) -> Entry | None:
        """Return the entry if it can be given out without a request; not counted as a hit.

        `used` is as for `AccessRules.at_hand`.
        """
        return self._access.at_hand(reference, lookup, used=used)

    def hit(self, reference: Reference, lookup: LookupOptions) -> Entry | None:
        """Return the entry if it can be given out without a request, and count the hit."""
        entry = self.peek(reference, lookup)
        if entry is not None:
            _LOG.debug("hit: %s is %s", reference, entry.path)
            self._count(hits=1)
        return entry

    async def obtain(
        self,
        reference: Reference,
        lookup: LookupOptions,
        number: int = 0,
        follow: Follower | None = None,
    ) -> Path:
        """Return the path, fetching what is missing. Events carry `number` as their key.

        It may still turn out to be a hit: another process has fetched the entry meanwhile, or a
        request has confirmed that the caller may have it. Then it is counted as one.

        Args:
            reference: what to return.
            lookup: which entries may be returned.
            number: the key of this call's events, to tell several files of one call apart.
            follow: is told what arrives; see `core.references.jobs.Follower`.

        Raises:
            PgetError: it cannot be fetched, or is not what it should be.
        """
        _LOG.debug("%s is not at hand: key %s", reference, reference.key)
        adapter = EventAdapter(self._progress, number, reference)
        try:
            entry, served_from = await self._fetcher().obtain(reference, lookup, adapter, follow)
        except PgetError as error:
            adapter.failed(error)
            raise
        fetched = served_from != "cache"
        _LOG.debug("%s: %s is %s", "miss" if fetched else "hit", reference, entry.path)
        adapter.finished(entry, served_from)
        if served_from == "remote":
            METRICS_FILE.count("pgetpy_received_bytes_total", entry.size, "remote")
        self._count(hits=not fetched, misses=fetched, fetched=entry.size if fetched else 0)
        return entry.path

    async def pick(
        self,
        reference: Reference,
        lookup: LookupOptions,
        choose: Choose,
        first: int,
        follow: Follower,
    ) -> Path | None:
        """Fetch selected parts only, and return None; see `WeightsDownloadCache.pick`.

        Parts never enter the cache, so they are not counted. If the server serves no ranges, the
        whole entry is obtained instead.
        """
        from pgetpy.engine.engine import Engine

        async with Engine(self._settings) as engine:
            if await engine.pick(reference, choose, first, follow):
                return None
        return await self.obtain(reference, lookup, follow=follow)

    def paths_at_hand(
        self, references: Sequence[Reference], lookup: LookupOptions
    ) -> list[Path] | None:
        """Return all paths if none needs a request, and count the hits; else None."""
        here = [self._access.at_hand(reference, lookup) for reference in references]
        paths = [entry.path for entry in here if entry is not None]
        if len(paths) < len(here):
            return None
        self._count(hits=len(paths))
        return paths

    async def obtain_all(
        self, references: Sequence[Reference], lookup: LookupOptions
    ) -> list[Path]:
        """Return several paths, fetched in parallel. None is evicted until all are there.

        Without the leases, room for the last file could be made by evicting the first one. Only
        misses get a place in the queue, so that progress counts files that are really fetched.
        """
        from pgetpy.engine.hosts import descriptor_limit
        from pgetpy.system.event_loop import gather_limited

        with ExitStack() as leases:
            for reference in references:
                leases.enter_context(self._store.lease(reference.key))
            here = [self._access.at_hand(each, lookup) for each in references]
            missing = [number for number, entry in enumerate(here) if entry is None]
            if len(missing) > 1:
                self._progress(Queued(len(missing)))
            works = [partial(self.obtain, references[at], lookup, at) for at in missing]
            # Each takes a lock, a journal and a part file beside its connections.
            descriptors = descriptor_limit() // 2 or 1
            most = min(_AT_A_TIME, self._settings.max_concurrent_files, descriptors)
            fetched = iter(await gather_limited(works, most))
            self._count(hits=len(here) - len(missing))
            return [entry.path if entry is not None else next(fetched) for entry in here]

    def _fetcher(self) -> Fetcher:
        # Imported here: most calls are hits and need none of it.
        from pgetpy.weights.fetch import Fetcher

        with self._lock:
            if self._the_fetcher is None:
                self._copies = self._remote() if self._remote is not None else None
                self._the_fetcher = Fetcher(
                    self._store, self._settings, self._hasher, self._access, self._copies
                )
            return self._the_fetcher

    def wait_for_copies(self, seconds: float | None = None) -> bool:
        """Wait until no entry is being copied to the remote tier; False if the time was up."""
        return self._copies is None or self._copies.wait(seconds)

    def end_copies(self) -> None:
        """Wait a moment for the copies that are being made, and end them."""
        if self._copies is not None:
            self._copies.finish()

    def _count(self, *, hits: int = 0, misses: int = 0, fetched: int = 0) -> None:
        METRICS_FILE.count("pgetpy_cache_requests_total", hits, "hit")
        METRICS_FILE.count("pgetpy_cache_requests_total", misses, "miss")
        METRICS_FILE.flush_if_due()
        with self._lock:
            so_far = self.info
            self.info = CacheInfo(
                so_far.hits + hits, so_far.misses + misses, so_far.bytes + fetched
            )
