"""Zips that are odd and yet clear, by what is odd about them, for unzip and zipfile to judge."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from dataclasses import replace

from tests.support.zips import (
    UNIX,
    Entry,
    by_zipfile,
    deflated,
    deflated_entry,
    end,
    end64,
    field,
    made,
    parts,
)

FILE, FOLDER = (stat.S_IFREG | 0o644) << 16, (stat.S_IFDIR | 0o755) << 16
A = Entry(b"a", b"aaa", UNIX, FILE)
B = Entry(b"d/b", b"bbbb", UNIX, FILE)
BODY, DIRECTORY = parts(A, B)
FULL = end(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)


def one(name: bytes = b"a", data: bytes = b"1", external: int = FILE, **fields: object) -> bytes:
    return made(Entry(name, data, UNIX, external, **fields))  # type: ignore[arg-type]


def moved(by: int) -> bytes:
    """The directory of A and B where both stand `by` bytes later."""
    return parts(replace(A, position=by), replace(B, position=by + len(parts(A)[0])))[1]


def wide(**other: int) -> bytes:
    return end64(len(BODY) + len(DIRECTORY), 2, len(DIRECTORY), len(BODY), **other)


def streamed(*members: tuple[bytes, bytes, int], signature: bytes = b"PK\7\x08") -> bytes:
    """An archive whose members' sizes stand behind them, in 32 bits or in 64."""
    body = directory = b""
    for name, content, method in members:
        data = deflated(content) if method else content
        numbers = (zlib.crc32(content), len(data), len(content))
        local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 8, method, 0, 0x50A6, 0, 0, 0, len(name), 0)
        fields = (UNIX, 20, 8, method, 0, 0x50A6, *numbers, len(name), 0, 0, 0, 0, FILE, len(body))
        directory += struct.pack("<4s6H3I5H2I", b"PK\1\2", *fields) + name
        body += local + name + data + signature + struct.pack("<III", *numbers)
    return body + directory + end(len(members), len(directory), len(body))


def reversed_members() -> bytes:
    """The directory names first what stands last."""
    first, second = parts(A)[0], parts(B)[0]
    directory = parts(replace(A, position=len(second)), replace(B, position=0))[1]
    return second + first + directory + end(2, len(directory), len(BODY))


def gap_between() -> bytes:
    first, second = parts(A)[0], parts(B)[0]
    directory = parts(A, replace(B, position=len(first) + 50))[1]
    return first + b"g" * 50 + second + directory + end(2, len(directory), len(BODY) + 50)


def with_local_zeros() -> bytes:
    """Sizes and CRC stand in the directory alone, which no flag says."""
    return BODY[:14] + bytes(12) + BODY[26:] + DIRECTORY + end(2, len(DIRECTORY), len(BODY))


