"""`Engine.identify`: a version without the content, also where the first answer is late."""

from __future__ import annotations

import asyncio

from pgetpy.engine.engine import Engine
from pgetpy.settings import Settings
from pgetpy.sources.base import RemoteFile
from tests.support.delivery import Gate
from tests.support.faults import GateAfter, When
from tests.support.resources import Resource
from tests.support.server import Server


async def identified(url: str) -> object:
    async with Engine(Settings()) as engine:
        return (await asyncio.wait_for(engine.identify(RemoteFile(url)), 30)).etag


def test_a_late_first_answer_is_replaced_by_the_second(server: Server) -> None:
    """The second request is for the same byte, and its answer ends the question."""
    gate = Gate()
    held = GateAfter(None, gate, when=When(times=1))
    url = server.add("/late.bin", Resource(b"x" * 5000, etag='"v1"', faults=[held]))
    try:
        assert asyncio.run(identified(url)) == '"v1"'
    finally:
        gate.open()
    assert len(server.requests) <= 5
