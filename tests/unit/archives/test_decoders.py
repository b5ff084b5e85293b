"""The streaming decoders against the real tools, against damage and against bombs."""

import bz2
import contextlib
import gzip
import lzma
import random
import shutil
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

import lz4.frame
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.archives.decoders import PIECE, Decoder, decoder_for
from pgetpy.core.archives.formats import Format
from pgetpy.errors import ArchiveError, TruncatedArchiveError

COMPRESSIONS = [Format.GZIP, Format.BZIP2, Format.XZ, Format.ZSTD, Format.LZ4, Format.LZMA]
REPEATED = [format for format in COMPRESSIONS if format is not Format.LZMA]
# Formats whose streams, as made here, carry a checksum of what they decode to.
CHECKED = REPEATED
WRITERS: dict[Format, Callable[[bytes], bytes]] = {
    Format.GZIP: gzip.compress,
    Format.BZIP2: bz2.compress,
    Format.XZ: lambda text: lzma.compress(text, preset=0),
    Format.LZMA: lambda text: lzma.compress(text, lzma.FORMAT_ALONE, preset=0),
    Format.ZSTD: zstandard.ZstdCompressor(write_checksum=True).compress,
    Format.LZ4: lambda text: lz4.frame.compress(text, content_checksum=True, block_linked=True),
}
RANDOM = random.Random(8878)
TEXT = RANDOM.randbytes(3000) * 3 + bytes(70_000) + RANDOM.randbytes(2000)
# More than a step of input, than a piece and than a group of zstd's blocks.
LONG = RANDOM.randbytes(1_300_000) + bytes(2_500_000) + RANDOM.randbytes(300_000)
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
SKIPPED = b"\x53\x2a\x4d\x18\x05\x00\x00\x00\xfd\x2f\xb5\x28\xff"
EMPTY_SKIPPED = b"\x50\x2a\x4d\x18\x00\x00\x00\x00"
# Many times what a decoder may hold at a time.
BOMB = 32 << 20


@lru_cache(maxsize=64)
def stream_of(format: Format, text: bytes = TEXT) -> bytes:
    """A stream of `text`, which is compressed once for all tests and examples."""
    return WRITERS[format](text)


def pieces(decoder: Decoder, chunks: Iterable[bytes]) -> Iterator[bytes | memoryview]:
    """What comes out of the chunks, whose memory is overwritten once each is used."""
    for chunk in chunks:
        used = bytearray(chunk)
        yield from decoder.feed(memoryview(used))
        used[:] = b"\xa5" * len(used)
    decoder.finish()


