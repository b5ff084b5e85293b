"""The content of a cache as a table for people, and as records for programs.

Texts here may change; the records' names and units are an interface: sizes are bytes, times are
seconds since the epoch.

On a terminal the table is as wide as that, and only references are shortened: everything else is
needed to act on an entry. Written to a file or a pipe, nothing is shortened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pgetpy.cache.listing import ListedEntry, Totals
from pgetpy.core.cache.records import State
from pgetpy.core.report.text import aligned_lines, counted, one_line
from pgetpy.core.text.units import format_age, format_size
from pgetpy.settings.cache_settings import CacheSettings

# How much of a key is shown, and the least that commands accept for one.
KEY_DIGITS = 8
_HEADINGS = ("KEY", "REFERENCE", "SIZE", "AGE", "LAST USE", "STATE")


def table(
    listings: Sequence[ListedEntry], sums: Totals, now: float, width: int | None
) -> list[str]:
    """Return a heading, a line for each of `listings`, and one of sums.

    Args:
        now: seconds since the epoch.
        width: columns of the terminal; None where lines may be of any length.
    """
    rows = [_HEADINGS, *(_cells(listing, now) for listing in listings)]
    once = sum(each.record.size for each in listings) > sums.stored
    note = "; what is equal is stored once" if once else ""
    return [*aligned_lines(rows, "<<>>><", 1, width), "", sums_line(sums) + note]


def sums_line(sums: Totals) -> str:
    """Return one line: how much is stored, how much of it is held, and what is free on the disk."""
    held = [
        f"{format_size(size)} {how}"
        for how, size in (("pinned", sums.pinned), ("leased", sums.leased))
        if size
    ]
    of_it = f" ({', '.join(held)})" if held else ""
    there = f"{counted(sums.entries, 'entry')}, {format_size(sums.stored)}{of_it}"
    return f"{there}; {format_size(sums.free)} free on the disk"


def state_of(listing: ListedEntry) -> str:
    """Return words for the state of an entry, and for what keeps it from eviction."""
    words = {
        listing.state.value: listing.state is not State.SOUND,
        "pending": listing.digest_pending,
        "pinned": listing.pinned,
        "leased": bool(listing.leased_by),
        "in use": listing.in_use and not (listing.pinned or listing.leased_by),
    }
    return ", ".join(word for word, holds in words.items() if holds) or State.SOUND.value


def reference_of(listing: ListedEntry) -> str:
    """Return what an entry was asked for by."""
    kind = " (folder)" if listing.record.folder else ""
    return one_line(listing.record.about.reference) + kind


def info_lines(sums: Totals, settings: CacheSettings) -> list[str]:
    """Return the size and the limits of a cache, one line for each."""
    pending = f"{sums.pending} to be computed" if sums.pending else "all known"
    facts = {
        "folder": str(settings.folder),
        "entries": str(sums.entries),
        "stored": format_size(sums.stored),
        "pinned": format_size(sums.pinned),
        "leased": format_size(sums.leased),
        "partial": format_size(sums.partial),
        "digests": pending if sums.entries else "none",
        "disk": f"{format_size(sums.free)} free",
        "bounds": _bounds(sums, settings),
    }
    return [f"{name:<9}{value}" for name, value in facts.items()]


def listing_record(listing: ListedEntry, path: str) -> dict[str, Any]:
    """Return an entry for programs.

    `digest` is null until it is known; `pending` says that it is still to be computed. `leased_by`
    are the processes that hold it, and `in_use` is true for those that were given it lately: none
    of these is evicted.

    Args:
        listing: the entry.
        path: of its content.
    """
    record = listing.record
    return {
        "key": record.key,
        "reference": record.about.reference,
        "path": path,
        "size": record.size,
        "folder": record.folder,
        "digest": record.digest or None,
        "created": record.created,
        "used": listing.used,
        "state": listing.state.value,
        "pending": listing.digest_pending,
        "pinned": listing.pinned,
        "leased_by": list(listing.leased_by),
        "in_use": listing.in_use,
    }


def info_record(sums: Totals, settings: CacheSettings) -> dict[str, Any]:
    """Return what `info_lines` says for programs; sizes are bytes."""
    bounds = {"min_disk_free": settings.min_disk_free, "max_bytes": settings.max_bytes}
    return {"folder": str(settings.folder), **asdict(sums), **bounds}


def _cells(listing: ListedEntry, now: float) -> tuple[str, ...]:
    return (
        listing.record.key[:KEY_DIGITS],
        reference_of(listing),
        format_size(listing.record.size),
        format_age(now - listing.record.created),
        f"{format_age(now - listing.used)} ago" if now - listing.used >= 1 else "now",
        state_of(listing),
    )


def _bounds(sums: Totals, settings: CacheSettings) -> str:
    free = f"at least {format_size(settings.min_disk_free)} free on the disk"
    if sums.free < settings.min_disk_free:
        free += f" ({format_size(settings.min_disk_free - sums.free)} short)"
    if settings.max_bytes is None:
        return free
    most = f"at most {format_size(settings.max_bytes)} stored"
    if sums.stored > settings.max_bytes:
        most += f" ({format_size(sums.stored - settings.max_bytes)} over)"
    return f"{free}, {most}"
