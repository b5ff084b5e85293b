"""What most tests rely on in the loopback server; tests/real_servers have others judge it too."""

from __future__ import annotations

import socket
from contextlib import closing
from datetime import datetime, timezone

import pytest

from tests.support.bodies import body
from tests.support.delivery import Gate
from tests.support.faults import (
    Dam,
    EtagPerRequest,
    Fault,
    GateAfter,
    IgnoreIfRange,
    IgnoreRange,
    LengthConflict,
    NoContentRange,
    NoValidators,
    OtherRange,
    Replaced,
    ShorterRange,
    StatedTotal,
    Status,
    WeakEtag,
    When,
    at_least,
)
from tests.support.plain_client import ask, connect
from tests.support.resources import LONG_AGO, Resource
from tests.support.server import Server

BODY = body(300_000)
OTHER = body(300_000, "v2")


def serve(server: Server, *faults: Fault, data: bytes = BODY) -> str:
    return server.add("/x", Resource(data, faults=faults))


def test_a_range_past_the_end_is_416_with_the_size(server: Server):
    serve(server)
    got = ask(server, Range="bytes=300000-")
    assert (got.status, got["Content-Range"]) == (416, "bytes */300000")


@pytest.mark.parametrize(("option", "status"), [(416, 416), (200, 200)])
def test_an_empty_body_has_no_range(server: Server, option, status):
    server.add("/x", Resource(b"", empty_range=option))
    got = ask(server, Range="bytes=0-99")
    assert (got.status, got.body) == (status, b"")
    assert got["Content-Range"] == ("bytes */0" if status == 416 else None)


def test_several_ranges_are_multipart_or_the_whole(server: Server):
    serve(server)
    got = ask(server, Range="bytes=0-9, 20-29")
    assert got.status == 206
    assert got["Content-Type"].startswith("multipart/byteranges; boundary=")
    assert got.body.count(b"Content-Range: bytes ") == 2
    assert BODY[20:30] in got.body
    server.change("/x", many_ranges="whole")
    assert ask(server, Range="bytes=0-9,20-29").body == BODY


@pytest.mark.parametrize(
    ("etag", "condition", "status"),
    [
        ('"v1"', '"v1"', 206),
        ('"v1"', '"v2"', 200),
        ('"v1"', LONG_AGO, 206),
        ('"v1"', "Tue, 14 Nov 2023 22:13:21 GMT", 200),
        (None, '"v1"', 200),
    ],
)
def test_if_range_holds_for_the_same_version_only(server: Server, etag, condition, status):
    server.add("/x", Resource(BODY, etag=etag))
    got = ask(server, Range="bytes=5-9", If_Range=condition)
    assert got.status == status
    assert got.body == (BODY[5:10] if status == 206 else BODY)


def test_a_weak_if_range_never_matches_and_is_a_violation():
    with Server() as server:
        server.add("/x", Resource(BODY, etag='W/"v1"'))
        assert ask(server, Range="bytes=5-9", If_Range='W/"v1"').status == 200
        assert server.violations == ['If-Range with the weak entity tag W/"v1"']


def test_preconditions_are_evaluated(server: Server):
    serve(server)
    assert ask(server, If_Match='"v2"').status == 412
    assert ask(server, If_Match='"v2", "v1"', Range="bytes=0-0").status == 206
    assert ask(server, If_None_Match='W/"v1"').status == 304
    assert ask(server, If_Modified_Since=LONG_AGO).status == 304
    assert ask(server, If_Unmodified_Since="Tue, 14 Nov 2000 22:13:20 GMT").status == 412


def test_a_connection_is_kept_and_numbered(server: Server):
    serve(server)
    connection = connect(server)
    for _ in range(3):
        ask(server, over=connection, Range="bytes=0-9")
    connection.close()
    ask(server)
    assert [seen.connection for seen in server.requests] == [1, 1, 1, 2]
    assert server.connections == 2


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("GET /x HTTP/1.1\r\n\r\n", "no Host"),
        ("GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "host sent more than once"),
        ("GET /x HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n", "another port"),
        ("GET /x HTTP/1.1\r\nHost: user@a\r\n\r\n", "user information"),
        ("GET /x y HTTP/1.1\r\nHost: a\r\n\r\n", "request line"),
        ("GET /x#frag HTTP/1.1\r\nHost: a\r\n\r\n", "request target"),
        ("GET /x HTTP/1.1\r\nHost : a\r\n\r\n", "header line"),
        ("GET /x HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", "header line"),
        ("GET /x HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", "does not end with CRLF"),
        ("GET /x HTTP/1.1\r\nHost: a\r\nRange: bytes=9-5\r\n\r\n", "ends before it starts"),
        ("GET /x HTTP/1.1\r\nHost: a\r\nRange: bytes=5\r\n\r\n", "malformed Range"),
        ("GET /x HTTP/1.1\r\nHost: a\r\nRange: 0-5\r\n\r\n", "malformed Range"),
        ('GET /x HTTP/1.1\r\nHost: a\r\nIf-Range: "v1"\r\n\r\n', "If-Range without Range"),
        ("GET /x HTTP/1.1\r\nHost: a\r\nRange: bytes=0-\r\nIf-Range: v1\r\n\r\n", "neither"),
        ("GET /x HTTP/1.1\r\nHost: a\r\nIf-Match: v1\r\n\r\n", "if-match"),
        ("\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n", "an empty line"),
    ],
)
def test_a_request_that_may_not_be_sent_is_a_violation(raw, words):
    with Server() as server:
        serve(server)
        with socket.create_connection((server.host, server.port), timeout=30) as link:
            link.sendall(raw.encode())
            link.recv(1000)
        assert len(server.violations) == 1
        assert words in server.violations[0]
        assert server.errors == []


