"""Entries and totals as listings show them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pgetpy.cache.contents import Contents
from pgetpy.cache.holders import Process
from pgetpy.core.cache.eviction import Candidate, EvictionPriority, total_size
from pgetpy.core.cache.records import Record, State
from pgetpy.system.file_locks import boot_id
from pgetpy.system.filesystem import free_bytes


@dataclass(frozen=True)
class ListedEntry:
    """An entry with its use.

    Attributes:
        used: when it was last used, in seconds since the epoch.
        leased_by: the processes that hold it.
        candidate: the entry as eviction sees it.
    """

    record: Record
    state: State
    used: float
    pinned: bool
    leased_by: tuple[str, ...]
    candidate: Candidate

    @property
    def in_use(self) -> bool:
        """Whether a living process was given it."""
        return self.candidate.standing is not EvictionPriority.IDLE

    @property
    def digest_pending(self) -> bool:
        return not self.record.digest


@dataclass(frozen=True)
class Totals:
    """The sizes of a cache in bytes; each inode counts once.

    Attributes:
        entries: number of entries.
        stored: bytes of all entries.
        pinned: bytes of pinned entries.
        leased: bytes of leased entries.
        partial: bytes being fetched, or left by dead processes.
        pending: number of entries without a digest so far.
        free: free bytes on the disk.
    """

    entries: int
    stored: int
    pinned: int
    leased: int
    partial: int
    pending: int
    free: int


def listings(
    contents: Contents,
    candidates: Iterable[Candidate],
    leased: Mapping[str, list[Process]],
    pinned: set[str],
) -> list[ListedEntry]:
    """Return the entries of `contents`, most recently used first."""
    boot = boot_id()
    found = [
        ListedEntry(
            row.record,
            row.record.state(boot),
            candidate.used / 1e9,
            row.record.key in pinned,
            tuple(dict.fromkeys(map(str, leased.get(row.record.key, ())))),
            candidate,
        )
        for row, candidate in zip(contents.rows, candidates, strict=True)
    ]
    return sorted(found, key=lambda listing: -listing.candidate.used)


def totals(root: Path, entries: list[ListedEntry], partial: int) -> Totals:
    """Return the sums over `entries`."""
    return Totals(
        entries=len(entries),
        stored=total_size(entry.candidate for entry in entries),
        pinned=total_size(entry.candidate for entry in entries if entry.pinned),
        leased=total_size(entry.candidate for entry in entries if entry.leased_by),
        partial=partial,
        pending=sum(entry.digest_pending for entry in entries),
        free=free_bytes(root / "entries"),
    )
