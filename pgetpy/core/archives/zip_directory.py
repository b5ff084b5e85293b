"""Where a zip's central directory is, told from the archive's last bytes.

    ... | central directory | zip64 end record | locator | end record | comment |
                                                                        0 to 65,535 bytes

The end record is found by its magic number, which the comment may contain as well. A candidate
counts only if it fits: its comment ends where the archive ends, and the directory to which it
points begins with an entry. Only where no comment ends there may other bytes follow the archive.

Its offsets are counted from the archive's first byte, which need not be the file's: a self-
extracting zip has a program in front. The directory ends where the end record begins, so its real
position is known from its size, and the difference is the `prefix` to add to all offsets.

Sections named are those of APPNOTE.TXT (PKWARE's .ZIP File Format Specification, 6.3). What it
leaves open is decided as Info-ZIP's unzip 6.0 decides it.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from pgetpy.core.archives.zip_entries import ENTRY, ENTRY_MAGIC, U16, U32
from pgetpy.core.http.ranges import Span
from pgetpy.errors import ArchiveError, TruncatedArchiveError

_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_END_MAGIC, _END64_MAGIC, _LOCATOR_MAGIC = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"

# The end record's fields when their numbers are in the zip64 end record alone (4.4.1.4).
_END_FULL = (U16, U16, U16, U16, U32, U32)
# The comment behind the end record is 65,535 bytes at most (4.3.16).
_END_REACH = _END.size + U16
# The end record counts entries modulo this.
COUNTED = U16 + 1
# How many of an archive's last bytes `find_directory` wants to see at least.
END_SEARCH = _END_REACH + _LOCATOR.size + _END64.size
# Each end record that fits may cost a request to look at its directory. A comment with more of
# them than this is an attack.
_MOST_ENDS = 8
# No known writer puts more than a few bytes into the zip64 end record's extensible data.
_END64_REACH = 1 << 20


@dataclass(frozen=True)
class Directory:
    """Where the central directory is.

    Attributes:
        offset: its first byte in the archive.
        size: its bytes.
        count: its entries, never more than `size` has room for.
        prefix: bytes in front of the archive proper, which its offsets do not count.
        surplus: bytes that follow its end and do not belong to it.
        exact: whether `count` is the full number; an end record holds only its lower 16 bits.
    """

    offset: int
    size: int
    count: int
    prefix: int = 0
    surplus: int = 0
    exact: bool = True


class _End(NamedTuple):
    """What an end record states (4.3.16), zip64 included; `position` is where the records begin."""

    disk: int
    first_disk: int
    here: int
    entries: int
    size: int
    offset: int
    position: int


def first_look(total: int) -> Span:
    """Return the last bytes of an archive of `total` bytes, with which to ask `find_directory`."""
    return Span(max(0, total - END_SEARCH), total)


def find_directory(tail: bytes, total: int) -> Directory | Span:
    """Return where the central directory of an archive of `total` bytes is, by its last bytes.

    A span instead says which bytes right before `tail` are needed too. Of several end records that
    fit, which a comment can fake, the last with a directory before it is believed. Where none fits
    bytes may follow the end, if it is that of the whole and not of an archive within.

    Raises:
        TruncatedArchiveError: no end record.
        ArchiveError: no end record that makes sense; several disks; an encrypted directory.
    """
    base = total - len(tail)
    if base > 0 and len(tail) < END_SEARCH:
        return Span(first_look(total).start, base)
    surplus = {at: len(tail) - at - _END.size - _comment_length(tail, at) for at in _ends(tail)}
    ends = [at for at in surplus if not surplus[at]] or [at for at in surplus if surplus[at] > 0]
    if len(ends) > _MOST_ENDS:
        raise ArchiveError(f"its comment holds {len(ends) - 1} more end records")
    failure = None if ends else _no_end(tail, total)
    for at in ends:
        try:
            found = _confirmed(tail, base, at, alone=len(ends) == 1)
        except ArchiveError as error:
            failure = failure or error
        else:
            if isinstance(found, Span) or not surplus[at]:
                return found
            if not found.prefix:
                return replace(found, surplus=surplus[at])
            failure = failure or _no_end(tail, total)
    assert failure is not None
    raise failure


def _ends(tail: bytes) -> Iterator[int]:
    """Yield where in `tail` the magic number of an end record is, the last first."""
    low = max(0, len(tail) - _END_REACH)
    at = tail.rfind(_END_MAGIC, low, max(0, len(tail) - _END.size + 4))
    while at >= 0:
        yield at
        at = tail.rfind(_END_MAGIC, low, at + 3)


def _comment_length(tail: bytes, at: int) -> int:
    return int.from_bytes(tail[at + _END.size - 2 : at + _END.size], "little")


def _no_end(tail: bytes, total: int) -> ArchiveError:
    at = next(_ends(tail), None)
    if at is None:
        return TruncatedArchiveError(total, "it has no end of central directory record")
    surplus = len(tail) - (at + _END.size + _comment_length(tail, at))
    if surplus < 0:
        return TruncatedArchiveError(total, "its comment goes on")
    return ArchiveError(f"{surplus} bytes that do not belong to it follow its end record")


def _confirmed(tail: bytes, base: int, at: int, *, alone: bool) -> Directory | Span:
    """Return the directory of the end record at `at`, checked if it is in `tail`.

    One of several end records is not believed unseen; the only one may be, for `read_directory`
    will see.
    """
    end = _widened(tail, base, at)
    if isinstance(end, Span):
        return end
    directory = _directory(end, exact=end.position != base + at)
    start = directory.offset - base
    if start < 0:
        return directory if alone else Span(directory.offset, base)
    if directory.count and tail[start : start + 4] != ENTRY_MAGIC:
        raise ArchiveError(f"the central directory is not at byte {directory.offset}")
    return directory


def _directory(end: _End, *, exact: bool) -> Directory:
    if end.disk or end.first_disk or end.here != end.entries:
        raise ArchiveError("it is one part of an archive in several parts")
    offset = end.position - end.size
    if offset < end.offset:
        raise ArchiveError(f"its first {end.offset - offset} bytes are missing")
    if end.entries * ENTRY.size > end.size:
        raise ArchiveError(
            f"its central directory of {end.size} bytes has no room for {end.entries} entries"
        )
    if end.entries == 0 and end.position > 0 and end.size < COUNTED * ENTRY.size:
        # Else an empty end record within a comment would hide what the archive holds.
        raise ArchiveError(f"it lists no members although it holds {end.position} bytes")
    return Directory(offset, end.size, end.entries, offset - end.offset, exact=exact)


def _widened(tail: bytes, base: int, at: int) -> _End | Span:
    """Return the end record at `at` with the numbers of the zip64 end record, if there is one."""
    _, *fields, _ = _END.unpack_from(tail, at)
    end = _End._make([*fields, base + at])
    locator = at - _LOCATOR.size
    if locator < 0 or tail[locator : locator + 4] != _LOCATOR_MAGIC:
        return end
    _, disk, stated, disks = _LOCATOR.unpack_from(tail, locator)
    place = _end64_place(tail, base, locator, stated)
    if isinstance(place, Span):
        return place
    if place is None:
        if any(map(operator.eq, end[:6], _END_FULL)):
            raise ArchiveError("its zip64 end record is not where the locator says")
        # Four bytes at the directory's end happened to look like a locator.
        return end
    if disk or disks > 1:
        raise ArchiveError("it is one part of an archive in several parts")
    wide = _end64(tail, base, place, end)
    prefix = place - wide.size - wide.offset
    if stated not in (place, place - prefix):
        raise ArchiveError(f"the zip64 locator points to byte {stated}, the record is at {place}")
    return wide


def _end64_place(tail: bytes, base: int, locator: int, stated: int) -> int | Span | None:
    """Return where the zip64 end record is (4.3.14); it ends where the locator starts.

    It is looked for right before the locator first: data before the archive moves it from where it
    is stated to be.
    """
    for place in (base + locator - _END64.size, stated):
        start = place - base
        if place < 0 or not _END64.size <= locator - start <= _END64_REACH:
            continue
        if start < 0:
            return Span(place, base)
        magic, size, *_ = _END64.unpack_from(tail, start)
        if magic == _END64_MAGIC and start + 12 + size == locator:
            return place
    return None


def _end64(tail: bytes, base: int, place: int, end: _End) -> _End:
    _, size, _, needed, *fields = _END64.unpack_from(tail, place - base)
    if needed & 0xFF >= 62 and size > _END64.size - 12:
        # 7.3.4: how it is encrypted follows the fields that every version has.
        raise ArchiveError("its central directory is encrypted")
    wide = _End._make([*fields, place])
    for full, narrow, number in zip(_END_FULL, end[:6], wide[:6], strict=True):
        if narrow not in (full, number):
            raise ArchiveError("its end record and its zip64 end record disagree")
    return wide
