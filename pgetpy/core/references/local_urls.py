"""URLs whose bytes are on this machine: file (RFC 8089), and data, which holds them (RFC 2397).

The bytes of a data: URI have no name. So they are looked at, and a file with a fitting suffix is
made up: whatever reads it later goes by the name.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, field
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from pgetpy.core.archives.formats import ARCHIVE_SUFFIXES, SUFFIXES
from pgetpy.errors import BadReferenceError
from pgetpy.errors.redact import ELIDED_DATA

# Printable characters but the comma, which ends it.
_MEDIA_TYPE = re.compile(r"[ -+\--~]{0,200}")
_BLANK = re.compile(rb"[ \t\r\n]+")


@dataclass(frozen=True)
class DataUri:
    """The content of a data: URI.

    Attributes:
        media_type: as stated; it decides nothing.
        content: the decoded bytes.
        name: `data` with a suffix by the first bytes.
        archive: whether those are the beginning of an archive.
    """

    media_type: str
    content: bytes = field(repr=False)
    name: str
    archive: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def is_data(url: str) -> bool:
    return url[:5].lower() == "data:"


def file_path(url: str) -> str:
    """Return the path that a file URL names; bytes that are not UTF-8 become surrogate escapes."""
    return unquote(urlsplit(url).path, errors="surrogateescape")


def parse_data(uri: str, most: int | None = None) -> DataUri:
    """Return the content of `data:[<mediatype>][;base64],<data>`.

    Args:
        uri: the whole of it.
        most: bytes that the content may have; checked before it is decoded as well.

    Raises:
        BadReferenceError: it is malformed, or too large.
    """
    if re.fullmatch(ELIDED_DATA, uri):
        raise BadReferenceError(uri, "it is a data: URI as messages shorten it, without its bytes")
    head, comma, payload = uri[5:].partition(",")
    if not comma or not _MEDIA_TYPE.fullmatch(head):
        raise BadReferenceError(uri, "it is not data:[<mediatype>][;base64],<data>")
    kind, _, coding = head.rpartition(";")
    is_base64 = coding.strip().lower() == "base64"
    # Four characters of base64 are three bytes, three of an escape are one.
    if most is not None and len(payload) > (most * 4 // 3 if is_base64 else most * 3) + 1024:
        raise _too_large(uri, most)
    try:
        raw = unquote_to_bytes(payload.partition("#")[0].encode(errors="surrogateescape"))
    except UnicodeError:
        raise BadReferenceError(uri, "it contains invalid characters") from None
    content = _decoded(uri, raw) if is_base64 else raw
    if most is not None and len(content) > most:
        raise _too_large(uri, most)
    suffix = _suffix(content)
    archive = suffix in ARCHIVE_SUFFIXES
    return DataUri(kind if is_base64 else head, content, f"data{suffix}", archive)


def _decoded(uri: str, raw: bytes) -> bytes:
    # Base64 that was folded for a mail or a YAML file holds line breaks.
    plain = _BLANK.sub(b"", raw)
    try:
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except binascii.Error:
        raise BadReferenceError(uri, "its base64 is malformed") from None


def _too_large(uri: str, most: int) -> BadReferenceError:
    reason = f"it holds more than the {most} bytes that PGET_MAX_DATA_SIZE allows"
    return BadReferenceError(uri, reason)


def _suffix(content: bytes) -> str:
    """Return the suffix of a file that holds `content`; empty where it is nothing known."""
    # Imported here: few URLs hold data, and these modules are large.
    from pgetpy.core.archives.detection import recognise
    from pgetpy.core.weights.sniffing import TELLING, FileKind, sniff

    beginning = content[:TELLING]
    if sniff(beginning).kind is FileKind.SAFETENSORS:
        return ".safetensors"
    row = SUFFIXES.get(recognise(beginning, ""))
    return row.archives[0] if row is not None else ""
