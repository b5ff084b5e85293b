"""What a daemon answers: /ready for probes, /metrics for Prometheus. aiohttp's server, on the
engine's loop; it is imported when a daemon starts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pgetpy.core.generations.exposition import CONTENT_TYPE, Figure, exposition
from pgetpy.core.text.values import count_reader
from pgetpy.errors import DestinationError, UsageError
from pgetpy.errors.reasons import system_reason
from pgetpy.generations.daemon import GenerationDaemon
from pgetpy.generations.store import Readiness
from pgetpy.system.event_loop import run_blocking

if TYPE_CHECKING:
    from aiohttp import web

_NUMBER = count_reader(0)


@contextlib.contextmanager
def serving(daemon: GenerationDaemon, address: str, port: int) -> Iterator[int]:
    """Answer requests about `daemon` within the block.

    Args:
        daemon: is asked.
        address: of this machine, to listen on.
        port: to listen on; 0 for any that is free.

    Yields:
        The port.

    Raises:
        DestinationError: it cannot listen there.
    """
    server = _StatusServer(daemon)
    try:
        yield run_blocking(server.start(address, port))
    finally:
        run_blocking(server.stop())


class _StatusServer:
    def __init__(self, daemon: GenerationDaemon) -> None:
        self._daemon = daemon
        self._runner: web.AppRunner | None = None

    async def start(self, address: str, port: int) -> int:
        from aiohttp import web

        app = web.Application()
        app.router.add_get("/ready", self._ready)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, address, port)
        try:
            await site.start()
        except OSError as error:
            where = f"{address}:{port}"
            reason = f"cannot be listened on: {system_reason(error)}"
            code = error.errno or 0
            raise DestinationError(where, reason, hint="choose another --bind", code=code) from None
        found: int = self._runner.addresses[0][1]
        return found

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _ready(self, request: web.Request) -> web.Response:
        from aiohttp import web

        try:
            bounds = [
                _NUMBER(request.query[name], name) if name in request.query else None
                for name in ("min", "max")
            ]
            # It looks at files, so not on the loop that moves bytes.
            found = await asyncio.to_thread(self._daemon.ready, *bounds)
        except UsageError as error:
            return web.json_response({"ready": False, "why": str(error)}, status=400)
        status = 200 if found.ready else 503
        failures = self._daemon.status.failures
        return web.json_response({**found.to_json(), "failures": failures}, status=status)

    async def _metrics(self, _: web.Request) -> web.Response:
        from aiohttp import web

        found = await asyncio.to_thread(self._daemon.ready)
        text = exposition(_figures(self._daemon, found))
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})


def _figures(daemon: GenerationDaemon, found: Readiness) -> list[Figure]:
    status = daemon.status
    whole = sum(each.whole for each in found.states)
    rows: list[tuple[str, str, str, float | None]] = [
        ("ready", "gauge", "1 if all wanted generations are whole.", found.ready),
        ("wanted", "gauge", "Generations that have to be there.", len(found.states)),
        ("whole", "gauge", "Wanted generations that are whole.", whole),
        ("latest", "gauge", "The number that latest leads to.", found.latest),
        ("building", "gauge", "The number that is being built.", status.building),
        ("in_use", "gauge", "Old generations that are still read.", len(status.in_use)),
        ("failing_locks", "gauge", "Locks that cannot be built.", len(status.failures)),
        ("built_total", "counter", "Generations that were built.", status.built),
        ("failed_total", "counter", "Builds that failed.", status.failed),
        ("pruned_total", "counter", "Generations that were removed.", status.pruned),
        ("seen_seconds", "gauge", "When the locks were last looked at (Unix time).", status.seen),
    ]
    return [
        Figure(f"pgetpy_generations_{name}", kind, about, value)
        for name, kind, about, value in rows
    ]
