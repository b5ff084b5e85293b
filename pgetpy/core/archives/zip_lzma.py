"""LZMA as zips have it (APPNOTE.TXT, 5.8).

    version of the SDK (2) | 5, the size of the properties (2) | properties (5) | raw LZMA1

The properties are a byte that packs lc, lp and pb, and the size of the dictionary. The stream ends
with a marker if bit 1 of the entry's flags says so (Python writes it). Otherwise (7-Zip) it ends
where `size` bytes have come out: no more may be asked of the decoder, which would make bytes out of
the padding of its own input.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pgetpy.core.archives.detection import WINDOW, window_error
from pgetpy.errors import ArchiveError

if TYPE_CHECKING:
    import lzma

_HEADER = struct.Struct("<2sHBI")
_PROPERTIES_SIZE = 5
# Of liblzma: no smaller dictionary, and no more than four bits of lc + lp together.
_LEAST_DICTIONARY = 4096
_MOST_LITERAL_BITS = 4


class ZipLzmaStream:
    """The stream of one member, with the interface of `lzma.LZMADecompressor`.

    Args:
        size: bytes of the content.
        marked: whether it ends with a marker.
    """

    def __init__(self, size: int, *, marked: bool) -> None:
        self.needs_input = True
        self._size = size
        self._left = size
        self._marked = marked
        self._header = b""
        self._inner: lzma.LZMADecompressor | None = None

    @property
    def eof(self) -> bool:
        if self._inner is None:
            return False
        return self._inner.eof or (not self._marked and not self._left)

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data if self._inner is not None else b""

    def decompress(self, data: bytes | memoryview, max_length: int = -1) -> bytes:
        """Return what `data`, the next bytes of the stream, decodes to, at most `max_length` bytes.

        Raises:
            ArchiveError: the header is damaged, or needs a larger window than WINDOW.
            lzma.LZMAError: the stream is damaged.
        """
        if self._inner is None:
            missing = _HEADER.size - len(self._header)
            self._header += bytes(data[:missing])
            if len(self._header) < _HEADER.size:
                return b""
            data = data[missing:]
            self._inner = _raw_decompressor(self._header, self._size)
        if not self._marked:
            max_length = self._left if max_length < 0 else min(max_length, self._left)
            if not max_length:
                return b""
        piece = self._inner.decompress(data, max_length)
        self.needs_input = self._inner.needs_input
        self._left -= len(piece)
        return piece


def _raw_decompressor(header: bytes, size: int) -> lzma.LZMADecompressor:
    """Return the decoder that a member's header asks for."""
    import lzma

    _, properties, packed, dictionary = _HEADER.unpack(header)
    rest, lc = divmod(packed, 9)
    pb, lp = divmod(rest, 5)
    if properties != _PROPERTIES_SIZE or pb > 4:
        raise ArchiveError("its LZMA header is damaged")
    if lc + lp > _MOST_LITERAL_BITS:
        raise ArchiveError("its LZMA stream has lc + lp above 4, which liblzma does not support")
    # No match can reach further back than the content does.
    dictionary = max(_LEAST_DICTIONARY, min(dictionary, size))
    if dictionary > WINDOW:
        raise window_error("LZMA")
    options = {"id": lzma.FILTER_LZMA1, "dict_size": dictionary, "lc": lc, "lp": lp, "pb": pb}
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[options])
