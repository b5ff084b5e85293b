"""Which format an object has, told from its first bytes, and what else shows without decoding it.

The bytes decide, because names lie: a `.zip` may be an HTML page, and a signed URL may have no
suffix at all. The name is asked only where bytes cannot tell: `.lzma` has no magic number, and lz4
and zstd share their skippable frames.

A compressed tar is found in two steps: the compression by the object's first bytes, and the tar by
the first bytes that are decoded. `recognise` is asked both times.

Magic numbers are those of APPNOTE.TXT 4.3.6, 8.5.3 and 8.5.4 (zip),
RFC 1952 (gzip), RFC 8878 (zstd), the LZ4 frame format 1.6, the .xz file format 1.2 and liblzma's
rules for the 13 bytes before an .lzma stream; a tar header is that of POSIX.1 (ustar).
"""

from __future__ import annotations

import zlib
from collections.abc import Generator
from dataclasses import dataclass

from pgetpy.core.archives.formats import Format, is_named
from pgetpy.core.archives.tar import is_tar
from pgetpy.core.archives.tar_fields import BLOCK
from pgetpy.errors import ArchiveError

# The window of earlier output that a decoder may keep: zstd's own limit without --long=28 and more,
# and twice the dictionary of `xz -9`.
WINDOW = 128 << 20

GZIP_MAGIC = b"\x1f\x8b\x08"
BZIP2_MAGIC = b"BZh"
XZ_MAGIC = b"\xfd7zXZ\x00"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
LZ4_MAGIC = b"\x04\x22\x4d\x18"
LZ4_LEGACY_MAGIC = b"\x02\x21\x4c\x18"
# Frames for private use. Four bytes of size follow, then that many bytes to skip.
SKIPPABLE_MAGICS = tuple(bytes([low, 0x2A, 0x4D, 0x18]) for low in range(0x50, 0x60))

