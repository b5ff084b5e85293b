"""zstd and lz4, whose frames may be mixed with skippable ones (RFC 8878, 3.1.2).

A skippable frame carries data for some other program; decoders ignore it. The two formats share
the magic numbers for it.

The zstd library has no bound for its output: one call decodes all that it was handed, and a few
kilobytes may make gigabytes. But no block makes more than 128 KiB. So `_ZstdFrame` reads the
headers of the blocks along and hands over at most as many blocks as fill a piece:

    | frame header | head, block | head, block | ... | head, block | checksum |
                   |<-- at most PIECE / 128 KiB blocks a call -->|
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgetpy.archives.decoders.base import PIECE, Opener, Stream
from pgetpy.core.archives import detection
from pgetpy.core.archives.detection import WINDOW, ZstdPart, zstd_parts

if TYPE_CHECKING:
    from zstandard import ZstdDecompressionObj

# RFC 8878, 3.1.1.2: no block has more decoded bytes than this.
_ZSTD_BLOCK = 128 << 10


def open_zstd() -> Opener:
    """Return what opens frames of zstd, which checks their checksum if they have one.

    A frame may ask for a window of any size, and the decoder would allocate it at once: above
    `WINDOW`, which is what `zstd --ultra --long=27` makes, it is refused.
    """
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW)

    def open_frame(magic: bytes) -> Stream:
        if magic != detection.ZSTD_MAGIC:
            return Skippable()
        return _ZstdFrame(decompressor.decompressobj(write_size=PIECE))

    return open_frame


def open_lz4() -> Opener:
    """Return what opens frames of lz4. Its library bounds its output by itself."""
    from lz4.frame import LZ4FrameDecompressor

    return lambda magic: LZ4FrameDecompressor() if magic == detection.LZ4_MAGIC else Skippable()


class Skippable:
    """A skippable frame: magic number, four bytes of size, then that many bytes."""

    needs_input = True

    def __init__(self) -> None:
        self._header = b""
        self._left = 0
        self.eof = False
        self.unused_data: bytes | memoryview = b""

    def decompress(self, data: bytes | memoryview, max_length: int = -1) -> bytes:
        if len(self._header) < 8:
            taken = 8 - len(self._header)
            self._header += bytes(data[:taken])
            data = data[taken:]
            self._left = int.from_bytes(self._header[4:], "little")
        taken = min(self._left, len(data))
        self._left -= taken
        self.eof = len(self._header) == 8 and not self._left
        self.unused_data = data[taken:]
        return b""


class _ZstdFrame:
    """A frame decoded by `zstandard`, a bounded number of blocks a call."""

    def __init__(self, inner: ZstdDecompressionObj) -> None:
        self._inner = inner
        self._parts = zstd_parts()
        self._part: ZstdPart | None = next(self._parts)
        self._field = b""
        self._seen = 0
        # Input that is not decoded yet, or that lies behind the frame.
        self.unused_data: bytes | memoryview = b""

    @property
    def eof(self) -> bool:
        return self._part is None

    @property
    def needs_input(self) -> bool:
        return not self.unused_data

    def decompress(self, data: bytes | memoryview, max_length: int = -1) -> bytes:
        data = self.unused_data or data
        size = self._measure(data, max_length // _ZSTD_BLOCK)
        self.unused_data = data[size:]
        return self._inner.decompress(data[:size])

    def _measure(self, data: bytes | memoryview, blocks: int) -> int:
        """Return how many bytes of `data` to hand over: up to `blocks` blocks, within the frame."""
        at = 0
        while self._part is not None and at < len(data) and blocks:
            taken = min(self._part.size - self._seen, len(data) - at)
            if self._part.read:
                self._field += bytes(data[at : at + taken])
            at += taken
            self._seen += taken
            if self._seen == self._part.size:
                blocks -= self._part.block
                self._advance()
        return at

    def _advance(self) -> None:
        """Go to the next part of the frame, whose size a header that has been read may say.

        Parts without bytes, such as a checksum that the frame does not have, are passed over.
        """
        try:
            self._part = self._parts.send(self._field)
            while not self._part.size:
                self._part = next(self._parts)
        except StopIteration:
            self._part = None
        self._field = b""
        self._seen = 0
