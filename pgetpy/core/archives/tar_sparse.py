"""Where the parts of a sparse file lie: GNU tar's four ways to write a sparse map.

Its manual ("Storing Sparse Files") calls them the old GNU format (type `S`, the map in the header
and in extension blocks behind it) and the pax formats 0.0 (a record for every number), 0.1 (one
record with all numbers) and 1.0 (the map in decimal lines at the beginning of the member's data).

In every form a map is pairs of an offset in the file and a number of bytes. Those bytes follow one
another in the archive, and what no pair covers is zero:

    map       (0, 1024) (4096, 512)
    archive   | aa | aa | bb |
    file      | aa | aa | .. | .. | .. | .. | .. | .. | bb | .. |    one field is 512 bytes

`extents` turns pairs into extents and refuses maps that readers understand differently.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pgetpy.core.archives.members import Extent
from pgetpy.core.archives.tar_fields import (
    BLOCK,
    MalformedError,
    parse_decimal,
    parse_size,
    round_up,
)

Pairs = tuple[tuple[int, int], ...]

_PREFIX = b"GNU.sparse."
_PAIR = 24
_OLD_HEADER = slice(386, 386 + 4 * _PAIR)
_OLD_EXTENSION = slice(0, 21 * _PAIR)
# 2**63 in decimal and its newline.
_LONGEST_LINE = 20


@dataclass(frozen=True)
class PaxSparse:
    """What the records of an extended header say of a sparse file.

    Attributes:
        size: bytes of the file, holes included.
        name: the file's name, None where `path` has it.
        pairs: the map, None where it is at the beginning of the data (format 1.0).
    """

    size: int
    name: bytes | None
    pairs: Pairs | None


def is_sparse_record(keyword: bytes) -> bool:
    """Whether a record belongs to a sparse file."""
    return keyword.startswith(_PREFIX)


def parse_pax_sparse(records: Sequence[tuple[bytes, bytes]]) -> PaxSparse | None:
    """Return what the records say, or None where they are not those of a sparse file."""
    sparse = [(key[len(_PREFIX) :], value) for key, value in records if is_sparse_record(key)]
    if not sparse:
        return None
    last = dict(sparse)
    size = parse_decimal(last.get(b"realsize", last.get(b"size", b"")), "sparse size")
    version = last.get(b"major", b"0"), last.get(b"minor", b"0")
    if version == (b"1", b"0"):
        return PaxSparse(size, last.get(b"name"), None)
    if version not in ((b"0", b"0"), (b"0", b"1")):
        raise MalformedError("it is sparse in an unknown version of the format")
    numbers = last[b"map"].split(b",") if b"map" in last else _numbers_0_0(sparse)
    if numbers == [b""]:
        numbers = []
    pairs = _paired([parse_decimal(number, "sparse map") for number in numbers])
    if b"numblocks" in last and parse_decimal(last[b"numblocks"], "sparse map") != len(pairs):
        raise MalformedError("its sparse map does not have the number of entries that it states")
    return PaxSparse(size, last.get(b"name"), pairs)


def _numbers_0_0(records: list[tuple[bytes, bytes]]) -> list[bytes]:
    entries = [(key, value) for key, value in records if key in (b"offset", b"numbytes")]
    if any(key != (b"offset", b"numbytes")[at % 2] for at, (key, _) in enumerate(entries)):
        raise MalformedError("its sparse map is not in pairs")
    return [value for _, value in entries]


def _paired(numbers: list[int]) -> Pairs:
    if len(numbers) % 2:
        raise MalformedError("its sparse map is not in pairs")
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


class OldMap:
    """Reads the map of the old GNU format: first from the header, then block by block.

    `size` is the file's, `missing` how many bytes must be fed next: 0 when the map is complete.
    """

    def __init__(self, header: bytes) -> None:
        self.size = parse_size(header[483:495], "sparse size")
        self.pairs: Pairs = ()
        self.missing = 0
        self._take(header[_OLD_HEADER], header[482])

    def feed(self, block: bytes) -> None:
        self._take(block[_OLD_EXTENSION], block[504])

    def _take(self, table: bytes, more: int) -> None:
        found = tuple(_old_pairs(table))
        # An empty entry ends the map, and readers disagree on entries behind it.
        if more and len(found) * _PAIR < len(table):
            raise MalformedError("its sparse map continues past its end")
        self.pairs += found
        self.missing = BLOCK if more else 0


def _old_pairs(table: bytes) -> Iterator[tuple[int, int]]:
    for at in range(0, len(table), _PAIR):
        if table[at + 12] == 0:
            return
        offset = parse_size(table[at : at + 12], "sparse map")
        yield offset, parse_size(table[at + 12 : at + _PAIR], "sparse map")


class DataMap:
    """Reads the map of the pax format 1.0: how many pairs, then their numbers, each with a newline.

    The map tells its own length only as it is read. `missing` is how many bytes must be fed next:
    whole blocks, 0 when the map is complete. It never reaches beyond the map's last block, since
    each number that is still missing takes at least two bytes.
    """

    def __init__(self) -> None:
        self.pairs: Pairs = ()
        self.missing = BLOCK
        self._text = bytearray()
        self._lines = 0

    def feed(self, data: bytes) -> None:
        self._text += data
        self._lines += data.count(b"\n")
        first = self._text.find(b"\n", 0, _LONGEST_LINE)
        if first < 0:
            raise MalformedError("its sparse map does not begin with a number")
        expected = 1 + 2 * parse_decimal(bytes(self._text[:first]), "sparse map")
        if self._lines < expected:
            self.missing = round_up(2 * (expected - self._lines) - 1)
            return
        self.missing = 0
        numbers = bytes(self._text).split(b"\n", expected)[1:expected]
        self.pairs = _paired([parse_decimal(number, "sparse map") for number in numbers])


def extents(pairs: Pairs, size: int, data_start: int, data_stop: int) -> tuple[Extent, ...]:
    """Return where the parts of a file of `size` bytes are in the archive.

    Raises:
        MalformedError: they overlap, go backwards, exceed the file, or are not all of the data.
    """
    found = []
    start, previous = data_start, 0
    for offset, count in pairs:
        if offset < previous or offset + count > size:
            raise MalformedError("its sparse map overlaps, goes backwards or exceeds its size")
        # GNU tar looks for every part on a block of its own, other readers right behind the one
        # before. All writers make parts of whole blocks, where both agree.
        if count and (start - data_start) % BLOCK:
            raise MalformedError("its sparse map has a part that ends within a block")
        previous = offset + count
        if count:
            found.append(Extent(start, start + count, offset))
            start += count
    if start != data_stop:
        raise MalformedError(
            f"its sparse map covers {start - data_start} bytes of {data_stop - data_start}"
        )
    return tuple(found)
