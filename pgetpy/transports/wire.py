"""The little HTTP/1.1 the direct transport speaks: one request out, one head in.

Strict on purpose: a head that is not as RFC 9112 has it raises NotForMeError, and a full client looks
at the server instead.
"""

from __future__ import annotations

import re
import socket
from urllib.parse import urlsplit

from pgetpy.core.answers import Head
from pgetpy.errors import BadReferenceError
from pgetpy.transports.base import NotForMeError, Request

_LONGEST_HEAD = 64 * 1024
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5]\d\d)(?: ([^\r\n]*))?")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*(.*?)[ \t]*")


def request_bytes(request: Request) -> bytes:
    """Return the request as sent."""
    parts = urlsplit(request.url)
    target = parts.path or "/"
    if parts.query:
        target = f"{target}?{parts.query}"
    fields = [("Host", parts.netloc), *request.headers]
    lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
    text = "\r\n".join(lines)
    if text.count("\n") != len(fields) or "\0" in text:
        raise BadReferenceError(request.url, "a header or the URL holds a line break")
    return f"{text}\r\n\r\n".encode("latin-1", "replace")


class HeadReader:
    """Reads heads from a socket into a borrowed buffer; `rest` is what came of the body with it."""

    def __init__(self, buffer: memoryview) -> None:
        self._buffer = buffer[:_LONGEST_HEAD]
        self._filled = 0
        self._begin = 0
        self.rest = self._buffer[:0]

    @property
    def received(self) -> bool:
        """Whether anything came at all."""
        return self._filled > 0

    def read(self, sock: socket.socket) -> Head:
        """Return the next final head; interim answers (1xx) are passed over.

        Raises:
            OSError: the connection failed or ended.
            NotForMeError: what came is not what this module speaks.
        """
        while True:
            end = self._find_end(sock)
            head = parse_head(bytes(self._buffer[self._begin : end]))
            self._begin = end + 4
            if head.status >= 200:
                self.rest = self._buffer[self._begin : self._filled]
                return head

    def _find_end(self, sock: socket.socket) -> int:
        while True:
            data = bytes(self._buffer[self._begin : self._filled])
            at = data.find(b"\r\n\r\n")
            if at >= 0:
                return self._begin + at
            if data and not b"HTTP/1.1 ".startswith(data[:9]):
                raise NotForMeError("something other than HTTP/1.1")
            if self._filled == len(self._buffer):
                raise NotForMeError("a very long head")
            got = sock.recv_into(self._buffer[self._filled :])
            if not got:
                raise ConnectionError("closed by the server before it answered")
            self._filled += got


def parse_head(data: bytes) -> Head:
    """Return the head in `data` (RFC 9112, 4 and 5), which ends before the empty line."""
    first, *lines = data.split(b"\r\n")
    status = _STATUS_LINE.fullmatch(first)
    if status is None or status[1] != b"1":
        raise NotForMeError("something other than HTTP/1.1")
    fields = []
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise NotForMeError("a malformed header")
        fields.append((field[1].decode("ascii"), field[2].decode("latin-1")))
    reason = (status[3] or b"").decode("latin-1")
    head = Head.of(int(status[2]), reason, fields, (1, int(status[1])))
    if "transfer-encoding" in head.headers:
        raise NotForMeError("a transfer coding")
    return head
