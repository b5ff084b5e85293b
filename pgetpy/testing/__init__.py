"""A network in memory, for tests of what uses pgetpy: predictors, caches, scripts.

    from pgetpy import WeightsDownloadCache
    from pgetpy.testing import Stored, Turn, network

    URL = "http://192.0.2.1/model.safetensors"

    def test_setup_outlives_a_broken_connection(tmp_path):
        weights = Stored(BODY, script=[Turn(cut_after=100)])  # the second answer is honest
        with network({URL: weights}) as transport:
            path = WeightsDownloadCache(tmp_path).ensure(URL)
        assert path.read_bytes() == BODY
        assert len(transport.requests) == 2

All else is what runs in production: plans, retries, checks, the cache. No connection is opened; no
name is looked up either if the URLs have an address in place of a host's name, as above.

What tests of others need belongs here. Nothing in pgetpy imports it.
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
    """Have everything that is fetched within the block, by any thread, come from `objects`.

    Args:
        objects: by URL; what is not among them is answered with 404.

    Yields:
        The transport, whose `requests` says what has been asked for.
    """
    transport = MemoryTransport(objects)

    def make(*_: object) -> MemoryTransport:
        return transport

    with mock.patch.multiple(engine, DirectTransport=make, AioTransport=make):
        yield transport
