"""The structure of zip archives: the end record, the central directory, the local headers.

Sections named are those of APPNOTE.TXT (PKWARE's .ZIP File Format Specification, 6.3). What it
leaves open is decided as Info-ZIP's unzip 6.0 decides it. The central directory says what the
archive holds; local headers have to agree with it, or two readers would see two archives.

A caller holds the archive's last `END_SEARCH` bytes, asks `find_directory` where the directory is,
fetches it, and gives it to `read_directory`. `Directory.size` and `Directory.count` are what the
archive states: a caller's limits are to be held against them before the directory is fetched.
"""

from __future__ import annotations

import operator
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from typing import NamedTuple

from pgetpy.core.members import Kind, Member
from pgetpy.core.ranges import Span
from pgetpy.errors import ArchiveError, TruncatedArchiveError

STORED = 0
DEFLATE = 8

_LOCAL = struct.Struct("<4s5H3I2H")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_END_MAGIC, _END64_MAGIC, _LOCATOR_MAGIC = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_ENTRY_MAGIC, _LOCAL_MAGIC, _SIGNATURE_MAGIC = b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x05"

_U16, _U32 = 0xFFFF, 0xFFFFFFFF
# What the end record's fields hold where only the zip64 end record has room (4.4.1.4).
_END_FULL = (_U16, _U16, _U16, _U16, _U32, _U32)
# The comment behind the end record is 65,535 bytes at most (4.3.16).
_END_REACH = _END.size + _U16
# How many of an archive's last bytes `find_directory` wants to see at least.
END_SEARCH = _END_REACH + _LOCATOR.size + _END64.size
# A comment with more end records than this that fit is an attack: each may cost a request.
_MOST_ENDS = 8
# No known writer puts more than a few bytes into the zip64 end record's extensible data.
_END64_REACH = 1 << 20

_ENCRYPTED = 0x0001 | 0x0040 | 0x2000  # 4.4.4: bits 0, 6 and 13
_DESCRIPTOR, _PATCH, _UTF8 = 0x0008, 0x0020, 0x0800
_METHODS = {1: "Shrink", 2: "Reduce", 3: "Reduce", 4: "Reduce", 5: "Reduce", 6: "Implode",
            9: "Deflate64", 10: "PKWARE DCL Implode", 12: "bzip2", 14: "LZMA", 16: "CMPSC",
            18: "TERSE", 19: "LZ77", 20: "zstd", 93: "zstd", 94: "MP3", 95: "xz", 96: "JPEG",
            97: "WavPack", 98: "PPMd", 99: "AES encryption"}  # fmt: skip  # 4.4.5
# A match of 258 bytes takes two bits at least (RFC 1951, 3.2.5).
_DEFLATE_RATIO = 1032

_FAT = 0
_UNIX_HOSTS = frozenset({3, 19})
# FAT, NTFS by APPNOTE's number and by Info-ZIP's, and VFAT: no file name there holds a backslash.
_DOS_HOSTS = frozenset({_FAT, 10, 11, 14})
# Whatever else Unix knows is content to extract: Info-ZIP marks what it read from a pipe as FIFO.
_UNIX_KINDS = {0o040000: Kind.FOLDER, 0o120000: Kind.SYMLINK,
               0o020000: Kind.CHARACTER_DEVICE, 0o060000: Kind.BLOCK_DEVICE}  # fmt: skip
_DOS_READ_ONLY, _DOS_FOLDER = 0x01, 0x10

_ZIP64, _NTFS, _UNIX_TIMES, _TIMESTAMP, _UNICODE_PATH = 0x0001, 0x000A, 0x5855, 0x5455, 0x7075
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_SECOND = 10**9
# The epoch in NTFS's hundreds of nanoseconds since 1601.
_NTFS_EPOCH = 116_444_736_000_000_000


@dataclass(frozen=True)
class Directory:
    """Where the central directory is.

    Attributes:
        offset: its first byte in the archive.
        size: its bytes.
        count: its entries, never more than `size` has room for.
        prefix: bytes that stand before the archive proper and that its offsets do not count.
    """

    offset: int
    size: int
    count: int
    prefix: int = 0


