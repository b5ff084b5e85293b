"""A transport with something to talk to: the same suite runs in each of these worlds.

The test server stands behind the transports that use a network, a dictionary behind the one that
uses none. What goes wrong is said in the same words to both.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import stat
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pgetpy.core.http.answers import Answer, Identity, judge
from pgetpy.core.http.heads import Head
from pgetpy.core.http.range_request import RangeRequest, RateMeter
from pgetpy.core.http.ranges import Span, Spans, format_range
from pgetpy.core.http.sink import Place, Sink
from pgetpy.engine.transports.base import Address, Exchange, Request, Transport
from pgetpy.testing.memory import MemoryTransport, Stored, Turn

from ..support.faults import (
    Fault,
    FinAfter,
    Headers,
    IgnoreRange,
    OtherRange,
    Redirect,
    ResetAfter,
    ShorterRange,
    SilenceAfter,
    SilenceBeforeHead,
    Status,
    When,
)
from ..support.resources import Resource
from ..support.server import Server

T = TypeVar("T")


@dataclass(frozen=True)
class Trouble:
    """What one request meets: a word of TROUBLES and its arguments."""

    kind: str
    args: tuple[Any, ...] = ()


def trouble(kind: str, *args: Any) -> Trouble:
    assert kind in ON_THE_WIRE
    return Trouble(kind, args)


def _refusal(status: int, words: str, **headers: str) -> Turn:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Turn(status, body=words.encode(), headers=named)


ON_THE_WIRE: dict[str, Callable[..., list[Fault]]] = {
    "broken off": lambda size: [ResetAfter(size)],
    "ended": lambda size: [FinAfter(size)],
    "silent": lambda size: [SilenceAfter(size)],
    "silent before the head": lambda: [SilenceBeforeHead()],
    "refused": lambda status, words, after: [Status(status, words, retry_after=after)],
    "redirected": lambda to: [Redirect(to, 307)],
    "shorter": lambda size: [ShorterRange(size)],
    "whole": lambda: [IgnoreRange()],
    "another range": lambda: [OtherRange(7, 7)],
    "another version": lambda etag: [Headers(put=(("ETag", etag),))],
}

IN_MEMORY: dict[str, Callable[..., Turn]] = {
    "broken off": lambda size: Turn(cut_after=size),
    "ended": lambda size: Turn(cut_after=size),
    "silent": lambda size: Turn(silent_after=size),
    "silent before the head": lambda: Turn(silent_after=-1),
    "refused": lambda status, words, after: _refusal(status, words, retry_after=str(after)),
    "redirected": lambda to: Turn(307, headers={"location": to}),
    "another version": lambda etag: Turn(headers={"etag": etag}),
}


class RecordingSink(Sink):
    """Keeps what it is given, and what it was told; `on_write` and `on_mark` may interfere."""

    def __init__(self) -> None:
        self.written = Spans()
        self.marked = Spans()
        self.data = bytearray()
        self.on_write: Callable[[int, memoryview], None] = lambda pos, data: None
        self.on_mark: Callable[[int, int], None] = lambda start, stop: None
        self._lock = threading.Lock()

    def place(self, pos: int) -> Place | None:
        return None

    def write(self, pos: int, data: memoryview) -> None:
        self.on_write(pos, data)
        with self._lock:
            self.written.add(pos, pos + len(data))
            self.data.extend(bytes(max(0, pos + len(data) - len(self.data))))
            self.data[pos : pos + len(data)] = data

    def mark(self, start: int, stop: int) -> None:
        self.on_mark(start, stop)
        with self._lock:
            self.marked.add(start, stop)

    def content(self, start: int, stop: int) -> bytes:
        return bytes(self.data[start:stop])


class PlacingSink(RecordingSink):
    """The same over a file, into which the kernel may move bytes unseen."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT)

    def place(self, pos: int) -> Place:
        return Place(self.fd, pos, 1 << 40)

    def write(self, pos: int, data: memoryview) -> None:
        self.on_write(pos, data)
        os.pwrite(self.fd, data, pos)

    def content(self, start: int, stop: int) -> bytes:
        return os.pread(self.fd, stop - start, start)

    def close(self) -> None:
        os.close(self.fd)


class World(Protocol):
    """A transport and its servers."""

    transport: Transport

    def add(self, path: str, body: bytes, *troubles: Trouble | None, etag: str = '"v1"') -> str:
        """Serve `body`; its first requests meet `troubles`, one each. Returns the URL."""

    def request(self, url: str, asked: Span | None, *headers: tuple[str, str]) -> Request:
        """The request for a range of a URL."""


