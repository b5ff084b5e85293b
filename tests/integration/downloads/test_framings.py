"""Answers that are not quite HTTP/1.1, or say two things of their length: what curl takes, we take.

Each is asked for on all roads: plainly, over TLS, and both through either kind of proxy. A body
that is cut off is an error.
"""

from __future__ import annotations

import gzip
import logging
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pgetpy.errors import ConnectionFailedError, TransferError
from tests.integration.downloads.conftest import Road, on_roads
from tests.support.bodies import body
from tests.support.faults import Chunked, Fault, FinAfter, Garbage, Headers, NoLength, When
from tests.support.fetching import fetch, names_in
from tests.support.resources import Resource
from tests.support.server import Server

DATA = body(300_001)
CHUNKED = b"".join(
    b"%x;n=%d\r\n%s\r\n" % (len(DATA[at : at + 70_000]), at, DATA[at : at + 70_000])
    for at in range(0, len(DATA), 70_000)
) + b"0\r\nX-Trailer: 1\r\n\r\n"  # fmt: skip
OK = b"HTTP/1.1 200 OK\r\n"
GZIPPED = gzip.compress(DATA)
SIZE = b"Content-Length: %d\r\n" % len(DATA)

Fetch = Callable[..., Any]


@pytest.fixture
def way(request: pytest.FixtureRequest, road: Road, tmp_path: Path) -> tuple[Server, Fetch]:
    """A server, and how it is asked."""
    server = request.getfixturevalue("tls_server" if road.secure else "server")

    def get(url: str, **more: Any) -> bytes:
        fetch(url, tmp_path / "got", retries=1, **road.settings, **more)
        return (tmp_path / "got").read_bytes()

    return server, get


def raw(head: bytes, content: bytes = DATA) -> Fault:
    return Garbage(head + b"\r\n" + content)


