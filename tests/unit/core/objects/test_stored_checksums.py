"""Which checksums of a head are of all bytes of the object."""

from __future__ import annotations

import pytest

from pgetpy.core.http.heads import Head
from pgetpy.core.objects.stored_checksums import stored_checksums

CRC32 = ("x-amz-checksum-crc32", "y/Q5Jg==")
MD5 = "JfnnlDI7RTiF9RgfG2JNCw=="


def found(*fields: tuple[str, str], status: int = 200) -> list[str]:
    return [str(each) for each in stored_checksums(Head(status, dict(fields)))]


def test_the_cheapest_comes_first() -> None:
    both = ("x-goog-hash", f"md5={MD5}, crc32c=4waSgw==")
    assert found(both) == ["crc32c:e3069283", "md5:25f9e794323b453885f5181f1b624d0b"]
    assert found(CRC32, ("x-amz-checksum-type", "full_object")) == ["crc32:cbf43926"]
    assert found(("x-amz-checksum-crc64nvme", "rosUhgp5mIg=")) == ["crc64nvme:ae8b14860a799888"]


@pytest.mark.parametrize(
    "fields",
    [
        [("x-amz-checksum-crc32", "y/Q5Jg==-12")],
        [("x-amz-checksum-crc32", "y/Q5")],
        [("x-amz-checksum-crc32", "\u00e9")],
        [("x-amz-checksum-crc128", "y/Q5Jg==")],
        [CRC32, ("x-amz-checksum-type", "COMPOSITE")],
        [CRC32, ("content-encoding", "gzip")],
        [("x-goog-hash", f"md5={MD5}"), ("x-goog-stored-content-encoding", "gzip")],
        [("content-md5", MD5)],
    ],
)
def test_what_is_of_something_else_is_left_out(fields: list[tuple[str, str]]) -> None:
    assert found(*fields) == []


def test_azures_md5_is_of_the_blob_and_the_plain_one_of_the_answer() -> None:
    kind = ("x-ms-blob-type", "BlockBlob")
    md5 = ["md5:25f9e794323b453885f5181f1b624d0b"]
    assert found(("x-ms-blob-content-md5", MD5), kind, status=206) == md5
    assert found(("content-md5", MD5), kind) == md5
    assert found(("content-md5", MD5), kind, status=206) == []
