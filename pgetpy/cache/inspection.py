"""Comparing an entry with its record without changing either, as for a layer that is only read."""

from __future__ import annotations

from pgetpy.cache.checking import Verdict
from pgetpy.cache.contents import Entry, digest_of, size_of
from pgetpy.core.cache.records import State


def inspect_entry(entry: Entry | None, digest: str | None = None, *, deep: bool = False) -> Verdict:
    """Return whether the content of `entry` is what its record says.

    Args:
        entry: as looked up; None if there is none.
        digest: the `sha256:HEX` that the record must have; None for any.
        deep: hash the content; otherwise only names and sizes are compared.
    """
    if entry is None:
        return Verdict.MISSING
    record = entry.record
    if entry.state is State.DAMAGED or (digest and record.digest and record.digest != digest):
        return Verdict.DAMAGED
    try:
        if size_of(entry.path)[0] != record.size:
            return Verdict.DAMAGED
        if deep or digest or entry.state is State.UNFLUSHED:
            if not record.digest:
                return Verdict.UNKNOWN
            if deep and digest_of(entry.path) != record.digest:
                return Verdict.DAMAGED
    except FileNotFoundError:
        return Verdict.MISSING
    except OSError:
        return Verdict.DAMAGED  # the disk cannot read it back
    # After a crash sizes can be right where bytes are not.
    return Verdict.UNKNOWN if entry.state is State.UNFLUSHED and not deep else Verdict.SOUND
