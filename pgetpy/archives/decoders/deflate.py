"""Deflate, by itself and as gzip: isal where it is installed, else the standard library.

isal is the faster one. Both are made to look like `bz2.BZ2Decompressor`, the interface that
`base.Stream` describes:

- zlib keeps unread input in `unconsumed_tail` and wants it back; the wrapper does that.
- isal loses its place if a gzip header comes in two calls, so the wrapper gathers the header, skips
  it, and hands over the deflate stream and the trailer, which isal checks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pgetpy.archives.decoders.base import Opener
from pgetpy.core.archives.detection import gzip_header_size

if TYPE_CHECKING:
    from isal.igzip_lib import IgzipDecompressor


def open_gzip() -> Opener:
    """Return what opens gzip members (RFC 1952), whose length and CRC-32 are checked at the end."""
    try:
        from isal import igzip_lib
    except ImportError:
        return lambda magic: _ZlibStream(wbits=31)
    # "VER" checks the trailer.
    flag = igzip_lib.DECOMP_GZIP_NO_HDR_VER
    return lambda magic: _IsalMember(igzip_lib.IgzipDecompressor(flag=flag))


def open_deflate() -> Opener:
    """Return what opens bare deflate streams (RFC 1951), as zips hold them.

    They have no checksum of their own: the zip's is compared where members are read.
    """
    try:
        from isal import igzip_lib
    except ImportError:
        return lambda magic: _ZlibStream(wbits=-15)
    return lambda magic: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_DEFLATE)


def crc32() -> Callable[[bytes | memoryview, int], int]:
    """Return the fastest CRC-32 that is installed; call it with data and the sum so far."""
    try:
        from isal import isal_zlib
    except ImportError:
        import zlib

        return zlib.crc32
    return isal_zlib.crc32


class _IsalMember:
    """A gzip member decoded by isal; its header is gathered first."""

    def __init__(self, inner: IgzipDecompressor) -> None:
        self._inner = inner
        self._header: bytes | None = b""

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return self._inner.needs_input

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes | memoryview, max_length: int = -1) -> bytes:
        if self._header is not None:
            # A header may hold a name and a comment of any length, and end in a later call.
            self._header += bytes(data)
            size = gzip_header_size(self._header)
            if size is None:
                return b""
            data = self._header[size:]
            self._header = None
        return self._inner.decompress(data, max_length)


class _ZlibStream:
    """A gzip member or a deflate stream decoded by the standard library."""

    def __init__(self, wbits: int) -> None:
        import zlib

        # 31 is 15 for the window and 16 for a gzip header; a negative number means no header.
        self._inner = zlib.decompressobj(wbits)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes | memoryview, max_length: int = -1) -> bytes:
        # Input is given only when asked for, so at any time it is either this or what was left.
        piece = self._inner.decompress(data or self._inner.unconsumed_tail, max_length)
        # After a full piece zlib may hold more output even if it has taken all input.
        self.needs_input = not self._inner.unconsumed_tail and len(piece) < max_length
        return piece
