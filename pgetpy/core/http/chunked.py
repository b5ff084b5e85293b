"""The chunked transfer coding undone a piece at a time (RFC 9112, 7.1).

    SIZE --5;ext--> data, 5 bytes --> END_OF_DATA --empty line--> SIZE
      |
      +----0------> TRAILER --field--> TRAILER --empty line--> complete

The input may be cut anywhere. `_left` counts the data bytes still to come; at 0 the decoder reads a
line, which `_line` collects over several inputs, and `_next` says what that line is.

Strict where bytes could be lost or mixed up: a size is hexadecimal digits, and data end where the
size says. Lenient where nothing depends on it: a line may end without its CR, as curl and browsers
accept.
"""

from __future__ import annotations

import re
from enum import Enum

_SIZE = re.compile(rb"([0-9A-Fa-f]+)[ \t]*(?:;[^\x00]*)?")
_MOST_DIGITS = 15
_LONGEST_LINE = 16 * 1024
_LONGEST_TRAILERS = 64 * 1024


class ChunkError(Exception):
    """The bytes are not of this coding."""


class _Next(Enum):
    """What the next line is."""

    SIZE = "size"
    END_OF_DATA = "end of data"
    TRAILER = "trailer"


class ChunkedDecoder:
    """Takes a chunked body as it comes, cut anywhere, and gives the bytes in it.

    Attributes:
        complete: whether the last chunk and its trailers have been read.
        surplus: bytes that came after that.
    """

    def __init__(self) -> None:
        self.complete = False
        self.surplus = 0
        self._next = _Next.SIZE
        self._left = 0
        self._line = b""
        self._trailers = 0

    def feed(self, data: bytes) -> bytes:
        """Return the data in `data`, the next bytes of the body.

        Raises:
            ChunkError: see there.
        """
        pieces = []
        view = memoryview(data)
        at = 0
        while at < len(data) and not self.complete:
            if self._left:
                piece = view[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                continue
            end = data.find(b"\n", at, at + _LONGEST_LINE)
            self._line += data[at : at + _LONGEST_LINE] if end < 0 else data[at:end]
            if len(self._line) > _LONGEST_LINE or (end < 0 and len(data) - at >= _LONGEST_LINE):
                raise ChunkError("a very long line")
            if end < 0:
                break
            at = end + 1
            line, self._line = self._line.removesuffix(b"\r"), b""
            self._take(line)
        self.surplus += len(data) - at if self.complete else 0
        return b"".join(pieces)

    def _take(self, line: bytes) -> None:
        """Make the transition that `line` causes."""
        if self._next is _Next.SIZE:
            self._left = _size_of(line)
            self._next = _Next.END_OF_DATA if self._left else _Next.TRAILER
        elif self._next is _Next.END_OF_DATA:
            if line:
                raise ChunkError("a chunk is longer than its size")
            self._next = _Next.SIZE
        elif line:
            self._trailers += len(line)
            if self._trailers > _LONGEST_TRAILERS:
                raise ChunkError("very long trailers")
        else:
            self.complete = True


def _size_of(line: bytes) -> int:
    """Return the size in a chunk's first line; extensions after a `;` are ignored."""
    found = _SIZE.fullmatch(line)
    digits = found[1].lstrip(b"0") if found is not None else b""
    if found is None or len(digits) > _MOST_DIGITS:
        raise ChunkError(f"{line[:20].decode('latin-1')!r} is not the size of a chunk")
    return int(digits or b"0", 16)
