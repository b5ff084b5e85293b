"""The fields of one tar header block, and the records of a pax extended header.

A block is 512 bytes: the v7 fields, behind them those of ustar (POSIX.1-1988), of star, or of GNU
tar ("Basic Tar Format" and "GNU Extensions to the Archive Format" in its manual):

    byte  0     100   108  116  124   136    148       156   157     257    265   345     500
          name  mode  uid  gid  size  mtime  checksum  type  target  magic  ...   prefix

An extended header is a row of records (POSIX.1-2001, "pax Header Block"), each with its own length
in front: `30 mtime=1350244992.023960108` and a newline.

What cannot be read raises `MalformedError`, whose clause tells no place: only
`pgetpy.core.archives.tar` knows it. Owners, devices and times other than the last change are not
read at all: files belong to the user who extracts them.
"""

from __future__ import annotations

import re
import zlib
from functools import lru_cache
from struct import Struct
from typing import NamedTuple

BLOCK = 512
ZERO_BLOCK = bytes(BLOCK)
# What `off_t` and `time_t` hold; no tool can write a larger size or an earlier time.
LARGEST = 2**63 - 1
SECOND = 10**9

_CHECKSUM = slice(148, 156)
_USTAR_MAGIC = b"ustar\0"
_GNU_MAGIC = b"ustar  \0"
# Old writers put a NUL or blanks before the digits. Anything behind a number's end is ignored.
_OCTAL = re.compile(rb"\0?[ \t\n\v\f\r]*([0-7]*)(?:[\0 \t\n\v\f\r].*)?", re.DOTALL)
_PLAIN_NUMBER = re.compile(rb"[0-7]{7}(?:[0-7]{4})?[\0 ]")
_DECIMAL = re.compile(rb"0*([0-9]{1,19})|-0+")
_SECONDS = re.compile(rb"(-?)0*([0-9]{1,19})(?![0-9])(?:\.([0-9]*))?")
# GNU tar accepts blanks around a record's length, and an empty keyword.
_RECORD = re.compile(rb"[ \t]*0*([0-9]{1,19})[ \t]+([^=]*)=")
# name, mode, size, mtime, checksum, type, magic with version, first byte of the prefix.
_FIELDS = Struct("100s8s16x12s12s8sc100x8s80xc166x")
_PLAIN_TYPES = (b"0", b"\0")
_PLAIN_MAGICS = (b"ustar\x0000", b"ustar  \0")
# For headers whose mode cannot be read.
_USUAL_MODE = 0o644


class MalformedError(Exception):
    """A field that cannot be what it should be; the argument is a clause saying so."""


class Header(NamedTuple):
    """What a header block states, names as bytes. A tuple: an archive can have a million.

    Attributes:
        type: the type flag, one byte.
        mtime: nanoseconds since the epoch.
        posix: whether the block is in the form of POSIX (ustar, pax, star).
        gnu: whether it is in GNU tar's own form.
        oddities: clauses about fields that cannot be read and for which a usual value is taken.
    """

    name: bytes
    type: bytes
    size: int
    mode: int
    mtime: int
    target: bytes
    posix: bool
    gnu: bool
    oddities: tuple[str, ...] = ()


def is_header(block: bytes) -> bool:
    """Whether the checksum of a block is right.

    It is the sum of the block's bytes. Writers in C summed `char`, which is signed on some
    machines, so both sums are accepted, as GNU tar does.
    """
    if len(block) != BLOCK:
        return False
    field = block[_CHECKSUM]
    match = _OCTAL.fullmatch(field)
    if match is None or not match[1]:
        return False
    stated = int(match[1], 8)
    # The checksum counts itself as eight blanks.
    unsigned = _byte_sum(block) - sum(field) + 8 * 0x20
    if stated == unsigned:
        return True
    signed = unsigned - 256 * (_high_bytes(block) - _high_bytes(field))
    return stated == signed


def parse_header(block: bytes) -> Header:
    """Return the fields of a block whose checksum is right."""
    posix = block[257:263] == _USTAR_MAGIC
    name = text_field(block[:100])
    prefix = _prefix(block) if posix else b""
    mode, mtime, oddities = _USUAL_MODE, 0, []
    try:
        mtime = _parse_mtime(block[136:148])
    except MalformedError:
        oddities.append("its modification time cannot be read; 1970-01-01 was used")
    try:
        # Blanks would mean mode 0: a file that its owner cannot read.
        mode = parse_number(block[100:108].strip(b" ") or b"-", "mode")
    except MalformedError:
        oddities.append("its mode cannot be read; 0644 was used")
    return Header(
        name=prefix + b"/" + name if prefix else name,
        type=block[156:157],
        size=parse_size(block[124:136], "size"),
        # Some writers store the whole st_mode, with the kind of file in its upper bits.
        mode=mode & 0o7777,
        mtime=mtime * SECOND,
        target=text_field(block[157:257]),
        posix=posix,
        gnu=block[257:265] == _GNU_MAGIC,
        oddities=tuple(oddities),
    )


