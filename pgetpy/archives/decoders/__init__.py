"""Streaming decoders of the compressed formats, behind one interface.

Bytes in, bytes out, in pieces of at most PIECE whatever the ratio, so that a bomb costs time and no
memory. A decoder does no I/O and does not depend on what it unpacks. Libraries are imported when a
decoder is made, because each costs milliseconds and few downloads need any. All their exceptions
are turned into ArchiveError.
"""

from __future__ import annotations

from pgetpy.archives.decoders.base import PIECE, Codec, Decoder, Opener
from pgetpy.archives.decoders.deflate import crc32, open_deflate, open_gzip
from pgetpy.archives.decoders.frames import open_lz4, open_zstd
from pgetpy.core.archives import detection
from pgetpy.core.archives.detection import WINDOW
from pgetpy.core.archives.formats import Format
from pgetpy.core.archives.zip_lzma import ZipLzmaStream

__all__ = ["PIECE", "Decoder", "crc32", "decoder_for"]

# liblzma's limit includes its own structures, not only the dictionary.
_MEMORY = WINDOW + (4 << 20)


def decoder_for(format: Format, *, size: int = 0) -> Decoder:
    """Return a fresh decoder.

    Args:
        size: bytes of the content. A zip's LZMA needs it, and its streams need not mark their end.

    Raises:
        ArchiveError: the library for it is not installed.
        ValueError: `format` is not a compression format.
    """
    if format in (Format.ZIP_LZMA, Format.ZIP_LZMA_UNMARKED):
        return Decoder(format, _zip_lzma(size, marked=format is Format.ZIP_LZMA))
    if format not in _CODECS:
        raise ValueError(f"{format} is not a compression format")
    return Decoder(format, _CODECS[format])


def _zip_lzma(size: int, *, marked: bool) -> Codec:
    """Return the codec for one member of a zip.

    Without a marker, what follows the content is ignored: it is the end of its own encoding, and
    the member's CRC says whether the content is right.
    """
    return Codec(
        lambda: lambda magic: ZipLzmaStream(size, marked=marked),
        (b"",),
        repeats=False,
        open_ended=not marked,
    )


def _bzip2() -> Opener:
    import bz2

    return lambda magic: bz2.BZ2Decompressor()


def _xz() -> Opener:
    import lzma

    return lambda magic: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)


def _lzma() -> Opener:
    import lzma

    return lambda magic: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_MEMORY)


_CODECS = {
    Format.GZIP: Codec(open_gzip, (detection.GZIP_MAGIC,), padding=1),
    Format.DEFLATE: Codec(open_deflate, (b"",), repeats=False),
    Format.BZIP2: Codec(_bzip2, (detection.BZIP2_MAGIC,), padding=1),
    Format.XZ: Codec(_xz, (detection.XZ_MAGIC,), padding=4),
    Format.LZMA: Codec(_lzma, (b"",), repeats=False),
    Format.ZSTD: Codec(open_zstd, (detection.ZSTD_MAGIC, *detection.SKIPPABLE_MAGICS), "zstandard"),
    Format.LZ4: Codec(open_lz4, (detection.LZ4_MAGIC, *detection.SKIPPABLE_MAGICS), "lz4"),
}
