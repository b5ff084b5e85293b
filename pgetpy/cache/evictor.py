"""Making room before it is needed: entries are evicted in the order that core/cache/eviction
decides.

If evicting everything that may go would not make enough room, nothing is evicted: an error should
not cost the entries as well.

Two limits hold at once, and the one that is shorter decides:

    budget   max_bytes - entries - content being fetched - bytes promised to other fetches
    disk     free space - min_disk_free - bytes promised to other fetches

Both count what other processes have reserved and not yet written, because each of them has checked
its own room before it started. A round consists of a survey, a choice and the removal:

    survey --> met? --> choose victims --> remove a batch --> measure what the disk gained
      ^                                                               |
      '---- entries were handed out meanwhile, or other bytes came ---'

Free space is measured instead of computed, because removing a file may free nothing: it is still
mapped by a process, it has a second name, or the file system keeps it for a snapshot. If batches
gain nothing, eviction stops (`Gains.hopeless`) before it has emptied the cache for no purpose.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from pgetpy.cache.contents import Contents, Row, read_row
from pgetpy.cache.fills import Claim, Fills, bytes_at
from pgetpy.cache.holders import LivenessMonitor
from pgetpy.cache.layout import CachePaths
from pgetpy.cache.outlines import Outline, OutlineReader, Outlines
from pgetpy.cache.removal import Remover
from pgetpy.cache.uses import Clock
from pgetpy.core.cache.eviction import (
    Candidate,
    EvictionPriority,
    Gains,
    Goal,
    Group,
    batches,
    most_gain,
    pays,
    victims,
)
from pgetpy.errors import CacheFullError
from pgetpy.system import polling
from pgetpy.system.filesystem import free_bytes, names_in
from pgetpy.system.logs import RoomLog
from pgetpy.system.metrics_file import METRICS_FILE

# For this many nanoseconds, an entry that was given out is probably still being loaded.
JUST_NOW = 60_000_000_000
# Entries that are given out while room is made are kept, and others must be chosen instead.
_ROUNDS = 4
# Some file systems free the space a little after the file is gone.
_GAIN_SECONDS = 1.0
_LOG = RoomLog("cache")


@dataclass(frozen=True)
class Bounds:
    """The limits of a cache: bytes to leave free on its disk, and bytes that it may use."""

    min_disk_free: int = 0
    max_bytes: int | None = None


@dataclass(frozen=True)
class Survey:
    """The cache and its disk at one moment.

    Attributes:
        room: the bytes that can be written now, by the cache's limit and on the disk.
        goal: the bytes that are missing.
    """

    contents: Outlines
    room: Goal
    goal: Goal


@dataclass(frozen=True)
class Evictor:
    """Makes room in one cache."""

    layout: CachePaths
    bounds: Bounds
    remover: Remover
    watch: LivenessMonitor
    fills: Fills
    clock: Clock
    outlines: OutlineReader

    def make_room(self, needed: int, claim: Claim | None = None) -> int:
        """Make sure that `needed` bytes can be written; return the bytes of evicted entries.

        Args:
            needed: bytes.
            claim: the fetch that needs them; what it has written or reserved is not counted twice.

        Raises:
            CacheFullError: that is impossible, and nothing was evicted; or evicting freed no space.
        """
        if self.bounds.max_bytes is None and self._disk_short(needed, claim) <= 0:
            return 0
        with self.remover.alone():
            self.remover.recover()
            self.remover.sweep()
            return self._make_room(needed, claim)

    def candidates(
        self, rows: Sequence[Row] | Sequence[Outline]
    ) -> tuple[list[Candidate], dict[str, int]]:
        """Return the entries as candidates for eviction, and the uses by living processes.

        An entry's priority is the strongest claim on it: a lease or pin (never evicted), handed out
        within the last minute, handed out to a process that still lives, or none of these.
        """
        uses = self.remover.uses()
        held = self.remover.pinned() | self.watch.leased().keys()
        just = self.clock.now() - JUST_NOW

        def standing(key: str) -> EvictionPriority:
            if key in held:
                return EvictionPriority.HELD
            used = uses.get(key)
            if used is None:
                return EvictionPriority.IDLE
            return EvictionPriority.JUST_HANDED_OUT if used >= just else EvictionPriority.HANDED_OUT

        found = [
            Candidate(
                row.key,
                row.size,
                max(row.folded, uses.get(row.key, 0)),
                standing(row.key),
                row.inode,
                row.names,
            )
            for row in rows
        ]
        return found, uses

    def _make_room(self, needed: int, claim: Claim | None) -> int:
        # Usually there is room, and sizes alone can tell: no record is opened for that.
        held = self.outlines.sizes()
        if (
            held is not None
            and self._goal(needed, self._room(needed, claim, held.entries, held.orphans)).met
        ):
            return 0
        gains = Gains()
        taken = 0
        for rounds in count(1):
            survey = self._survey(needed, claim)
            # Leftovers go before any entry has to.
            if not survey.goal.met and self.fills.sweep() + self.tidy(survey.contents):
                survey = self._survey(needed, claim)
            if survey.goal.met:
                return taken
            found, uses = self.candidates(survey.contents.rows)
            chosen = victims(found, survey.goal)
            if chosen is None or rounds > _ROUNDS:
                raise self._full(needed, survey, claim)
            taken += self._evict(chosen, survey, uses, gains)
            if gains.hopeless and self._disk_short(needed, claim) > 0:
                cause = "evicting freed no space: files are still mapped, or other programs write"
                raise self._full(needed, self._survey(needed, claim), claim, cause)
        raise AssertionError("unreachable")

    def tidy(self, contents: Contents | Outlines) -> int:
        """Remove content without record and records without content; return how many."""
        gained = 0
        since = self.clock.now() - JUST_NOW
        # Content appears before its record: during a fill it only looks like an orphan.
        for key, path in contents.orphans:
            if not self.fills.busy(key):
                gained += self.remover.drop(key, path, since)
        for key in contents.broken:
            self._drop_broken(key)
        return gained

    def _drop_broken(self, key: str) -> None:
        if not self.fills.busy(key):
            self.remover.drop_record(key)

    def _survey(self, needed: int, claim: Claim | None) -> Survey:
        contents = self.outlines.read()
        orphans = [path for _, path in contents.orphans]
        room = self._room(needed, claim, contents.size, orphans)
        return Survey(contents, room, self._goal(needed, room))

    def _room(self, needed: int, claim: Claim | None, entries: int, orphans: list[str]) -> Goal:
        """Return the bytes that can be written now; see `Survey`."""
        disk = needed - self._disk_short(needed, claim)
        if self.bounds.max_bytes is None:
            return Goal(1 << 62, disk)
        used = entries + self._loose(orphans) + self._reserved(claim)
        return Goal(self.bounds.max_bytes - used, disk)

    def _goal(self, needed: int, room: Goal) -> Goal:
        return Goal(max(0, needed - room.budget), max(0, needed - room.disk))

    def _evict(
        self, chosen: list[Group], survey: Survey, uses: dict[str, int], gains: Gains
    ) -> int:
        """Evict `chosen`, until that turns out to free no space; return their bytes."""
        marks = {outline.key: outline.mark for outline in survey.contents.rows}
        budget = survey.goal.budget
        taken = 0
        for batch in batches(chosen):
            if gains.hopeless and budget <= 0:
                break
            keys = [member.key for group in batch for member in group.members]
            members = self._read(keys, marks)
            before = free_bytes(self.layout.root / "entries")
            # An entry that was leased since the survey is put back and is not among these.
            left = {row.key for row in self.remover.take(members, uses)}
            # Equal content has several entries; its bytes are free once the last one is gone.
            gone = [group for group in batch if left.issuperset(m.key for m in group.members)]
            size = sum(group.size for group in gone)
            METRICS_FILE.count("pgetpy_cache_evictions_total", len(left))
            METRICS_FILE.count("pgetpy_cache_evicted_bytes_total", size)
            for row in members:
                if row.key in left:
                    reference = row.record.about.reference
                    _LOG.debug("evicted %s: %d bytes of %s", row.key, row.size, reference)
            if survey.goal.disk > 0:
                expected = sum(group.gain for group in gone)
                gains.took(expected, self._gained(before, expected))
            budget -= size
            taken += size
        return taken

    def _read(self, keys: list[str], marks: dict[str, int]) -> list[Row]:
        """Return the entries under `keys`, without those published anew since `marks` were read.

        An invalid record is dropped; its content is a leftover of the next survey.
        """
        rows = []
        for key in keys:
            row = read_row(self.layout, key)
            if row is None:
                self._drop_broken(key)
            elif row.mark == marks[key]:
                rows.append(row)
        return rows

    def _gained(self, before: int, expected: int) -> int:
        """Return by how much the free space grew, as soon as it is about what was expected.

        Btrfs and network file systems free space in the background, so a first look can see none.
        """
        waited = 0.0
        while True:
            gained = free_bytes(self.layout.root / "entries") - before
            if pays(expected, gained) or waited >= _GAIN_SECONDS:
                return gained
            time.sleep(polling.SLICE)
            waited += polling.SLICE

    def _disk_short(self, needed: int, claim: Claim | None) -> int:
        free = free_bytes(self.layout.root / "entries")
        return needed + self.bounds.min_disk_free + self._reserved(claim) - free

    def _reserved(self, claim: Claim | None) -> int:
        """Return the bytes that were promised to other fetches and are still to be written.

        What they have written already is missing from the free space, and must not count twice.
        """
        return sum(
            max(0, progress.reserved - bytes_at(os.fspath(folder)))
            for progress, folder in self.fills.others(claim)
        )

    def _loose(self, orphans: list[str]) -> int:
        """Return the bytes that belong to no entry: being fetched, or left over."""
        partial = self.layout.at("partial")
        loose = [self.layout.at("partial", name) for name in names_in(partial)]
        return sum(map(bytes_at, loose + orphans))

    def _full(
        self, needed: int, survey: Survey, claim: Claim | None, cause: str = ""
    ) -> CacheFullError:
        found, _ = self.candidates(survey.contents.rows)
        most = most_gain(found)
        room = min(survey.room.budget + most.budget, survey.room.disk + most.disk)
        held = self._held(survey.contents.rows, claim)
        root = str(self.layout.root)
        return CacheFullError(root, needed, max(0, room), held, cause=cause)

    def _held(self, rows: Sequence[Outline], claim: Claim | None) -> tuple[tuple[str, int], ...]:
        """Return who holds how many bytes, the largest first."""
        leased, pinned = self.watch.leased(), self.remover.pinned()
        found: dict[str, dict[tuple[int, int], int]] = {}
        for row in rows:
            holders = [str(process) for process in leased.get(row.key, ())]
            for who in [*holders, *(["pins"] if row.key in pinned else [])]:
                found.setdefault(who, {})[row.inode] = row.size
        held = {who: sum(sizes.values()) for who, sizes in found.items()}
        under_way = self._reserved(claim)
        if under_way:
            held["downloads under way"] = under_way
        return tuple(sorted(held.items(), key=lambda item: -item[1]))
