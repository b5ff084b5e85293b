"""The formats that are read, and the suffixes by which names tell them.

A new compression is a row here, its magic number in `detection`, and a decoder in
archives/decoders.
"""

from __future__ import annotations

from enum import Enum

from pgetpy.core.lazy_dataclass import dataclass


class Format(Enum):
    """What an object is; all but TAR, ZIP and UNKNOWN are one compressed file.

    DEFLATE and the last two LZMAs are compressions of a zip's members, without a magic number. They
    differ in whether the stream marks its own end.
    """

    TAR = "tar"
    ZIP = "zip"
    GZIP = "gzip"
    BZIP2 = "bzip2"
    XZ = "xz"
    ZSTD = "zstd"
    LZ4 = "lz4"
    LZMA = "lzma"
    DEFLATE = "deflate"
    ZIP_LZMA = "LZMA"
    ZIP_LZMA_UNMARKED = "LZMA without an end marker"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Suffixes:
    """What names of a format end with, in lower case; the first is the one to give a new file.

    Attributes:
        archives: of those that hold files.
        files: of a single compressed file, which has its own name before the suffix.
    """

    archives: tuple[str, ...]
    files: tuple[str, ...] = ()


SUFFIXES = {
    Format.TAR: Suffixes((".tar",)),
    Format.ZIP: Suffixes((".zip",)),
    Format.GZIP: Suffixes((".tar.gz", ".tgz"), (".gz", ".gzip")),
    Format.BZIP2: Suffixes((".tar.bz2", ".tbz2"), (".bz2", ".bz")),
    Format.XZ: Suffixes((".tar.xz", ".txz"), (".xz",)),
    Format.ZSTD: Suffixes((".tar.zst", ".tzst"), (".zst", ".zstd")),
    Format.LZ4: Suffixes((".tar.lz4", ".tlz4"), (".lz4",)),
    Format.LZMA: Suffixes((".tar.lzma", ".tlz"), (".lzma",)),
}
ARCHIVE_SUFFIXES = tuple(suffix for row in SUFFIXES.values() for suffix in row.archives)


def is_named(name: str, format: Format) -> bool:
    """Whether `name` is that of an archive or a compressed file of `format`."""
    row = SUFFIXES[format]
    return name.lower().endswith(row.archives + row.files)


def stem(name: str, format: Format) -> str:
    """Return the name of the file that `name` holds compressed: `name` without its suffix.

    A name without a suffix of `format` stays as it is.
    """
    suffixes = SUFFIXES[format].files if format in SUFFIXES else ()
    for suffix in suffixes:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name
