"""How an answer goes out on a connection: framing, pace, and where it breaks off.

Knows sockets and no HTTP meaning: what the head and the body say was decided before.
"""

import array
import asyncio
import contextlib
import fcntl
import socket
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

PIECE = 256 * 1024
SO_MAX_PACING_RATE = 47
_PACED_BUFFER = 32 * 1024
POLL = 0.01


class Cut(Enum):
    """How a delivery ended other than by its end."""

    RESET = "reset"
    FIN = "fin"
    SILENCE = "silence"
    CLIENT = "client"


class GoneError(ConnectionError):
    """The client has gone."""


class Gate:
    """Holds deliveries until the test opens it, and tells the test when one has come to it."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._reached = threading.Event()

    def open(self) -> None:
        self._open.set()

    @property
    def is_open(self) -> bool:
        return self._open.is_set()

    def reach(self) -> None:
        self._reached.set()

    def wait_reached(self, within: float = 30) -> None:
        """Wait until a delivery stands at the gate; TimeoutError when none comes."""
        if not self._reached.wait(within):
            raise TimeoutError(f"no delivery came to the gate within {within} s")


@dataclass(frozen=True)
class Delivery:
    """The manner of one answer; the defaults are those of an honest server."""

    before: tuple[bytes, ...] = ()
    raw_head: bytes | None = None
    head_gate: Gate | None = None
    head_silent: bool = False
    head_after: float = 0.0
    drip: int = 0
    chunk: int | None = None
    chunk_size_line: bytes | None = None
    trailers: bytes = b""
    cut_after: int | None = None
    cut: Cut | None = None
    gate_after: int = 0
    gate: Gate | None = None
    ration: Callable[[int], int] | None = None
    dam: Gate | None = None
    rate: float | None = None
    rate_after: int = 0
    pace: int | None = None
    extra: bytes = b""
    close: bool = False
    idle: float | None = None


@dataclass
class Outcome:
    """What became of one delivery, as the server saw it."""

    sent: int = 0
    cut: str | None = None
    done: bool = False


class Wire:
    """One accepted connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        # Next to no buffer, so that drained means given to the kernel. With 0 the TLS transport
        # would pause for good: it pauses when the buffer is as large as the limit.
        writer.transport.set_write_buffer_limits(high=1, low=0)
        # Below a TLS transport there is another, which asyncio does not show.
        protocol = getattr(writer.transport, "_ssl_protocol", None)
        self._below = protocol._transport if protocol else writer.transport
        self.socket: Any = writer.get_extra_info("socket")
        self.slow_rate: int | None = None

    @property
    def gone(self) -> bool:
        return self.reader.at_eof() or self.writer.transport.is_closing()

    async def write(self, data: bytes | memoryview) -> None:
        if self.writer.transport.is_closing():
            raise GoneError
        self.writer.write(data)
        await self.writer.drain()

    async def hold(self, gate: Gate | None = None) -> None:
        """Send nothing until the gate opens (never, without one) or the client goes."""
        if gate is not None:
            gate.reach()
        while not (gate is not None and gate.is_open):
            if self.gone:
                raise GoneError
            await asyncio.sleep(POLL)

    def pace(self, rate: int) -> None:
        """Have the kernel pace what is sent; elsewhere than on Linux, sleep between writes.

        The kernel holds little that was not sent, for a connection that is cut off loses it. Not so
        with TLS: asyncio 3.11 raises AttributeError where a client goes while a write waits.
        """
        try:
            if self._below is self.writer.transport:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PACED_BUFFER)
            self.socket.setsockopt(
                socket.SOL_SOCKET, SO_MAX_PACING_RATE, rate.to_bytes(8, sys.byteorder)
            )
        except OSError:
            self.slow_rate = rate

    async def reset(self) -> None:
        """End with RST once the client's kernel has what was written."""
        await self._delivered()
        linger = struct.pack("ii", 1, 0)
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    async def fin(self) -> None:
        """End with FIN, and over TLS without a close_notify."""
        await self._delivered()
        self.writer.transport.abort()

    async def _delivered(self, within: float = 30) -> None:
        """Wait until the send queue is empty: RST would discard what is left in it."""
        deadline = time.monotonic() + within
        queued = array.array("i", [0])
        while time.monotonic() < deadline:
            try:
                fcntl.ioctl(self.socket.fileno(), termios.TIOCOUTQ, queued)
            except (OSError, ValueError):  # the client was faster: the socket is closed
                return
            if not queued[0] and not self._below.get_write_buffer_size():
                return
            await asyncio.sleep(0.001)


