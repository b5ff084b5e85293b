"""Checksums that a store keeps of an object and sends with its answers.

Sources: Amazon S3 User Guide, "Checking object integrity for data uploads"; Google Cloud Storage,
"Hashes and ETags: best practices"; Azure Storage REST API, "Get Blob".

    x-amz-checksum-ALGORITHM: BASE64     only if the request had x-amz-checksum-mode: ENABLED and no
    x-amz-checksum-type: FULL_OBJECT     Range; COMPOSITE, or BASE64-N, is a checksum of checksums
    x-goog-hash: crc32c=BASE64,md5=BASE64
    x-ms-blob-content-md5: BASE64        of the whole blob, with a range too
    Content-MD5: BASE64                  of what this answer brings; sent by Azure

A checksum of checksums says nothing about bytes that came in other parts, so it is left out.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pgetpy.core.http.heads import Head

# By what they cost, with their sizes in bytes.
_SIZES = {"crc64nvme": 8, "crc32c": 4, "crc32": 4, "sha256": 32, "sha1": 20, "md5": 16}
_FULL = "FULL_OBJECT"
_PLAIN = ("", "identity")


class StoredChecksum(NamedTuple):
    """A checksum of all bytes of an object; as text `algorithm:hex`."""

    algorithm: str
    hexdigest: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hexdigest}"


def stored_checksums(head: Head) -> list[StoredChecksum]:
    """Return the checksums of the whole object that `head` has, the cheapest to compute first.

    None of an object that was stored compressed: they would be of the compressed bytes.
    """
    headers = head.headers
    codings = ("content-encoding", "x-goog-stored-content-encoding")
    if any(headers.get(name, "").strip().lower() not in _PLAIN for name in codings):
        return []
    found = {}
    for algorithm, value in _pairs(head):
        digest = _decoded(value)
        if len(digest) == _SIZES.get(algorithm):
            found[algorithm] = digest.hex()
    return [StoredChecksum(name, found[name]) for name in _SIZES if name in found]


def _pairs(head: Head) -> Iterator[tuple[str, str]]:
    headers: Mapping[str, str] = head.headers
    if headers.get("x-amz-checksum-type", _FULL).upper() == _FULL:
        for algorithm in _SIZES:
            yield algorithm, headers.get(f"x-amz-checksum-{algorithm}", "")
    for part in headers.get("x-goog-hash", "").split(","):
        name, _, value = part.strip().partition("=")
        yield name.lower(), value
    yield "md5", headers.get("x-ms-blob-content-md5", "")
    if "x-ms-blob-type" in headers and head.status == 200:
        yield "md5", headers.get("content-md5", "")


def _decoded(value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return b""  # `BASE64-N` among others
