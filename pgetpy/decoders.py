"""Streaming decoders of the compressed formats, behind one interface.

Bytes in, bytes out, in pieces of at most PIECE whatever the ratio, so that a bomb costs time and no
memory. A decoder does no I/O and knows nothing of what it unpacks. Libraries are imported when a
decoder is made; none of their exceptions gets out.

What may follow a stream is settled here and not by the libraries, which differ: another stream of
the same format, and zeros where the format pads with them; anything else is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pgetpy.core import formats
from pgetpy.core.formats import WINDOW, Format, ZstdPart, gzip_header_size, window_error, zstd_parts
from pgetpy.errors import ArchiveError, TruncatedArchiveError

if TYPE_CHECKING:
    from isal.igzip_lib import IgzipDecompressor
    from zstandard import ZstdDecompressionObj

PIECE = 1 << 20
# liblzma counts its own structures too.
_MEMORY = WINDOW + (4 << 20)
# What a library gets at once right after a stream began. Bytes after a stream's end are copied
# before they come back, so an archive of tiny streams must not be handed over by the megabyte.
_FIRST_STEP = 16 << 10

# RFC 8878, 3.1.1.2: no block has more decoded bytes than this.
_ZSTD_BLOCK = 128 << 10


class Decoder(Protocol):
    """Undoes a compression. `consumed` counts the bytes of input that were taken in."""

    consumed: int

    def feed(self, data: memoryview) -> Iterator[bytes | memoryview]:
        """Yield what `data`, the next bytes of the input, decodes to, at most PIECE at a time.

        The work is done as the pieces are asked for; all of them have to be, before the next call
        and before `data` is reused.

        Raises:
            ArchiveError: the input is damaged, or needs a larger window than WINDOW.
        """
        ...

    def finish(self) -> None:
        """Take note that the input is over.

        Raises:
            TruncatedArchiveError: it may not end here.
        """
        ...


def decoder_for(format: Format) -> Decoder:
    """Return a fresh decoder.

    Raises:
        ArchiveError: the library for it is not installed.
        ValueError: `format` is no compression.
    """
    if format not in _CODECS:
        raise ValueError(f"{format} is no compression")
    return _Streams(format, _CODECS[format])


def crc32() -> Callable[[bytes | memoryview, int], int]:
    """Return the fastest CRC-32 there is, called with data and the sum of what came before."""
    try:
        from isal import isal_zlib
    except ImportError:
        import zlib

        return zlib.crc32
    return isal_zlib.crc32


class _Stream(Protocol):
    """One compressed stream: the interface of `bz2.BZ2Decompressor`."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes | memoryview | None: ...
    def decompress(self, data: bytes | memoryview, max_length: int = -1) -> bytes: ...


# Makes the stream that begins with a magic number, which it is fed like the rest.
_Opener = Callable[[bytes], _Stream]


@dataclass(frozen=True)
class _Codec:
    """How the streams of a format begin and what may stand behind them.

    Attributes:
        library: imports what is needed and returns what opens a stream.
        package: where the library comes from, empty for Python itself.
        magics: what a stream begins with; all have one length.
        padding: zeros may follow a stream, in multiples of this; 0 for none.
        repeats: another stream may follow.
    """

    library: Callable[[], _Opener]
    magics: tuple[bytes, ...]
    package: str = ""
    padding: int = 0
    repeats: bool = True


class _Streams:
    """Decodes streams that follow one another."""

    def __init__(self, format: Format, codec: _Codec) -> None:
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
        self._stream: _Stream | None = None
        self._count = 0
        self._magic = b""
        self._zeros = 0
        self._step = _FIRST_STEP

    def feed(self, data: memoryview) -> Iterator[bytes | memoryview]:
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

    def _decode(self, stream: _Stream, step: bytes | memoryview) -> Iterator[bytes]:
        while True:
            try:
                piece = stream.decompress(step, PIECE)
            except (MemoryError, ArchiveError):
                raise
            except Exception as error:  # only the library runs here, and each has its own classes
                raise self._refused(str(error)) from error
            if piece:
                yield piece
            if stream.eof or stream.needs_input or not (piece or step):
                return
            step = b""

    def _refused(self, words: str) -> ArchiveError:
        if words == "Memory usage limit exceeded":  # liblzma's, for a dictionary
            return window_error(self._format)
        return self._damaged(words)

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


