"""Checksums as values: what the bytes of an object must hash to. Nothing is hashed here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pgetpy.errors import BadSettingError

# Hex digits of each algorithm that may be asked for.
HEX_LENGTHS = {"sha256": 64, "sha1": 40, "md5": 32, "blake2b": 128}

_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class Checksum:
    """`algorithm` is a key of `HEX_LENGTHS`, `hexdigest` lower-case hex of its length.

    `prefix` is hashed before the bytes, as git does with the kind and size of what it keeps. Only
    files are verified so.
    """

    algorithm: str
    hexdigest: str
    prefix: bytes = b""

    @classmethod
    def parse(cls, text: str, *, name: str = "--checksum") -> Checksum:
        """Read `sha256:HEX` in any case; `name` is who is to blame in a BadSettingError."""
        algorithm, colon, digest = text.strip().lower().partition(":")
        if not colon:
            raise BadSettingError(name, text, "is not ALGORITHM:HEX, as sha256:9f86d0…")
        length = HEX_LENGTHS.get(algorithm)
        if length is None:
            raise BadSettingError(
                name, text, f"the algorithm is not one of {', '.join(HEX_LENGTHS)}"
            )
        if len(digest) != length:
            raise BadSettingError(
                name, text, f"{algorithm} has {length} hex digits, not {len(digest)}"
            )
        if not _HEX.issuperset(digest):
            raise BadSettingError(name, text, "there are characters that are no hex digits")
        return cls(algorithm, digest)

    @classmethod
    def git_blob(cls, object_id: str, size: int) -> Checksum:
        """Return what a file of `size` bytes, which git calls `object_id`, has to hash to."""
        return cls("sha1", object_id, b"blob %d\0" % size)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hexdigest}"


class Digest(Protocol):
    """What hashlib's objects are."""

    def update(self, data: memoryview, /) -> object:
        """Take `data` into account."""
