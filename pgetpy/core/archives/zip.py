"""Reads a zip's structure: what it holds, and where in the archive each member's data is.

A zip says everything twice, and is read from its end:

    | local header | data | local header | data | ... | central directory | end record |
      ^                     ^                            | |                   |
      |                     '----------------------------' |   ^---------------'
      '----------------------------------------------------'

The central directory says what the archive holds. Where the data begins, only the local header
tells: its extra field may have another length than the directory's. Readers that stream believe
the local headers, others the directory; an archive in which the two differ is two archives. So the
local headers have to agree with the directory.

It is done in two steps:

1. `survey` reads the end, the directory, and the targets of symbolic links, which are the content
   of their members. It is a generator: it yields the spans that it needs and is sent their bytes,
   so that the caller decides how they come. Afterwards all members are known, and everything can
   be refused before anything is written.
2. A `ZipReader` reads the local headers in the order of their positions, as the rest arrives.

Sections named are those of APPNOTE.TXT (PKWARE's .ZIP File Format Specification, 6.3).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from pgetpy.core.archives.formats import Format
from pgetpy.core.archives.limits import Limits
from pgetpy.core.archives.members import Extent, Kind, Member
from pgetpy.core.archives.remarks import Remarks
from pgetpy.core.archives.zip_directory import COUNTED, Directory, find_directory, first_look
from pgetpy.core.archives.zip_entries import (
    DESCRIPTOR,
    ENCRYPTED,
    ENTRY,
    ENTRY_MAGIC,
    U32,
    ZipEntry,
    ZipMember,
    read_entry,
)
from pgetpy.core.archives.zip_lzma import ZipLzmaStream
from pgetpy.core.http.ranges import Span
from pgetpy.errors import ArchiveError, LimitExceededError, TruncatedArchiveError

_LOCAL = struct.Struct("<4s5H3I2H")
_LOCAL_MAGIC, _SIGNATURE_MAGIC = b"PK\x03\x04", b"PK\x05\x05"
# Local headers mostly have extra fields of less than this.
_EXTRA = 64

# A million members with names of a hundred bytes.
_MOST_DIRECTORY = 128 << 20

# Asks for spans of the archive, and is sent their bytes.
Survey = Generator[Sequence[Span], Sequence[bytes], tuple[ZipMember, ...]]


def survey(total: int, limits: Limits, remarks: Remarks | None = None) -> Survey:
    """Find out what an archive of `total` bytes holds; return its members, targets of links known.

    Args:
        total: bytes of the archive.
        limits: what may come out; the directory itself is held in memory and so limited as well.
        remarks: takes what is odd.

    Raises:
        TruncatedArchiveError: its end is missing.
        LimitExceededError: it holds more than `limits` allow.
        ArchiveError: see `find_directory`, `read_directory`; a link that cannot be read.
    """
    found: Directory | Span = first_look(total)
    tail = b""
    while isinstance(found, Span):
        _keep_small(found.size)
        (more,) = yield (found,)
        tail = more + tail
        found = find_directory(tail, total)
    _keep_within(limits, found)
    if found.surplus and remarks is not None:
        remarks.add(f"{found.surplus} bytes that do not belong to the zip follow its end")
    start = found.offset + len(tail) - total
    if start >= 0:
        data = tail[start : start + found.size]
    else:
        (data,) = yield (Span(found.offset, found.offset + found.size),)
    members = read_directory(data, found)
    if len(members) > limits.members:
        raise LimitExceededError("members", limits.members, len(members))
    _expect_ratio(limits, members, total)
    return (yield from _with_targets(members, limits))


class ZipReader:
    """Reads the local headers of `members`, in the order of their positions.

    Attributes:
        wanted: the bytes of the archive that `feed` takes next; empty once `ended`.
        ended: whether all have been read.
        remarks: what is odd about the archive.
    """

    def __init__(self, members: Sequence[ZipMember], remarks: Remarks | None = None) -> None:
        self.remarks = remarks if remarks is not None else Remarks()
        self._members = iter(sorted(members, key=lambda zip_member: zip_member.member.position))
        self._header = b""
        self._next()

    def feed_file(self, data: memoryview, most: int) -> Member | None:
        """Take nothing: what the directory says of a member is compared with its header."""
        del data, most
        return None

    def feed(self, data: bytes) -> Member | None:
        """Take exactly the bytes of `wanted`; return the member whose data follows, once known.

        Raises:
            ArchiveError: no local header, or one that contradicts the directory.
        """
        current = self._current
        assert current is not None
        self._header += data
        start = local_data_start(self._header, current)
        if isinstance(start, Span):
            self.wanted = start
            return None
        self._next()
        member = current.member
        if member.kind is not Kind.FILE:
            return member
        stop = start + current.compressed_size
        extents = (Extent(start, stop, 0),) if current.compressed_size else ()
        compression = current.compression
        return member._replace(extents=extents, crc32=current.crc32, compression=compression)

    def finish(self, total: int, rest: bytes = b"") -> None:
        """Check nothing: `survey` has compared the end of the archive with `total` already."""
        assert self.ended

    def _next(self) -> None:
        self._current = next(self._members, None)
        self._header = b""
        self.ended = self._current is None
        if self._current is None:
            self.wanted = Span(0, 0)
        else:
            position = self._current.member.position
            self.wanted = Span(position, position + _LOCAL.size + len(self._current.raw_name))


def read_directory(data: bytes, directory: Directory) -> tuple[ZipMember, ...]:
    """Return the entries of the central directory, whose bytes are `data`, in its order.

    Raises:
        TruncatedArchiveError: less than all of it.
        ArchiveError: it is not a directory; entries overlap; an entry is encrypted, or compressed
            by a method that is not supported.
    """
    if len(data) < directory.size:
        raise TruncatedArchiveError(directory.offset + len(data), "the central directory continues")
    members: list[ZipMember] = []
    at, count = 0, directory.count
    while len(members) < count or _goes_on(data, at, directory):
        count += 0 if len(members) < count else COUNTED
        number = len(members) + 1
        if data[at : at + 4] != ENTRY_MAGIC or at + ENTRY.size > len(data):
            raise ArchiveError(f"entry {number} of {count} of the central directory is not valid")
        entry = ZipEntry(*ENTRY.unpack_from(data, at))
        name_stop = at + ENTRY.size + entry.name_length
        extra_stop = name_stop + entry.extra_length
        raw_name = data[at + ENTRY.size : name_stop]
        at = extra_stop + entry.comment_length
        if at > len(data):
            raise ArchiveError(f"entry {number} reaches beyond the central directory's end")
        members.append(read_entry(entry, raw_name, data[name_stop:extra_stop], directory.prefix))
    _expect_end(data[at:])
    return tuple(_bounded(members, directory.offset))


def local_data_start(header: bytes, zip_member: ZipMember) -> int | Span:
    """Return where the member's data starts, or the span that has to be appended to `header` first.

    Args:
        header: the archive's bytes from the member's local header on, as many as have come.
        zip_member: what the directory says of it.

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
    if method != zip_member.method or flags & ENCRYPTED:
        raise _disagreement(zip_member, "it states another method or encryption")
    if not flags & DESCRIPTOR:
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