ODD = {
    "Content-Length and chunked": raw(
        OK + SIZE + b"Transfer-Encoding: chunked\r\n", CHUNKED
    ),
    "chunked and a wrong Content-Length": raw(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 7\r\n", CHUNKED
    ),
    "Chunked": raw(OK + b"Transfer-Encoding: Chunked\r\n", CHUNKED),
    "chunked twice": raw(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", CHUNKED
    ),
    "chunked by HTTP/1.0": raw(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n", CHUNKED),
    "identity, chunked": raw(OK + b"Transfer-Encoding: identity, chunked\r\n", CHUNKED),
    "identity with a length": raw(OK + SIZE + b"Transfer-Encoding: identity\r\n"),
    "an empty Transfer-Encoding": raw(OK + SIZE + b"Transfer-Encoding: \r\n"),
    "lines without CR": Garbage(b"HTTP/1.1 200 OK\n" + SIZE.replace(b"\r", b"") + b"\n" + DATA),
    "some lines without CR": Garbage(b"HTTP/1.1 200 OK\nA: 1\r\n" + SIZE + b"\n" + DATA),
    "chunks without CR": Garbage(
        b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n%x\n%s\n0\n\n" % (len(DATA), DATA)
    ),
    "a folded field": raw(OK + b"X-A: a\r\n\tb\r\n" + SIZE),
    "two equal lengths": raw(OK + SIZE + SIZE),
    "two equal lengths in one field": raw(OK + SIZE.replace(b"\r", b", %d\r" % len(DATA))),
    "a length with a plus": raw(OK + b"Content-Length: +%d\r\n" % len(DATA)),
    "a length with a unit": raw(OK + b"Content-Length: %d bytes\r\n" % len(DATA)),
    "a length with blanks": raw(OK + b"Content-Length: \t %d \t\r\n" % len(DATA)),
    "a blank before the colon": raw(OK + b"Content-Length : %d\r\n" % len(DATA)),
    "compressed chunks": raw(
        OK + b"Transfer-Encoding: gzip, chunked\r\n",
        b"%x\r\n%s\r\n0\r\n\r\n" % (len(GZIPPED), GZIPPED),
    ),
    "compressed to the end": raw(OK + b"Transfer-Encoding: deflate\r\n", zlib.compress(DATA)),
    "a long chunk extension": raw(
        OK + b"Transfer-Encoding: chunked\r\n", CHUNKED.replace(b";n=0", b";n=" + b"0" * 9000)
    ),
    "lines with CR twice": Garbage(
        b"HTTP/1.1 200 OK\r\r\n" + SIZE.replace(b"\r", b"\r\r") + b"\r\r\n" + DATA
    ),
    "HTTP/2 in the form of HTTP/1": raw(b"HTTP/2 200\r\n" + SIZE),
    "small letters": raw(b"http/1.1 200 ok\r\n" + SIZE.lower()),
    "no blank": raw(b"HTTP/1.1 200OK\r\n" + SIZE),
    "no reason": raw(b"HTTP/1.1 200\r\n" + SIZE),
    "two blanks": raw(b"HTTP/1.1  200 OK\r\n" + SIZE),
    "HTTP/1.0": raw(b"HTTP/1.0 200 OK\r\n" + SIZE),
    "an odd name": raw(OK + b"X \xe4 (odd): 1\r\n" + SIZE),
    "a field of 90 kB": raw(OK + b"X-A: " + b"a" * 90_000 + b"\r\n" + SIZE),
}  # fmt: skip


@on_roads("odd", ODD)
def test_what_curl_takes_is_taken(way: tuple[Server, Fetch], odd: str) -> None:
    server, get = way
    assert get(server.add("/model", Resource(DATA, faults=[ODD[odd]]))) == DATA
    # None is left to another client, nor asked for again.
    assert len(server.requests) == 1


def test_after_an_ambiguous_head_the_connection_is_closed(server: Server, tmp_path: Path) -> None:
    """RFC 9112, 6.3: what follows on it may be of somebody else's making."""
    both = Headers(add=(("Content-Length", str(len(DATA))),))
    url = server.add("/model", Resource(DATA, faults=[Chunked(), both]))
    fetch(url, tmp_path / "got", chunk_size=100_000, concurrency=1)
    assert (tmp_path / "got").read_bytes() == DATA
    connections = [seen.connection for seen in server.requests]
    assert len(connections) == len(set(connections)) > 1


@on_roads("unit", [1, 7, 4096, 100_000])
def test_ranges_in_chunks_are_put_together(way: tuple[Server, Fetch], unit: int) -> None:
    server, get = way
    data = DATA if unit > 7 else DATA[:3000]
    url = server.add("/model", Resource(data, faults=[Chunked(size=unit)]))
    assert get(url, chunk_size=100_000) == data


CUT = {
    "within a chunk": CHUNKED[:100_000],
    "behind a chunk": CHUNKED[: CHUNKED.index(b"\r\n11170;n=70000")],
    "within a size": CHUNKED[: CHUNKED.index(b"1170;n=70000")],
    "before the last chunk": CHUNKED[: CHUNKED.index(b"0\r\nX-Trailer")],
    "within the trailers": CHUNKED[:-8],
    "before the last line": CHUNKED[:-2],
    "by a broken size": CHUNKED[:-20] + b"zz\r\n",
}


@pytest.mark.parametrize("length", [b"", SIZE], ids=["chunked", "with a length"])
@on_roads("cut", CUT)
def test_a_chunked_body_that_is_cut_off_is_an_error(
    way: tuple[Server, Fetch], tmp_path: Path, cut: str, length: bytes
) -> None:
    server, get = way
    head = OK + length + b"Transfer-Encoding: chunked\r\n"
    url = server.add("/model", Resource(DATA, faults=[raw(head, CUT[cut])]))
    with pytest.raises(ConnectionFailedError):
        get(url)
    assert not (tmp_path / "got").exists()


def test_a_body_that_was_cut_off_once_comes_whole_the_next_time(way: tuple[Server, Fetch]) -> None:
    server, get = way
    once = When(request=1)
    faults = [replace(ODD["Content-Length and chunked"], when=When(request=2)),
              replace(raw(OK + b"Transfer-Encoding: chunked\r\n", CHUNKED[:-9]),
                      when=once)]  # fmt: skip
    assert get(server.add("/model", Resource(DATA, faults=faults))) == DATA


@pytest.mark.parametrize("fault", [NoLength(), Chunked()], ids=["no length", "chunked"])
def test_a_range_that_ends_before_its_content_range_says_is_asked_for_again(
    way: tuple[Server, Fetch], fault: Fault
) -> None:
    server, get = way
    cut = FinAfter(100_000, when=When(request=1))
    assert get(server.add("/model", Resource(DATA, faults=[fault, cut]))) == DATA


@on_roads("coding", ["br", "foo", "chunked, gzip", "gzip, deflate, chunked"])
def test_a_transfer_coding_that_nobody_asked_for_is_an_error(
    way: tuple[Server, Fetch], tmp_path: Path, coding: str
) -> None:
    server, get = way
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: " + coding.encode() + b"\r\n"
    url = server.add("/model", Resource(DATA, faults=[raw(head, CHUNKED)]))
    with pytest.raises(TransferError, match="Transfer-Encoding") as caught:
        get(url)
    assert " for for " not in str(caught.value)
    assert names_in(tmp_path) == []


# ------------------------------------------------------------------- words that are no coding


# Whether a warning says that it is not clear what the word means.
UNDONE = {
    "aws-chunked": True, "none": False, "utf-8": True, ",": False, ", ,": False,
    "Identity": False, "binary": False, "utf-8, aws-chunked,": True, "x-unheard": True,
}  # fmt: skip


@pytest.mark.usefixtures("transport")
@on_roads("value", UNDONE)
def test_what_is_no_content_coding_changes_nothing(
    way: tuple[Server, Fetch], caplog: pytest.LogCaptureFixture, value: str
) -> None:
    server, get = way
    caplog.set_level(logging.WARNING, "pgetpy.engine")
    fields = (("Content-Encoding", value),)
    assert get(server.add("/model", Resource(DATA, headers=fields)), chunk_size=100_000) == DATA
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == UNDONE[value]
    assert not UNDONE[value] or (value in said[0] and server.url("/model") in said[0])


@pytest.mark.usefixtures("transport")
def test_a_coding_beside_other_words_is_undone(server: Server, tmp_path: Path) -> None:
    fields = (("Content-Encoding", "aws-chunked, gzip"),)
    url = server.add("/model", Resource(gzip.compress(DATA), headers=fields))
    fetch(url, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == DATA


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize("value", ["br", "zstd", "compress", "utf-8, br", "gzip, br"])
def test_a_coding_that_cannot_be_undone_is_one_right_sentence(
    server: Server, tmp_path: Path, value: str
) -> None:
    url = server.add("/model", Resource(DATA, headers=(("Content-Encoding", value),)))
    with pytest.raises(TransferError, match="Content-Encoding") as caught:
        fetch(url, tmp_path / "got")
    assert value.rpartition(", ")[2] in str(caught.value)
    assert " for for " not in str(caught.value)
    assert caught.value.attempts == 1
    assert names_in(tmp_path) == []
