from __future__ import annotations

import pytest

from pgetpy.archives.decoders import decoder_for
from pgetpy.core.archives.formats import SUFFIXES, Format, Suffixes, stem
from pgetpy.core.references.reference import is_archive_name

NOT_COMPRESSED = {Format.TAR, Format.ZIP}


@pytest.mark.parametrize(
    ("name", "format", "expected"),
    [
        ("model.safetensors.zst", Format.ZSTD, "model.safetensors"),
        ("model.gguf.GZ", Format.GZIP, "model.gguf"),
        ("model.bz2", Format.BZIP2, "model"),
        ("model.lzma", Format.LZMA, "model"),
        ("model.xz", Format.ZSTD, "model.xz"),
        ("model", Format.LZ4, "model"),
        (".gz", Format.GZIP, ".gz"),
        ("model.tar", Format.TAR, "model.tar"),
    ],
)
def test_a_decompressed_file_loses_the_suffix_of_its_format(
    name: str, format: Format, expected: str
) -> None:
    assert stem(name, format) == expected


@pytest.mark.parametrize("row", SUFFIXES.values())
def test_the_table_says_which_names_are_those_of_archives(row: Suffixes) -> None:
    assert all(is_archive_name(f"model{suffix.upper()}") for suffix in row.archives)
    assert not any(is_archive_name(f"model{suffix}") for suffix in row.files)


@pytest.mark.parametrize("format", sorted(SUFFIXES.keys() - NOT_COMPRESSED, key=str))
def test_each_compression_of_the_table_has_a_decoder(format: Format) -> None:
    assert decoder_for(format) is not None
