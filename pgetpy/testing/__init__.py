"""An in-memory network, for tests of code that uses pgetpy: predictors, caches, scripts.

    from pgetpy import WeightsDownloadCache
    from pgetpy.testing import Stored, Turn, network

    URL = "http://192.0.2.1/model.safetensors"

    def test_setup_survives_a_broken_connection(tmp_path):
        weights = Stored(BODY, script=[Turn(cut_after=100)])  # the second answer is complete
        with network({URL: weights}) as transport:
            path = WeightsDownloadCache(tmp_path).ensure(URL)
        assert path.read_bytes() == BODY
        assert len(transport.requests) == 2

Everything above the network is the real thing: plans, retries, checks, the cache. No connection is
opened. No name is resolved either if the URLs use an IP address, as above (192.0.2.0/24 is reserved
for documentation, RFC 5737).

Test tools for users of pgetpy belong here. Nothing else in pgetpy imports this package.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from unittest import mock

from pgetpy.engine import engine
from pgetpy.testing.memory import MemoryTransport, Stored, Turn

__all__ = ["MemoryTransport", "Stored", "Turn", "network"]


@contextmanager
def network(objects: Mapping[str, Stored]) -> Iterator[MemoryTransport]:
    """Serve everything fetched within the block, by any thread, from `objects`.

    Args:
        objects: what to serve, by URL. Any other URL is answered with status 404.

    Yields:
        The transport, whose `requests` lists the requests so far.
    """
    transport = MemoryTransport(objects)

    def make(*_: object) -> MemoryTransport:
        return transport

    with mock.patch.multiple(engine, DirectTransport=make, full_transport=make):
        yield transport