# ------------------------------------------------------------------------ headers and what overlaps


def _goes_on(data: bytes, at: int, directory: Directory) -> bool:
    """Whether further entries follow, 65,536 at least.

    The end record has 16 bits for their number. Some writers without zip64 let it start over.
    """
    room = len(data) - at >= COUNTED * ENTRY.size
    return room and not directory.exact and data[at : at + 4] == ENTRY_MAGIC


def _expect_end(rest: bytes) -> None:
    """Raise unless nothing follows the last entry but a digital signature (4.3.13)."""
    signed = rest[:4] == _SIGNATURE_MAGIC and len(rest) >= 6
    if rest and not (signed and len(rest) == 6 + int.from_bytes(rest[4:6], "little")):
        raise ArchiveError(f"{len(rest)} bytes of the central directory follow its last entry")


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
    """Raise if CRC and sizes in a local header differ from the directory's.

    Not for members with a data descriptor (4.3.9): those have them behind their data, and zeros or
    anything else in the header.
    """
    agree = (
        crc32 == zip_member.crc32
        and compressed_size in (zip_member.compressed_size, U32)
        and size in (zip_member.size, U32)
    )
    if not agree:
        raise _disagreement(zip_member, "it states another size or CRC")


def _disagreement(zip_member: ZipMember, how: str) -> ArchiveError:
    name, position = zip_member.member.name, zip_member.member.position
    return ArchiveError(
        f"the local header of member {name!r} at byte {position} disagrees with the directory:"
        f" {how}"
    )


