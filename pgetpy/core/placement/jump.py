"""pget's placement: an FNV-1 hash of URL and slice, and a jump hash over the indexes of the nodes.

Programs that share cache nodes have to agree on the node of each slice, or the nodes fetch it from
the origin once for each opinion. So every step is that of pget: the way Go's hashstructure (format
2, zero values ignored) hashes `cacheKey{Key: CacheKey{URL, Slice}, Attempt}`, then go-jump.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

# pget's slice, in bytes: what one node serves of an object.
SLICE = 500 << 20
_MASK = (1 << 64) - 1
_FNV_BASIS = 0xCBF29CE484222325
_FNV_PRIME = 0x100000001B3


def fnv1(data: bytes) -> int:
    """Return the 64-bit FNV-1 hash of `data` (multiplied before each XOR, unlike FNV-1a)."""
    value = _FNV_BASIS
    for byte in data:
        value = (value * _FNV_PRIME & _MASK) ^ byte
    return value


def _of_number(number: int) -> int:
    return fnv1(number.to_bytes(8, "little"))


@lru_cache(maxsize=256)
def _of_text(text: str) -> int:
    return fnv1(text.encode("utf-8", "surrogateescape"))


def _field(name: str, value: int) -> int:
    """Return the hash of one field of a struct."""
    return fnv1(_of_text(name).to_bytes(8, "little") + value.to_bytes(8, "little"))


def placement_hash(url: str, piece: int, attempt: int = 0) -> int:
    """Return the hash that places a piece.

    Args:
        url: as Go prints it, see `core.fleet.go_urls`.
        piece: the index of the slice.
        attempt: how many nodes have failed for it.
    """
    inner = _of_number(_of_text("CacheKey") ^ _field("URL", _of_text(url)))
    if piece:
        inner = _of_number(inner ^ _field("Slice", _of_number(piece)))
    outer = _of_number(_of_text("cacheKey") ^ _field("Key", inner))
    if attempt:
        outer = _of_number(outer ^ _field("Attempt", _of_number(attempt)))
    return outer


def jump(key: int, buckets: int) -> int:
    """Return the bucket of `key` (Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash
    Algorithm", arXiv 1406.2294)."""
    bucket, candidate = -1, 0
    while candidate < buckets:
        bucket = candidate
        key = (key * 2862933555777941757 + 1) & _MASK
        candidate = int((bucket + 1) * (float(1 << 31) / float((key >> 33) + 1)))
    return bucket


def place(url: str, piece: int, nodes: int, failed: Sequence[int] = ()) -> int | None:
    """Return the index of the node for a piece; None if all have failed.

    Args:
        url: as Go prints it.
        piece: the index of the slice.
        nodes: the length of the list of nodes, holes included.
        failed: the indexes that have failed for this piece, each once, in any order.
    """
    if len(failed) >= nodes:
        return None
    index = jump(placement_hash(url, piece, len(failed)), nodes - len(failed))
    for each in sorted(failed):
        index += index >= each
    return index


def places(url: str, piece: int, nodes: int) -> Iterator[int]:
    """Yield the indexes in the order in which pget would try them if each failed."""
    failed: list[int] = []
    while (index := place(url, piece, nodes, failed)) is not None:
        yield index
        failed.append(index)
