import pytest

from pgetpy.core.references.checksums import HEX_LENGTHS, Checksum
from pgetpy.errors import BadSettingError


@pytest.mark.parametrize(("algorithm", "length"), HEX_LENGTHS.items())
def test_each_algorithm_is_read_with_its_length(algorithm: str, length: int) -> None:
    text = f"{algorithm}:{'a' * length}"
    assert str(Checksum.parse(text)) == text
    with pytest.raises(BadSettingError, match=f"has {length} hex digits, not {length - 1}"):
        Checksum.parse(text[:-1])


def test_upper_case_is_the_same_checksum() -> None:
    assert Checksum.parse("MD5:" + "AB" * 16) == Checksum("md5", "ab" * 16)


@pytest.mark.parametrize("text", ["", "md5", "a" * 64, "crc32:abcd", "md5:" + "g" * 32, "md5:"])
def test_what_is_no_checksum_is_refused_in_the_name_of_its_giver(text: str) -> None:
    with pytest.raises(BadSettingError) as caught:
        Checksum.parse(text, name="digest")
    assert caught.value.name == "digest"