# ------------------------------------------------------------------------- limits and links


def _keep_within(limits: Limits, directory: Directory) -> None:
    """Raise unless the directory is small enough to be fetched and held in memory."""
    if directory.count > limits.members:
        raise LimitExceededError("members", limits.members, directory.count)
    if directory.size > limits.header_bytes * max(1, directory.count):
        average = directory.size // max(1, directory.count)
        raise LimitExceededError("header_bytes", limits.header_bytes, average)
    _keep_small(directory.size)


def _keep_small(size: int) -> None:
    """Raise if `size` bytes, to be held in memory, are more than any plausible directory."""
    if size > _MOST_DIRECTORY:
        raise ArchiveError(
            f"its central directory of {size} bytes is larger than {_MOST_DIRECTORY >> 20} MiB"
        )


def _expect_ratio(limits: Limits, members: Sequence[ZipMember], total: int) -> None:
    out = sum(zip_member.size for zip_member in members)
    if limits.exceeds_ratio(out, total):
        raise LimitExceededError("ratio", limits.ratio, out / total)


def _with_targets(members: tuple[ZipMember, ...], limits: Limits) -> Survey:
    """Read the content of all symbolic links, which is their target.

    All are asked for at once, each with a guess at the length of its extra field. Those that were
    guessed too short are asked for again.
    """
    links = {at: found for at, found in enumerate(members) if found.member.kind is Kind.SYMLINK}
    for link in links.values():
        _limit_target(link, limits)
    headers = dict.fromkeys(links, b"")
    spans = {at: _link_span(link) for at, link in links.items()}
    complete = list(members)
    while spans:
        for at, data in zip(list(spans), (yield tuple(spans.values())), strict=True):
            headers[at] += data
            target = _target(headers[at], links[at])
            if isinstance(target, Span):
                spans[at] = target
            else:
                member = links[at].member._replace(target=target)
                complete[at] = replace(links[at], member=member)
                del spans[at]
    return tuple(complete)


def _limit_target(link: ZipMember, limits: Limits) -> None:
    if link.size > limits.name_bytes:
        raise LimitExceededError("name_bytes", limits.name_bytes, link.size, link.member.name)
    # What cannot be made smaller is stored in blocks with five bytes each (RFC 1951, 3.2.4).
    if link.compressed_size > 2 * limits.name_bytes:
        raise LimitExceededError(
            "name_bytes", limits.name_bytes, link.compressed_size, link.member.name
        )


def _link_span(link: ZipMember) -> Span:
    start = link.member.position
    likely = _LOCAL.size + len(link.raw_name) + _EXTRA + link.compressed_size
    return Span(start, min(link.stop, start + likely))


def _target(data: bytes, link: ZipMember) -> str | Span:
    """Return the target of `link`, by the bytes from its local header on, or what is missing."""
    start = local_data_start(data, link)
    if isinstance(start, Span):
        return start
    position = link.member.position
    stop = start + link.compressed_size
    if position + len(data) < stop:
        return Span(position + len(data), stop)
    content = data[start - position : stop - position]
    if link.compression is not None:
        content = _decoded(content, link, link.compression)
    if zlib.crc32(content) != link.crc32:
        raise ArchiveError(f"the target of the link {link.member.name!r} does not match its CRC")
    return content.decode("utf-8", "surrogateescape")


def _decoded(content: bytes, link: ZipMember, compression: Format) -> bytes:
    """Return what `content` holds compressed: the target of `link`, `link.size` bytes."""
    try:
        stream = _decompressor(compression, link.size)
        decoded: bytes = stream.decompress(content, link.size + 1)
    except Exception as error:  # only the library runs here, and each has its own classes
        what = f"the target of the link {link.member.name!r} cannot be decompressed"
        raise ArchiveError(f"{what}: {error}") from error
    if len(decoded) != link.size or not stream.eof:
        raise ArchiveError(f"the target of the link {link.member.name!r} has the wrong size")
    return decoded


def _decompressor(compression: Format, size: int) -> Any:
    if compression is Format.DEFLATE:
        return zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    if compression is Format.BZIP2:
        import bz2

        return bz2.BZ2Decompressor()
    return ZipLzmaStream(size, marked=compression is Format.ZIP_LZMA)
