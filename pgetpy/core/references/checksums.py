"""Checksums as values: the digest that an object must have. Nothing is hashed here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pgetpy.errors import BadSettingError

# The supported algorithms, with the number of hex digits of each.
HEX_LENGTHS = {"sha256": 64, "sha1": 40, "md5": 32, "blake2b": 128}

_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class Checksum:
    """The expected digest of an object.

    Attributes:
        algorithm: a key of `HEX_LENGTHS`: sha256, sha1, md5 or blake2b.
        hexdigest: the digest in lower-case hex.
        prefix: bytes that are hashed before the object's own, as git does with its type and size
            (git's "blob SIZE"). Supported for files only.
    """

    algorithm: str
    hexdigest: str
    prefix: bytes = b""

    @classmethod
    def parse(cls, text: str, *, name: str = "--checksum") -> Checksum:
        """Parse `ALGORITHM:HEX`, in upper or lower case.

        Args:
            name: the option or argument that errors name.

        Raises:
            BadSettingError: it is something else.
        """
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
            raise BadSettingError(name, text, "contains characters that are not hex digits")
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

    def hexdigest(self) -> str:
        """Return the digest in lower-case hex."""
