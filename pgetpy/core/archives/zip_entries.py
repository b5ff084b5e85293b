"""An entry of a zip's central directory: its fields, and what they say of a member.

Sections named are those of APPNOTE.TXT (PKWARE's .ZIP File Format Specification, 6.3). What it
leaves open is decided as Info-ZIP's unzip 6.0 decides it.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

from pgetpy.core.archives.formats import Format
from pgetpy.core.archives.members import Kind, Member
from pgetpy.errors import ArchiveError

STORED = 0
DEFLATE = 8
BZIP2 = 12
LZMA = 14
# 4.4.4, bit 1: an LZMA stream ends with a marker. Without it only the size says where.
MARKED = 0x0002
ENCRYPTED = 0x0001 | 0x0040 | 0x2000  # 4.4.4: bits 0, 6 and 13
DESCRIPTOR = 0x0008
_PATCH, _UTF8 = 0x0020, 0x0800
U16, U32 = 0xFFFF, 0xFFFFFFFF

ENTRY = struct.Struct("<4s6H3I5H2I")
ENTRY_MAGIC = b"PK\x01\x02"

_METHODS = {1: "Shrink", 2: "Reduce", 3: "Reduce", 4: "Reduce", 5: "Reduce", 6: "Implode",
            9: "Deflate64", 10: "PKWARE DCL Implode", 16: "CMPSC", 18: "TERSE", 19: "LZ77",
            20: "zstd", 93: "zstd", 94: "MP3", 95: "xz", 96: "JPEG", 97: "WavPack", 98: "PPMd",
            99: "AES encryption"}  # fmt: skip  # 4.4.5
# A match of 258 bytes takes two bits at least (RFC 1951, 3.2.5).
_DEFLATE_RATIO = 1032

_FAT = 0
_UNIX_HOSTS = frozenset({3, 19})
# FAT, NTFS by APPNOTE's number and by Info-ZIP's, and VFAT: no file name there holds a backslash.
_DOS_HOSTS = frozenset({_FAT, 10, 11, 14})
# Any other kind is a file: Info-ZIP marks content that it read from a pipe as FIFO.
_UNIX_KINDS = {0o040000: Kind.FOLDER, 0o120000: Kind.SYMLINK,
               0o020000: Kind.CHARACTER_DEVICE, 0o060000: Kind.BLOCK_DEVICE}  # fmt: skip
_DOS_READ_ONLY, _DOS_FOLDER = 0x01, 0x10

_ZIP64, _NTFS, _UNIX_TIMES, _TIMESTAMP, _UNICODE_PATH = 0x0001, 0x000A, 0x5855, 0x5455, 0x7075
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_SECOND = 10**9
# The epoch in NTFS's hundreds of nanoseconds since 1601.
_NTFS_EPOCH = 116_444_736_000_000_000


@dataclass(frozen=True)
class ZipMember:
    """One entry of the central directory.

    Attributes:
        member: the entry; its `position` is the local header's, its `extents` are empty, and the
            `target` of a symbolic link is empty: the target is the entry's content, `size` bytes.
        raw_name: the name's bytes, which the local header has to repeat.
        method: STORED, DEFLATE, BZIP2 or LZMA.
        compression: what undoes the method; None for STORED.
        crc32: of the content.
        compressed_size: bytes of the data in the archive.
        size: bytes of the content, links included.
        local_time: whether `member.mtime` comes from the DOS fields, which are local time without
            a zone (4.4.6). It is then read as UTC, and the caller has to shift it to a zone.
        stop: the first byte that belongs to the next member or to the directory; header and data
            lie between `member.position` and here.
    """

    member: Member
    raw_name: bytes
    method: int
    crc32: int
    compressed_size: int
    size: int
    local_time: bool
    stop: int = 0
    compression: Format | None = None


class ZipEntry(NamedTuple):
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


def read_entry(entry: ZipEntry, raw_name: bytes, extra: bytes, prefix: int) -> ZipMember:
    """Return what an entry says of its member.

    Args:
        entry: its fixed fields.
        raw_name: the bytes of its name.
        extra: its extra field.
        prefix: the `Directory`'s, added to the offset of the local header.

    Raises:
        ArchiveError: it cannot be read, or makes no sense.
    """
    host = entry.made >> 8
    extras = _extras(extra)
    name = _name(raw_name, host, entry.flags, extras)
    _refuse_method(entry, name)
    size, compressed_size, offset, disk = _sizes(entry, name, extras.get(_ZIP64, b""))
    if disk:
        raise ArchiveError(f"member {name!r} lies in another part of the archive")
    kind, mode = _kind_and_mode(name, host, entry.external)
    _refuse_sizes(entry.method, name, kind, size, compressed_size)
    mtime, local_time = _mtime(entry, extras)
    file_size = size if kind is Kind.FILE else 0
    member = Member(name, kind, file_size, mode, mtime, position=offset + prefix)
    method, crc32 = entry.method, entry.crc32
    return ZipMember(
        member,
        raw_name,
        method,
        crc32,
        compressed_size,
        size,
        local_time,
        compression=_compression(method, entry.flags),
    )


def _compression(method: int, flags: int) -> Format | None:
    if method == LZMA:
        return Format.ZIP_LZMA if flags & MARKED else Format.ZIP_LZMA_UNMARKED
    return {DEFLATE: Format.DEFLATE, BZIP2: Format.BZIP2}.get(method)


def _extras(extra: bytes) -> dict[int, bytes]:
    """Return the extra fields by their header ID (4.5.1), the first of each."""
    fields: dict[int, bytes] = {}
    at = 0
    # Up to three bytes of padding at the end are common.
    while at + 4 <= len(extra):
        tag, size = struct.unpack_from("<2H", extra, at)
        stop = at + 4 + size
        if stop > len(extra):
            # Ignored, as in unzip. If a number was in it, its absence will be an error.
            break
        fields.setdefault(tag, extra[at + 4 : stop])
        at = stop
    return fields


def _name(raw: bytes, host: int, flags: int, extras: dict[int, bytes]) -> str:
    """Return the name, in the encoding given by flag bit 11, Unicode Path (4.6.9), or the host.

    Unix hosts store the bytes of the file name, nearly always UTF-8. All others write cp437 (D.1).
    """
    unicode_path = extras.get(_UNICODE_PATH, b"")
    # Version 1, then the CRC of the plain name. It differs where a tool has renamed the entry and
    # left this field as it was.
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


def _refuse_method(entry: ZipEntry, name: str) -> None:
    if entry.flags & ENCRYPTED:
        raise ArchiveError(f"member {name!r} is encrypted")
    if entry.flags & _PATCH:
        raise ArchiveError(f"member {name!r} is a patch to another file")
    if entry.method not in (STORED, DEFLATE, BZIP2, LZMA):
        method = _METHODS.get(entry.method, f"method {entry.method}")
        raise ArchiveError(
            f"member {name!r} is compressed by {method}, which is not supported",
            hint="pack it again with deflate (zip, 7z -mm=Deflate), bzip2 or LZMA",
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


def _sizes(entry: ZipEntry, name: str, zip64: bytes) -> tuple[int, int, int, int]:
    """Return size, compressed size, offset of the local header, and disk.

    The zip64 extra field holds only the numbers whose own fields are full (all bits set), in this
    order (4.5.3).
    """
    if entry.disk != U16 and U32 not in (entry.size, entry.compressed_size, entry.offset):
        return entry.size, entry.compressed_size, entry.offset, entry.disk
    numbers = []
    at = 0
    for number, full, width in (
        (entry.size, U32, 8),
        (entry.compressed_size, U32, 8),
        (entry.offset, U32, 8),
        (entry.disk, U16, 4),
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
    # Some writers claim Unix and state no mode. Mode 0 would be a file its owner cannot read.
    if host in _UNIX_HOSTS and unix:
        return by_name or _UNIX_KINDS.get(unix & 0o170000, Kind.FILE), unix & 0o7777
    is_folder = by_name is not None or bool(external & _DOS_FOLDER)
    writable = 0 if external & _DOS_READ_ONLY else 0o222
    mode = 0o444 | writable | (0o111 if is_folder else 0)
    # PKZIP for Unix and p7zip call their host FAT and still store a Unix mode. It is believed if
    # its bits for the owner agree with the DOS attributes.
    if host == _FAT and unix & 0o700 == mode & 0o700:
        mode = unix & 0o7777
    return Kind.FOLDER if is_folder else Kind.FILE, mode


def _mtime(entry: ZipEntry, extras: dict[int, bytes]) -> tuple[int, bool]:
    """Return the time of the last change in nanoseconds, and whether it is local time.

    In this order: extended timestamp, Info-ZIP's older Unix field, NTFS (4.5.5; unzip does not
    read it), and last the DOS fields, which count in steps of two seconds and name no zone.
    """
    timestamp = extras.get(_TIMESTAMP, b"")
    if len(timestamp) >= 5 and timestamp[0] & 1:
        seconds = int.from_bytes(timestamp[1:5], "little")
        # Read as unsigned it reaches 2106. If the DOS year contradicts that, the number is negative
        # (before 1970) or wrong, and is not used, as in unzip.
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
    """Return the nanoseconds of the DOS fields (4.4.6), read as UTC.

    Fields out of range carry over as in mktime. Date 0, which means none, becomes 1979-12-31.
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