def test_ranges_ignored_and_if_range_ignored(server: Server):
    serve(server, IgnoreRange())
    got = ask(server, Range="bytes=5-9")
    assert (got.status, got.body, got["Accept-Ranges"]) == (200, BODY, "bytes")
    serve(server, IgnoreIfRange())
    assert ask(server, Range="bytes=5-9", If_Range='"old"').body == BODY[5:10]


def test_validators_are_weak_missing_or_changing(server: Server):
    serve(server, WeakEtag())
    assert ask(server)["ETag"] == 'W/"v1"'
    serve(server, NoValidators())
    assert ask(server)["ETag"] is ask(server)["Last-Modified"] is None
    serve(server, EtagPerRequest(backends=2))
    tags = [ask(server)["ETag"] for _ in range(4)]
    assert tags[0] == tags[2] != tags[1] == tags[3]


def test_an_object_is_replaced_after_so_many_requests_or_bytes(server: Server):
    serve(server, Replaced(OTHER, '"v2"', when=When(request=at_least(2))))
    assert ask(server, Range="bytes=0-9", If_Range='"v1"').body == BODY[:10]
    changed = ask(server, Range="bytes=0-9", If_Range='"v1"')
    assert (changed.status, changed["ETag"], changed.body) == (200, '"v2"', OTHER)
    server.add("/y", Resource(BODY, faults=[Replaced(OTHER, None, when=When(after=100))]))
    bodies = [ask(server, "/y", Range="bytes=0-59") for _ in range(3)]
    assert [got.body == BODY[:60] for got in bodies] == [True, True, False]
    assert bodies[2]["ETag"] is None


@pytest.mark.parametrize(
    ("fault", "content_range", "start", "stop"),
    [
        (OtherRange(), "bytes 101-200/300000", 101, 201),
        (OtherRange(-10, 0), "bytes 90-199/300000", 90, 200),
        (OtherRange(0, 50), "bytes 100-249/300000", 100, 250),
        (OtherRange(7, 7, claims_asked=True), "bytes 100-199/300000", 107, 207),
        (ShorterRange(30), "bytes 100-129/300000", 100, 130),
        (NoContentRange(), None, 100, 200),
        (StatedTotal(), "bytes 100-199/*", 100, 200),
        (StatedTotal(5000), "bytes 100-199/5000", 100, 200),
        (LengthConflict(-20), "bytes 100-199/300000", 100, 180),
        (LengthConflict(20), "bytes 100-199/300000", 100, 220),
    ],
    ids=repr,
)
def test_a_206_that_is_not_what_was_asked(server: Server, fault, content_range, start, stop):
    serve(server, fault)
    got = ask(server, Range="bytes=100-199")
    assert (got.status, got["Content-Range"]) == (206, content_range)
    assert got["Content-Length"] == str(stop - start)
    assert got.body == BODY[start:stop]


def test_a_status_for_the_first_so_many_with_retry_after(server: Server):
    moment = datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    serve(
        server,
        Status(503, "slow down", retry_after=2, when=When(times=1)),
        Status(429, retry_after=moment, when=When(request=2)),
    )
    first, second, third = (ask(server) for _ in range(3))
    assert (first.status, first["Retry-After"], first.body) == (503, "2", b"slow down")
    assert (second.status, second["Retry-After"]) == (429, "Wed, 02 Jan 2030 03:04:05 GMT")
    assert third.body == BODY


def test_a_gate_holds_a_body_until_it_is_opened(server: Server):
    gate = Gate()
    serve(server, GateAfter(1000, gate))
    connection = connect(server)
    connection.request("GET", "/x")
    response = connection.getresponse()
    gate.wait_reached()
    assert server.requests[0].sent == 1000
    gate.open()
    assert response.read() == BODY
    connection.close()


def test_a_dam_holds_all_bodies_together_until_its_gate_is_opened(server: Server):
    gate = Gate()
    serve(server, Dam(1500, gate))
    assert ask(server, Range="bytes=0-999").body == BODY[:1000]
    with closing(connect(server)) as one, closing(connect(server)) as other:
        for connection in (one, other):
            connection.request("GET", "/x")
        # The heads come all the same.
        responses = [connection.getresponse() for connection in (one, other)]
        gate.wait_reached()
        assert server.sent("/x") == 1500
        gate.open()
        assert [response.read() for response in responses] == [BODY, BODY]


def test_a_fault_meets_only_what_its_when_says(server: Server):
    for when, expected in [
        (When(start=100), [206, 500, 206]),
        (When(start=range(50, 300)), [206, 500, 500]),
        (When(covers=149), [206, 500, 206]),
        (When(request={1, 3}), [500, 206, 500]),
        (When(times=2), [500, 500, 206]),
        (When(connection=server.connections + 18), [206, 206, 500]),
        (When(ranged=False), [206, 206, 206]),
        (When(method="HEAD"), [206, 206, 206]),
    ]:
        path = f"/{server.connections}"
        server.add(path, Resource(BODY, faults=[Status(500, when=when)]))
        starts = ("0-49", "100-149", "200-249")
        assert [ask(server, path, Range=f"bytes={s}").status for s in starts] == expected