@dataclass(frozen=True)
class ZipMember:
    """One entry of the central directory.

    Attributes:
        member: the entry; its `position` is the local header's, its `extents` are empty, and the
            `target` of a symbolic link is empty: the target is the entry's content, `size` bytes.
        raw_name: the name's bytes, which the local header has to repeat.
        method: STORED or DEFLATE.
        flags: the general purpose flags (4.4.4).
        crc32: of the content.
        compressed_size: bytes of the data in the archive.
        size: bytes of the content, links included.
        stop: the first byte that belongs to the next member or to the directory; header and data
            lie between `member.position` and here.
        local_time: whether `member.mtime` comes from the DOS fields, which are local time without
            naming a zone (4.4.6): it is the moment at which a clock that shows UTC would show it,
            and whoever knows the zone has to shift it.
    """

    member: Member
    raw_name: bytes
    method: int
    flags: int
    crc32: int
    compressed_size: int
    size: int
    stop: int
    local_time: bool


class _End(NamedTuple):
    """What an end record states (4.3.16), zip64 included; `position` is where the records begin."""

    disk: int
    first_disk: int
    here: int
    entries: int
    size: int
    offset: int
    position: int


class _Entry(NamedTuple):
    """An entry's fixed fields (4.3.12)."""

    magic: bytes
    made: int
    needed: int
    flags: int
    method: int
    time: int
    date: int
    crc32: int
    compressed_size: int
    size: int
    name_length: int
    extra_length: int
    comment_length: int
    disk: int
    internal: int
    external: int
    offset: int


def find_directory(tail: bytes, total: int) -> Directory | Span:
    """Return where the central directory of an archive of `total` bytes is, by its last bytes.

    A span instead says which bytes right before `tail` are needed too. Of several end records that
    fit, which a comment can fake, the last with a directory before it is believed.

    Raises:
        TruncatedArchiveError: no end record.
        ArchiveError: no end record that makes sense; several disks; an encrypted directory.
    """
    base = total - len(tail)
    if base > 0 and len(tail) < END_SEARCH:
        return Span(max(0, total - END_SEARCH), base)
    ends = [at for at in _ends(tail) if at + _END.size + _comment_length(tail, at) == len(tail)]
    if len(ends) > _MOST_ENDS:
        raise ArchiveError(f"its comment holds {len(ends) - 1} more end records")
    failure = None if ends else _no_end(tail, total)
    for at in ends:
        try:
            found = _confirmed(tail, base, at, alone=len(ends) == 1)
        except ArchiveError as error:
            failure = failure or error
        else:
            return found
    assert failure is not None
    raise failure


def read_directory(data: bytes, directory: Directory) -> tuple[ZipMember, ...]:
    """Return the entries of the central directory, whose bytes are `data`, in its order.

    Raises:
        TruncatedArchiveError: less than all of it.
        ArchiveError: bytes that are no directory; entries that overlap; an entry that is encrypted
            or compressed by a method other than deflate.
    """
    if len(data) < directory.size:
        raise TruncatedArchiveError(directory.offset + len(data), "the central directory goes on")
    members = []
    at = 0
    for number in range(1, directory.count + 1):
        if data[at : at + 4] != _ENTRY_MAGIC or at + _ENTRY.size > len(data):
            raise ArchiveError(
                f"entry {number} of {directory.count} of the central directory is no entry"
            )
        entry = _Entry(*_ENTRY.unpack_from(data, at))
        name_stop = at + _ENTRY.size + entry.name_length
        extra_stop = name_stop + entry.extra_length
        raw_name = data[at + _ENTRY.size : name_stop]
        at = extra_stop + entry.comment_length
        if at > len(data):
            raise ArchiveError(f"entry {number} reaches beyond the central directory's end")
        members.append(_zip_member(entry, raw_name, data[name_stop:extra_stop], directory))
    _expect_end(data[at:])
    return tuple(_bounded(members, directory.offset))


