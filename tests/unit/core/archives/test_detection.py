import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.archives.detection import recognise
from pgetpy.core.archives.formats import Format
from pgetpy.core.archives.tar import is_tar
from pgetpy.core.archives.tar_fields import BLOCK

MAGICS = {
    "gzip": b"\x1f\x8b\x08\x00",
    "bzip2": b"BZh91AY&SY",
    "xz": b"\xfd7zXZ\x00",
    "zstd": b"\x28\xb5\x2f\xfd",
    "skippable": b"\x50\x2a\x4d\x18",
    "lz4": b"\x04\x22\x4d\x18",
    "legacy lz4": b"\x02\x21\x4c\x18",
    "zip": b"PK\x03\x04",
    "empty zip": b"PK\x05\x06",
}
ZSTD, LZ4 = MAGICS["zstd"], MAGICS["lz4"]
LZMA = b"\x5d" + (1 << 23).to_bytes(4, "little") + b"\xff" * 8 + b"\x00" * 500


def tar_of(name: str, format: int = tarfile.USTAR_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        archive.addfile(tarfile.TarInfo(name))
    return out.getvalue()


def with_checksum(block: bytes, *, signed: bool) -> bytes:
    """A block with its checksum as old tars wrote it."""
    block = block[:148] + b" " * 8 + block[156:]
    total = sum(byte - 256 if signed and byte > 127 else byte for byte in block)
    return block[:148] + b"%06o\0 " % total + block[156:]


def skippable(size: int, low: int = 0x50) -> bytes:
    return bytes([low]) + b"\x2a\x4d\x18" + size.to_bytes(4, "little") + b"\xff" * size


# ------------------------------------------------------------------------------------------- tar


@pytest.mark.parametrize(
    "format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=str
)
@pytest.mark.parametrize("name", ["a", "a" * 200, "gewichte/ümläut"])
def test_a_tar_of_any_format_is_a_tar(format: int, name: str) -> None:
    if len(name) > 100 and format == tarfile.USTAR_FORMAT:
        name = f"{name[:90]}/{name[:90]}"
    assert recognise(tar_of(name, format), "weights.bin") is Format.TAR


@pytest.mark.parametrize("magic", MAGICS.values(), ids=MAGICS.keys())
def test_a_tar_whose_first_bytes_look_like_a_magic_number_is_a_tar(magic: bytes) -> None:
    block = magic.ljust(BLOCK, b"\0")
    assert recognise(block, "weights.tar") is not Format.TAR
    assert recognise(with_checksum(block, signed=False), "weights.tar.gz") is Format.TAR


@given(st.binary(min_size=BLOCK, max_size=BLOCK), st.booleans())
def test_the_checksum_may_be_of_signed_or_unsigned_bytes(block: bytes, signed: bool) -> None:
    block = with_checksum(block, signed=signed)
    # A negative sum has no octal digits.
    assert is_tar(block) == (block[148:149] != b"-")


@given(st.integers(0, BLOCK - 1), st.integers(1, 255))
def test_a_header_with_one_byte_changed_is_none(place: int, change: int) -> None:
    block = bytearray(tar_of("model.safetensors")[:BLOCK])
    block[place] ^= change
    # Blanks and zeros around the checksum's digits mean the same.
    if not 148 <= place < 156:
        assert not is_tar(bytes(block))


@pytest.mark.parametrize("field", [b"%6o\0 ", b"%06o  ", b"%07o\0", b"%08o", b" %05o\0 "])
def test_the_checksum_may_be_written_as_old_tars_did(field: bytes) -> None:
    block = tar_of("model")[:BLOCK]
    total = sum(block[:148] + b" " * 8 + block[156:])
    assert is_tar(block[:148] + field % total + block[156:])
    assert not is_tar(block[:148] + field % (total + 1) + block[156:])


def test_a_part_of_a_header_is_no_header() -> None:
    assert not is_tar(tar_of("model")[: BLOCK - 1])
    assert recognise(b"", "weights.tar") is Format.UNKNOWN


def test_a_block_of_zeros_is_an_empty_tar() -> None:
    assert recognise(bytes(10240), "weights.tar") is Format.TAR
    assert recognise(bytes(BLOCK - 1), "weights.tar") is Format.UNKNOWN


# ------------------------------------------------------------------------- zip and compressions


def test_a_zip_with_and_without_members_is_a_zip() -> None:
    for names in ([], ["model.safetensors"]):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for name in names:
                archive.writestr(name, b"weights")
        assert recognise(out.getvalue(), "weights") is Format.ZIP


def test_a_spanned_zip_in_one_volume_is_a_zip() -> None:
    assert recognise(b"PK\x07\x08PK\x03\x04rest", "weights") is Format.ZIP
    assert recognise(b"PK00PK\x03\x04rest", "weights") is Format.ZIP
    assert recognise(b"PK\x07\x08something", "weights.zip") is Format.UNKNOWN


@pytest.mark.parametrize("text", [b"", b"weights", bytes(100_000)], ids=len)
@pytest.mark.parametrize("name", ["weights", "weights.tar", "weights.zip", "weights.lzma"])
def test_a_compressed_object_is_known_whatever_its_name(text: bytes, name: str) -> None:
    assert recognise(gzip.compress(text)[:512], name) is Format.GZIP
    assert recognise(bz2.compress(text)[:512], name) is Format.BZIP2
    assert recognise(lzma.compress(text)[:512], name) is Format.XZ


def test_frames_are_told_apart_by_their_magic_numbers() -> None:
    assert recognise(ZSTD + b"rest", "weights.lz4") is Format.ZSTD
    assert recognise(LZ4 + b"rest", "weights.zst") is Format.LZ4
    assert recognise(MAGICS["legacy lz4"] + b"rest", "weights.zst") is Format.LZ4


@pytest.mark.parametrize("low", range(0x50, 0x60))
def test_skippable_frames_belong_to_the_frame_behind_them(low: int) -> None:
    before = skippable(4, low) + skippable(0)
    assert recognise(before + ZSTD, "weights.lz4") is Format.ZSTD
    assert recognise(before + LZ4, "weights.zst") is Format.LZ4


def test_a_skippable_frame_that_hides_the_next_is_named_by_its_name() -> None:
    assert recognise(skippable(4096)[:512], "weights.tar.zst") is Format.ZSTD
    assert recognise(skippable(4096)[:512], "weights.tar.LZ4") is Format.LZ4
    assert recognise(skippable(4096)[:6], "weights") is Format.ZSTD


def test_lzma_is_known_by_name_and_plausibility_together() -> None:
    written = lzma.compress(b"weights" * 1000, lzma.FORMAT_ALONE)
    for name in ("weights.lzma", "weights.tlz", "weights.tar.LZMA"):
        assert recognise(written, name) is Format.LZMA
    assert recognise(written, "weights.tar") is Format.UNKNOWN
    assert recognise(b"no compressed weights at all", "weights.lzma") is Format.UNKNOWN


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, b"\xe1"), (1, b"\x01"), (5, bytes(7) + b"\x01"), (13, b"\x01")],
    ids=["properties", "dictionary", "size", "first byte"],
)
def test_an_implausible_lzma_header_is_none(place: int, value: bytes) -> None:
    changed = LZMA[:place] + value + LZMA[place + len(value) :]
    assert recognise(LZMA, "weights.lzma") is Format.LZMA
    assert recognise(changed, "weights.lzma") is Format.UNKNOWN
    assert recognise(LZMA[:13], "weights.lzma") is Format.UNKNOWN


def test_text_that_begins_like_bzip2_is_not_bzip2() -> None:
    assert recognise(b"BZh9 is how bzip2 begins", "weights.bz2") is Format.UNKNOWN
    assert recognise(b"BZh01AY&SY", "weights.bz2") is Format.UNKNOWN
    assert recognise(b"BZh91AY", "weights") is Format.BZIP2


@given(st.binary(max_size=600), st.sampled_from(["a", "a.lzma", "a.lz4", ""]))
def test_any_beginning_has_an_answer(beginning: bytes, name: str) -> None:
    assert recognise(beginning, name) in Format
