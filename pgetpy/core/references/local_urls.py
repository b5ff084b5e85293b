"""URLs whose bytes are on this machine: file (RFC 8089), and data, which bears them (RFC 2397)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, field
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from pgetpy.errors import BadReferenceError
from pgetpy.errors.redact import ELIDED_DATA

# Printable characters but the comma, which ends it.
_MEDIA_TYPE = re.compile(r"[ -+\--~]{0,200}")
_BLANK = re.compile(rb"[ \t\r\n]+")
_SUFFIXES = {"tar": ".tar", "zip": ".zip", "gzip": ".tar.gz", "bzip2": ".tar.bz2", "xz": ".tar.xz",
             "zstd": ".tar.zst", "lz4": ".tar.lz4"}  # fmt: skip


@dataclass(frozen=True)
class DataUri:
    """What a data: URI bears; `archive` is whether the bytes begin like one."""

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
    """Return the path that a file URL names; what is no UTF-8 in it is escaped by surrogates."""
    return unquote(urlsplit(url).path, errors="surrogateescape")


def parse_data(uri: str, most: int | None = None) -> DataUri:
    """Return what `data:[<mediatype>][;base64],<data>` bears.

    Args:
        most: so many bytes are allowed.

    Raises:
        BadReferenceError: it is malformed, or too large.
    """
    if ELIDED_DATA.fullmatch(uri):
        raise BadReferenceError(uri, "it is what is shown of a data: URI, without its bytes")
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
        raise BadReferenceError(uri, "there are characters in it that are none") from None
    content = _decoded(uri, raw) if is_base64 else raw
    if most is not None and len(content) > most:
        raise _too_large(uri, most)
    suffix = _suffix(content)
    archive = suffix in _SUFFIXES.values()
    return DataUri(kind if is_base64 else head, content, f"data{suffix}", archive)


def _decoded(uri: str, raw: bytes) -> bytes:
    # Line breaks come with what was folded for a mail or a YAML file.
    plain = _BLANK.sub(b"", raw)
    try:
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except binascii.Error:
        raise BadReferenceError(uri, "its base64 is malformed") from None


def _too_large(uri: str, most: int) -> BadReferenceError:
    reason = f"it bears more than the {most} bytes that PGET_MAX_DATA_SIZE allows"
    return BadReferenceError(uri, reason)


def _suffix(content: bytes) -> str:
    """Return the suffix of a file that holds `content`; empty where it is nothing known."""
    # Few URLs bear data, and these modules read whole formats.
    from pgetpy.core.archives.formats import recognise
    from pgetpy.core.weights.sniffing import TELLING, FileKind, sniff

    beginning = content[:TELLING]
    if sniff(beginning).kind is FileKind.SAFETENSORS:
        return ".safetensors"
    return _SUFFIXES.get(recognise(beginning, "").value, "")
