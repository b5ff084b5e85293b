"""Bodies whose sockets have been emptied: a mover goes on with them in place of a thread each."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from pgetpy.engine.transports.direct import DirectTransport
from pgetpy.errors import ConnectionFailedError
from pgetpy.system.threads import Workers

from ..support.bodies import body
from ..support.delivery import Gate
from ..support.faults import Fault, FinAfter, GateAfter, ResetAfter
from ..support.server import Server
from .worlds import Asking, PlacingSink, WireWorld, run, until

BODY = body(900_001)
TOTAL = len(BODY)
# Less than the mark from which a block counts as large.
LITTLE = 100_000


@pytest.fixture
def wire(server: Server) -> WireWorld:
    return WireWorld(DirectTransport(Workers()), server)


@pytest.fixture
def slow_body(wire: WireWorld, tmp_path: Path) -> Iterator[tuple[Asking, Gate]]:
    """A body that stops after `LITTLE` bytes until the gate opens."""
    gate = Gate()
    url = wire.add("/x", BODY, GateAfter(LITTLE, gate))
    sink = PlacingSink(tmp_path / "part")
    yield Asking(wire, url, 0, TOTAL, sink), gate
    gate.open()
    sink.close()


def at(asking: Asking, pos: int) -> bool:
    return asking.part.pos == pos


def test_slow_bodies_leave_their_threads_to_others(wire: WireWorld, tmp_path: Path) -> None:
    """Six of these threads may carry bodies."""
    workers = Workers(8)
    wire.transport = DirectTransport(workers)
    gate = Gate()
    sinks = [PlacingSink(tmp_path / f"{number}") for number in range(8)]

    async def scenario() -> None:
        carrying = []
        for number, sink in enumerate(sinks):
            url = wire.add(f"/{number}", BODY, GateAfter(LITTLE, gate))
            asking = Asking(wire, url, 0, TOTAL, sink)
            carrying.append(asyncio.ensure_future(asking.carry()))
            await until(partial(at, asking, LITTLE))
        try:
            await until(lambda: workers.submit_now(lambda: None) is not None)
        finally:
            gate.open()
            await asyncio.gather(*carrying)

    run(wire, scenario())
    for sink in sinks:
        assert sink.content(0, TOTAL) == BODY
        sink.close()


def test_a_slow_body_ends_at_a_lowered_stop_without_another_byte(
    wire: WireWorld, slow_body: tuple[Asking, Gate]
) -> None:
    asking, _ = slow_body

    async def scenario() -> None:
        carrying = asyncio.ensure_future(asking.carry())
        await until(partial(at, asking, LITTLE))
        asking.part.stop = LITTLE
        await carrying

    run(wire, scenario())


def test_a_slow_body_that_is_cancelled_writes_no_more(
    wire: WireWorld, slow_body: tuple[Asking, Gate]
) -> None:
    asking, gate = slow_body

    async def scenario() -> None:
        carrying = asyncio.ensure_future(asking.carry())
        await until(partial(at, asking, LITTLE))
        carrying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await carrying
        gate.open()

    run(wire, scenario())
    assert asking.part.pos == LITTLE
    assert isinstance(asking.sink, PlacingSink)
    assert asking.sink.content(0, TOTAL) == BODY[:LITTLE]


@pytest.mark.parametrize("fault", [FinAfter(LITTLE), ResetAfter(LITTLE)])
def test_a_slow_body_that_is_cut_short_is_a_failure(
    wire: WireWorld, tmp_path: Path, fault: Fault
) -> None:
    sink = PlacingSink(tmp_path / "part")
    asking = Asking(wire, wire.add("/x", BODY, fault), 0, TOTAL, sink)
    with pytest.raises(ConnectionFailedError):
        run(wire, asking.carry())
    assert sink.content(0, asking.part.pos) == BODY[: asking.part.pos]
    sink.close()


def test_a_slow_body_whose_sink_fails_leaves_the_others_whole(
    wire: WireWorld, tmp_path: Path
) -> None:
    """Its bytes are in the mover's pipe then, and must not get into the next body."""
    gate = Gate()
    sinks = [PlacingSink(tmp_path / f"{number}") for number in range(4)]

    async def scenario() -> list[object]:
        carrying = []
        for number, sink in enumerate(sinks):
            url = wire.add(f"/{number}", BODY, GateAfter(LITTLE, gate))
            asking = Asking(wire, url, 0, TOTAL, sink)
            carrying.append(asyncio.ensure_future(asking.carry()))
            await until(partial(at, asking, LITTLE))
        read_only = os.open(tmp_path / "0", os.O_RDONLY)
        os.dup2(read_only, sinks[0].fd)
        os.close(read_only)
        gate.open()
        return await asyncio.gather(*carrying, return_exceptions=True)

    failed, *others = run(wire, scenario())
    assert isinstance(failed, OSError)
    for sink, outcome in zip(sinks[1:], others, strict=True):
        assert isinstance(outcome, Asking)
        assert sink.content(0, TOTAL) == BODY
    for sink in sinks:
        sink.close()