# The second and third are an archive without members, and what is left of a spanned archive that
# turned out to fit one volume.
_ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08PK\x03\x04", b"PK00PK\x03\x04")
# After the level a bzip2 stream has a block (the digits of pi) or its end (those of its root).
_BZIP2_BLOCKS = (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")

_GZIP_CHECKSUM, _GZIP_EXTRA, _GZIP_NAME, _GZIP_COMMENT, _GZIP_RESERVED = 2, 4, 8, 16, 0xE0
# Room for the longest extra field there can be and for any name.
_GZIP_HEADER = 128 << 10

_LZMA_PROPERTIES = 9 * 5 * 5
_LZMA_DICTIONARIES = frozenset(
    {2**n for n in range(32)} | {2**n + 2 ** (n - 1) for n in range(1, 32)} | {0xFFFFFFFF}
)
_LZMA_UNKNOWN_SIZE = 2**64 - 1
# liblzma takes nothing larger for an .lzma file when it has to guess.
_LZMA_LARGEST = 256 * 1024**3


def recognise(beginning: bytes, name: str) -> Format:
    """Return the format of the object that begins with `beginning` and is called `name`.

    Args:
        beginning: the first 512 bytes or more, or all of an object that is shorter.
        name: the last component of the URL's path.
    """
    # The name of a tar's first member may begin with any magic number.
    if is_tar(beginning[:BLOCK]):
        return Format.TAR
    if beginning.startswith(_ZIP_MAGICS):
        return Format.ZIP
    return _compression(beginning, name)


def window_error(format: str) -> ArchiveError:
    """Return the error for a stream that refers further back than WINDOW."""
    return ArchiveError(
        f"its {format} data needs a window of more than {WINDOW >> 20} MiB",
        hint=f"decompress it with {format} itself, or compress it with a smaller window",
    )


def gzip_header_size(beginning: bytes) -> int | None:
    """Return how long the header of the gzip member is (RFC 1952, 2.3), None for not known yet.

        1f 8b 08  flags  mtime(4)  xfl  os | extra: size(2), data | name, 0 | comment, 0 | crc(2)
        ------------ 10 bytes ------------   each of these only if its flag is set

    Args:
        beginning: the member's bytes from its first on, as many as have come.

    Raises:
        ValueError: it is damaged, or unreasonably long.
    """
    if len(beginning) < 12:
        return None
    flags, at = beginning[3], 10
    if flags & _GZIP_RESERVED:
        raise ValueError("its header has unknown flags")
    if flags & _GZIP_EXTRA:
        at += 2 + int.from_bytes(beginning[10:12], "little")
    for flag in (_GZIP_NAME, _GZIP_COMMENT):
        if flags & flag and at:
            at = beginning.find(b"\0", at) + 1
    stop = at + 2 if flags & _GZIP_CHECKSUM else at
    if not at or stop > len(beginning):
        if len(beginning) > _GZIP_HEADER:
            raise ValueError("its header is too long")
        return None
    if stop > at and zlib.crc32(beginning[:at]) & 0xFFFF != int.from_bytes(
        beginning[at:stop], "little"
    ):
        raise ValueError("its header has a wrong checksum")
    return stop


@dataclass(frozen=True)
class ZstdPart:
    """The next bytes of a zstd frame.

    Attributes:
        size: how many they are.
        read: whether the generator has to be sent them; others are only counted.
        block: whether they are the content of a block, which is what a decoder works on.
    """

    size: int
    read: bool = False
    block: bool = False


def zstd_parts() -> Generator[ZstdPart, bytes, None]:
    """Yield the parts of a zstd frame, and be sent those to be read (RFC 8878, 3.1.1).

        magic(4) | descriptor(1) | window, dictionary, size | head(3) block | ... | checksum(4)

    The library for zstd has no bound for its output. Who knows where blocks end can hand it so few
    of them that they make no more than wanted (a block decodes to 128 KiB at most). A window that
    is too large is refused before any memory is allocated for it.

    Raises:
        ArchiveError: the frame needs a larger window than WINDOW.
    """
    yield ZstdPart(4)
    descriptor = (yield ZstdPart(1, read=True))[0]
    single_segment = bool(descriptor & 0x20)
    dictionary_size = (0, 1, 2, 4)[descriptor & 3]
    content_size = (1 if single_segment else 0, 2, 4, 8)[descriptor >> 6]
    window_size = 0 if single_segment else 1
    header = yield ZstdPart(window_size + dictionary_size + content_size, read=True)
    if single_segment:
        window = int.from_bytes(header[dictionary_size:], "little")
        window += 256 if content_size == 2 else 0
    else:
        base = 1 << 10 + (header[0] >> 3)
        window = base + (base >> 3) * (header[0] & 7)
    if window > WINDOW:
        raise window_error("zstd")
    last = False
    while not last:
        block = int.from_bytes((yield ZstdPart(3, read=True)), "little")
        last = bool(block & 1)
        repeated = block >> 1 & 3 == 1
        yield ZstdPart(1 if repeated else block >> 3, block=True)
    if descriptor & 0x04:
        yield ZstdPart(4)


def _compression(beginning: bytes, name: str) -> Format:
    if beginning.startswith(GZIP_MAGIC):
        return Format.GZIP
    if _is_bzip2(beginning):
        return Format.BZIP2
    if beginning.startswith(XZ_MAGIC):
        return Format.XZ
    if beginning.startswith((ZSTD_MAGIC, LZ4_MAGIC, LZ4_LEGACY_MAGIC, *SKIPPABLE_MAGICS)):
        return _frames(beginning, name)
    if is_named(name, Format.LZMA) and _is_lzma(beginning):
        return Format.LZMA
    return Format.UNKNOWN


def _is_bzip2(beginning: bytes) -> bool:
    level, block = beginning[3:4], beginning[4:10]
    if not beginning.startswith(BZIP2_MAGIC) or level not in b"123456789":
        return False
    # A text may begin with "BZh" and a digit. So the magic of the first block is compared as well,
    # as far as the bytes reach.
    return any(magic.startswith(block) for magic in _BZIP2_BLOCKS)


def _frames(beginning: bytes, name: str) -> Format:
    """Tell zstd from lz4 by the first frame that is not skippable, or by the name if none is."""
    at = 0
    while beginning.startswith(SKIPPABLE_MAGICS, at):
        at += 8 + int.from_bytes(beginning[at + 4 : at + 8], "little")
    if beginning.startswith((LZ4_MAGIC, LZ4_LEGACY_MAGIC), at):
        return Format.LZ4
    if not beginning.startswith(ZSTD_MAGIC, at) and is_named(name, Format.LZ4):
        return Format.LZ4
    return Format.ZSTD


def _is_lzma(beginning: bytes) -> bool:
    """Whether the 13 bytes of properties, dictionary size and file size make sense."""
    # The range coder's first byte, which follows them, is always zero.
    if len(beginning) < 14 or beginning[0] >= _LZMA_PROPERTIES or beginning[13] != 0:
        return False
    size = int.from_bytes(beginning[5:13], "little")
    return int.from_bytes(beginning[1:5], "little") in _LZMA_DICTIONARIES and (
        size == _LZMA_UNKNOWN_SIZE or size <= _LZMA_LARGEST
    )