class _IsalMember:
    """A gzip member by isal, which loses its place in a header that comes in two calls."""

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
            self._header += bytes(data)
            size = gzip_header_size(self._header)
            if size is None:
                return b""
            data = self._header[size:]
            self._header = None
        return self._inner.decompress(data, max_length)


class _ZlibStream:
    """A gzip member or a deflate stream by the standard library, where isal is missing."""

    def __init__(self, wbits: int) -> None:
        import zlib

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
        # A full piece may leave output behind when all input is taken.
        self.needs_input = not self._inner.unconsumed_tail and len(piece) < max_length
        return piece


class _Skippable:
    """A frame to be passed over (RFC 8878, 3.1.2): magic number, four bytes of size, that many."""

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
    """A frame by `zstandard`, whose decoder knows no bound to its output.

    What is handed to it at once ends so few blocks that they make no more than a piece. For this
    the sizes in the frame's header and in those of its blocks are read along.
    """

    def __init__(self, inner: ZstdDecompressionObj) -> None:
        self._inner = inner
        self._parts = zstd_parts()
        self._part: ZstdPart | None = next(self._parts)
        self._field = b""
        self._seen = 0
        self._rest: bytes | memoryview = b""

    @property
    def eof(self) -> bool:
        return self._part is None

    @property
    def needs_input(self) -> bool:
        return not self._rest

    @property
    def unused_data(self) -> bytes | memoryview:
        return self._rest

    def decompress(self, data: bytes | memoryview, max_length: int = -1) -> bytes:
        data = self._rest or data
        size = self._measure(data, max_length // _ZSTD_BLOCK)
        self._rest = data[size:]
        return self._inner.decompress(data[:size])

    def _measure(self, data: bytes | memoryview, blocks: int) -> int:
        """Return how many bytes of `data` end so many blocks at most, and the frame at most."""
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
        try:
            self._part = self._parts.send(self._field)
            while not self._part.size:
                self._part = next(self._parts)
        except StopIteration:
            self._part = None
        self._field = b""
        self._seen = 0


def _gzip() -> _Opener:
    try:
        from isal import igzip_lib
    except ImportError:
        return lambda magic: _ZlibStream(wbits=31)
    # "VER" checks the trailer.
    flag = igzip_lib.DECOMP_GZIP_NO_HDR_VER
    return lambda magic: _IsalMember(igzip_lib.IgzipDecompressor(flag=flag))


def _deflate() -> _Opener:
    try:
        from isal import igzip_lib
    except ImportError:
        return lambda magic: _ZlibStream(wbits=-15)
    return lambda magic: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_DEFLATE)


def _bzip2() -> _Opener:
    import bz2

    return lambda magic: bz2.BZ2Decompressor()


def _xz() -> _Opener:
    import lzma

    return lambda magic: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)


def _lzma() -> _Opener:
    import lzma

    return lambda magic: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_MEMORY)


def _zstd() -> _Opener:
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW)

    def opened(magic: bytes) -> _Stream:
        if magic != formats.ZSTD_MAGIC:
            return _Skippable()
        return _ZstdFrame(decompressor.decompressobj(write_size=PIECE))

    return opened


def _lz4() -> _Opener:
    from lz4.frame import LZ4FrameDecompressor

    return lambda magic: LZ4FrameDecompressor() if magic == formats.LZ4_MAGIC else _Skippable()


_CODECS = {
    Format.GZIP: _Codec(_gzip, (formats.GZIP_MAGIC,), padding=1),
    Format.DEFLATE: _Codec(_deflate, (b"",), repeats=False),
    Format.BZIP2: _Codec(_bzip2, (formats.BZIP2_MAGIC,), padding=1),
    Format.XZ: _Codec(_xz, (formats.XZ_MAGIC,), padding=4),
    Format.LZMA: _Codec(_lzma, (b"",), repeats=False),
    Format.ZSTD: _Codec(_zstd, (formats.ZSTD_MAGIC, *formats.SKIPPABLE_MAGICS), "zstandard"),
    Format.LZ4: _Codec(_lz4, (formats.LZ4_MAGIC, *formats.SKIPPABLE_MAGICS), "lz4"),
}
