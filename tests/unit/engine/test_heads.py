"""Heads of answers, however they come in: what is read, and whether the connection may be kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.http.answers import judge
from pgetpy.core.http.heads import Head
from pgetpy.core.http.ranges import Span
from pgetpy.engine.transports.base import UnsupportedResponseError
from pgetpy.engine.transports.wire import HeadReader, may_stay_open, parse_head
from pgetpy.errors import RangeNotHonouredError, TransferError

HEADS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 206 Partial\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 200 OK\nA: 1\r\n\tfolded\nContent-Length: 5\r\r\n\n",
    b"HTTP/1.0 200\r\nTransfer-Encoding: Chunked\r\nContent-Length: 7\r\n\r\n",
    b"HTTP/1.1 404 Not Found\r\nX-Long: " + b"a" * 70_000 + b"\r\n\r\n",
]


def read(pieces: list[bytes]) -> tuple[Head, bytes] | str:
    """The head in `pieces` and what came behind it, or why there is none."""
    reader = HeadReader()
    head = None
    behind = b""
    try:
        for piece in pieces:
            left = piece
            while left and head is None:
                space = reader.space
                count = min(len(space), len(left))
                space[:count] = left[:count]
                left = left[count:]
                head = reader.feed(count)
            behind += left
    except UnsupportedResponseError as error:
        return str(error)
    return (head, bytes(reader.rest) + behind) if head is not None else "nothing yet"


@pytest.mark.parametrize("data", HEADS)
@given(cuts=st.lists(st.integers(0, 200), max_size=8))
def test_however_it_is_cut_the_head_is_the_same(data: bytes, cuts: list[int]) -> None:
    whole = read([data])
    assert isinstance(whole, tuple)
    at = sorted(cut % len(data) for cut in cuts)
    pieces = [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True)]
    assert read(pieces) == whole


@given(st.binary(max_size=60))
def test_nonsense_is_unsupported_or_waits_for_more(data: bytes) -> None:
    found = read([b"HTTP/1.1 " + data])
    assert isinstance(found, str) or 200 <= found[0].status <= 599


@pytest.mark.parametrize(
    ("head", "open_"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5", True),
        (b"HTTP/1.1 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 5", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", True),
        (b"HTTP/1.1 200 OK\r\nConnection: keep-alive, Close\r\nContent-Length: 5", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5", False),
        (b"HTTP/1.1 200 OK\nContent-Length: 5", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length : 5", False),
        (b"HTTP/1.1 200 OK\r\nX (odd): 1\r\nContent-Length: 5", False),
        (b"HTTP/1.1 200 OK\r\nX: 1\r\n 2\r\nContent-Length: 5", False),
    ],
)
def test_after_an_odd_head_the_connection_is_not_used_again(head: bytes, *, open_: bool) -> None:
    assert may_stay_open(parse_head(head)) is open_


def test_what_the_framing_says_is_put_in_order() -> None:
    both = parse_head(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: CHUNKED")
    assert both.headers.get("content-length") is None
    assert both.headers["transfer-encoding"] == "chunked"
    none = parse_head(b"HTTP/1.1 200 OK\r\nContent-Length: +5, 5\r\nTransfer-Encoding: identity,")
    assert none.headers == {"content-length": "5"}


BAD_LENGTHS = pytest.mark.parametrize(
    "length", ["", "-5", "five", "5, 6", "1e3", "0x5", "5.0", "9" * 30, "9" * 5000, "\xb2"]
)


@BAD_LENGTHS
def test_a_length_that_is_not_one_number_is_left_to_the_judge(length: str) -> None:
    field = b"\r\nContent-Length: " + length.encode("latin-1")
    head = parse_head(b"HTTP/1.1 200 OK" + field)
    assert head.headers["content-length"] == length
    assert not may_stay_open(head)
    with pytest.raises(TransferError, match="Content-Length"):
        judge("http://a.example/x", None, head, None)
    with pytest.raises(RangeNotHonouredError, match="Content-Length"):
        judge("http://a.example/x", Span(0, 5), head, None)


@BAD_LENGTHS
def test_of_an_error_only_words_are_read_so_a_bad_length_is_dropped(length: str) -> None:
    field = b"\r\nContent-Length: " + length.encode("latin-1")
    head = parse_head(b"HTTP/1.1 404 Not Found" + field)
    assert "content-length" not in head.headers
    assert not may_stay_open(head)