def local_data_start(header: bytes, zip_member: ZipMember) -> int | Span:
    """Return where the member's data starts, by the archive's bytes from its local header on.

    A span instead says which bytes right behind `header` are needed too.

    Raises:
        ArchiveError: no local header, or one that contradicts the directory.
    """
    position = zip_member.member.position
    if len(header) < _LOCAL.size:
        return Span(position + len(header), position + _LOCAL.size + len(zip_member.raw_name))
    magic, *fields = _LOCAL.unpack_from(header)
    _, flags, method, _, _, crc32, compressed_size, size, name_length, extra_length = fields
    name_stop: int = _LOCAL.size + name_length
    if magic != _LOCAL_MAGIC:
        raise _disagreement(zip_member, "there is none")
    if method != zip_member.method or flags & _ENCRYPTED:
        raise _disagreement(zip_member, "it states another method or encryption")
    if not flags & _DESCRIPTOR:
        _compare_sums(zip_member, crc32, compressed_size, size)
    if name_length != len(zip_member.raw_name):
        raise _disagreement(zip_member, "it states another name")
    if len(header) < name_stop:
        return Span(position + len(header), position + name_stop)
    if header[_LOCAL.size : name_stop] != zip_member.raw_name:
        raise _disagreement(zip_member, "it states another name")
    start: int = position + name_stop + extra_length
    if start + zip_member.compressed_size > zip_member.stop:
        raise _disagreement(zip_member, "the data would overlap what follows")
    return start


# ---------------------------------------------------------------------------------- the end record


def _ends(tail: bytes) -> Iterator[int]:
    """Yield where in `tail` the magic number of an end record stands, the last first."""
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
    return ArchiveError(f"{surplus} bytes that are no part of it follow its end record")


def _confirmed(tail: bytes, base: int, at: int, *, alone: bool) -> Directory | Span:
    """Return the directory of the end record at `at`, checked if it is in `tail`.

    One of several end records is not believed unseen; the only one may be, for `read_directory`
    will see.
    """
    end = _widened(tail, base, at)
    if isinstance(end, Span):
        return end
    directory = _directory(end)
    start = directory.offset - base
    if start < 0:
        return directory if alone else Span(directory.offset, base)
    if directory.count and tail[start : start + 4] != _ENTRY_MAGIC:
        raise ArchiveError(f"the central directory is not at byte {directory.offset}")
    return directory


def _directory(end: _End) -> Directory:
    if end.disk or end.first_disk or end.here != end.entries:
        raise ArchiveError("it is one part of an archive in several parts")
    offset = end.position - end.size
    if offset < end.offset:
        raise ArchiveError(f"its first {end.offset - offset} bytes are missing")
    if end.entries * _ENTRY.size > end.size:
        raise ArchiveError(
            f"its central directory of {end.size} bytes has no room for {end.entries} entries"
        )
    if end.entries == 0 and end.position > 0:
        # Else an empty end record within a comment would hide what the archive holds.
        raise ArchiveError(f"it names no members although it holds {end.position} bytes")
    return Directory(offset, end.size, end.entries, offset - end.offset)


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
        # 7.3.4: how it is encrypted stands behind the fields that every version has.
        raise ArchiveError("its central directory is encrypted")
    wide = _End._make([*fields, place])
    for full, narrow, number in zip(_END_FULL, end[:6], wide[:6], strict=True):
        if narrow not in (full, number):
            raise ArchiveError("its end record and its zip64 end record disagree")
    return wide


def _expect_end(rest: bytes) -> None:
    """Raise unless nothing follows the last entry but a digital signature (4.3.13)."""
    signed = rest[:4] == _SIGNATURE_MAGIC and len(rest) >= 6
    if rest and not (signed and len(rest) == 6 + int.from_bytes(rest[4:6], "little")):
        raise ArchiveError(f"{len(rest)} bytes of the central directory follow its last entry")


# -------------------------------------------------------------------------------------- an entry


def _zip_member(entry: _Entry, raw_name: bytes, extra: bytes, directory: Directory) -> ZipMember:
    host = entry.made >> 8
    extras = _extras(raw_name, extra)
    name = _name(raw_name, host, entry.flags, extras)
    _refuse_method(entry, name)
    size, compressed_size, offset, disk = _sizes(entry, name, extras.get(_ZIP64, b""))
    if disk:
        raise ArchiveError(f"member {name!r} lies in another part of the archive")
    kind, mode = _kind_and_mode(name, host, entry.external)
    _refuse_sizes(entry.method, name, kind, size, compressed_size)
    mtime, local_time = _mtime(entry, extras)
    member = Member(
        name,
        kind,
        size if kind is Kind.FILE else 0,
        mode,
        mtime,
        position=offset + directory.prefix,
    )
    return ZipMember(
        member,
        raw_name,
        entry.method,
        entry.flags,
        entry.crc32,
        compressed_size,
        size,
        directory.offset,
        local_time,
    )


