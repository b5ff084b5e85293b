"""The answers' heads that the direct transport reads, a small part of HTTP/1.1.

Strict on purpose: a head that breaks RFC 9112 raises UnsupportedResponseError, and a full client
asks the server instead.
"""

from __future__ import annotations

import re

from pgetpy.core.http.answers import Head
from pgetpy.engine.transports.base import UnsupportedResponseError

_LONGEST_HEAD = 64 * 1024
_MOST_DIGITS = 18
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5]\d\d)(?: ([^\r\n]*))?")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*(.*?)[ \t]*")


class HeadReader:
    """Finds heads in what comes into a buffer; `rest` is what came of the body with the last."""

    def __init__(self) -> None:
        self._data = bytearray(_LONGEST_HEAD)
        self._buffer = memoryview(self._data)
        self._filled = 0
        self._begin = 0
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
            raise UnsupportedResponseError("a very long head")
        return self._buffer[self._filled :]

    def feed(self, count: int) -> Head | None:
        """Take `count` bytes that came into `space`; return the final head once it is complete.

        Interim answers (1xx) are passed over.

        Raises:
            UnsupportedResponseError: what came is not what this module speaks.
        """
        self._filled += count
        while True:
            end = self._data.find(b"\r\n\r\n", self._begin, self._filled)
            if end < 0:
                begun = self._data[self._begin : min(self._begin + 9, self._filled)]
                if not b"HTTP/1.1 ".startswith(begun):
                    raise UnsupportedResponseError("something other than HTTP/1.1")
                return None
            head = parse_head(bytes(self._buffer[self._begin : end]))
            self._begin = end + 4
            if head.status >= 200:
                self.rest = self._buffer[self._begin : self._filled]
                return head


def parse_head(data: bytes) -> Head:
    """Return the head in `data` (RFC 9112, 4 and 5), which ends before the empty line."""
    first, *lines = data.split(b"\r\n")
    status = _STATUS_LINE.fullmatch(first)
    if status is None or status[1] != b"1":
        raise UnsupportedResponseError("something other than HTTP/1.1")
    fields = []
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise UnsupportedResponseError("a malformed header")
        fields.append((field[1].decode("ascii"), field[2].decode("latin-1")))
    reason = (status[3] or b"").decode("latin-1")
    head = Head.of(int(status[2]), reason, fields, (1, int(status[1])))
    if "transfer-encoding" in head.headers:
        raise UnsupportedResponseError("a transfer coding")
    if "content-length" in head.headers:
        head.headers["content-length"] = _length(head.headers["content-length"])
    return head


def _length(value: str) -> str:
    """Return a Content-Length, which may be said more than once (RFC 9110, 8.6)."""
    lengths = {length.strip() for length in value.split(",")}
    length = lengths.pop()
    if lengths or not (length.isascii() and length.isdigit()) or len(length) > _MOST_DIGITS:
        raise UnsupportedResponseError("a malformed Content-Length")
    return length