@dataclass
class WireWorld:
    """A transport that uses the network, and the strict server."""

    transport: Transport
    server: Server
    tls: ssl.SSLContext | None = None

    @property
    def open(self) -> int:
        return self.server.open

    def add(
        self,
        path: str,
        body: bytes,
        *troubles: Trouble | Fault | None,
        etag: str = '"v1"',
        **fields: Any,
    ) -> str:
        faults: list[Fault] = []
        for number, one in enumerate(troubles, 1):
            if isinstance(one, Trouble):
                made = ON_THE_WIRE[one.kind](*one.args)
                faults += [_at(fault, number) for fault in made]
            elif one is not None:
                faults.append(one)
        return self.server.add(path, Resource(body, etag=etag, faults=faults, **fields))

    def request(self, url: str, asked: Span | None, *headers: tuple[str, str]) -> Request:
        address = Address(socket.AF_INET, ("127.0.0.1", self.server.port))
        return request_for(url, asked, headers, (address,), self.tls)


@dataclass
class MemoryWorld:
    """The transport that uses none."""

    objects: dict[str, Stored] = field(default_factory=dict)
    open: int = 0

    def __post_init__(self) -> None:
        self.transport: Transport = MemoryTransport(self.objects)

    def add(self, path: str, body: bytes, *troubles: Trouble | None, etag: str = '"v1"') -> str:
        url = f"http://store.example{path}"
        script = [self._turn(body, one) for one in troubles]
        self.objects[url] = Stored(body, etag, "Tue, 14 Nov 2023 22:13:20 GMT", script=script)
        return url

    def request(self, url: str, asked: Span | None, *headers: tuple[str, str]) -> Request:
        return request_for(url, asked, headers, (), None)

    def _turn(self, body: bytes, one: Trouble | None) -> Turn:
        if one is None:
            return Turn()
        if one.kind in IN_MEMORY:
            return IN_MEMORY[one.kind](*one.args)
        return self._other_range(body, one)

    def _other_range(self, body: bytes, one: Trouble) -> Turn:
        """A piece that the honest answer to bytes 1000 to 90000 is not."""
        if one.kind == "whole":
            return Turn(200, body=body, headers={"content-range": None})
        start, stop = (1000, 1000 + one.args[0]) if one.kind == "shorter" else (1007, 90_007)
        stated = f"bytes {start}-{stop - 1}/{len(body)}"
        return Turn(body=body[start:stop], headers={"content-range": stated})


def _at(fault: Fault, number: int) -> Fault:
    return replace(fault, when=When(request=number))


def request_for(
    url: str,
    asked: Span | None,
    headers: tuple[tuple[str, str], ...],
    addresses: tuple[Address, ...],
    tls: ssl.SSLContext | None,
) -> Request:
    ranged = [("Range", format_range(asked))] if asked is not None else []
    usual = [("User-Agent", "tests"), ("Accept", "*/*"), ("Accept-Encoding", "identity")]
    return Request(url, (*usual, *headers, *ranged), addresses, None, tls, connect_timeout=30.0)


class Asking:
    """One exchange: bytes `start` to `stop` of a URL (both None: all of it) into a sink."""

    def __init__(
        self,
        world: World,
        url: str,
        start: int | None = None,
        stop: int | None = None,
        sink: Sink | None = None,
        *,
        known: Identity | None = None,
        headers: tuple[tuple[str, str], ...] = (),
        throttle: Callable[[int], float] | None = None,
    ) -> None:
        asked = Span(start, stop) if start is not None and stop is not None else None
        self.sink = RecordingSink() if sink is None else sink
        self.known = known
        self.heads: list[Head] = []
        self.answer: Answer | None = None
        first = start or 0
        meter = RateMeter(born=0.0, quiet_since=0.0, seen_at=0.0, seen_pos=first)
        self.part = RangeRequest(first, stop, pos=first, counted=first, meter=meter)
        self.exchange = Exchange(
            world.request(url, asked, *headers), self.part, asked, self._judge, throttle
        )
        self._world = world

    async def carry(self) -> Asking:
        await self._world.transport.carry(self.exchange)
        return self

    def _judge(self, exchange: Exchange, head: Head) -> tuple[Answer, Sink]:
        self.heads.append(head)
        self.answer = judge(exchange.request.url, exchange.asked, head, self.known)
        return self.answer, self.sink


def run(world: World, scenario: Coroutine[Any, Any, T], within: float = 50) -> T:
    """Run a scenario to its end and close the transport; no socket may be left of it."""

    async def closed() -> T:
        before = len(sockets())
        try:
            return await asyncio.wait_for(scenario, within)
        finally:
            await world.transport.close()
            await until(lambda: world.open == 0 and len(sockets()) <= before)

    return asyncio.run(closed())


def sockets() -> list[int]:
    """The sockets of this process, where the system tells."""
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return []
    return [int(name) for name in names if _is_socket(int(name))]


def _is_socket(descriptor: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:
        return False


async def until(condition: Callable[[], object], within: float = 30) -> None:
    """Let the loop run until a condition holds."""
    deadline = asyncio.get_running_loop().time() + within
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "what the test waits for"
        await asyncio.sleep(0.005)
