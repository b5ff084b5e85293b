"""What curl gets whole is had, whatever a server thinks of ranges; never wrong bytes; no end late.

Each example is a whole transfer to a file, by the real engine, from a server that exists in memory,
on a loop whose clock jumps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgetpy.core.http.heads import Head
from pgetpy.core.http.pace import ConcurrencyController
from pgetpy.core.http.ranges import OPEN_END
from pgetpy.core.http.sink import Sink
from pgetpy.core.http.urls import parse_link
from pgetpy.core.references.jobs import Job
from pgetpy.core.report.results import DownloadResult
from pgetpy.engine.context import EngineContext
from pgetpy.engine.hosts import Host, Hosts
from pgetpy.engine.transfer import Transfer
from pgetpy.engine.transports.base import Exchange
from pgetpy.engine.transports.local import LocalTransport
from pgetpy.errors import ConnectionFailedError, PgetError
from pgetpy.settings import Settings
from pgetpy.system.filesystem import ReservedPaths
from pgetpy.system.threads import Workers
from tests.support.bodies import body
from tests.support.odd_servers import (
    CHOICES,
    Oddity,
    OddServer,
    Reply,
)
from tests.support.virtual import run_virtually

MIB = 1 << 20
URL = "http://127.0.0.1/model"
BODY = body(3 * MIB + 17)
# Bytes a second of one connection.
RATE = 2e6
PIECE = 64 * 1024
SMALL = 200_000

T = TypeVar("T")
ODDITIES = st.builds(
    Oddity, **{name: st.sampled_from(choices) for name, choices in CHOICES.items()}
)


class AtOnce(Workers):
    """No threads: on a clock that jumps their work would take for ever."""

    def submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        future = asyncio.get_running_loop().create_future()
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)
        return future


class OddTransport:
    """Carries exchanges to `server`."""

    def __init__(self, server: OddServer) -> None:
        self._server = server

    async def carry(self, exchange: Exchange) -> None:
        """See `Transport.carry`."""
        self._server.busy += 1
        try:
            await asyncio.sleep(self._server.oddity.late)
            await self._answer(exchange)
        finally:
            self._server.busy -= 1
            exchange.mark()

    async def close(self) -> None:
        pass

    async def _answer(self, exchange: Exchange) -> None:
        asked = exchange.asked
        conditions = [value for name, value in exchange.request.headers if name == "If-Range"]
        open_end = asked is not None and asked.stop == OPEN_END
        reply = self._server.reply(asked, next(iter(conditions), None), open_end=open_end)
        answer, sink = exchange.judge(Head(reply.status, reply.headers))
        await self._pour(exchange, reply, answer.start - answer.skip, sink)

    async def _pour(self, exchange: Exchange, reply: Reply, first: int, sink: Sink) -> None:
        part, data = exchange.part, memoryview(reply.body)
        reach = len(data) if reply.cut is None else reply.cut
        while part.rest:
            at = part.pos - first
            stop = min(at + PIECE, reach, at + part.rest)
            if stop <= at:
                raise ConnectionFailedError(URL, "broken off")
            await asyncio.sleep((stop - at) / RATE)
            stop = min(stop, at + part.rest)
            exchange.store(sink, data[at:stop])


def fetch(server: OddServer, dest: Path, *, chunk_size: int) -> DownloadResult:
    """Fetch from `server` on a virtual clock."""
    chosen = Settings(retries=5, stall_timeout=15.0, chunk_size=chunk_size)
    workers = AtOnce()
    hosts = Hosts(chosen, workers)
    link = parse_link(URL)
    hosts._hosts[link.origin, link.trusted] = Host(link.origin, (), None, ConcurrencyController(16))
    transport = OddTransport(server)
    local = LocalTransport(workers)
    context = EngineContext(
        chosen, hosts, workers, transport, transport, None, ReservedPaths(), local, lambda: 0.5
    )

    async def scenario() -> DownloadResult:
        transfer = Transfer(context, Job(URL, str(dest)), 0, lambda _: None)
        return await asyncio.wait_for(transfer.run(), 3600)

    return run_virtually(scenario())


def check(oddity: Oddity, size: int, chunk_size: int, folder: Path) -> None:
    """Fetch `size` bytes from a server with `oddity`."""
    dest = folder / "x"
    server = OddServer(BODY[:size], oddity)
    try:
        result = fetch(server, dest, chunk_size=chunk_size)
    except PgetError:
        # Who limits ranges asks a link that is good for one answer for less than the whole.
        limited = oddity.answers is not None and chunk_size < size
        assert not oddity.curl_gets_it or oddity.spends_its_answer or limited
        assert not dest.exists()
    else:
        assert dest.read_bytes() == BODY[:size]
        assert result.size == size
    assert server.requests < 200


@pytest.mark.hypothesis
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    oddity=ODDITIES,
    size=st.sampled_from([0, 1, 1000, MIB, MIB + 1, len(BODY)]),
    chunk_size=st.sampled_from([SMALL, 125_000_000]),
)
def test_what_curl_gets_is_had_and_nothing_wrong(
    tmp_path_factory: pytest.TempPathFactory, oddity: Oddity, size: int, chunk_size: int
) -> None:
    check(oddity, size, chunk_size, tmp_path_factory.mktemp("odd"))
