"""The worlds that the contracts of transports hold in."""

import pytest

from pgetpy.engine.transports.aio import AioTransport
from pgetpy.engine.transports.direct import DirectTransport
from pgetpy.system.threads import Workers

from .worlds import MemoryWorld, WireWorld, World

ON_THE_WIRE = ["direct", "direct over TLS", "aiohttp", "aiohttp over TLS"]


def _world(request: pytest.FixtureRequest) -> WireWorld:
    secure = "TLS" in request.param
    server = request.getfixturevalue("tls_server" if secure else "server")
    tls = request.getfixturevalue("ca").client() if secure else None
    direct = request.param.startswith("direct")
    transport = DirectTransport(Workers()) if direct else AioTransport(Workers(), limit=64)
    return WireWorld(transport, server, tls)


@pytest.fixture(params=["direct", "direct over TLS", "aiohttp", "memory"])
def world(request: pytest.FixtureRequest) -> World:
    """Each transport with something to talk to."""
    return MemoryWorld() if request.param == "memory" else _world(request)


@pytest.fixture(params=ON_THE_WIRE)
def wire(request: pytest.FixtureRequest) -> WireWorld:
    """Each transport that talks over a network."""
    return _world(request)


@pytest.fixture(params=["direct", "aiohttp"])
def plain_wire(request: pytest.FixtureRequest) -> WireWorld:
    """The same without TLS, for what is no matter of the bytes' way but of their meaning."""
    return _world(request)
