"""A cache on disk: its entries, who uses them, who may fetch them, and how it stays within bounds.

It does no networking, and starts no thread but the heartbeat of its lease file. Every call is safe
from any thread. None waits for another key; those that wait poll in slices of at most 0.05 s, so
that an exception injected into the thread arrives promptly. Published content is complete, and was
checked by its publisher.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from pgetpy.cache.checking import EntryVerifier, Hash, Stop, Verdict
from pgetpy.cache.contents import Entry, Row, digest_of, look_up, scan
from pgetpy.cache.evictor import Bounds, Evictor
from pgetpy.cache.fills import FillProgress, Fills, bytes_at
from pgetpy.cache.holders import LeaseFile, LivenessMonitor
from pgetpy.cache.layout import CachePaths, lower_layout, token
from pgetpy.cache.listing import ListedEntry, Totals, listings, totals
from pgetpy.cache.outlines import OutlineReader
from pgetpy.cache.pins import add_pin, pins_in, remove_pin, remove_pins, write_pins
from pgetpy.cache.publishing import Publisher
from pgetpy.cache.removal import Remover
from pgetpy.cache.tickets import Fill, Lease
from pgetpy.cache.uses import Clock, Uses
from pgetpy.core.cache.eviction import EvictionPriority
from pgetpy.errors import CacheError, CacheFullError
from pgetpy.system.file_locks import locks_exclude
from pgetpy.system.filesystem import FULL, map_os_errors, names_in
from pgetpy.system.forks import call_in_children
from pgetpy.system.logs import RoomLog

T = TypeVar("T")

# What a dead process fetched is kept this long for the next one, unless its space is needed.
PARTIAL_SECONDS = 24 * 3600.0
# The disk space of a lease file and a claim.
_OWN_NEEDS = 64 * 1024
_LOG = RoomLog("cache")


class Store:
    """The cache in one folder.

    Args:
        root: the folder; created if missing. If it is not writable, only hits work.
        min_disk_free: bytes to leave free on its disk.
        max_bytes: bytes that it may use; None for no limit.
        lower: caches that are searched first and never written.
        locks: whether file locks work there; None to find out.
        now: the clock, in nanoseconds since the epoch.

    Raises:
        CacheError: the folder is not a cache and cannot become one.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        min_disk_free: int = 0,
        max_bytes: int | None = None,
        lower: Iterable[str | os.PathLike[str]] = (),
        locks: bool | None = None,
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        self.root = Path(root).absolute()
        self._layout = CachePaths(self.root)
        self.writable = self._layout.open()
        self._lower = [layout for path in lower if (layout := lower_layout(path)) is not None]
        self._bounds = Bounds(min_disk_free, max_bytes)
        self._now = now
        self._locks = self._probe_locks() if locks is None else locks
        self._begin()
        _STORES.add(self)
        call_in_children(self._forked)

    # ------------------------------------------------------------------------------- what is there

    def lookup(self, key: str) -> Entry | None:
        """Return the entry under `key`, counted as given to this process; None for a miss.

        Only an entry whose `state` is SOUND may be used as it is.
        """
        below = self._below(key)
        if below is not None and look_up(self._layout, key) is None:
            return below
        if self.writable:
            self._uses.note(key)
        return look_up(self._layout, key) or below

    def peek(self, key: str) -> Entry | None:
        """Return the entry under `key` without counting it as used."""
        return look_up(self._layout, key) or self._below(key)

    def _below(self, key: str) -> Entry | None:
        """Return the entry of a lower cache, if one has it."""
        found = (look_up(layout, key, lower=True) for layout in self._lower)
        return next((entry for entry in found if entry is not None), None)

    def lease(self, key: str) -> Lease:
        """Keep what is under `key`, now or later, until the lease is released.

        Raises:
            CacheError: the lease cannot be written.
        """
        if not self.writable:
            return Lease(key, self.lookup(key), lambda: None)
        with self._mapped():
            self._with_room(lambda: self._holder.lease(key))
        _LOG.debug("lease of %s", key)
        holder = self._holder
        lease = Lease(key, None, lambda: holder.release(key))
        lease.entry = self.lookup(key)
        return lease

    def entries(self) -> list[ListedEntry]:
        """Return all entries with their use, for listings; without those of lower caches."""
        with self._mapped():
            contents = scan(self._layout)
            found, _ = self._evictor.candidates(contents.rows)
            return listings(contents, found, self._watch.leased(), self._remover.pinned())

    def totals(self) -> Totals:
        """Return the sizes of the cache, counting each inode once."""
        with self._mapped():
            return totals(self.root, self.entries(), sum(self._loose_bytes("partial").values()))

    # ------------------------------------------------------------------------------------- filling

    def try_fill(self, key: str) -> Fill | None:
        """Take the right to fetch the entry under `key`; None while another process has it.

        On None, look up again after at most 0.05 s, then try again; `progress` tells how far the
        other is. With a fill, check its `entry` first: it may have appeared in the meantime.

        Raises:
            CacheError: the cache is not writable.
            CacheFullError: there is not even space for the claim.
        """
        with self._writing():
            claim = self._with_room(lambda: self._fills.claim(key))
            if claim is None:
                return None
            _LOG.debug("%s is ours to fill", key)
            # Being evicted right now. If it turns out to be leased, its record will be back in a
            # moment.
            marked = self.peek(key) is None and self._remover.marked(key)
            if marked and not self._remover.try_recover(key):
                claim.release(keep=True)
                return None
            return Fill(claim, self.peek(key), self._evictor, self._publisher, self._mapped)

    def progress(self, key: str) -> FillProgress | None:
        """Return how far the fetch of `key` is; None if no process fetches it."""
        return self._fills.progress(key)

    def make_room(self, needed: int) -> int:
        """Make sure that `needed` bytes can be written; return the bytes of evicted entries.

        With 0, bring the cache back within its bounds.

        Raises:
            CacheFullError: that is impossible.
        """
        with self._writing():
            self._layout.make()
            return self._evictor.make_room(needed)

    # -------------------------------------------------------------------------------------- upkeep

    def pin(self, key: str, owner: str = "") -> None:
        """Keep what is under `key`, now or later, until it is unpinned.

        An entry that was already being evicted may be gone; look it up afterwards.

        Args:
            key: of the entry.
            owner: whose pin it is, in hex digits; pins of several owners do not affect each other.
        """
        with self._writing():
            self._layout.make()
            add_pin(self._layout, key, owner)

    def pin_all(self, keys: Iterable[str], owner: str) -> None:
        """As `pin`, for several keys at once."""
        with self._writing():
            self._layout.make()
            write_pins(self._layout, keys, owner)

    def unpin_all(self, owner: str) -> int:
        """Remove all pins of `owner`; return how many there were."""
        with self._writing():
            return remove_pins(self._layout, owner)

    def unpin(self, key: str, owner: str = "") -> bool:
        """Remove the pin of `owner`; return False if there was none."""
        with self._writing():
            return remove_pin(self._layout, key, owner)

    def pins_by_owner(self) -> dict[str, set[str]]:
        """Return the pinned keys of each owner; those without one are under ""."""
        return pins_in(self._layout)

    def remove(self, key: str) -> int | None:
        """Remove an entry and return its bytes; None if there is none.

        Raises:
            CacheError: it is pinned or leased.
        """
        with self._taking_away():
            found = [row for row in scan(self._layout, key[:2]).rows if row.record.key == key]
            if not found:
                return None
            if self._remover.take(found, None):
                return found[0].size
            who = ", ".join(map(str, self._watch.leased().get(key, ()))) or "a pin"
            reason = f"cannot remove {found[0].record.about.reference}: it is held by {who}"
            raise CacheError(str(self.root), reason, hint="release or unpin it first")

    def prune(self, used_before: float) -> list[Row]:
        """Remove entries last used before a given time that are neither pinned nor leased.

        Args:
            used_before: seconds since the epoch.

        Returns:
            The removed entries.
        """
        with self._taking_away():
            contents = scan(self._layout)
            found, uses = self._evictor.candidates(contents.rows)
            old = [
                row
                for row, candidate in zip(contents.rows, found, strict=True)
                if candidate.used < used_before * 1e9
                and candidate.standing is not EvictionPriority.HELD
            ]
            return self._remover.take(old, uses)

    def settle(
        self, key: str, *, stop: Stop = lambda: False, fsync: bool = True, hashed: Hash = digest_of
    ) -> Entry | None:
        """Compute the digest of `key` if it is missing, and flush the entry to stable storage.

        This reads the whole content: run it in the background. If the content was written to after
        it was published, the digest stays unknown. `hashed` computes it.

        Returns:
            The entry afterwards; None if it is gone or `stop`, asked every 1 MiB, returned True.
        """
        with self._writing():
            return self._checker.settle(key, stop, fsync=fsync, hashed=hashed)

    def note_digest(self, entry: Entry, digest: str) -> None:
        """Record the digest of `entry`, which the caller has proven to be right."""
        with self._writing():
            self._checker.note_digest(entry, digest)

    def verify(self, key: str, *, stop: Stop = lambda: False) -> Verdict:
        """Hash the content of `key`, compare it with the recorded digest, and note the result.

        Without a recorded digest the result is UNKNOWN: hashing now would not prove that these are
        the bytes that arrived. A DAMAGED entry is a miss from now on; fetching it again repairs it.
        """
        with self._writing():
            return self._checker.verify(key, stop)

    def sweep(self, *, partial_seconds: float = PARTIAL_SECONDS) -> int:
        """Remove what dead processes left, and content without a record.

        Returns:
            The bytes freed.
        """
        with self._taking_away():
            loose = self._loose_bytes("partial", "tmp")
            self._remover.sweep()
            self._fills.sweep(time.time() - partial_seconds)
            contents = scan(self._layout)
            loose |= {path: bytes_at(path) for _, path in contents.orphans}
            self._evictor.tidy(contents)
            return sum(size for path, size in loose.items() if not os.path.lexists(path))

    def beat(self) -> None:
        """Show that this process is alive, and restore its leases if the cache was deleted.

        A thread does so every few seconds; call this if you cannot wait for it.
        """
        with self._writing():
            self._holder.beat()

    def close(self) -> None:
        """Release all leases of this process, and count its uses as past."""
        with contextlib.suppress(OSError):
            self._uses.close()
        self._holder.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------- innards

    def _begin(self) -> None:
        layout, locks = self._layout, self._locks
        owner = token()
        self._clock = Clock(layout, self._now)
        self._holder = LeaseFile(layout, owner)
        self._uses = Uses(layout, self._holder, self._clock)
        self._watch = LivenessMonitor(layout, locks=locks)
        self._fills = Fills(layout, self._holder, self._watch, locks=locks)
        self._remover = Remover(layout, owner, self._watch, locks=locks)
        self._evictor = Evictor(
            layout,
            self._bounds,
            self._remover,
            self._watch,
            self._fills,
            self._clock,
            OutlineReader(layout, remembers=locks),
        )
        self._publisher = Publisher(layout, owner, self._remover, self._clock)
        self._checker = EntryVerifier(layout, self._publisher)

    def _forked(self) -> None:
        """Forked child: close what is the parent's without releasing it, and start fresh."""
        self._holder.abandon()
        self._uses.abandon()
        self._fills.abandon()
        self._begin()

    def _probe_locks(self) -> bool:
        with contextlib.suppress(OSError):
            return self.writable and locks_exclude(Path(self._layout.at("tmp")))
        return False

    def _loose_bytes(self, *folders: str) -> dict[str, int]:
        """Return what is in `folders`, with its disk space."""
        at = self._layout.at
        paths = [at(folder, name) for folder in folders for name in names_in(at(folder))]
        return {path: bytes_at(path) for path in paths}

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Run a block that writes; see `_mapped`.

        Raises:
            CacheError: the cache is not writable.
        """
        if not self.writable:
            raise self._layout.unwritable()
        with self._mapped():
            yield

    @contextlib.contextmanager
    def _taking_away(self) -> Iterator[None]:
        """Run a block that removes entries, while no other process does."""
        with self._writing():
            self._layout.make()
            with self._remover.alone():
                self._remover.recover()
                yield

    def _mapped(self) -> AbstractContextManager[None]:
        """Convert operating system errors to CacheError."""
        return map_os_errors(self._layout.error_of)

    def _with_room(self, work: Callable[[], T]) -> T:
        """Do `work`; if the disk is full, evict a little and do it once more."""
        try:
            return work()
        except OSError as error:
            if error.errno not in FULL or isinstance(error, CacheFullError):
                raise
        self._evictor.make_room(_OWN_NEEDS)
        return work()


# The stores of this process, which are closed when it ends.
_STORES: weakref.WeakSet[Store] = weakref.WeakSet()


def _close_all() -> None:
    for store in list(_STORES):
        store.close()


atexit.register(_close_all)