async def deliver(
    wire: Wire, head: bytes, body: bytes | memoryview, how: Delivery, to: Outcome
) -> None:
    """Send one answer; ``to`` follows what was sent and how it ended."""
    try:
        await _send(wire, head, memoryview(body), how, to)
        to.done = to.cut is None
    except (OSError, EOFError):
        to.cut = to.cut or Cut.CLIENT.value


async def _send(wire: Wire, head: bytes, body: memoryview, how: Delivery, outcome: Outcome) -> None:
    if how.pace:
        wire.pace(how.pace)
    if how.head_gate:
        await wire.hold(how.head_gate)
    if how.head_after:
        await asyncio.sleep(how.head_after)
    if how.head_silent:
        outcome.cut = Cut.SILENCE.value
        await wire.hold()
    for interim in how.before:
        await wire.write(interim)
    head = head if how.raw_head is None else how.raw_head
    if how.drip:
        for at in range(0, len(head), how.drip):
            await wire.write(head[at : at + how.drip])
            await asyncio.sleep(0)
        head = b""
    await _send_body(wire, head, body, how, outcome)
    if outcome.cut is None:
        tail = b"0\r\n" + how.trailers + b"\r\n" if how.chunk else b""
        await wire.write(tail + how.extra)


async def _send_body(
    wire: Wire, head: bytes, body: memoryview, how: Delivery, outcome: Outcome
) -> None:
    # The head leaves together with the first bytes of the body, as it does from most servers.
    stops = _stops(how)
    position = 0
    while True:
        if head and (position in stops or position >= len(body)):
            await wire.write(head)
            head = b""
        if how.gate and position == how.gate_after:
            await wire.hold(how.gate)
        if how.cut and position == how.cut_after:
            await _break_off(wire, how.cut, outcome)
            return
        if position >= len(body):
            return
        rate = _rate(wire, how, position)
        size = min(how.chunk or PIECE, _tick(rate), len(body) - position)
        size = min([size, *(at - position for at in stops if at > position)])
        if how.ration and how.dam and not how.dam.is_open:
            size = how.ration(size)
            if not size:
                await _hold_behind(wire, head, how.dam)
                head = b""
                continue
        await wire.write(head + _framed(body[position : position + size], how))
        head = b""
        position += size
        outcome.sent += size
        if rate:
            await _wait(wire, size / rate)


async def _hold_behind(wire: Wire, head: bytes, dam: Gate) -> None:
    if head:
        await wire.write(head)
    await wire.hold(dam)


def _stops(how: Delivery) -> set[int]:
    """The positions in the body at which something happens."""
    found = {how.gate_after} if how.gate else set()
    found |= {how.rate_after} if how.rate and how.rate_after else set()
    return found | ({how.cut_after} if how.cut and how.cut_after is not None else set())


def _rate(wire: Wire, how: Delivery, position: int) -> float | None:
    if how.rate is not None and position >= how.rate_after:
        return how.rate
    return wire.slow_rate


def _tick(rate: float | None) -> int:
    """How much to send before sleeping: a twentieth of a second's worth."""
    return PIECE if rate is None else max(1, int(rate / 20))


async def _wait(wire: Wire, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if wire.gone:
            raise GoneError
        await asyncio.sleep(min(left, 0.05))


def _framed(piece: memoryview, how: Delivery) -> bytes | memoryview:
    if how.chunk is None:
        return bytes(piece)
    size = how.chunk_size_line or b"%x" % len(piece)
    return size + b"\r\n" + bytes(piece) + b"\r\n"


async def _break_off(wire: Wire, cut: Cut, outcome: Outcome) -> None:
    outcome.cut = cut.value
    if cut is Cut.RESET:
        await wire.reset()
    elif cut is Cut.FIN:
        await wire.fin()
    else:
        await wire.hold()