def _extras(raw_name: bytes, extra: bytes) -> dict[int, bytes]:
    """Return the extra fields by their header ID (4.5.1), the first of each."""
    fields: dict[int, bytes] = {}
    at = 0
    # Up to three bytes of padding at the end are common.
    while at + 4 <= len(extra):
        tag, size = struct.unpack_from("<2H", extra, at)
        stop = at + 4 + size
        if stop > len(extra):
            name = raw_name.decode("utf-8", "surrogateescape")
            raise ArchiveError(f"the extra fields of member {name!r} are cut off")
        fields.setdefault(tag, extra[at + 4 : stop])
        at = stop
    return fields


def _name(raw: bytes, host: int, flags: int, extras: dict[int, bytes]) -> str:
    """Return the name by what says its encoding: bit 11, Unicode Path (4.6.9), else the host.

    Hosts of Unix keep names as bytes, which are UTF-8 nearly always; all others write cp437 (D.1).
    """
    unicode_path = extras.get(_UNICODE_PATH, b"")
    # Version 1, and the CRC of the name it stands for: a tool that renamed the entry left it alone.
    genuine = unicode_path[:5] == struct.pack("<BI", 1, zlib.crc32(raw))
    if flags & _UTF8:
        name = raw.decode("utf-8", "surrogateescape")
    elif genuine and len(unicode_path) > 5:
        name = unicode_path[5:].decode("utf-8", "surrogateescape")
    elif host in _UNIX_HOSTS:
        name = raw.decode("utf-8", "surrogateescape")
    else:
        name = raw.decode("cp437")
    if host in _DOS_HOSTS and "/" not in name:
        # 4.4.17.1 demands slashes; some tools for Windows wrote backslashes all the same.
        name = name.replace("\\", "/")
    return name


def _refuse_method(entry: _Entry, name: str) -> None:
    if entry.flags & _ENCRYPTED:
        raise ArchiveError(f"member {name!r} is encrypted")
    if entry.flags & _PATCH:
        raise ArchiveError(f"member {name!r} is a patch to another file")
    if entry.method not in (STORED, DEFLATE):
        method = _METHODS.get(entry.method, f"method {entry.method}")
        raise ArchiveError(
            f"member {name!r} is compressed by {method}, and zip members are read only"
            " where they are stored or deflated"
        )


def _refuse_sizes(method: int, name: str, kind: Kind, size: int, compressed_size: int) -> None:
    if kind is Kind.FOLDER and size:
        raise ArchiveError(f"folder {name!r} holds {size} bytes as if it were a file")
    if method == STORED and size != compressed_size:
        raise ArchiveError(f"member {name!r} is stored, yet its two sizes differ")
    if method == DEFLATE and size > compressed_size * _DEFLATE_RATIO:
        raise ArchiveError(
            f"member {name!r} cannot be {size} bytes made of {compressed_size} deflated ones"
        )


def _sizes(entry: _Entry, name: str, zip64: bytes) -> tuple[int, int, int, int]:
    """Return size, compressed size, local header's offset and disk, zip64's where it has to be.

    The zip64 extra field holds those numbers alone whose own fields are full, in order (4.5.3).
    """
    if entry.disk != _U16 and _U32 not in (entry.size, entry.compressed_size, entry.offset):
        return entry.size, entry.compressed_size, entry.offset, entry.disk
    numbers = []
    at = 0
    for number, full, width in (
        (entry.size, _U32, 8),
        (entry.compressed_size, _U32, 8),
        (entry.offset, _U32, 8),
        (entry.disk, _U16, 4),
    ):
        if number != full:
            numbers.append(number)
            continue
        if at + width > len(zip64):
            raise ArchiveError(f"the zip64 field of member {name!r} is missing or cut off")
        numbers.append(int.from_bytes(zip64[at : at + width], "little"))
        at += width
    size, compressed_size, offset, disk = numbers
    return size, compressed_size, offset, disk


