"""The answers' heads that the direct transport reads, a small part of HTTP/1.

Lenient as curl is where the meaning stays clear: lines without a CR, folded or misspelt fields, an
HTTP/1.0 server. After such a head the connection is not used again. What is no HTTP, or could mean
two things, raises UnsupportedResponseError, and a full client asks the server instead.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pgetpy.core.http.heads import Head
from pgetpy.engine.transports.base import UnsupportedResponseError

_FIRST_SIZE = 64 * 1024
# curl 8 stops there, too.
_LONGEST_HEAD = 300 * 1024
_MOST_DIGITS = 18
_END = re.compile(rb"\r*\n\r*\n")
# Of the characters of an end some may have come before.
_OVERLAP = 8
# Some servers say HTTP/2 in the form of HTTP/1.
_STATUS_LINE = re.compile(rb"HTTP/(?:1\.([01])|2(?:\.0)?) *([1-5]\d\d)(?!\d)(.*)", re.IGNORECASE)
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BEGINNING = b"HTTP/"
_LENGTH = re.compile(r"\+?(\d+)(?:[ \t;].*)?", re.ASCII)


class HeadReader:
    """Finds heads in what comes into a buffer; `rest` is what came of the body with the last."""

    def __init__(self) -> None:
        self._use(bytearray(_FIRST_SIZE))
        self._filled = 0
        self._begin = 0
        self._searched = 0
        self.rest = self._buffer[:0]

    @property
    def received(self) -> bool:
        """Whether anything came at all."""
        return self._filled > 0

    @property
    def space(self) -> memoryview:
        """Where to receive to.

        Raises:
            UnsupportedResponseError: the head is longer than any sane one.
        """
        if self._filled == len(self._buffer):
            if self._filled >= _LONGEST_HEAD:
                raise UnsupportedResponseError("a very long head")
            self._use(self._data + bytes(_LONGEST_HEAD - self._filled))
        return self._buffer[self._filled :]

    def feed(self, count: int) -> Head | None:
        """Take `count` bytes that came into `space`; return the final head once it is complete.

        Interim answers (1xx) are passed over.

        Raises:
            UnsupportedResponseError: what came is not what this module speaks.
        """
        self._filled += count
        while True:
            end = _END.search(self._data, max(self._begin, self._searched - _OVERLAP), self._filled)
            self._searched = self._filled
            if end is None:
                begun = self._data[self._begin : min(self._begin + len(_BEGINNING), self._filled)]
                if not _BEGINNING.startswith(begun.upper()):
                    raise UnsupportedResponseError("something other than HTTP/1")
                return None
            head = parse_head(bytes(self._buffer[self._begin : end.start()]))
            self._begin = self._searched = end.end()
            if head.status >= 200:
                self.rest = self._buffer[self._begin : self._filled]
                return head

    def _use(self, data: bytearray) -> None:
        self._data = data
        self._buffer = memoryview(data)


def parse_head(data: bytes) -> Head:
    """Return the head in `data` (RFC 9112, 4 and 5), which ends before the empty line.

    What follows from its framing is put in order: a Transfer-Encoding that stays overrides
    Content-Length, which is one number otherwise, and Connection says `close` where the connection
    may not be used again.
    """
    first, *lines = data.split(b"\n")
    status = _STATUS_LINE.fullmatch(first.rstrip(b"\r"))
    if status is None:
        raise UnsupportedResponseError("something other than HTTP/1")
    fields, odd = _fields(lines)
    reason = status[3].strip().decode("latin-1")
    head = Head.of(int(status[2]), reason, fields, (1, int(status[1] or b"0")))
    odd |= data.count(b"\n") != data.count(b"\r\n") or b"\r\r" in data
    headers = head.headers
    if _codings_left(headers):
        # RFC 9112, 6.3: it overrides, and the connection is not to be believed any further.
        odd |= headers.pop("content-length", None) is not None
    if "content-length" in headers:
        headers["content-length"] = _length(headers["content-length"])
    if odd or head.version < (1, 1):
        headers["connection"] = "close"
    return head


def may_stay_open(head: Head) -> bool:
    """Whether the server leaves the connection open for the next request."""
    options = head.headers.get("connection", "").lower().split(",")
    return all(option.strip() != "close" for option in options)


def _fields(lines: Sequence[bytes]) -> tuple[list[tuple[str, str]], bool]:
    """Return the fields, and whether any of them is not written as it should be."""
    fields: list[tuple[bytes, bytes]] = []
    odd = False
    for line in lines:
        if line[:1] in (b" ", b"\t"):
            # A folded line goes on with the value before it (RFC 9112, 5.2).
            odd = True
            if fields:
                fields[-1] = (fields[-1][0], fields[-1][1] + b" " + line.strip())
            continue
        name, colon, value = line.partition(b":")
        if not colon:
            raise UnsupportedResponseError("a malformed header")
        fields.append((name, value.strip()))
    named = []
    for name, value in fields:
        stripped = name.rstrip(b" \t")
        odd |= stripped != name
        if _NAME.fullmatch(stripped) is None:
            odd = True
            continue
        named.append((stripped.decode("ascii"), value.strip().decode("latin-1")))
    return named, odd


def _codings_left(headers: dict[str, str]) -> bool:
    """Whether a transfer coding is to be undone; one that is none, or said twice, is put right."""
    names = (name.strip().lower() for name in headers.get("transfer-encoding", "").split(","))
    codings = list(dict.fromkeys(name for name in names if name not in ("", "identity")))
    if codings:
        headers["transfer-encoding"] = ", ".join(codings)
    else:
        headers.pop("transfer-encoding", None)
    return bool(codings)


def _length(value: str) -> str:
    """Return a Content-Length, which may be said more than once (RFC 9110, 8.6)."""
    found = [_LENGTH.fullmatch(each.strip()) for each in value.split(",")]
    lengths = {each and each[1] for each in found}
    length = lengths.pop()
    if lengths or length is None or len(length) > _MOST_DIGITS:
        raise UnsupportedResponseError("a malformed Content-Length")
    return length
