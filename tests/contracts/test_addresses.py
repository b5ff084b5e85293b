"""A host with several addresses, some of them dead: RFC 8305, by every transport over a network."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pgetpy.engine.transports.base import Address
from pgetpy.errors import ConnectionFailedError

from ..support.bodies import body
from ..support.faults import Close
from .worlds import Asking, RecordingSink, WireWorld, run

SMALL = body(5000)
# Far more than a dead address may cost, far less than it did when each had its share of this.
PATIENCE = 60.0
SOON = 10.0


@contextlib.contextmanager
def dead(host: str, port: int) -> Iterator[Address]:
    """An address that answers nothing, neither with yes nor with no: its backlog is full."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(family))
        try:
            listener.bind((host, port))
        except OSError as error:
            pytest.skip(f"no {host} here: {error}")
        listener.listen(0)
        for _ in range(3):
            client = stack.enter_context(socket.socket(family))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect((host, port))
        yield Address(family, (host, port, 0, 0) if ":" in host else (host, port))


@contextlib.contextmanager
def refusing(host: str) -> Iterator[Address]:
    """An address of which a port refuses."""
    with socket.socket() as bound:
        bound.bind((host, 0))
        yield Address(socket.AF_INET, bound.getsockname())


def asking(wire: WireWorld, url: str, *addresses: Address, patience: float = PATIENCE) -> Asking:
    one = Asking(wire, url, 0, len(SMALL))
    request = one.exchange.request
    one.exchange.request = replace(request, addresses=addresses, connect_timeout=patience)
    return one


def living(wire: WireWorld) -> Address:
    return Address(socket.AF_INET, ("127.0.0.1", wire.server.port))


def kept(one: Asking) -> bytes:
    assert isinstance(one.sink, RecordingSink)
    return bytes(one.sink.data)


@pytest.mark.parametrize("hosts", [["::1"], ["127.0.0.2"], ["::1", "127.0.0.2", "127.0.0.3"]])
def test_a_dead_address_costs_a_moment(wire: WireWorld, hosts: list[str]) -> None:
    url = wire.add("/x", SMALL)
    with contextlib.ExitStack() as stack:
        addresses = [stack.enter_context(dead(host, wire.server.port)) for host in hosts]
        started = time.monotonic()
        one = run(wire, asking(wire, url, *addresses, living(wire)).carry())
        assert time.monotonic() - started < SOON
    assert kept(one) == SMALL


def test_the_address_that_answered_is_the_first_the_next_time(wire: WireWorld) -> None:
    url = wire.add("/x", SMALL, Close())
    with dead("127.0.0.2", wire.server.port) as gone:

        async def scenario() -> None:
            for _ in range(40):
                await asking(wire, url, gone, living(wire)).carry()

        started = time.monotonic()
        run(wire, scenario())
        # Forty times a quarter of a second is as much.
        assert time.monotonic() - started < SOON
    assert wire.server.connections == 40


def test_an_address_that_refuses_costs_nothing_and_hides_no_other(plain_wire: WireWorld) -> None:
    url = plain_wire.add("/x", SMALL)
    with refusing("127.0.0.2") as no:
        one = run(plain_wire, asking(plain_wire, url, no, living(plain_wire)).carry())
    assert kept(one) == SMALL


def test_when_all_are_dead_the_time_to_connect_is_the_end(plain_wire: WireWorld) -> None:
    url = plain_wire.add("/x", SMALL).replace("127.0.0.1", "store.example")
    port = plain_wire.server.port
    with dead("127.0.0.2", port) as first, dead("127.0.0.3", port) as second:
        started = time.monotonic()
        with pytest.raises(ConnectionFailedError, match="connect timeout"):
            run(plain_wire, asking(plain_wire, url, first, second, patience=0.5).carry())
        assert time.monotonic() - started < SOON