def _kind_and_mode(name: str, host: int, external: int) -> tuple[Kind, int]:
    """Return what an entry is and its permissions, by the external attributes (4.4.15)."""
    unix = external >> 16
    by_name = Kind.FOLDER if name.endswith("/") else None
    # Some writers claim Unix and state nothing; mode 0 would make files that nobody can read.
    if host in _UNIX_HOSTS and unix:
        return by_name or _UNIX_KINDS.get(unix & 0o170000, Kind.FILE), unix & 0o7777
    is_folder = by_name is not None or bool(external & _DOS_FOLDER)
    writable = 0 if external & _DOS_READ_ONLY else 0o222
    mode = 0o444 | writable | (0o111 if is_folder else 0)
    # PKZIP for Unix and p7zip call their host FAT and state a Unix mode; it is one if it agrees.
    if host == _FAT and unix & 0o700 == mode & 0o700:
        mode = unix & 0o7777
    return Kind.FOLDER if is_folder else Kind.FILE, mode


def _mtime(entry: _Entry, extras: dict[int, bytes]) -> tuple[int, bool]:
    """Return the time of the last change in nanoseconds, and whether it is local time.

    The exact ones first: extended timestamp, Info-ZIP's older Unix field, NTFS (4.5.5; unzip does
    not know it), and the DOS fields at last.
    """
    timestamp = extras.get(_TIMESTAMP, b"")
    if len(timestamp) >= 5 and timestamp[0] & 1:
        seconds = int.from_bytes(timestamp[1:5], "little")
        # Without a sign it reaches 2106. Where the DOS year does not say that this is meant, the
        # number is before 1970 or wrong, and unzip does not use it.
        if seconds < 1 << 31 or 1980 + (entry.date >> 9) >= 2038:
            return seconds * _SECOND, False
    times = extras.get(_UNIX_TIMES, b"")
    if len(times) >= 8:
        return int.from_bytes(times[4:8], "little", signed=True) * _SECOND, False
    ntfs = extras.get(_NTFS, b"")
    # Four reserved bytes, then attribute 1 with 24 bytes: change, access, creation.
    if len(ntfs) >= 16 and ntfs[4:8] == b"\x01\x00\x18\x00":
        return (int.from_bytes(ntfs[8:16], "little") - _NTFS_EPOCH) * 100, False
    return _dos_time(entry.date, entry.time), True


def _dos_time(date: int, time: int) -> int:
    """Return the nanoseconds of the DOS fields (4.4.6) as though they were UTC.

    Fields out of range carry over as in mktime: date 0, which means none, is the last of 1979.
    """
    month = date >> 5 & 0xF
    first = datetime(1980 + (date >> 9), month if 1 <= month <= 12 else 1, 1, tzinfo=timezone.utc)
    moment = first + timedelta(
        days=(date & 0x1F) - 1,
        hours=time >> 11,
        minutes=time >> 5 & 0x3F,
        seconds=(time & 0x1F) * 2,
    )
    return int((moment - _EPOCH).total_seconds()) * _SECOND


# ------------------------------------------------------------------------ headers and what overlaps


def _bounded(members: list[ZipMember], directory_offset: int) -> Iterator[ZipMember]:
    """Yield the members in their order, each with the `stop` that the next one's header sets.

    Members that share bytes are refused: a few megabytes could hold petabytes that way (Fifield,
    "A better zip bomb", 2019).
    """
    stops = [directory_offset] * len(members)
    upwards = sorted(range(len(members)), key=lambda index: members[index].member.position)
    for index, following in pairwise(upwards):
        stops[index] = members[following].member.position
    for zip_member, stop in zip(members, stops, strict=True):
        least = _LOCAL.size + len(zip_member.raw_name) + zip_member.compressed_size
        if zip_member.member.position + least > stop:
            raise ArchiveError(f"member {zip_member.member.name!r} overlaps what follows it")
        yield replace(zip_member, stop=stop)


def _compare_sums(zip_member: ZipMember, crc32: int, compressed_size: int, size: int) -> None:
    """Raise where CRC and sizes in a local header are others than the directory's.

    Not to be called where they stand in a data descriptor instead (4.3.9).
    """
    agree = (
        crc32 == zip_member.crc32
        and compressed_size in (zip_member.compressed_size, _U32)
        and size in (zip_member.size, _U32)
    )
    if not agree:
        raise _disagreement(zip_member, "it states another size or CRC")


def _disagreement(zip_member: ZipMember, how: str) -> ArchiveError:
    name, position = zip_member.member.name, zip_member.member.position
    return ArchiveError(
        f"the local header of member {name!r} at byte {position} disagrees with the directory:"
        f" {how}"
    )
