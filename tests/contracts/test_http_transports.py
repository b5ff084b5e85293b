"""What a transport that speaks HTTP over a network can get wrong: heads, framing, connections.

Whatever a server does, an exchange ends in the right bytes, in an error, or in
UnsupportedResponseError with nothing kept; never in wrong bytes.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import gzip
import os
import socket
import ssl
import termios
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest

from pgetpy.core.http.answers import Identity, RetryWithoutRange
from pgetpy.engine.transports.aio import AioTransport
from pgetpy.engine.transports.base import Address, UnsupportedResponseError
from pgetpy.engine.transports.connection import Connection
from pgetpy.engine.transports.direct import DirectTransport
from pgetpy.errors import (
    BadReferenceError,
    ConnectionFailedError,
    HttpStatusError,
    TransferError,
)
from pgetpy.system.threads import Workers

from ..support.authority import Authority
from ..support.bodies import body
from ..support.delivery import Gate
from ..support.faults import (
    Chunked,
    Close,
    ContentRangeOn200,
    Crawl,
    DripHead,
    Encoded,
    EnormousHead,
    ExtraBytes,
    Fault,
    FinAfter,
    Garbage,
    GateAfter,
    Headers,
    Http10,
    IdleClose,
    Interim,
    LengthConflict,
    Multipart,
    NoContentRange,
    NoLength,
    ObsFold,
    ResetAfter,
    Status,
    When,
)
from ..support.server import Server
from .worlds import Asking, PlacingSink, RecordingSink, WireWorld, run, sockets, until

KIB = 1024
BODY = body(900_001)
SMALL = body(50_000)
TOTAL = len(BODY)
# The rest of an answer whose body is "hello".
PLAIN_HELLO = b"Content-Length: 5\r\n\r\nhello"
CHUNKED_HELLO = b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
BODIES = pytest.mark.parametrize("content", [SMALL, BODY], ids=["small", "large"])


def name(fault: object) -> str:
    """A fault as the name of a test: what was said of it, without what holds of all."""
    if not isinstance(fault, Fault):
        return str(fault)
    said = [getattr(fault, one.name) for one in fields(fault) if one.name != "when"]
    return f"{type(fault).__name__}{said}"[:60]


def asked(wire: WireWorld, content: bytes, *faults: Fault, ranged: bool = True) -> Asking:
    url = wire.add("/x", content, *faults)
    return Asking(wire, url, 0, len(content)) if ranged else Asking(wire, url)


def asked_as_known(wire: WireWorld, content: bytes, fault: Fault) -> Asking:
    """As later requests of a transfer are: the version is known."""
    known = Identity(len(content), '"v1"')
    return Asking(wire, wire.add("/x", content, fault), 0, len(content), known=known)


def kept(asking: Asking) -> RecordingSink:
    assert isinstance(asking.sink, RecordingSink)
    return asking.sink


def outcome(wire: WireWorld, asking: Asking, content: bytes) -> str:
    """Carry an exchange and say how it went, having made sure that no wrong byte was kept."""
    try:
        run(wire, asking.carry())
        said = "right"
        assert kept(asking).data == content
    except UnsupportedResponseError:
        said = "not for me"
        assert not kept(asking).written
    except TransferError as error:
        said = type(error).__name__
    except RetryWithoutRange:
        said = "ask whole"
        assert not kept(asking).written
    for span in kept(asking).written:
        assert kept(asking).content(span.start, span.stop) == content[span.start : span.stop]
    return said


def is_direct(wire: WireWorld) -> bool:
    return isinstance(wire.transport, DirectTransport)


# --------------------------------------------------------------------------- what has to be right


@BODIES
@pytest.mark.parametrize(
    "fault",
    [
        Interim((103,)),
        Interim((100, 102, 103)),
        DripHead(1),
        DripHead(7),
        Interim((103,), when=When(times=1)),
        Headers(add=(("X-Many", "a"), ("X-Many", "b"), ("x-many", ""))),
        Headers(put=(("ETag", '"v1"'), ("Server", "\xe4\xf6"))),
        Headers(put=(("Set-Cookie", "a" * 6000),)),
        Headers(put=(("Last-Modified", "x" * 5000), ("Date", "\xff\xfe"), ("Retry-After", ""))),
        Headers(put=(("Content-Type", ";;;,,,"), ("Last-Modified", '"'), ("Date", ""))),
        Close(),
        Close(says=False),
        ContentRangeOn200(),
        Headers(put=(("Content-Length", ""),), when=When(method="HEAD")),
    ],
    ids=name,
)
def test_odd_and_lawful_is_right(plain_wire: WireWorld, content: bytes, fault: Fault) -> None:
    assert outcome(plain_wire, asked(plain_wire, content, fault), content) == "right"


@BODIES
@pytest.mark.parametrize(
    "fault",
    [
        Http10(length=True),
        Http10(),
        Chunked(),
        Chunked(size=1),
        Chunked(size=100_000, trailers=b"X-Trailer: a\r\n"),
        NoLength(),
    ],
    ids=name,
)
def test_other_framings_are_right(wire: WireWorld, content: bytes, fault: Fault) -> None:
    content = content[:3000] if fault == Chunked(size=1) else content
    assert outcome(wire, asked(wire, content, fault, ranged=False), content) == "right"


@BODIES
@pytest.mark.parametrize("fault", [Chunked(), NoLength()], ids=name)
def test_a_range_in_another_framing_is_right(
    plain_wire: WireWorld, content: bytes, fault: Fault
) -> None:
    assert outcome(plain_wire, asked(plain_wire, content, fault), content) == "right"


@pytest.mark.parametrize("fault", [Http10(), NoLength()], ids=name)
def test_a_body_that_only_the_connection_ends_is_told(plain_wire: WireWorld, fault: Fault) -> None:
    asking = asked(plain_wire, BODY, fault, ranged=False)
    run(plain_wire, asking.carry())
    assert asking.answer is not None
    assert (asking.answer.stop, asking.answer.delimited) == (None, False)
    assert asking.part.pos == TOTAL
    assert kept(asking).data == BODY


@BODIES
def test_a_body_that_only_the_connection_ends_may_lack_the_end_of_tls(
    wire: WireWorld, content: bytes
) -> None:
    asking = asked(wire, content, NoLength(), FinAfter(len(content)), ranged=False)
    assert outcome(wire, asking, content) == "right"


@BODIES
@pytest.mark.parametrize("fault", [NoLength(), Chunked()], ids=name)
def test_a_reset_is_no_end(wire: WireWorld, content: bytes, fault: Fault) -> None:
    asking = asked(wire, content, fault, ResetAfter(len(content) // 2), ranged=False)
    assert outcome(wire, asking, content) == "ConnectionFailedError"


# ------------------------------------------------------------------------- what must not be wrong


@pytest.mark.parametrize(
    "fault",
    [
        ObsFold(),
        EnormousHead(20_000),
        EnormousHead(),
        Garbage(),
        Garbage(b""),
        Garbage(b"HTTP/1.1 200 OK"),
        Garbage(b"HTTP/1.1 200 OK\n\n"),
        Garbage(b"HTTP/1.1 200\r\n\r\n"),
        Garbage(b"HTTP/1.1 2000 OK\r\nContent-Length: 5\r\n\r\nhello"),
        Garbage(b"HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
        Garbage(b"ICY 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
        Garbage(b"\r\n\r\n\r\n"),
        Garbage(b"\x00" * 100_000),
        Garbage(b"HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 5\r\n\r\nhello"),
        Garbage(b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-4/5\r\n"
                b"Content-Length : 5\r\n\r\nhello"),
        Headers(put=(("Content-Length", "-1"),)),
        Headers(put=(("Content-Length", "+50000"),)),
        Headers(put=(("Content-Length", "0x10"),)),
        Headers(put=(("Content-Length", ""),)),
        Headers(put=(("Content-Length", "many"),)),
        Headers(put=(("Content-Length", "9" * 30),)),
        Headers(put=(("Content-Length", "\xb2"),)),
        Headers(add=(("Content-Length", "7"),)),
        Headers(add=(("Transfer-Encoding", "chunked"),)),
        Headers(add=(("Transfer-Encoding", "gzip"),)),
        Chunked(size_line=b"zz"),
        Chunked(size_line=b"-5"),
        Chunked(size_line=b"fffffffffffffffff"),
        Chunked(size_line=b"5"),
        LengthConflict(5),
        LengthConflict(-5),
        NoContentRange(),
        Multipart(),
        Status(416),
        Encoded("gzip", label="br"),
    ],
    ids=name,
)  # fmt: skip
def test_nonsense_never_makes_wrong_bytes(plain_wire: WireWorld, fault: Fault) -> None:
    said = outcome(plain_wire, asked_as_known(plain_wire, BODY, fault), BODY)
    assert said != "not for me" or is_direct(plain_wire)


@pytest.mark.parametrize("fault", [Garbage(), EnormousHead(), ObsFold()], ids=name)
def test_after_nonsense_the_transport_goes_on(plain_wire: WireWorld, fault: Fault) -> None:
    url = plain_wire.add("/x", BODY, replace(fault, when=When(request=1)))

    async def scenario() -> Asking:
        with contextlib.suppress(TransferError, UnsupportedResponseError):
            await Asking(plain_wire, url, 0, TOTAL).carry()
        return await Asking(plain_wire, url, 0, TOTAL).carry()

    assert kept(run(plain_wire, scenario())).data == BODY


@pytest.mark.parametrize("status", [200, 206, 404])
@pytest.mark.parametrize("length", ["", "many", "5, 5", "5, 6", "-1", "+5", "1e3", "9" * 30])
def test_a_length_that_is_none_is_no_bug_of_ours(
    plain_wire: WireWorld, status: int, length: str
) -> None:
    stated = "Content-Range: bytes 0-4/5\r\n" if status == 206 else ""
    reply = f"HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n{stated}"
    asking = asked(plain_wire, b"hello", Garbage(reply.encode() + b"\r\nhello"))
    outcome(plain_wire, asking, b"hello")


def test_a_length_said_twice_the_same_is_taken_for_one(plain_wire: WireWorld) -> None:
    """RFC 9110, 8.6 leaves the choice; aiohttp refuses."""
    url = plain_wire.add("/x", SMALL, Headers(add=(("Content-Length", str(len(SMALL))),)))
    asking = Asking(plain_wire, url, 0, len(SMALL))
    if is_direct(plain_wire):
        assert outcome(plain_wire, asking, SMALL) == "right"
    else:
        assert outcome(plain_wire, asking, SMALL) in ("right", "TransferError")


# --------------------------------------------------------------------------------- content codings


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_coded_range_is_asked_for_again_as_a_whole(plain_wire: WireWorld, coding: str) -> None:
    asking = asked(plain_wire, BODY, Encoded(coding))  # type: ignore[arg-type]
    assert outcome(plain_wire, asking, BODY) == "ask whole"


# Nothing makes BODY shorter, so the lowest level is right: each process makes these once more.
GZIPPED = gzip.compress(BODY, 1)
RAW = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
CODED = {
    "gzip": ("gzip", GZIPPED),
    "gzip of two members": ("gzip", gzip.compress(BODY[:1000]) + gzip.compress(BODY[1000:], 1)),
    "deflate": ("deflate", zlib.compress(BODY, 1)),
    "deflate without its frame, as some servers have it": (
        "deflate", RAW.compress(BODY) + RAW.flush(),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("coding", "coded"), CODED.values(), ids=CODED.keys())
def test_a_coded_whole_is_decoded(plain_wire: WireWorld, coding: str, coded: bytes) -> None:
    url = plain_wire.add("/x.json", coded, headers=(("Content-Encoding", coding),))
    asking = Asking(plain_wire, url)
    assert outcome(plain_wire, asking, BODY) == "right"


@pytest.mark.parametrize(
    "coded",
    [GZIPPED[:-1], GZIPPED[:100], b"no gzip at all", b"",
     GZIPPED[:-4] + b"\0\0\0\0", GZIPPED + b"more"],
    ids=["cut at its end", "cut", "none", "empty", "damaged", "followed by something"],
)  # fmt: skip
def test_a_coded_whole_that_is_damaged_is_an_error(plain_wire: WireWorld, coded: bytes) -> None:
    url = plain_wire.add("/x.json", coded, headers=(("Content-Encoding", "gzip"),))
    said = outcome(plain_wire, Asking(plain_wire, url), BODY)
    assert said.endswith("Error")


def test_what_was_decoded_before_the_damage_is_kept(plain_wire: WireWorld) -> None:
    coded = gzip.compress(SMALL) + b"more"
    asking = Asking(
        plain_wire, plain_wire.add("/x.json", coded, headers=(("Content-Encoding", "gzip"),))
    )
    with pytest.raises(TransferError, match="Content-Encoding"):
        run(plain_wire, asking.carry())
    assert kept(asking).data == SMALL


# ---------------------------------------------------------------------------- connections that end


def unread(server: Server) -> int:
    """Bytes from `server` that have come to sockets of this process and wait to be read."""
    waiting = 0
    for descriptor in sockets():
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as end:
            if end.family == socket.AF_INET and end.getpeername()[1] == server.port:
                size = array.array("i", [0])
                fcntl.ioctl(end.fileno(), termios.FIONREAD, size)
                waiting += size[0]
    return waiting


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to find sockets")
@pytest.mark.parametrize("cut", [FinAfter, ResetAfter])
def test_what_was_read_before_the_connection_ended_is_kept(
    plain_wire: WireWorld, cut: type[FinAfter | ResetAfter]
) -> None:
    """So little that a client would rather gather more before it hands it on."""
    size, gate = 20_000, Gate()
    asking = asked(plain_wire, SMALL, GateAfter(size, gate), cut(size))

    async def scenario() -> None:
        carrying = asyncio.ensure_future(asking.carry())
        await asyncio.to_thread(gate.wait_reached)
        await until(lambda: asking.heads and not unread(plain_wire.server))
        # What was read in one turn of the loop is taken over in the next.
        for _ in range(3):
            await asyncio.sleep(0)
        gate.open()
        with pytest.raises(ConnectionFailedError):
            await carrying

    run(plain_wire, scenario())
    assert kept(asking).data == SMALL[:size]


# ----------------------------------------------------------------------------- connections in turn


def in_turn(wire: WireWorld, url: str, times: int, total: int) -> list[int]:
    """Carry so many exchanges one after the other; the connections that the answers came over."""

    async def scenario() -> None:
        for _ in range(times):
            asking = await Asking(wire, url, 0, total).carry()
            assert kept(asking).data == (BODY if total == TOTAL else SMALL)

    run(wire, scenario())
    return [seen.connection for seen in wire.server.requests]


@BODIES
def test_a_connection_is_used_again(wire: WireWorld, content: bytes) -> None:
    url = wire.add("/x", content)
    assert in_turn(wire, url, 4, len(content)) == [1, 1, 1, 1]


@BODIES
@pytest.mark.parametrize("fault", [Close(), Close(says=False), IdleClose(0.0)], ids=name)
def test_a_connection_that_the_server_closes_is_opened_anew(
    wire: WireWorld, content: bytes, fault: Fault
) -> None:
    url = wire.add("/x", content, fault)
    connections = in_turn(wire, url, 3, len(content))
    assert len(set(connections)) == 3


@BODIES
def test_a_kept_connection_that_ends_at_the_next_request_is_no_failure(
    wire: WireWorld, content: bytes
) -> None:
    # The server has taken the request and closes without a word.
    url = wire.add("/x", content, Garbage(b"", when=When(request=2)))
    assert in_turn(wire, url, 3, len(content)) == [1, 1, 2, 2]


def test_a_fresh_connection_that_ends_without_a_word_is_a_failure(wire: WireWorld) -> None:
    asking = asked(wire, SMALL, Garbage(b"", when=When(request=1)))
    # A client may ask again by itself: nothing was answered.
    tries = ("ConnectionFailedError",) if is_direct(wire) else ("ConnectionFailedError", "right")
    assert outcome(wire, asking, SMALL) in tries


def test_a_connection_that_ends_within_the_head_is_a_failure(wire: WireWorld) -> None:
    head = b"HTTP/1.1 206 Partial Content\r\nContent-Len"
    asking = asked(wire, SMALL, Garbage(head))
    assert outcome(wire, asking, SMALL) == "ConnectionFailedError"
    assert not asking.heads


@BODIES
def test_bytes_behind_a_body_are_no_part_of_the_next_answer(
    wire: WireWorld, content: bytes
) -> None:
    url = wire.add("/x", content, ExtraBytes())

    async def scenario() -> None:
        for _ in range(3):
            asking = Asking(wire, url, 0, len(content))
            try:
                await asking.carry()
            except (TransferError, UnsupportedResponseError):
                # They may come too late to be seen before the next request; but then it fails.
                assert not kept(asking).written
            else:
                assert kept(asking).data == content
            await until(lambda: all(seen.done for seen in wire.server.requests))

    run(wire, scenario())


def threaded(wire: WireWorld, url: str) -> Asking:
    """A throttle may sleep, so the body is moved by a thread if there is one."""
    return Asking(wire, url, 0, 5, throttle=lambda size: 0.0)


def on_the_loop(wire: WireWorld, url: str) -> Asking:
    return Asking(wire, url, 0, 5)


@pytest.mark.parametrize("framed", [PLAIN_HELLO, CHUNKED_HELLO], ids=["length", "chunks"])
@pytest.mark.parametrize(
    ("threads", "ask"),
    [(80, on_the_loop), (80, threaded), (0, threaded)],
    ids=["on the loop", "in a thread", "without threads"],
)
def test_bytes_that_come_with_the_body_close_the_connection(
    wire: WireWorld, framed: bytes, threads: int, ask: Callable[[WireWorld, str], Asking]
) -> None:
    """In one write with the head, so that nothing of them is left in the socket."""
    if is_direct(wire):
        wire.transport = DirectTransport(Workers(threads))
    reply = b'HTTP/1.1 206 X\r\nETag: "v1"\r\nContent-Range: bytes 0-4/5\r\n' + framed
    url = wire.add("/x", b"hello", Garbage(reply + b"more", close=False, when=When(request=1)))

    async def scenario() -> None:
        asking = ask(wire, url)
        with contextlib.suppress(ConnectionFailedError):
            await asking.carry()
            assert kept(asking).data == b"hello"
        assert kept(await ask(wire, url).carry()).data == b"hello"

    run(wire, scenario())
    first, second = wire.server.requests
    assert first.connection != second.connection


def test_what_is_left_of_a_small_flight_cut_short_closes_the_connection(wire: WireWorld) -> None:
    """The rest of its body comes when the next request is on its way already."""
    content = SMALL
    url = wire.add("/x", content, Crawl(rate=60_000, after=20_000, when=When(request=1)))
    asking = Asking(wire, url, 0, len(content))
    kept(asking).on_write = lambda pos, data: setattr(asking.part, "stop", 21_000)

    async def scenario() -> Asking:
        await asking.carry()
        assert asking.part.pos < len(content)
        return await Asking(wire, url, 0, len(content)).carry()

    assert kept(run(wire, scenario())).data == content
    first, second = wire.server.requests
    assert first.connection != second.connection


@pytest.mark.parametrize("size", [100_000, 300_000, 900_000])
def test_what_has_come_is_not_held_back_for_more(
    plain_wire: WireWorld, tmp_path: Path, size: int
) -> None:
    """Larger moves are worth a moment's wait, which ends where a server pauses."""
    if not is_direct(plain_wire):
        pytest.skip("aiohttp hands on larger blocks only")
    gate = Gate()
    url = plain_wire.add("/x", BODY, GateAfter(size, gate))
    sink = PlacingSink(tmp_path / "part")
    asking = Asking(plain_wire, url, 0, TOTAL, sink)

    async def scenario() -> None:
        carrying = asyncio.ensure_future(asking.carry())
        try:
            await until(lambda: asking.part.pos == size)
        finally:
            gate.open()
            await carrying

    run(plain_wire, scenario())
    assert sink.content(0, TOTAL) == BODY
    sink.close()


