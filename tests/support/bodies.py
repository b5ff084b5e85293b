"""Made-up object bodies in which every byte depends on its position and on a seed.

A body is a run of pseudo-random blocks, so that a piece written one byte off, written twice, left
out, or taken from another version (another seed) changes the digest. A shorter body of the same
seed is a prefix of a longer one.
"""

import hashlib
from functools import lru_cache

BLOCK = 65536


@lru_cache(maxsize=512)
def block(index: int, seed: str = "v1") -> bytes:
    """The 64 KiB that stand at ``index * BLOCK`` in every body of this seed."""
    return hashlib.shake_128(f"{seed}:{index}".encode()).digest(BLOCK)


@lru_cache(maxsize=8)
def body(size: int, seed: str = "v1") -> bytes:
    """``size`` bytes; about 0.3 s for 64 MiB, then remembered."""
    blocks = -(-size // BLOCK)
    return b"".join(block(index, seed) for index in range(blocks))[:size]


def digest(data: bytes, algorithm: str = "sha256") -> str:
    """The digest of ``data`` in hexadecimal."""
    return hashlib.new(algorithm, data).hexdigest()
