"""Tar archives block by block, for those that no library writes."""

from __future__ import annotations

BLOCK = 512
END = bytes(2 * BLOCK)


def block(
    name: bytes = b"member", flag: bytes = b"0", **fields: bytes | tuple[int, bytes]
) -> bytes:
    """A ustar header; a field is given by its name, or by any name as its place and bytes."""
    places = {
        "mode": 100, "size": 124, "mtime": 136, "flag": 156, "target": 157, "magic": 257,
        "prefix": 345, "checksum": 148,
    }  # fmt: skip
    found = bytearray(BLOCK)
    found[: len(name)] = name
    given_fields = {"mode": b"0000644\0", "size": b"0" * 11 + b"\0", "mtime": b"0" * 11 + b"\0",
                    "flag": flag, "magic": b"ustar\x0000", **fields}  # fmt: skip
    checksum = given_fields.pop("checksum", None)
    for field, value in given_fields.items():
        at, data = value if isinstance(value, tuple) else (places[field], value)
        found[at : at + len(data)] = data
    found[148:156] = b" " * 8
    found[148:156] = checksum if isinstance(checksum, bytes) else b"%06o\0 " % sum(found)
    return bytes(found)


def octal(number: int) -> bytes:
    return b"%011o\0" % number


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def record(keyword: bytes, value: bytes) -> bytes:
    bare = len(keyword) + len(value) + 3
    length = bare + len(str(bare))
    length = bare + len(str(length))
    return b"%d %s=%s\n" % (length, keyword, value)


def described(body: bytes, flag: bytes = b"x") -> bytes:
    """A header with a body that describes what follows."""
    return block(b"description", flag, size=octal(len(body))) + padded(body)


def pax(*records: tuple[bytes, bytes], flag: bytes = b"x") -> bytes:
    return described(b"".join(record(*each) for each in records), flag)


def sparse_0_1(numbers: bytes, *, size: int, stored: int, count: bytes = b"") -> bytes:
    head = pax(
        (b"GNU.sparse.size", b"%d" % size), (b"GNU.sparse.map", numbers),
        *([(b"GNU.sparse.numblocks", count)] if count else []),
    )  # fmt: skip
    return head + block(size=octal(stored)) + padded(bytes(stored)) + END


def old_sparse(more: int, *pairs: tuple[int, int], magic: bytes = b"ustar  \0") -> bytes:
    table = b"".join(octal(offset) + octal(count) for offset, count in pairs)
    return block(
        flag=b"S", size=octal(512), magic=magic, table=(386, table), more=(482, bytes([more])),
        real=(483, octal(4096)),
    )  # fmt: skip


def file(name: bytes, data: bytes = b"data of it", **fields: bytes | tuple[int, bytes]) -> bytes:
    """A file as a header and its data."""
    return block(name, size=octal(len(data)), **fields) + padded(data)


def base_256(number: int, width: int = 12) -> bytes:
    """A number as GNU tar writes those that have no room in octal."""
    marker = b"\x80" if number >= 0 else b"\xff"
    return marker + (number % 256 ** (width - 1)).to_bytes(width - 1, "big")


def with_checksum(archive: bytes, text: bytes) -> bytes:
    """The same with another text for the first header's checksum."""
    return archive[:148] + text + archive[156:]
