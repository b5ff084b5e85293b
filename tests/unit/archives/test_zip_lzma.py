"""LZMA in zips, with and without a marker at its end, however its bytes are cut."""

from __future__ import annotations

import lzma
import random
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.archives.decoders import decoder_for
from pgetpy.core.archives.formats import Format
from pgetpy.errors import ArchiveError, TruncatedArchiveError
from tests.support.lzma_literals import unmarked_lzma

RANDOM = random.Random(14)
CONTENTS = [b"", b"a", b"weights" * 300, RANDOM.randbytes(3000), bytes(5000)]


def marked_lzma(content: bytes, dictionary: int = 1 << 16) -> bytes:
    """As Python's zipfile writes it."""
    filters = [{"id": lzma.FILTER_LZMA1, "dict_size": dictionary}]
    header = struct.pack("<2sHBI", b"\x09\x14", 5, 93, dictionary)
    return header + lzma.compress(content, lzma.FORMAT_RAW, filters=filters)


STREAMS = [
    pytest.param(format, content, make(content), id=f"{format.value}, {len(content)} bytes")
    for format, make in (
        (Format.ZIP_LZMA, marked_lzma),
        (Format.ZIP_LZMA_UNMARKED, unmarked_lzma),
    )
    for content in CONTENTS
]
streams = pytest.mark.parametrize(("format", "content", "stream"), STREAMS)


def decoded(format: Format, size: int, *chunks: bytes) -> bytes:
    decoder = decoder_for(format, size=size)
    out = b"".join(bytes(piece) for one in chunks for piece in decoder.feed(memoryview(one)))
    decoder.finish()
    return out


@streams
@given(cuts=st.lists(st.integers(0, 1 << 16), max_size=20))
def test_any_cut_of_the_stream_gives_the_same(
    format: Format, content: bytes, stream: bytes, cuts: list[int]
) -> None:
    stops = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    chunks = [stream[start:stop] for start, stop in pairwise(stops)]
    assert decoded(format, len(content), *chunks) == content


@streams
def test_a_stream_may_come_byte_by_byte(format: Format, content: bytes, stream: bytes) -> None:
    chunks = [stream[at : at + 1] for at in range(len(stream))]
    assert decoded(format, len(content), *chunks) == content


@streams
def test_a_stream_that_is_cut_off_is_never_whole(
    format: Format, content: bytes, stream: bytes
) -> None:
    """But for the last bytes of one without a marker, which hold nothing of the content."""
    spared = 5 if format is Format.ZIP_LZMA_UNMARKED else 0
    for stop in range(0, len(stream) - spared, 97):
        with pytest.raises(TruncatedArchiveError):
            decoded(format, len(content), stream[:stop])


def test_more_than_the_stated_size_is_seen_where_a_marker_tells_the_end() -> None:
    content = b"weights" * 300
    assert decoded(Format.ZIP_LZMA, 70, marked_lzma(content)) == content


def test_without_a_marker_no_byte_more_than_stated_is_decoded() -> None:
    content = b"weights" * 300
    assert decoded(Format.ZIP_LZMA_UNMARKED, 70, unmarked_lzma(content)) == content[:70]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (struct.pack("<2sHBI", b"\x09\x14", 4, 93, 1 << 16), "header is damaged"),
        (struct.pack("<2sHBI", b"\x09\x14", 5, 225, 1 << 16), "header is damaged"),
        (struct.pack("<2sHBI", b"\x09\x14", 5, 3 + 9 * 3, 1 << 16), "lc . lp above 4"),
        (struct.pack("<2sHBI", b"\x09\x14", 5, 93, 1 << 30), "window of more than 128 MiB"),
    ],
)
def test_a_header_that_cannot_be_used_is_refused(header: bytes, words: str) -> None:
    with pytest.raises(ArchiveError, match=words):
        decoded(Format.ZIP_LZMA, 1 << 31, header + bytes(100))


def test_a_large_dictionary_for_little_content_takes_little_memory() -> None:
    """A distance can be no longer than the content."""
    stream = marked_lzma(b"weights")
    stream = stream[:5] + b"\xff" * 4 + stream[9:]
    assert decoded(Format.ZIP_LZMA, 7, stream) == b"weights"
