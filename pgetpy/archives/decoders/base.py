"""What all compressions have in common: streams that follow one another, and how they are decoded.

Files may hold several streams (pbzip2, bgzip, `cat a.gz b.gz`), and zeros as padding. Libraries
differ in what they make of that: some silently stop after the first stream, and the rest
would be missing. So it is settled here:

    | magic, stream | magic, stream | 0 0 0 | magic, stream | end
                                      ^ only in multiples of `Codec.padding`

`Decoder` finds the magic number itself, opens a stream with it, and looks at what the stream left
unused. Anything else behind a stream is an error, and so is an end within one.

A decoder yields pieces of at most PIECE, whatever the ratio. The caller may stop between two of
them, so a bomb costs neither memory nor much time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from pgetpy.core.archives import detection
from pgetpy.core.archives.detection import window_error
from pgetpy.core.archives.formats import Format
from pgetpy.errors import ArchiveError, TruncatedArchiveError

PIECE = 1 << 20
# How much a library gets at first of a new stream. It copies what follows the stream's end, so with
# a megabyte at a time an archive of tiny streams would be copied over and over. The step grows.
_FIRST_STEP = 16 << 10


class Stream(Protocol):
    """One compressed stream: the interface of `bz2.BZ2Decompressor`."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes | memoryview | None: ...
    def decompress(self, data: bytes | memoryview, max_length: int = -1) -> bytes: ...


# Makes a stream, given its magic number. The stream is then fed the number like the rest.
Opener = Callable[[bytes], Stream]


@dataclass(frozen=True)
class Codec:
    """How the streams of a format begin, and what may follow them.

    Attributes:
        library: imports what is needed and returns the function that opens a stream.
        magics: what a stream may begin with, all of one length; an empty one for formats without.
        package: what to install for the library; empty for Python itself.
        padding: zeros may follow a stream, in multiples of this; 0 for none.
        repeats: whether another stream may follow.
        open_ended: whether what follows the first stream is ignored.
    """

    library: Callable[[], Opener]
    magics: tuple[bytes, ...]
    package: str = ""
    padding: int = 0
    repeats: bool = True
    open_ended: bool = False


class Decoder:
    """Decodes the streams of one input, one after another.

    Attributes:
        consumed: bytes of input taken in so far, for errors.

    Raises:
        ArchiveError: the library for it is not installed.
    """

    def __init__(self, format: Format, codec: Codec) -> None:
        self.consumed = 0
        self._format = format.value
        self._codec = codec
        try:
            self._open = codec.library()
        except ImportError as error:
            raise ArchiveError(
                f"it is compressed with {self._format}, for which the package {codec.package} is "
                "missing",
                hint=f"pip install {codec.package}",
            ) from error
        self._stream: Stream | None = None
        self._count = 0
        self._magic = b""
        self._zeros = 0
        self._step = _FIRST_STEP

    def feed(self, data: memoryview) -> Iterator[bytes | memoryview]:
        """Yield what `data`, the next bytes of the input, decodes to, at most PIECE at a time.

        This is a generator: take all pieces before the next call, and before `data` is reused.

        Raises:
            ArchiveError: the input is damaged, or needs a larger window than WINDOW.
        """
        while data:
            if self._stream is None and self._count and self._codec.open_ended:
                self.consumed += len(data)
                return
            if self._stream is None:
                data = data[self._begin(data) :]
                continue
            step = data[: self._step]
            yield from self._decode(self._stream, step)
            unused = 0
            if self._stream.eof:
                unused = len(self._stream.unused_data or b"")
                self._stream = None
            self._step = min(self._step * 4, PIECE)
            self.consumed += len(step) - unused
            data = data[len(step) - unused :]

    def finish(self) -> None:
        """Check that the input may end here.

        Raises:
            TruncatedArchiveError: it ends within a stream, a magic number or padding, or is empty.
        """
        if self._stream is not None or self._magic:
            raise TruncatedArchiveError(self.consumed, f"its {self._format} stream is incomplete")
        if not self._count:
            raise TruncatedArchiveError(self.consumed, "it is empty")
        if self._zeros and self._zeros % self._codec.padding:
            raise TruncatedArchiveError(self.consumed, "the zero padding after it is cut off")

    def _begin(self, data: memoryview) -> int:
        """Take padding or a part of a magic number from `data`; return how many bytes it was.

        Opens the stream when the magic number is complete.
        """
        if self._codec.padding and self._count and not self._magic:
            ahead = bytes(data[:_FIRST_STEP])
            zeros = len(ahead) - len(ahead.lstrip(b"\0"))
            if zeros:
                self._zeros += zeros
                self.consumed += zeros
                return zeros
        wanted = len(self._codec.magics[0]) - len(self._magic)
        magic = self._magic + bytes(data[:wanted])
        known = any(known.startswith(magic) for known in self._codec.magics)
        if not known or (self._count and not self._codec.repeats):
            raise self._foreign(magic)
        if self._zeros and self._zeros % self._codec.padding:
            raise self._damaged("the zero padding between its streams has an invalid length")
        taken = len(magic) - len(self._magic)
        self.consumed += taken
        self._magic = magic
        if taken == wanted:
            self._stream = self._open(magic)
            self._stream.decompress(magic, PIECE)
            self._count += 1
            self._magic = b""
            self._zeros = 0
            self._step = _FIRST_STEP
        return taken

    def _decode(self, stream: Stream, step: bytes | memoryview) -> Iterator[bytes]:
        while True:
            try:
                piece = stream.decompress(step, PIECE)
            except (MemoryError, ArchiveError):
                raise
            except Exception as error:  # only the library runs here, and each has its own classes
                if str(error) == "Memory usage limit exceeded":  # liblzma's, for a dictionary
                    raise window_error(self._format) from error
                raise self._damaged(str(error)) from error
            if piece:
                yield piece
            if stream.eof or stream.needs_input or not (piece or step):
                return
            step = b""

    def _foreign(self, magic: bytes) -> ArchiveError:
        if self._format == "lz4" and detection.LZ4_LEGACY_MAGIC.startswith(magic):
            return ArchiveError(
                "it is in lz4's legacy format, which is not supported",
                hint="compress it without -l",
            )
        if self._count:
            return self._damaged("unknown data follows its end")
        return self._damaged("it does not begin with a valid header")

    def _damaged(self, words: str) -> ArchiveError:
        return ArchiveError(
            f"its {self._format} data is damaged near byte {self.consumed}: {words}"
        )
