"""What a head says of its body: its length, whether its end is marked, what has to be undone."""

from __future__ import annotations

from pgetpy.core.http.content_codings import content_codings
from pgetpy.core.http.heads import Head
from pgetpy.core.http.ranges import Span, format_range
from pgetpy.errors import RangeNotHonouredError, TransferError

# Sizes fit into 64 bits.
MOST_DIGITS = 18
_DECODABLE = frozenset({"gzip", "x-gzip", "deflate"})
_GZIP_TYPES = frozenset({"application/gzip", "application/x-gzip", "application/x-tar+gzip",
                         "application/tar+gzip", "application/x-compressed-tar"})  # fmt: skip
_GZIP_SUFFIXES = (".gz", ".tgz", ".gzip")


def content_length(url: str, head: Head, asked: Span | None) -> int | None:
    """Return Content-Length; None where there is none, or a transfer coding overrides it.

    Raises:
        RangeNotHonouredError: it is not one number, in the answer to a range: a plain GET may be
            answered better.
        TransferError: the same, in the answer to a plain GET.
    """
    value = head.headers.get("content-length")
    if value is None or "transfer-encoding" in head.headers:
        return None
    # A repeated equal length arrives joined (RFC 9110, 8.6 allows to take the one value).
    values = {part.strip() for part in value.split(",")}
    text = values.pop()
    if not values and text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS:
        return int(text)
    if asked is not None:
        got = f"{head.status} with Content-Length {value!r}"
        raise RangeNotHonouredError(url, format_range(asked), got)
    raise unclear_length(url, value)


def unclear_length(url: str, value: str) -> TransferError:
    """Return the error for a Content-Length of `value`: several that differ, or not a number.

    Two readers that believed different ones would cut the connection's bytes into different answers
    (RFC 9112, 11.1), so neither is believed.
    """
    return TransferError(
        url,
        f"the server sent an invalid or contradictory Content-Length ({value[:100]})",
        hint="check the server and the proxies before it: this can also be an attack",
    )


def is_delimited(head: Head) -> bool:
    """Whether the framing marks the end of the body (RFC 9112, 6.3)."""
    chunked = "chunked" in head.headers.get("transfer-encoding", "").lower()
    return chunked or "content-length" in head.headers


def coding_to_undo(url: str, head: Head) -> str:
    """Return the content coding to undo. Identity was asked for, so any coding is a surprise.

    A .tar.gz served with `Content-Encoding: gzip` (Apache's AddEncoding does it) is the requested
    file itself; decoding it would give the tar instead.
    """
    if "content-encoding" not in head.headers:
        return ""
    coding = ", ".join(content_codings(head.headers["content-encoding"]))
    if not coding:
        return ""
    path = url.partition("?")[0].lower()
    kind = media_type(head)
    if "gzip" in coding and (path.endswith(_GZIP_SUFFIXES) or kind in _GZIP_TYPES):
        return ""
    if coding in _DECODABLE:
        return coding
    raise TransferError(
        url,
        f"the server used Content-Encoding {coding!r}, unrequested and impossible to decode,",
        hint="ask the server's operator for the plain bytes",
    )


def media_type(head: Head) -> str:
    """Return the type in Content-Type, in lower case and without parameters."""
    return head.headers.get("content-type", "").partition(";")[0].strip().lower()
