"""LZMA as 7-Zip puts it into a zip: a raw stream without an end marker, here of literals alone.

liblzma writes no such stream. The range coder is that of the LZMA specification (lzma-specification
.txt of the LZMA SDK 9.38), with lc, lp and pb of 0.
"""

from __future__ import annotations

import struct
from functools import lru_cache

_TOP = 1 << 24
_MASK = 0xFFFFFFFF
_HALF = 1 << 10  # a probability of one half, in elevenths bits
# The decisions that make a literal of each byte: the place of a probability, and what is decided.
# First that it is no match; the others begin at place 1.
_DECISIONS = [
    [(0, 0), *((1 << 7 - at | byte >> at + 1, byte >> at & 1) for at in range(7, -1, -1))]
    for byte in range(256)
]


class _Carry:
    """The bytes of the range coder, the last of which a carry may still change."""

    def __init__(self) -> None:
        self.cache, self.pending = 0, 1
        self.out = bytearray()

    def shift(self, low: int) -> int:
        """Put out the highest byte of `low`, and return the rest of it."""
        if low < 0xFF000000 or low > _MASK:
            carry, byte = low >> 32, self.cache
            while self.pending:
                self.out.append((byte + carry) & 0xFF)
                byte = 0xFF
                self.pending -= 1
            self.cache = low >> 24 & 0xFF
        self.pending += 1
        return (low & 0x00FFFFFF) << 8


@lru_cache(maxsize=16)
def unmarked_lzma(content: bytes, dictionary: int = 1 << 16) -> bytes:
    """The data of a zip member of method 14 whose flag bit 1 is not set."""
    # One loop over local variables takes half the time of a method for each decision.
    carry = _Carry()
    probabilities = [_HALF] * 256
    low, width = 0, _MASK
    for byte in content:
        for index, bit in _DECISIONS[byte]:
            probability = probabilities[index]
            bound = (width >> 11) * probability
            if bit:
                low += bound
                width -= bound
                probabilities[index] = probability - (probability >> 5)
            else:
                width = bound
                probabilities[index] = probability + (2048 - probability >> 5)
            while width < _TOP:
                width = width << 8 & _MASK
                low = carry.shift(low)
    for _ in range(5):
        low = carry.shift(low)
    return struct.pack("<2sHBI", b"\x09\x14", 5, 0, dictionary) + bytes(carry.out)