def decoded(format: Format, *chunks: bytes) -> bytes:
    return b"".join(pieces(decoder_for(format), chunks))


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    stops = sorted({place % (len(data) + 1) for place in places} | {len(data)})
    return [data[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]


def by_tool(text: bytes, *command: str) -> bytes:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run([*command, "-c"], input=text, capture_output=True, check=True).stdout


compressions = pytest.mark.parametrize("format", COMPRESSIONS, ids=lambda format: format.value)
repeated = pytest.mark.parametrize("format", REPEATED, ids=lambda format: format.value)
checked = pytest.mark.parametrize("format", CHECKED, ids=lambda format: format.value)


# ---------------------------------------------------------------------------- what is undamaged


REAL_TOOLS = [
    (Format.GZIP, "gzip -1"),
    (Format.GZIP, "gzip -9"),
    (Format.GZIP, "pigz -i"),
    (Format.BZIP2, "bzip2 -1"),
    (Format.BZIP2, "bzip2"),
    (Format.XZ, "xz -0"),
    (Format.XZ, "xz -0 --block-size=100000 --check=sha256"),
    (Format.XZ, "xz -0 --check=none"),
    (Format.LZMA, "xz -0 --format=lzma"),
    (Format.ZSTD, "zstd -1"),
    (Format.ZSTD, "zstd -1 --no-check --no-content-size"),
    (Format.ZSTD, "zstd -19"),
    (Format.ZSTD, "zstd -1 --long=27"),
    (Format.ZSTD, "zstd -1 -B50000"),
    (Format.ZSTD, "pzstd -1"),
    (Format.LZ4, "lz4 -1"),
    (Format.LZ4, "lz4 -9 -B4 -BD -BX --content-size"),
    (Format.LZ4, "lz4 -1 --no-frame-crc -B7"),
]
# The longest text by one way of each tool: the others take long, and `make soak` has them.
AT_LENGTH = {"gzip -1", "pigz -i", "bzip2 -1", "xz -0", "xz -0 --format=lzma", "zstd -1", "lz4 -1"}


@pytest.mark.parametrize(
    ("text", "format", "command"),
    [
        pytest.param(
            text,
            format,
            command,
            id=f"{len(text)}-{command}",
            marks=[pytest.mark.soak] if text == LONG and command not in AT_LENGTH else [],
        )
        for text in (b"", TEXT, LONG)
        for format, command in REAL_TOOLS
    ],
)
def test_what_the_real_tools_write_is_decoded(format: Format, command: str, text: bytes) -> None:
    assert decoded(format, by_tool(text, *command.split())) == text


@compressions
def test_what_python_writes_is_decoded(format: Format) -> None:
    for text in (b"", b"weights", TEXT, LONG):
        assert decoded(format, stream_of(format, text)) == text


@compressions
@given(places=st.lists(st.integers(0, 2**20), max_size=30))
def test_any_cut_of_the_input_gives_the_same(format: Format, places: list[int]) -> None:
    stream = stream_of(format)
    assert decoded(format, *cut(stream, places)) == TEXT


@repeated
@given(places=st.lists(st.integers(0, 2**20), max_size=30))
def test_streams_may_follow_one_another_in_any_cut(format: Format, places: list[int]) -> None:
    texts = (TEXT, b"", b"weights", TEXT)
    streams = b"".join(stream_of(format, text) for text in texts)
    assert decoded(format, *cut(streams, places)) == TEXT + b"weights" + TEXT


@compressions
def test_input_may_come_byte_by_byte(format: Format) -> None:
    stream = stream_of(format, TEXT[:9100])
    assert decoded(format, *(stream[at : at + 1] for at in range(len(stream)))) == TEXT[:9100]


@repeated
def test_thousands_of_tiny_streams_are_decoded(format: Format) -> None:
    stream = stream_of(format, b"w")
    assert decoded(format, stream * 3000) == b"w" * 3000


@compressions
def test_all_of_the_input_is_counted(format: Format) -> None:
    stream = stream_of(format, LONG)
    decoder = decoder_for(format)
    counts = []
    for _ in decoder.feed(memoryview(stream)):
        counts.append(decoder.consumed)
        assert decoder.consumed <= len(stream)
    assert counts == sorted(counts)
    assert decoder.consumed == len(stream)
    decoder.finish()


@pytest.mark.parametrize("format", [Format.ZSTD, Format.LZ4], ids=lambda format: format.value)
@given(places=st.lists(st.integers(0, 2**20), max_size=30))
def test_skippable_frames_are_passed_over(format: Format, places: list[int]) -> None:
    stream = stream_of(format)
    streams = SKIPPED + EMPTY_SKIPPED + stream + SKIPPED + stream + EMPTY_SKIPPED
    assert decoded(format, *cut(streams, places)) == TEXT * 2


@pytest.mark.parametrize("level", [-5, 1, 3, 19])
@pytest.mark.parametrize("checksum", [True, False])
@pytest.mark.parametrize("sized", [True, False])
def test_zstd_frames_of_every_kind_of_header_are_decoded(
    level: int, checksum: bool, sized: bool
) -> None:
    compressor = zstandard.ZstdCompressor(
        level=level, write_checksum=checksum, write_content_size=sized
    )
    # The highest level is slow, and the real tool packs the longest text at it above.
    longest = [LONG] if level < 19 else []
    for text in (b"", b"w" * 255, b"w" * 256, TEXT[:70_000], *longest):
        assert decoded(Format.ZSTD, compressor.compress(text)) == text
        flushed = compressor.compressobj()
        frame = flushed.compress(text) + flushed.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        assert decoded(Format.ZSTD, frame + flushed.flush()) == text


def gzip_member(flags: int, text: bytes = TEXT) -> bytes:
    head = b"\x1f\x8b\x08" + bytes([flags]) + bytes(6)
    head += b"\x04\x00m\x00re" if flags & 4 else b""
    head += b"model.safetensors\x00" if flags & 8 else b""
    head += b"comment\x00" if flags & 16 else b""
    check = (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little") if flags & 2 else b""
    return head + check + gzip.compress(text)[10:]


@pytest.mark.parametrize("flags", range(32))
def test_a_gzip_header_of_any_kind_may_be_cut_anywhere(flags: int) -> None:
    member = gzip_member(flags)
    assert zlib.decompress(member, 31) == TEXT
    for stop in range(60):
        assert decoded(Format.GZIP, member[:stop], member[stop:]) == TEXT
        with pytest.raises(TruncatedArchiveError):
            decoded(Format.GZIP, member[:stop])
    assert decoded(Format.GZIP, *(member[at : at + 1] for at in range(len(member)))) == TEXT


def test_a_damaged_gzip_header_is_an_error() -> None:
    member = bytearray(gzip_member(0x1F))
    member[20] ^= 1
    with pytest.raises(ArchiveError, match="header has a wrong checksum"):
        decoded(Format.GZIP, bytes(member))
    with pytest.raises(ArchiveError, match="unknown flags"):
        decoded(Format.GZIP, gzip_member(0x80))
    with pytest.raises(ArchiveError, match="too long"):
        decoded(Format.GZIP, gzip_member(8)[:12] + b"n" * 200_000)


@pytest.mark.parametrize("format", [Format.TAR, Format.ZIP, Format.UNKNOWN])
def test_what_is_no_compression_has_no_decoder(format: Format) -> None:
    with pytest.raises(ValueError, match="not a compression"):
        decoder_for(format)


# ------------------------------------------------------------------------------ after the end


@pytest.mark.parametrize("zeros", [1, 7, 512, 40_000])
@pytest.mark.parametrize("format", [Format.GZIP, Format.BZIP2], ids=lambda format: format.value)
def test_zeros_after_a_stream_are_padding(format: Format, zeros: int) -> None:
    stream = stream_of(format)
    assert decoded(format, stream + bytes(zeros)) == TEXT
    assert decoded(format, stream, bytes(zeros), stream + bytes(zeros)) == TEXT * 2


def test_zeros_after_an_xz_stream_come_in_fours() -> None:
    stream = lzma.compress(TEXT)
    assert decoded(Format.XZ, stream + bytes(8) + stream, bytes(2), bytes(2)) == TEXT * 2
    with pytest.raises(TruncatedArchiveError):
        decoded(Format.XZ, stream + bytes(6))
    with pytest.raises(ArchiveError, match="zero padding"):
        decoded(Format.XZ, stream + bytes(6) + stream)


@compressions
@pytest.mark.parametrize("before", [b"", bytes(512)], ids=["at once", "after zeros"])
def test_anything_else_after_a_stream_is_an_error(format: Format, before: bytes) -> None:
    stream = stream_of(format, b"weights") + before
    for garbage in (b"garbage", b"\x00garbage", b"\xff", stream[:1] + b"\xff"):
        for chunks in ([stream + garbage], [stream, garbage]):
            with pytest.raises(ArchiveError) as caught:
                decoded(format, *chunks)
            assert not isinstance(caught.value, TruncatedArchiveError)


@compressions
def test_something_else_altogether_is_an_error(format: Format) -> None:
    for text in (b"<html>no weights here</html>", b"\xff", b"\xff" * 100):
        with pytest.raises(ArchiveError) as caught:
            decoded(format, text)
        assert not isinstance(caught.value, TruncatedArchiveError)


def test_the_legacy_format_of_lz4_is_named() -> None:
    legacy = b"\x02\x21\x4c\x18\x05\x00\x00\x00\x40legs"
    for chunks in ([legacy], [legacy[:2], legacy[2:]]):
        with pytest.raises(ArchiveError, match="legacy"):
            decoded(Format.LZ4, *chunks)


# ------------------------------------------------------------------------------------- damage


@compressions
def test_a_stream_cut_anywhere_is_truncated(format: Format) -> None:
    stream = stream_of(format, TEXT[:9100])
    assert decoded(format, stream) == TEXT[:9100]
    for stop in range(len(stream)):
        with pytest.raises(TruncatedArchiveError) as caught:
            decoded(format, stream[:stop])
        assert caught.value.position == stop


@repeated
@given(place=st.integers(1, 2**20))
def test_a_second_stream_cut_anywhere_is_truncated(format: Format, place: int) -> None:
    stream = stream_of(format)
    stop = len(stream) + 1 + place % (len(stream) - 1)
    with pytest.raises(TruncatedArchiveError) as caught:
        decoded(format, (stream * 2)[:stop])
    assert caught.value.position == stop


@pytest.mark.parametrize("format", [Format.ZSTD, Format.LZ4], ids=lambda format: format.value)
@pytest.mark.parametrize("stop", range(1, len(SKIPPED)))
def test_a_skippable_frame_cut_anywhere_is_truncated(format: Format, stop: int) -> None:
    with pytest.raises(TruncatedArchiveError):
        decoded(format, stream_of(format, b"weights") + SKIPPED[:stop])


@checked
@given(place=st.integers(0, 2**20), change=st.integers(1, 255), again=st.integers(0, 255))
def test_changed_bytes_give_an_error_or_what_was_meant(
    format: Format, place: int, change: int, again: int
) -> None:
    stream = bytearray(stream_of(format))
    stream[place % len(stream)] ^= change
    stream[(place * 7 + 1) % len(stream)] ^= again
    try:
        text = decoded(format, bytes(stream))
    except ArchiveError:
        return
    assert text == TEXT


@checked
def test_a_changed_bit_anywhere_gives_an_error_or_what_was_meant(format: Format) -> None:
    stream = WRITERS[format](b"model weights " * 9)
    for bit in range(8 * len(stream)):
        changed = bytearray(stream)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            text = decoded(format, bytes(changed))
        except ArchiveError:
            continue
        assert text == b"model weights " * 9


@compressions
@given(noise=st.binary(max_size=300), kept=st.integers(0, 60))
def test_noise_behind_a_beginning_gives_no_other_error(
    format: Format, noise: bytes, kept: int
) -> None:
    with contextlib.suppress(ArchiveError):
        decoded(format, stream_of(format)[:kept] + noise)


@pytest.mark.parametrize("place", [-1, -5], ids=["length", "checksum"])
def test_the_trailer_of_gzip_is_checked(place: int) -> None:
    stream = bytearray(gzip.compress(TEXT))
    stream[place] ^= 1
    with pytest.raises(ArchiveError, match="gzip data is damaged near byte"):
        decoded(Format.GZIP, bytes(stream))


@checked
def test_an_error_names_the_place_and_has_a_cause(format: Format) -> None:
    # Behind several steps of input.
    stream = bytearray(stream_of(format, LONG))
    stream[1_200_000] ^= 0x55
    stream[1_200_001] ^= 0x55
    with pytest.raises(ArchiveError, match=r"near byte \d") as caught:
        decoded(format, bytes(stream))
    assert caught.value.__cause__ is not None


# ------------------------------------------------------------------------- bombs and windows


def zeros_of(format: Format) -> bytes:
    """A short stream of many zeros."""
    if format in (Format.XZ, Format.LZMA):
        container = lzma.FORMAT_XZ if format is Format.XZ else lzma.FORMAT_ALONE
        return lzma.compress(bytes(BOMB), container, preset=0)
    if format is Format.GZIP:
        return gzip.compress(bytes(BOMB), 1)
    return WRITERS[format](bytes(BOMB))


@compressions
def test_a_bomb_comes_out_in_bounded_pieces_and_bounded_memory(format: Format) -> None:
    bomb = zeros_of(format)
    assert len(bomb) < 1 << 20
    decoder = decoder_for(format)
    total = 0
    tracemalloc.start()
    try:
        for piece in decoder.feed(memoryview(bomb)):
            assert 0 < len(piece) <= PIECE
            assert not any(piece[:: 1 << 12])
            total += len(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    decoder.finish()
    assert total == BOMB
    assert peak < 8 << 20


def zstd_frame(window: int, *blocks: bytes, descriptor: int = 0) -> bytes:
    return ZSTD_MAGIC + bytes([descriptor, window]) + b"".join(blocks)


def repeated_block(byte: int, size: int, *, last: bool = False) -> bytes:
    return (size << 3 | 1 << 1 | last).to_bytes(3, "little") + bytes([byte])


def test_zstd_blocks_of_one_repeated_byte_come_out_in_bounded_pieces() -> None:
    block = repeated_block(7, 128 << 10)
    bomb = zstd_frame(0x38, *[block] * 799, repeated_block(7, 128 << 10, last=True))
    sizes = [len(piece) for piece in pieces(decoder_for(Format.ZSTD), [bomb])]
    assert max(sizes) <= PIECE
    assert sum(sizes) == 800 * (128 << 10)


def test_a_zstd_block_larger_than_the_format_allows_is_an_error() -> None:
    bomb = zstd_frame(0x38, repeated_block(7, 2 << 19), repeated_block(7, 1, last=True))
    with pytest.raises(ArchiveError, match="damaged"):
        decoded(Format.ZSTD, bomb)


def test_a_zstd_window_beyond_128_mib_is_an_error_that_says_so() -> None:
    last = repeated_block(7, 9, last=True)
    assert decoded(Format.ZSTD, zstd_frame(17 << 3, last)) == b"\x07" * 9
    with pytest.raises(ArchiveError, match="window of more than 128 MiB"):
        decoded(Format.ZSTD, zstd_frame(17 << 3 | 1, last))


@pytest.mark.parametrize(
    ("descriptor", "size"),
    [
        (0xE0, (129 << 20).to_bytes(8, "little")),
        (0xE0, b"\xff" * 8),
        (0xA0, b"\xff" * 4),
    ],
)
def test_a_zstd_frame_that_is_its_own_window_is_held_to_the_limit(
    descriptor: int, size: bytes
) -> None:
    with pytest.raises(ArchiveError, match="window of more than 128 MiB"):
        decoded(Format.ZSTD, ZSTD_MAGIC + bytes([descriptor]) + size + bytes(100))


def test_an_xz_dictionary_beyond_128_mib_is_an_error_that_says_so() -> None:
    stream = bytearray(lzma.compress(b"weights"))
    size = (stream[12] + 1) * 4
    place = stream.index(b"\x21\x01", 12, 12 + size) + 2
    for code, allowed in ((30, True), (31, False), (40, False)):
        stream[place] = code
        check = zlib.crc32(stream[12 : 12 + size - 4])
        stream[12 + size - 4 : 12 + size] = check.to_bytes(4, "little")
        if allowed:
            assert decoded(Format.XZ, bytes(stream)) == b"weights"
        else:
            with pytest.raises(ArchiveError, match="window of more than 128 MiB"):
                decoded(Format.XZ, bytes(stream))


def test_an_lzma_dictionary_beyond_128_mib_is_an_error_that_says_so() -> None:
    stream = lzma.compress(b"weights", lzma.FORMAT_ALONE)
    for size, allowed in ((128 << 20, True), (192 << 20, False), (2**32 - 1, False)):
        changed = stream[:1] + size.to_bytes(4, "little") + stream[5:]
        if allowed:
            assert decoded(Format.LZMA, changed) == b"weights"
        else:
            with pytest.raises(ArchiveError, match="window of more than 128 MiB"):
                decoded(Format.LZMA, changed)


# -------------------------------------------------------------------------------- libraries


@pytest.mark.parametrize(
    ("format", "module", "package"),
    [(Format.ZSTD, "zstandard", "zstandard"), (Format.LZ4, "lz4.frame", "lz4")],
)
def test_a_missing_library_is_named(
    format: Format, module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ArchiveError, match=f"pip install {package}$"):
        decoder_for(format)


class TestGzipWithoutIsal:
    """The standard library stands in, with the same answers."""

    @pytest.fixture(autouse=True)
    def without_isal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "isal", None)

    def test_members_and_padding_are_decoded(self) -> None:
        member = gzip.compress(TEXT)
        data = member + gzip.compress(LONG) + member + bytes(99)
        for size in (1, 1000, len(data)) if len(data) < 50_000 else (1000, len(data)):
            chunks = [data[at : at + size] for at in range(0, len(data), size)]
            assert decoded(Format.GZIP, *chunks) == TEXT + LONG + TEXT

    def test_a_stream_cut_anywhere_is_truncated(self) -> None:
        member = gzip.compress(b"weights")
        for stop in range(len(member)):
            with pytest.raises(TruncatedArchiveError):
                decoded(Format.GZIP, member[:stop])

    def test_damage_is_an_error(self) -> None:
        for place in (-1, -5, 20):
            member = bytearray(gzip.compress(TEXT))
            member[place] ^= 0xFF
            with pytest.raises(ArchiveError, match="damaged near byte"):
                decoded(Format.GZIP, bytes(member))

    def test_a_bomb_comes_out_in_bounded_pieces(self) -> None:
        sizes = [len(piece) for piece in pieces(decoder_for(Format.GZIP), [zeros_of(Format.GZIP)])]
        assert max(sizes) <= PIECE
        assert sum(sizes) == BOMB


def test_importing_the_decoders_loads_no_library() -> None:
    program = (
        "import sys, pgetpy.archives.decoders\n"
        "loaded = {'isal', 'zstandard', 'lz4', 'lzma', 'bz2'} & set(sys.modules)\n"
        "print(sorted(loaded - before))"
    )
    program = "import sys; before = set(sys.modules)\n" + program
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"
