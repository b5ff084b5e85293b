"""The answers' heads that the direct transport reads, a small part of HTTP/1.

A head decides where its body ends, and with that where the next answer on the connection begins.
Two readers that disagree about it take part of one answer for the head of another (response
splitting). So what is read falls into three classes:

    as RFC 9112 wants it             used, and the connection stays open
    odd, but with one meaning        used as curl uses it, and the connection is closed afterwards:
                                     lines without a CR, folded or misspelt fields, HTTP/1.0,
                                     a Content-Length beside a transfer coding
    two lengths                      left as they are, for the judge to refuse
    not HTTP/1                       UnsupportedResponseError: the full client asks instead

`HeadReader` works in one buffer, which is received into directly:

    0          _begin                    _searched   _filled          len
    | 1xx heads  | head so far              |          |  `space`       |

It searches only what is new (and `_OVERLAP` bytes before, in case a head's end was cut), so that a
server which sends a byte at a time costs linear time. A head's end found, what follows is `rest`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from pgetpy.core.http.bodies import MOST_DIGITS
from pgetpy.core.http.heads import Head
from pgetpy.engine.transports.base import UnsupportedResponseError

_FIRST_SIZE = 64 * 1024
# The limit of curl 8 as well.
_LONGEST_HEAD = 300 * 1024
_END = re.compile(rb"\r*\n\r*\n")
# The end of a head may arrive in two pieces: search so many bytes again.
_OVERLAP = 8
# Some servers write HTTP/2 into a status line of HTTP/1.
_STATUS_LINE = rb"(?i)HTTP/(?:1\.([01])|2(?:\.0)?) *([1-5]\d\d)(?!\d)(.*)"
_NAME = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_BEGINNING = b"HTTP/"
# A head without any of the oddities that `parse_head` knows.
_USUAL_STATUS = re.compile(r"HTTP/1\.1 ([1-5]\d\d) ([^\r\n]*)", re.ASCII)
_USUAL_FIELD = re.compile(r"\r\n([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([^\r\n]*)")
# What bytes.strip strips; str.strip takes more, which a header may contain in Latin-1.
_BLANKS = " \t\n\r\x0b\x0c"
_PLAIN_LENGTH = re.compile(rf"(?:0|[1-9]\d{{0,{MOST_DIGITS - 1}}})", re.ASCII).fullmatch
_LENGTH = r"(?a)\+?(\d+)(?:[ \t;].*)?"


class HeadReader:
    """Finds the final head in received bytes."""

    def __init__(self, buffer: bytearray | None = None) -> None:
        self._use(bytearray(_FIRST_SIZE) if buffer is None else buffer)
        self.restart()

    def restart(self) -> None:
        """Forget what was received: another answer is read into the same buffer."""
        self._filled = self._begin = self._searched = 0

    @property
    def rest(self) -> memoryview:
        """The bytes received after the head, once that is found: a view of the reader's buffer."""
        return self._buffer[self._begin : self._filled]

    @property
    def rest_size(self) -> int:
        """How many bytes have come behind the head."""
        return self._filled - self._begin

    @property
    def received(self) -> bool:
        """Whether any byte has come."""
        return self._filled > 0

    @property
    def space(self) -> memoryview:
        """The buffer to receive into next; never empty.

        Raises:
            UnsupportedResponseError: the head is longer than `_LONGEST_HEAD`.
        """
        if self._filled == len(self._buffer):
            if self._filled >= _LONGEST_HEAD:
                raise UnsupportedResponseError("a very long head")
            # Grown at most once: few heads are longer than the first buffer.
            self._use(self._data + bytes(_LONGEST_HEAD - self._filled))
        return self._buffer[self._filled :]

    def feed(self, count: int) -> Head | None:
        """Take `count` bytes that were received into `space`; return the head once it is complete.

        Interim answers (1xx) are skipped.

        Raises:
            UnsupportedResponseError: this is not HTTP/1, or could mean two things.
        """
        self._filled += count
        while True:
            end = _END.search(self._data, max(self._begin, self._searched - _OVERLAP), self._filled)
            self._searched = self._filled
            if end is None:
                # Do not wait for the end of a head that does not begin like one.
                begun = self._data[self._begin : min(self._begin + len(_BEGINNING), self._filled)]
                if not _BEGINNING.startswith(begun.upper()):
                    raise UnsupportedResponseError("something other than HTTP/1")
                return None
            head = parse_head(bytes(self._buffer[self._begin : end.start()]))
            self._begin = self._searched = end.end()
            if head.status >= 200:
                return head

    def make_room(self, size: int) -> bytearray:
        """Return the buffer, in which a body of `size` bytes has room behind the head."""
        missing = self._begin + size - len(self._data)
        if missing > 0:
            self._use(self._data + bytes(missing))
        return self._data

    def add_body(self, count: int) -> None:
        """Take `count` more bytes of the body, which came into `space` after the head."""
        self._filled += count

    def _use(self, data: bytearray) -> None:
        self._data = data
        self._buffer = memoryview(data)


