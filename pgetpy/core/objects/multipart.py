"""Multipart uploads: how a file is divided, and what the answers say.

Source: Amazon S3 API Reference, "CreateMultipartUpload", "ListParts", "CompleteMultipartUpload";
limits: Amazon S3 User Guide, "Amazon S3 multipart upload limits".

    CreateMultipartUpload  ->  upload ID
    UploadPart 1..n        ->  an ETag each; in any order, repeated at will
    ListParts              ->  what the store has: how an interrupted upload is resumed
    CompleteMultipartUpload    with the ETags by number; only now the object appears

Limits: parts of 5 MiB to 5 GiB, the last may be smaller, and 10,000 of them. All parts but the last
have the same size, because Cloudflare's R2 does not accept others.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from html import unescape
from xml.sax.saxutils import escape

from pgetpy.core.lazy_dataclass import dataclass

_MIB = 1 << 20
SMALLEST_PART = 5 * _MIB
LARGEST_PART = 5 << 30
_USUAL_PART = 16 * _MIB
_MOST_PARTS = 10_000
# Bytes of the largest object that can be sent; stores may have lower limits of their own.
LARGEST_OBJECT = _MOST_PARTS * LARGEST_PART
_MD5 = re.compile(r"[0-9a-f]{32}")
_NUMBER = re.compile(r"[0-9]{1,18}")
_PART = re.compile(r"<Part>(.*?)</Part>", re.DOTALL)


@dataclass(frozen=True)
class SentPart:
    """A part that the store has: its number, from 1, its size in bytes, its ETag with quotes."""

    number: int
    size: int
    etag: str


def choose_part_size(size: int, asked: int | None = None) -> int:
    """Return how many bytes a part of an object of `size` bytes has.

    Args:
        asked: as a caller wants it; it is changed if the parts would be too small, too large or too
            many.
    """
    least = -(-size // _MOST_PARTS)
    chosen = max(asked or _USUAL_PART, SMALLEST_PART, least)
    return min(-(-chosen // _MIB) * _MIB, LARGEST_PART)


def text_of(name: str, xml: str) -> str:
    """Return the text of the first element `name`; empty if there is none."""
    found = re.search(rf"<{name}(?:\s[^>]*)?>([^<]*)</{name}>", xml)
    return unescape(found[1]).strip() if found else ""


def error_within(xml: str) -> str:
    """Return the code and message of an error that came with status 200; empty if it is none.

    S3 sends the head before it has completed an upload, and may fail after that.
    """
    if not re.match(r"\s*(?:<\?xml[^>]*>\s*)?<Error\b", xml):
        return ""
    return f"{text_of('Code', xml)}: {text_of('Message', xml)}"


def says_complete(xml: str) -> bool:
    """Whether the answer to CompleteMultipartUpload says that the object is there.

    Its head says nothing, see `error_within`; and the body may be cut off, or be a proxy's.
    """
    return bool(text_of("ETag", xml)) or "<CompleteMultipartUploadResult" in xml


def parse_parts(xml: str) -> tuple[list[SentPart], str]:
    """Return the parts of one page of ListParts, and what asks for the next page; empty for none.

    Parts that are not described in full are left out: they will be sent again.
    """
    parts = []
    for inner in _PART.findall(xml):
        number, size = text_of("PartNumber", inner), text_of("Size", inner)
        if _NUMBER.fullmatch(number) and _NUMBER.fullmatch(size):
            parts.append(SentPart(int(number), int(size), text_of("ETag", inner)))
    more = text_of("IsTruncated", xml).lower() == "true"
    return parts, text_of("NextPartNumberMarker", xml) if more else ""


def completion(parts: Mapping[int, str]) -> bytes:
    """Return the body that completes an upload: ETags by number."""
    inner = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(parts[number])}</ETag></Part>"
        for number in sorted(parts)
    )
    return f"<CompleteMultipartUpload>{inner}</CompleteMultipartUpload>".encode()


def expected_etag(parts: Mapping[int, str]) -> str:
    """Return the ETag that an object of parts with these ETags has; empty if it is not known.

    Where the ETag of a part is its MD5, that of the object is the MD5 of these, and their number.
    Stores that encrypt with keys of their own give other ETags, of which nothing follows.
    """
    md5s = [parts[number].strip('"') for number in sorted(parts)]
    if not all(_MD5.fullmatch(md5) for md5 in md5s):
        return ""
    joined = bytes.fromhex("".join(md5s))
    return f'"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(md5s)}"'


def are_of_two_objects(etag: str, other: str) -> bool:
    """Whether these ETags cannot be of the same object.

    rclone names an object of parts in one way when it is completed (MD5-N), and in another later.
    """
    one, two = etag.strip('"'), other.strip('"')
    return bool(one and two) and one != two and ("-" in one) == ("-" in two)
