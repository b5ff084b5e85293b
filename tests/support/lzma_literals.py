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


class _RangeEncoder:
    def __init__(self) -> None:
        self.low, self.range, self.cache, self.pending = 0, _MASK, 0, 1
        self.out = bytearray()

    def encode(self, probabilities: list[int], index: int, bit: int) -> None:
        probability = probabilities[index]
        bound = (self.range >> 11) * probability
        if bit:
            self.low += bound
            self.range -= bound
            probabilities[index] -= probability >> 5
        else:
            self.range = bound
            probabilities[index] += (2048 - probability) >> 5
        while self.range < _TOP:
            self.range = self.range << 8 & _MASK
            self.shift()

    def shift(self) -> None:
        if self.low < 0xFF000000 or self.low > _MASK:
            carry, byte = self.low >> 32, self.cache
            while self.pending:
                self.out.append((byte + carry) & 0xFF)
                byte = 0xFF
                self.pending -= 1
            self.cache = self.low >> 24 & 0xFF
        self.pending += 1
        self.low = (self.low & 0x00FFFFFF) << 8


@lru_cache(maxsize=16)
def unmarked_lzma(content: bytes, dictionary: int = 1 << 16) -> bytes:
    """The data of a zip member of method 14 whose flag bit 1 is not set."""
    coder = _RangeEncoder()
    is_match = [_HALF]
    literals = [_HALF] * 256
    for byte in content:
        coder.encode(is_match, 0, 0)
        symbol = 1
        for at in range(7, -1, -1):
            bit = byte >> at & 1
            coder.encode(literals, symbol, bit)
            symbol = symbol << 1 | bit
    for _ in range(5):
        coder.shift()
    return struct.pack("<2sHBI", b"\x09\x14", 5, 0, dictionary) + bytes(coder.out)