def parse_plain_file(data: memoryview) -> tuple[str, int, int, int] | None:
    """Return name, size, mode and mtime of a file whose header block is at the start of `data`.

    None where the block is anything but the usual header of a regular file with a short ASCII name:
    `parse_header` is for all of them, and gives the same for these. Most members of an archive with
    many are such files.
    """
    name, mode, size, mtime, checksum, flag, magic, prefix = _FIELDS.unpack_from(data)
    if flag not in _PLAIN_TYPES or magic not in _PLAIN_MAGICS:
        return None
    if prefix != b"\0" and magic == _PLAIN_MAGICS[0]:
        return None
    stated, blanks = _parse_checksum(checksum)
    if _byte_sum(data) + blanks != stated:
        return None
    text = text_field(name)
    if not text.isascii() or text.endswith(b"/"):
        return None
    sizes, modes, times = _parse_plain(size), _parse_plain(mode), _parse_plain(mtime)
    if sizes < 0 or modes < 0 or times < 0:
        return None
    return text.decode("ascii"), sizes, modes & 0o7777, times * SECOND


def text_field(field: bytes) -> bytes:
    """Return the bytes up to the first NUL, or all of them."""
    return field.partition(b"\0")[0]


def as_text(name: bytes) -> str:
    """Return a name as UTF-8, other bytes as surrogate escapes.

    The record `hdrcharset` is ignored: GNU tar and Python's tarfile keep the bytes, too.
    """
    return name.decode("utf-8", "surrogateescape")


def parse_number(field: bytes, what: str) -> int:
    """Return the number in a field, `what` naming it in errors.

    It is octal, or, if it needs more digits than fit, GNU tar's base-256 form: big-endian, with
    0x80 (positive) or 0xFF (negative) as the first byte.
    """
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    if field[0] == 0xFF:
        return int.from_bytes(field, "big", signed=True)
    match = _OCTAL.fullmatch(field)
    if match is None:
        raise MalformedError(f"its {what} is not a number: {field!r}")
    return int(match[1] or b"0", 8)


def parse_size(field: bytes, what: str) -> int:
    """Return a number that counts bytes."""
    value = parse_number(field, what)
    if not 0 <= value <= LARGEST:
        raise MalformedError(f"its {what} is impossible: {value}")
    return value


def parse_records(body: bytes) -> list[tuple[bytes, bytes]]:
    """Return the keywords and values of an extended header, in its order."""
    records = []
    position = 0
    stop = len(body.rstrip(b"\0"))
    while position < stop:
        match = _RECORD.match(body, position, stop)
        end = position + int(match[1]) if match is not None else 0
        if match is None or not match.end() < end <= stop or body[end - 1] != 0x0A:
            raise MalformedError(f"its extended header is broken at byte {position} of {stop}")
        records.append((match[2], body[match.end() : end - 1]))
        position = end
    return records


def parse_decimal(value: bytes, what: str) -> int:
    """Return a decimal number that counts bytes, or entries."""
    match = _DECIMAL.fullmatch(value)
    if match is None or int(match[1] or 0) > LARGEST:
        raise MalformedError(f"its {what} is not a number: {value[:40]!r}")
    return int(match[1] or 0)


def parse_seconds(value: bytes) -> int | None:
    """Return a decimal time in nanoseconds, or None if it is not a number.

    Digits finer than that are rounded down, as the kernel does. Text behind the number is ignored,
    as GNU tar does.
    """
    match = _SECONDS.match(value)
    if match is None or int(match[2]) > LARGEST:
        return None
    fraction = match[3] or b""
    nanoseconds = int(match[2]) * SECOND + int(fraction[:9].ljust(9, b"0"))
    if not match[1]:
        return nanoseconds
    return -nanoseconds - (1 if fraction[9:].strip(b"0") else 0)


def round_up(size: int) -> int:
    """Return `size` in whole blocks."""
    return -(-size // BLOCK) * BLOCK


# Archives repeat modes, times and sizes.
@lru_cache(maxsize=256)
def _parse_plain(field: bytes) -> int:
    """Return the number of a field in the usual form, -1 where it has another."""
    return int(field[:-1], 8) if _PLAIN_NUMBER.fullmatch(field) else -1


@lru_cache(maxsize=4096)
def _parse_checksum(field: bytes) -> tuple[int, int]:
    """Return the stated checksum, and what to add to the sum of a block to compare with it."""
    match = _OCTAL.fullmatch(field)
    if match is None or not match[1]:
        return -1, 0
    return int(match[1], 8), 8 * 0x20 - sum(field)


def _parse_mtime(field: bytes) -> int:
    mtime = parse_number(field, "modification time")
    if not -LARGEST <= mtime <= LARGEST:
        raise MalformedError("its modification time is impossible")
    return mtime


def _prefix(block: bytes) -> bytes:
    # star keeps the last 24 bytes for times of its own and says so at the block's end.
    return text_field(block[345:476] if block[508:512] == b"tar\0" else block[345:500])


def _byte_sum(block: bytes | memoryview) -> int:
    """Return the sum of a block's bytes, by Adler-32 (RFC 1950) for speed.

    Its lower half is the sum modulo 65521, which 256 bytes cannot reach.
    """
    return (zlib.adler32(block[:256], 0) & 0xFFFF) + (zlib.adler32(block[256:BLOCK], 0) & 0xFFFF)


def _high_bytes(data: bytes) -> int:
    return sum(byte >> 7 for byte in data)