def test_a_low_water_mark_hides_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sock = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    connection = Connection(sock, None)
    connection.block(True)
    with contextlib.closing(connection), server:
        connection.await_bytes(1000)
        # A receive that goes by the mark would wait for 990 bytes more.
        server.sendall(b"ten bytes.")
        sock.settimeout(10)
        assert sock.recv(100) == b"ten bytes."
        connection.await_bytes(1000)
        server.sendall(b"more")
        connection.block(False)
        assert not connection.silent()
        # The end of a stream counts for any number of bytes.
        connection.block(True)
        server.shutdown(socket.SHUT_WR)
        connection.await_bytes(1000)
        assert sock.recv(100) == b"more"


def test_a_low_water_mark_ends_with_the_moves_it_was_set_for() -> None:
    """The last bytes of a member are received, not spliced, and may be fewer than the mark."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sock = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    connection = Connection(sock, None)
    connection.block(True)
    sock.settimeout(10)
    with contextlib.closing(connection), server:
        server.sendall(bytes(1000))
        connection.await_bytes(1000)
        assert len(sock.recv(1000)) == 1000
        server.sendall(b"ten bytes.")
        buffer = memoryview(bytearray(100))
        assert connection.fill(buffer) == 10


def test_no_write_holds_up_the_end_of_the_interpreter(wire: WireWorld) -> None:
    url = wire.add("/x", BODY)
    asking = Asking(wire, url, 0, TOTAL)
    writers: set[bool] = set()
    asking.sink.on_write = lambda pos, data: writers.add(threading.current_thread().daemon)
    run(wire, asking.carry())
    assert writers == {True}


def test_a_cancelled_call_closes_its_connection(wire: WireWorld) -> None:
    gate = Gate()
    url = wire.add("/x", BODY, GateAfter(100_000, gate, when=When(request=1)))

    async def scenario() -> None:
        carrying = asyncio.ensure_future(Asking(wire, url, 0, TOTAL).carry())
        await until(lambda: wire.server.sent("/x") >= 100_000)
        assert wire.server.open == 1
        carrying.cancel()
        await asyncio.wait({carrying})
        await until(lambda: wire.server.open == 0)

    run(wire, scenario())


def test_a_refused_call_closes_its_connection_or_reads_the_answer_to_its_end(
    wire: WireWorld,
) -> None:
    url = wire.add("/x", BODY, Status(503, "x" * 5000, when=When(request=1)))

    async def scenario() -> Asking:
        with pytest.raises(HttpStatusError):
            await Asking(wire, url, 0, TOTAL).carry()
        return await Asking(wire, url, 0, TOTAL).carry()

    assert kept(run(wire, scenario())).data == BODY


@pytest.mark.parametrize("fault", [ResetAfter(0), FinAfter(0)], ids=name)
def test_calls_side_by_side_fail_alone(wire: WireWorld, fault: Fault) -> None:
    url = wire.add("/x", BODY, replace(fault, when=When(start=0)))
    cut = TOTAL // 2
    bad, good = Asking(wire, url, 0, cut), Asking(wire, url, cut, TOTAL)

    async def scenario() -> None:
        found = await asyncio.gather(bad.carry(), good.carry(), return_exceptions=True)
        assert isinstance(found[0], ConnectionFailedError)
        assert found[1] is good

    run(wire, scenario())
    assert kept(good).content(cut, TOTAL) == BODY[cut:]


# ------------------------------------------------------------------------------------- connecting


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port that is taken, so that nobody else begins to listen on it."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield int(sock.getsockname()[1])


def test_a_server_that_is_not_there_is_a_connection_that_failed(
    wire: WireWorld, deaf_port: int
) -> None:
    asking = asked(wire, SMALL)
    nowhere = (Address(socket.AF_INET, ("127.0.0.1", deaf_port)),)
    request = asking.exchange.request
    # A transport may go by the port of the URL or by that of the address.
    moved = request.url.replace(f":{wire.server.port}", f":{nowhere[0].sockaddr[1]}")
    asking.exchange.request = replace(request, url=moved, addresses=nowhere)
    with pytest.raises(ConnectionFailedError, match="refused"):
        run(wire, asking.carry())


def test_an_address_that_refuses_gives_way_to_the_next(wire: WireWorld) -> None:
    asking = asked(wire, SMALL)
    request = asking.exchange.request
    port = wire.server.port
    refusing = Address(socket.AF_INET, ("127.0.0.99", port))
    named = request.url.replace("127.0.0.1", "localhost")
    asking.exchange.request = replace(request, url=named, addresses=(refusing, *request.addresses))
    assert outcome(wire, asking, SMALL) == "right"


def test_a_host_is_reached_at_the_addresses_given_and_called_by_its_name(wire: WireWorld) -> None:
    asking = asked(wire, SMALL)
    request = asking.exchange.request
    named = request.url.replace("127.0.0.1", "weights.example")
    asking.exchange.request = replace(request, url=named)
    assert outcome(wire, asking, SMALL) == "right"
    assert wire.server.requests[0].header("host") == f"weights.example:{wire.server.port}"


def test_the_request_goes_out_as_it_was_given(plain_wire: WireWorld) -> None:
    url = plain_wire.add("/a%20b/~c", SMALL)
    asking = Asking(
        plain_wire,
        f"{url}?x=%2F&y={{}}&z",
        0,
        100,
        headers=(("X-One", "a b"), ("If-Range", '"v1"')),
    )
    asking.exchange.request = replace(asking.exchange.request, url=f"{url}?x=%2F&y=%7B%7D&z")
    run(plain_wire, asking.carry())
    (seen,) = plain_wire.server.requests
    assert seen.target == "/a%20b/~c?x=%2F&y=%7B%7D&z"
    assert seen.header("x-one") == "a b"
    assert seen.header("if-range") == '"v1"'
    assert seen.header("range") == "bytes=0-99"
    assert seen.header("accept-encoding") == "identity"
    assert seen.header("user-agent") == "tests"
    assert seen.header("host") == f"127.0.0.1:{plain_wire.server.port}"
    assert len(seen.request.values("accept")) == 1


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nX: y", "a\0"])
def test_no_line_is_smuggled_into_a_request(plain_wire: WireWorld, value: str) -> None:
    url = plain_wire.add("/x", SMALL)
    asking = Asking(plain_wire, url, 0, 100, headers=(("X-One", value),))
    with pytest.raises((BadReferenceError, ValueError)):
        run(plain_wire, asking.carry())
    assert all(seen.header("x") is None for seen in plain_wire.server.requests)


# -------------------------------------------------------------------------------------------- TLS


@pytest.fixture(params=["direct", "aiohttp"])
def secure(request: pytest.FixtureRequest, tls_server: Server) -> WireWorld:
    direct = request.param == "direct"
    transport = DirectTransport(Workers()) if direct else AioTransport(Workers(), limit=64)
    return WireWorld(transport, tls_server, ssl.create_default_context())


def test_a_certificate_of_an_unknown_authority_is_not_accepted(secure: WireWorld) -> None:
    asking = asked(secure, SMALL)
    with pytest.raises(ConnectionFailedError, match="certificate") as caught:
        run(secure, asking.carry())
    assert "--cacert" in str(caught.value)
    assert not secure.server.requests


def test_a_certificate_for_another_name_is_not_accepted(secure: WireWorld, ca: Authority) -> None:
    secure.tls = ca.client()
    asking = asked(secure, SMALL)
    request = asking.exchange.request
    other = request.url.replace("127.0.0.1", "elsewhere.example")
    asking.exchange.request = replace(request, url=other)
    with pytest.raises(ConnectionFailedError, match="certificate"):
        run(secure, asking.carry())
    assert not secure.server.requests


def test_a_plain_server_where_tls_was_meant_is_a_connection_that_failed(
    secure: WireWorld, server: Server, ca: Authority
) -> None:
    plain = WireWorld(secure.transport, server, ca.client())
    asking = asked(plain, SMALL)
    request = asking.exchange.request
    # The server waits for a head that never comes, the client for a handshake.
    asking.exchange.request = replace(
        request, url=request.url.replace("http:", "https:"), connect_timeout=0.2
    )
    with pytest.raises(ConnectionFailedError):
        run(plain, asking.carry())
    server.violations.clear()


def test_a_tls_server_where_none_was_meant_is_no_wrong_bytes(secure: WireWorld) -> None:
    asking = asked(secure, SMALL)
    request = asking.exchange.request
    asking.exchange.request = replace(request, url=request.url.replace("https:", "http:"), tls=None)
    with pytest.raises((TransferError, UnsupportedResponseError)):
        run(secure, asking.carry())
    assert not kept(asking).written
