"""Content codings undone a piece at a time.

A few kilobytes can decode to gigabytes. The decoder yields at most `_PIECE` bytes at a time, and
keeps the input that it has not used, so memory stays bounded whatever a server sends.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import zlib

# The most to decode at a time; deflate shrinks data by a factor of up to a thousand.
_PIECE = 256 * 1024
# How the two formats begin: zlib's with the method in the lower half of its first byte.
_ZLIB, _GZIP = 8, 0x1F


# Names of content codings: IANA's registry and, in the last line, names that it lacks. Anything
# else is not a coding: some servers put the form of an upload, or a charset, in Content-Encoding.
_CODINGS = frozenset({
    "aes128gcm", "br", "compress", "dcb", "dcz", "deflate", "exi", "gzip", "pack200-gzip",
    "x-compress", "x-gzip", "zstd",
    "bzip2", "lz4", "lzma", "sdch", "snappy", "x-bzip2", "x-zstd", "xz",
})  # fmt: skip
_PLAIN = frozenset({"identity", "none", "binary"})


def content_codings(value: str) -> tuple[str, ...]:
    """Return the codings that a Content-Encoding of `value` names, in lower case."""
    return tuple(name for name in _names(value) if name in _CODINGS)


def names_no_coding(value: str) -> bool:
    """Whether a Content-Encoding of `value` names something that is not a coding, so that it is
    unclear what the bytes are."""
    return any(name not in _CODINGS and name not in _PLAIN for name in _names(value))


def _names(value: str) -> list[str]:
    names = (name.strip().lower() for name in value.split(","))
    return [name for name in names if name]


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
        """Whether the end of the coded data has been decoded."""
        return self._inflater.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what `data` decodes to.

        Raises:
            CodingError: see there.
        """
        import zlib

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
    import zlib

    # Either of the two formats, whichever of their names the server gave.
    return zlib.decompressobj(zlib.MAX_WBITS | 32)