# unzip and zipfile both take these, and make the same files.
BOTH = {
    "usual": made(A, B),
    "newline behind the end": made(A, B) + b"\n",
    "zeros behind the end": made(A, B) + bytes(512),
    "garbage behind the end": made(A, B, comment=b"words") + b"z" * 60_000,
    "garbage behind the end, zip64": BODY + DIRECTORY + wide() + FULL + b"junk",
    "a script before": b"#!/bin/sh\n" * 9_000 + made(A, B),
    "a counted script before": b"#!/bin/sh\n"
    + BODY
    + moved(10)
    + end(2, len(DIRECTORY), len(BODY) + 10),
    "a block before the directory": BODY
    + b"APK Sig Block 42"
    + DIRECTORY
    + end(2, len(DIRECTORY), len(BODY) + 16),
    "a gap between members": gap_between(),
    "members the other way round": reversed_members(),
    "left of a spanned archive": b"PK\7\x08"
    + BODY
    + moved(4)
    + end(2, len(DIRECTORY), len(BODY) + 4),
    "data descriptors": streamed((b"a", b"a" * 100, 8), (b"b", b"b" * 100, 8)),
    "data descriptors without a signature": streamed(
        (b"a", b"a" * 100, 8), (b"b", b"b" * 100, 8), signature=b""
    ),
    "data descriptors, stored": streamed((b"a", b"a" * 100, 0), (b"b", b"", 0)),
    "zip64 though it is small": BODY + DIRECTORY + wide() + end(2, len(DIRECTORY), len(BODY)),
    "zip64's numbers alone": BODY + DIRECTORY + wide() + FULL,
    "zip64 sizes of a member": one(
        size=0xFFFFFFFF,
        compressed_size=0xFFFFFFFF,
        extra=field(1, struct.pack("<QQ", 1, 1)),
        local_extra=field(1, struct.pack("<QQ", 1, 1)),
    ),
    "more in a zip64 field than is needed": one(
        size=0xFFFFFFFF, extra=field(1, struct.pack("<QQQ", 1, 1, 0))
    ),
    "two of one name": made(A, replace(A, data=b"second")),
    "folders not named": one(b"x/y/z/w"),
    "folder behind its file": made(B, Entry(b"d/", b"", UNIX, FOLDER)),
    "a folder twice": made(*[Entry(b"d/", b"", UNIX, FOLDER)] * 2, B),
    "a folder that is deflated": made(deflated_entry(b"d/", b"", external=FOLDER), B),
    "a UTF-8 flag": one("é".encode(), flags=0x800),
    "odd names": made(replace(A, name=b"./a"), replace(B, name=b"d//b")),
    "an extra field of three bytes": one(extra=b"abc"),
    "an extra field of zeros": one(extra=bytes(8)),
    "a local extra field that is cut off": one(local_extra=b"\xff" * 9),
    "no date": one(date=0),
    "a date that is none": one(date=0xFFFF, time=0xFFFF),
    "a kind that is none": one(external=0o170644 << 16),
    "a host that nobody knows": made(replace(A, host=99 << 8 | 20)),
    "flags of the compressor": one(flags=0x06),
    "an empty file that is deflated": made(deflated_entry(b"a", b"")),
    "two archives in a row": made(A) + made(B),
    "a comment": made(A, B, comment=b"words " * 1000),
    "bzip2": by_zipfile({"a": b"a" * 100}, zipfile.ZIP_BZIP2),
    "no member": by_zipfile({}),
}
# unzip takes these, and zipfile does not.
UNZIP = {
    "a comment that holds an end": made(A, B, comment=b"words PK\5\6 words"),
    "a UTF-8 flag in the directory alone": one("é".encode(), flags=0x800, local_flags=0),
    "an extra field that is cut off": one(extra=b"UT\x09\x00\x01"),
    "an extra field cut off behind another": one(
        extra=field(0x5455, b"\1" + struct.pack("<I", 1_700_000_000)) + b"XY\xff\xff"
    ),
}

# One of them refuses it, or what it holds may be taken in two ways.
INNER = by_zipfile({"inner": b"1"})
OUTER = by_zipfile({"first": b"1", "inner.zip": INNER, "last": b"x" * 100})
REFUSED = {
    "cut behind an archive within": OUTER[:-300],
    "another name in the local header": one(local_name=b"b"),
    "another CRC in the local header": BODY[:14]
    + b"\1\2\3\4"
    + BODY[18:]
    + DIRECTORY
    + end(2, len(DIRECTORY), len(BODY)),
    "a wrong CRC": one(crc32=5),
    # Here unzip makes an empty file.
    "sizes in the directory alone": with_local_zeros(),
    "a member twice at one place": made(A, replace(A, position=0)),
    "fewer members than there are": BODY + DIRECTORY + end(1, len(DIRECTORY), len(BODY)),
    "more members than there are": BODY + DIRECTORY + end(3, len(DIRECTORY), len(BODY)),
    "a name from the root": one(b"/a"),
    "a way out": one(b"../a"),
    "an end cut off": made(A, B)[:-3],
    "a comment cut off": made(A, B, comment=b"words")[:-3],
}
