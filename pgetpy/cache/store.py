"""A cache on disk: what is in it, who uses it, who may fill it, and how it stays small enough.

It moves no bytes over the network and starts no thread but the heartbeat of its holder. Every call
may be made from any thread; none waits for another key, and those that wait do so in slices of at
most 0.05 s. What is published is whole, and was checked by whoever published it.
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

from pgetpy.cache.checking import EntryVerifier, Verdict
from pgetpy.cache.contents import Entry, Row, look_up, scan
from pgetpy.cache.evictor import Bounds, Evictor
from pgetpy.cache.fills import FillProgress, Fills, bytes_at
from pgetpy.cache.holders import LeaseFile, LivenessMonitor
from pgetpy.cache.layout import CachePaths, discard, names_in, token
from pgetpy.cache.listing import ListedEntry, Totals, listings, totals
from pgetpy.cache.publishing import Publisher
from pgetpy.cache.removal import Remover
from pgetpy.cache.tickets import Fill, Lease
from pgetpy.cache.uses import Clock, Uses
from pgetpy.core.cache.eviction import EvictionPriority
from pgetpy.errors import CacheError, CacheFullError
from pgetpy.system.file_locks import locks_exclude
from pgetpy.system.filesystem import FULL, map_os_errors
from pgetpy.system.forks import call_in_children

T = TypeVar("T")

# What a dead filler has left is kept for the next one, unless room is needed.
PARTIAL_SECONDS = 24 * 3600.0
# What the files of a holder and of a claim take.
_OWN_NEEDS = 64 * 1024


class Store:
    """The cache in one folder.

    Args:
        root: made if it is not there; where it cannot be written it is used for hits only.
        min_disk_free: bytes that stay free on its disk.
        max_bytes: bytes that it has at most.
        lower: caches that are looked at first and only read.
        locks: whether locks on its files exclude other processes; None to find out.
        now: nanoseconds since the epoch.

    Raises:
        CacheError: the folder is no cache and cannot become one.
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
        self._lower = [layout for path in lower if (layout := _lower_layout(path)) is not None]
        self._bounds = Bounds(min_disk_free, max_bytes)
        self._now = now
        self._locks = self._probe_locks() if locks is None else locks
        self._begin()
        _STORES.add(self)
        call_in_children(self._forked)

    # ------------------------------------------------------------------------------- what is there

    def lookup(self, key: str) -> Entry | None:
        """Return the entry under `key`, which counts as handed out to this process; None for a
        miss.

        Only an entry whose `state` is SOUND is a hit as it is.
        """
        below = self._below(key)
        if below is not None and look_up(self._layout, key) is None:
            return below
        if self.writable:
            self._uses.note(key)
        return look_up(self._layout, key) or below

    def peek(self, key: str) -> Entry | None:
        """Return the entry under `key`, which counts as no use."""
        return look_up(self._layout, key) or self._below(key)

    def _below(self, key: str) -> Entry | None:
        """Return what a lower tier has; what was fetched in its place stands above it."""
        found = (look_up(layout, key, lower=True) for layout in self._lower)
        return next((entry for entry in found if entry is not None), None)

    def lease(self, key: str) -> Lease:
        """Keep what is under `key`, now or later, where it is until the lease is released.

        Raises:
            CacheError: the lease cannot be written.
        """
        if not self.writable:
            return Lease(key, self.lookup(key), lambda: None)
        with self._mapped():
            self._with_room(lambda: self._holder.lease(key))
        holder = self._holder
        lease = Lease(key, None, lambda: holder.release(key))
        lease.entry = self.lookup(key)
        return lease

    def entries(self) -> list[ListedEntry]:
        """Return every entry with its use, for people to read; lower tiers are not among them."""
        with self._mapped():
            contents = scan(self._layout)
            found, _ = self._evictor.candidates(contents)
            return listings(contents, found, self._watch.leased(), self._remover.pinned())

    def totals(self) -> Totals:
        """Return what the cache takes and holds, each inode's bytes once."""
        with self._mapped():
            return totals(self.root, self.entries(), sum(self._loose_bytes("partial").values()))

    # ------------------------------------------------------------------------------------- filling

    def try_fill(self, key: str) -> Fill | None:
        """Take the right to fetch what belongs under `key`; None while another has it.

        Who gets None looks up again after at most 0.05 s, then tries again; `progress` tells how
        far the other has come. Who gets a fill looks at its `entry`: it may have come meanwhile.

        Raises:
            CacheError: the cache cannot be written.
            CacheFullError: there is no room even for the claim.
        """
        with self._writing():
            claim = self._with_room(lambda: self._fills.claim(key))
            if claim is None:
                return None
            # An evictor who found it leased puts it back within moments.
            marked = self.peek(key) is None and self._remover.marked(key)
            if marked and not self._remover.try_recover(key):
                claim.release(keep=True)
                return None
            return Fill(claim, self.peek(key), self._evictor, self._publisher, self._mapped)

    def progress(self, key: str) -> FillProgress | None:
        """Return how far whoever fills `key` says to have come; None where nobody does."""
        return self._fills.progress(key)

    def make_room(self, needed: int) -> int:
        """See that `needed` bytes can be written; return the bytes of entries that had to leave.

        With 0 it brings the cache back to its bounds.

        Raises:
            CacheFullError: that cannot be.
        """
        with self._writing():
            self._layout.make()
            return self._evictor.make_room(needed)

    # -------------------------------------------------------------------------------------- upkeep

    def pin(self, key: str) -> None:
        """Keep what is under `key`, now or later, until it is unpinned.

        What was about to leave may be gone: look it up afterwards.
        """
        with self._writing():
            self._layout.make()
            os.close(os.open(self._layout.at("pins", key), os.O_WRONLY | os.O_CREAT, 0o666))

    def unpin(self, key: str) -> bool:
        """Take a pin back; False where there was none."""
        with self._writing():
            return discard(self._layout.at("pins", key))

    def remove(self, key: str) -> int | None:
        """Take an entry away and return its bytes; None where there is none.

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
        """Take away what was used last before that time, and is neither pinned nor leased.

        Args:
            used_before: seconds since the epoch.

        Returns:
            What has left.
        """
        with self._taking_away():
            contents = scan(self._layout)
            found, uses = self._evictor.candidates(contents)
            old = [
                row
                for row, candidate in zip(contents.rows, found, strict=True)
                if candidate.used < used_before * 1e9
                and candidate.standing is not EvictionPriority.HELD
            ]
            return self._remover.take(old, uses)

    def settle(
        self, key: str, *, stop: Callable[[], bool] = lambda: False, fsync: bool = True
    ) -> Entry | None:
        """Compute the digest of `key` if it is pending, and bring the entry to stable storage.

        It takes as long as reading all of it: for a thread in the background. Of content that was
        written since it was published the digest stays unknown.

        Returns:
            The entry as it is then; None where it is gone or `stop` said so, asked every 1 MiB.
        """
        with self._writing():
            return self._checker.settle(key, stop, fsync=fsync)

    def note_digest(self, entry: Entry, digest: str) -> None:
        """Note what the content of `entry` hashes to, which whoever calls has shown to be right."""
        with self._writing():
            self._checker.note_digest(entry, digest)

    def verify(self, key: str, *, stop: Callable[[], bool] = lambda: False) -> Verdict:
        """Hash the content of `key` and compare; what is found is noted.

        Where there is nothing to compare with it is UNKNOWN: what hashes to something now need not
        be what arrived.
        An entry found DAMAGED is one no more for `lookup`, whose state says so; filling it again
        repairs it.
        """
        with self._writing():
            return self._checker.verify(key, stop)

    def sweep(self, *, partial_seconds: float = PARTIAL_SECONDS) -> int:
        """Take away what dead processes have left, and what no record names any more.

        Returns:
            The bytes gained.
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
        """Show that this process lives, and write its leases anew if the cache was deleted.

        A thread does so every few seconds; this is for those that do not want to wait for it.
        """
        with self._writing():
            self._holder.beat()

    def close(self) -> None:
        """This process uses nothing any more: its leases end, its uses count as past."""
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
            layout, self._bounds, self._remover, self._watch, self._fills, self._clock
        )
        self._publisher = Publisher(layout, owner, self._remover, self._clock)
        self._checker = EntryVerifier(layout, self._publisher)

    def _forked(self) -> None:
        """This is the copy of a process that lives on: hold nothing of what that holds."""
        self._holder.abandon()
        self._uses.abandon()
        self._fills.abandon()
        self._begin()

    def _probe_locks(self) -> bool:
        with contextlib.suppress(OSError):
            return self.writable and locks_exclude(Path(self._layout.at("tmp")))
        return False

    def _loose_bytes(self, *folders: str) -> dict[str, int]:
        """Return what stands in `folders`, with the bytes that it takes."""
        at = self._layout.at
        paths = [at(folder, name) for folder in folders for name in names_in(at(folder))]
        return {path: bytes_at(path) for path in paths}

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Do within the block what writes; see `_mapped`.

        Raises:
            CacheError: nothing can be written.
        """
        if not self.writable:
            raise self._layout.unwritable()
        with self._mapped():
            yield

    @contextlib.contextmanager
    def _taking_away(self) -> Iterator[None]:
        """Do within the block what takes entries away, when no other process does."""
        with self._writing():
            self._layout.make()
            with self._remover.alone():
                self._remover.recover()
                yield

    def _mapped(self) -> AbstractContextManager[None]:
        """Raise what the system says as an error of ours."""
        return map_os_errors(self._layout.error_of)

    def _with_room(self, work: Callable[[], T]) -> T:
        """Do `work`, on a full disk once more after some entries have left."""
        try:
            return work()
        except OSError as error:
            if error.errno not in FULL or isinstance(error, CacheFullError):
                raise
        self._evictor.make_room(_OWN_NEEDS)
        return work()


def _lower_layout(path: str | os.PathLike[str]) -> CachePaths | None:
    """Return the lower tier at `path`; None where nothing is there."""
    layout = CachePaths(Path(path).absolute())
    return layout if layout.check() else None


# The stores of this process, which are closed at its end.
_STORES: weakref.WeakSet[Store] = weakref.WeakSet()


def _close_all() -> None:
    for store in list(_STORES):
        store.close()


atexit.register(_close_all)
