"""Placement by name: each node's name gets a score for a piece, and the highest score serves it.

A node that leaves the list moves only its own pieces, each to the next on its own list of choices,
so they spread over all that are left. By index (`jump`) a list that closes up moves nearly all.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Sequence
from functools import lru_cache

_MASK = (1 << 64) - 1


def _number(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


@lru_cache(maxsize=4096)
def _of_name(name: str) -> int:
    return _number(name.encode("utf-8", "surrogateescape"))


def ranked(url: str, piece: int, names: Sequence[str], most: int) -> list[str]:
    """Return the `most` preferred of `names` for a piece, the best first.

    The order does not depend on that of `names`, and is the same in every process.

    Args:
        url: the object, spelled the same on every machine.
        piece: the index of the piece.
        names: of the nodes, each once.
        most: how many to return.
    """
    key = _number(f"{piece} {url}".encode("utf-8", "surrogateescape"))
    return heapq.nsmallest(most, names, key=lambda name: (-_mix(key ^ _of_name(name)), name))


def _mix(value: int) -> int:
    """Spread 64 bits over 64 bits (the finalizer of SplitMix64): much cheaper than a hash for each
    pair of a piece and a node."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)
