"""Content codings undone a piece at a time: bounded in memory, whatever a few bytes unfold to."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

# What is unfolded at a time: a thousandth of it may be all that came.
_PIECE = 256 * 1024
# How the two formats begin: zlib's with the method in the lower half of its first byte.
_ZLIB, _GZIP = 8, 0x1F


class CodingError(Exception):
    """The bytes are not of the coding they are said to be of."""


class ContentDecoder:
    """Undoes `coding`: gzip or deflate."""

    def __init__(self, coding: str) -> None:
        self._many = "gzip" in coding
        self._inflater = _inflater()
        self._begun = False

    @property
    def complete(self) -> bool:
        """Whether the coded bytes have come to their end."""
        return self._inflater.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what `data` unfolds to.

        Raises:
            CodingError: see there.
        """
        if data and not self._begun:
            self._begun = True
            if not self._many and data[0] & 0x0F != _ZLIB and data[0] != _GZIP:
                # Some servers leave out the frame that "deflate" means (RFC 9110, 8.4.1.2).
                self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        while data:
            if self._inflater.eof:
                if not self._many:
                    raise CodingError("bytes after the end")
                # A gzip file may have several members, each complete (RFC 1952, 2.2).
                self._inflater = _inflater()
            try:
                plain = self._inflater.decompress(data, _PIECE)
            except zlib.error as error:
                raise CodingError(str(error)) from None
            data = self._inflater.unused_data or self._inflater.unconsumed_tail
            if plain:
                yield plain


def _inflater() -> zlib._Decompress:
    # Either of the two formats, whichever of their names the server gave.
    return zlib.decompressobj(zlib.MAX_WBITS | 32)
