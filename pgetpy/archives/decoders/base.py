"""What every compression is: streams that follow one another, and how they are decoded.

What may follow a stream is settled here and not by the libraries, which differ: another stream of
the same format, and zeros where the format pads with them; anything else is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from pgetpy.core.archives import formats
from pgetpy.core.archives.formats import Format, window_error
from pgetpy.errors import ArchiveError, TruncatedArchiveError

PIECE = 1 << 20
# What a library gets at once right after a stream began. Bytes after a stream's end are copied
# before they come back, so an archive of tiny streams must not be handed over by the megabyte.
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


# Makes the stream that begins with a magic number, which it is fed like the rest.
Opener = Callable[[bytes], Stream]


@dataclass(frozen=True)
class Codec:
    """How the streams of a format begin and what may stand behind them.

    Attributes:
        library: imports what is needed and returns what opens a stream.
        package: where the library comes from, empty for Python itself.
        magics: what a stream begins with; all have one length.
        padding: zeros may follow a stream, in multiples of this; 0 for none.
        repeats: another stream may follow.
    """

    library: Callable[[], Opener]
    magics: tuple[bytes, ...]
    package: str = ""
    padding: int = 0
    repeats: bool = True


class Decoder:
    """Undoes a compression: decodes streams that follow one another.

    `consumed` counts the bytes of input that were taken in.

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

        The work is done as the pieces are asked for; all of them have to be, before the next call
        and before `data` is reused.

        Raises:
            ArchiveError: the input is damaged, or needs a larger window than WINDOW.
        """
        while data:
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
        """Take note that the input is over.

        Raises:
            TruncatedArchiveError: it may not end here.
        """
        if self._stream is not None or self._magic:
            raise TruncatedArchiveError(self.consumed, f"its {self._format} stream is incomplete")
        if not self._count:
            raise TruncatedArchiveError(self.consumed, "it is empty")
        if self._zeros and self._zeros % self._codec.padding:
            raise TruncatedArchiveError(self.consumed, "the zeros after it are incomplete")

    def _begin(self, data: memoryview) -> int:
        """Return how many bytes of `data` are zeros between streams, or part of a magic number."""
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
            raise self._damaged("zeros of an odd length stand between its streams")
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
        if self._format == "lz4" and formats.LZ4_LEGACY_MAGIC.startswith(magic):
            return ArchiveError(
                "it is in lz4's legacy format, which is not supported",
                hint="compress it without -l",
            )
        if self._count:
            return self._damaged("what follows its end belongs to nothing")
        return self._damaged("it does not begin as it should")

    def _damaged(self, words: str) -> ArchiveError:
        return ArchiveError(
            f"its {self._format} data is damaged near byte {self.consumed}: {words}"
        )