def _parse_usual_head(data: bytes) -> Head | None:
    """Return the head in `data` if nothing in it needs a second look, as is usual; else None.

    One search for all fields takes a third of the time that lines take one by one.
    """
    text = str(data, "latin-1")
    match = _USUAL_STATUS.match(text)
    if match is None:
        return None
    status, reason = match.groups()
    fields = _USUAL_FIELD.findall(text, match.end())
    # Each line break begins a field, so there is nothing between them.
    if not text.count("\r") == text.count("\n") == len(fields):
        return None
    headers = {name.lower(): value.strip(_BLANKS) for name, value in fields}
    length = headers.get("content-length", "1")
    if len(headers) < len(fields) or "transfer-encoding" in headers or not _PLAIN_LENGTH(length):
        return None
    return Head(int(status), headers, reason.strip(_BLANKS))


def parse_head(data: bytes) -> Head:
    """Return the head in `data` (RFC 9112, 4 and 5), which ends before the empty line.

    The framing is normalised, so that later code need not know these rules: there is either a
    Transfer-Encoding or a Content-Length, of one number unless the judge has to refuse it, and
    Connection says `close` where the connection may not be used again.

    Raises:
        UnsupportedResponseError: it is not HTTP/1.
    """
    usual = _parse_usual_head(data)
    if usual is not None:
        return usual
    first, *lines = data.split(b"\n")
    status = re.fullmatch(_STATUS_LINE, first.rstrip(b"\r"))
    if status is None:
        raise UnsupportedResponseError("something other than HTTP/1")
    fields, odd = _fields(lines)
    reason = status[3].strip().decode("latin-1")
    head = Head.of(int(status[2]), reason, fields, (1, int(status[1] or b"0")))
    odd |= data.count(b"\n") != data.count(b"\r\n") or b"\r\r" in data
    headers = head.headers
    if _codings_left(headers):
        # RFC 9112, 6.3: the coding overrides the length, and the connection must be closed.
        odd |= headers.pop("content-length", None) is not None
    if "content-length" in headers:
        length = _length(headers["content-length"])
        if length is not None:
            headers["content-length"] = length
        else:
            odd = True
            if not head.brings_object:
                del headers["content-length"]  # of such a body only some words are read
    if odd or head.version < (1, 1):
        headers["connection"] = "close"
    return head


def may_stay_open(head: Head) -> bool:
    """Whether the server leaves the connection open for the next request."""
    stated = head.headers.get("connection", "keep-alive")
    if stated == "keep-alive":
        return True
    options = stated.lower().split(",")
    return all(option.strip() != "close" for option in options)


def _fields(lines: Sequence[bytes]) -> tuple[list[tuple[str, str]], bool]:
    """Return the fields, and whether any of them breaks the grammar (RFC 9112, 5).

    A field with an invalid name is left out: no code looks for it.
    """
    named = []
    odd = False
    if any(line.startswith((b" ", b"\t")) for line in lines):
        odd, lines = True, _unfolded(lines)
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon:
            raise UnsupportedResponseError("a malformed header")
        read, misspelt = _read_name(name)
        odd |= misspelt
        if read is not None:
            named.append((read, value.strip().decode("latin-1")))
    return named, odd


def _unfolded(lines: Sequence[bytes]) -> list[bytes]:
    """Return `lines` with each that continues the one before joined to it (RFC 9112, 5.2)."""
    whole: list[bytes] = []
    for line in lines:
        if not line.startswith((b" ", b"\t")):
            whole.append(line)
        elif whole:
            if b":" not in whole[-1]:
                raise UnsupportedResponseError("a malformed header")
            whole[-1] = whole[-1].rstrip() + b" " + line.strip()
    return whole


@lru_cache(maxsize=256)
def _read_name(name: bytes) -> tuple[str | None, bool]:
    """Return the name of a field, None where it is not one, and whether it is misspelt."""
    stripped = name.rstrip(b" \t")
    if re.fullmatch(_NAME, stripped) is None:
        return None, True
    return stripped.decode("ascii"), stripped != name


def _codings_left(headers: dict[str, str]) -> bool:
    """Whether a transfer coding has to be undone. Normalises the header: `identity` is not one,
    and one that is named twice (two proxies, one `chunked` each) was applied once."""
    if "transfer-encoding" not in headers:
        return False
    names = (name.strip().lower() for name in headers["transfer-encoding"].split(","))
    codings = list(dict.fromkeys(name for name in names if name not in ("", "identity")))
    if codings:
        headers["transfer-encoding"] = ", ".join(codings)
    else:
        headers.pop("transfer-encoding", None)
    return bool(codings)


def _length(value: str) -> str | None:
    """Return a Content-Length, which may be repeated if it is the same (RFC 9110, 8.6); None where
    it is not one number."""
    found = [re.fullmatch(_LENGTH, each.strip()) for each in value.split(",")]
    lengths = {each and (each[1].lstrip("0") or "0") for each in found}
    length = lengths.pop()
    return None if lengths or length is None or len(length) > MOST_DIGITS else length
