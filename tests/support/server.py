"""A misbehaving loopback HTTP/1.1 server, strict about what it is sent.

Right answers follow RFC 9110 (resources.py); faults make wrong ones (faults/). Whatever a client
may not send is kept in ``violations``, which the fixtures expect to be empty at the end.

    with Server() as server:
        server.add("/model", Resource(body(1_000_000), faults=[ResetAfter(1000)]))
        fetch(server.url("/model"))
        server.asked("/model")  # [(0, 65536), ...]
"""

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any

from .delivery import Outcome, Wire, deliver
from .faults import Exchange, Tally, met
from .loops import LoopThread
from .records import Seen
from .resources import Answer, Resource, plain, right_answer
from .rfc9110 import MalformedError, Request, offences, parse_request
from .waiting import eventually

HEAD_LIMIT = 256 * 1024


class Server:
    """One server on 127.0.0.1 (and ::1 when asked); a context manager, changeable while it runs."""

    def __init__(
        self,
        tls: ssl.SSLContext | None = None,
        *,
        ipv6: bool = False,
        port: int = 0,
        pace: int | None = None,
    ) -> None:
        self.host = "127.0.0.1"
        self.port = port
        self.requests: list[Seen] = []
        self.violations: list[str] = []
        self.connections = 0
        self.open = 0
        self.peak = 0
        self._tls = tls
        self._ipv6 = ipv6
        self._pace = pace
        self._resources: dict[str, Resource] = {}
        self._tallies: dict[str, Tally] = {}
        self._refusals = 0
        self._home: LoopThread | None = None
        self._listeners: list[asyncio.Server] = []
        # The loop holds tasks weakly.
        self._tasks: set[asyncio.Task[None] | None] = set()

    # What a test says

    def add(self, path: str, resource: Resource) -> str:
        """Serve ``resource`` at ``path`` from now on, counting anew; returns its URL."""
        self._resources[path] = resource
        self._tallies[path] = Tally()
        return self.url(path)

    def change(self, path: str, **fields: Any) -> None:
        """Change some fields of a resource; its counts go on."""
        self._resources[path] = replace(self._resources[path], **fields)

    def remove(self, path: str) -> None:
        del self._resources[path]

    def has(self, path: str) -> bool:
        return path in self._resources

    def refuse(self, times: int) -> None:
        """Reset the next so many connections as soon as they are accepted."""
        self._refusals = times

    def url(self, path: str, host: str | None = None, user: str = "") -> str:
        """The URL of a path; ``host`` is another name of this server, ``user`` ``name:word``."""
        scheme = "https" if self._tls else "http"
        return f"{scheme}://{user + '@' if user else ''}{host or self.host}:{self.port}{path}"

    # What a test asks

    def seen(self, path: str) -> list[Seen]:
        """The requests for one path, in the order of their arrival."""
        return [seen for seen in self.requests if seen.path == path]

    def asked(self, path: str) -> list[tuple[int | None, int | None] | None]:
        """The ranges that were asked of one path by GET."""
        return [seen.asked for seen in self.seen(path) if seen.method == "GET"]

    def size(self, path: str) -> int:
        """How many bytes the resource at ``path`` has."""
        return len(self._resources[path].body)

    def sent(self, path: str) -> int:
        """The body bytes sent for one path in all."""
        return sum(seen.sent for seen in self.seen(path))

    def wait_until(self, condition: Callable[[], object], within: float = 30) -> None:
        eventually(condition, within, "what the test waits for at the server")

    @property
    def errors(self) -> list[BaseException | str]:
        """Mistakes of the server itself."""
        return self._home.errors if self._home else []

    # Its life

    def start(self) -> None:
        self._home = LoopThread("loopback server")
        self._home.run(self._listen())

    def stop(self) -> None:
        """Cut every connection and free the port; ``start`` takes the same port again."""
        if self._home and self._listeners:
            self._home.run(self._unlisten())
            self._home.stop()
            self._listeners = []

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    async def _listen(self) -> None:
        hosts = [self.host, "::1"] if self._ipv6 else [self.host]
        self._listeners = []
        for host in hosts:
            listener = await asyncio.start_server(
                self._connected, host, self.port, ssl=self._tls, limit=HEAD_LIMIT, backlog=1024
            )
            self.port = listener.sockets[0].getsockname()[1]
            self._listeners.append(listener)

    async def _unlisten(self) -> None:
        # asyncio leaves a connection open that it accepted in the very turn of the closing, and a
        # task that is cancelled before it began closes nothing: first no more, then all begun.
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            for sock in listener.sockets:
                loop.remove_reader(sock.fileno())
        for _ in range(5):
            await asyncio.sleep(0)
        for listener in self._listeners:
            listener.close()

    # One connection

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        self.connections += 1
        self.open += 1
        self.peak = max(self.peak, self.open)
        wire = Wire(reader, writer)
        try:
            await self._converse(wire, self.connections)
        except asyncio.CancelledError:
            writer.transport.abort()
        except OSError:
            pass
        except Exception as error:
            self.errors.append(error)
        finally:
            self.open -= 1
            await _end(writer)
            self._tasks.discard(task)

    async def _converse(self, wire: Wire, connection: int) -> None:
        if self._refusals > 0:
            self._refusals -= 1
            await wire.reset()
            return
        if self._pace:
            wire.pace(self._pace)
        idle: float | None = None
        while True:
            raw = await self._read_head(wire, idle)
            if raw is None:
                return
            try:
                request = parse_request(raw)
                content = await self._read_content(wire, request)
            except MalformedError as error:
                self.violations.append(str(error))
                refusal = plain(400, str(error))
                await deliver(wire, refusal.head(), refusal.body, refusal.delivery, Outcome())
                return
            keep, idle = await self._respond(wire, request, content, connection)
            if not keep:
                return

    async def _read_head(self, wire: Wire, idle: float | None) -> bytes | None:
        try:
            raw = await asyncio.wait_for(wire.reader.readuntil(b"\r\n\r\n"), idle)
        except (asyncio.IncompleteReadError, asyncio.TimeoutError):
            return None
        except asyncio.LimitOverrunError:
            self.violations.append(f"a head of more than {HEAD_LIMIT} bytes")
            return None
        if raw.startswith(b"\r\n"):
            self.violations.append("an empty line before the request line")
        return raw.lstrip(b"\r\n")[:-4]

    async def _read_content(self, wire: Wire, request: Request) -> bytes:
        if request.header("transfer-encoding"):
            content = b""
            while size := int(await wire.reader.readuntil(b"\r\n"), 16):
                content += await wire.reader.readexactly(size)
                await wire.reader.readexactly(2)
            await wire.reader.readexactly(2)
            return content
        length = request.header("content-length") or "0"
        if not length.isdigit():
            raise MalformedError(f"Content-Length {length!r}")
        return await wire.reader.readexactly(int(length))

    async def _respond(
        self, wire: Wire, request: Request, content: bytes, connection: int
    ) -> tuple[bool, float | None]:
        seen = Seen(
            number=len(self.requests) + 1,
            connection=connection,
            request=request,
            time=time.monotonic(),
            body=content,
        )
        self.requests.append(seen)
        self.violations += offences(request, self.port)
        tally = self._tallies.setdefault(request.path, Tally())
        tally.active += 1
        try:
            answer = self._answer(request, tally, connection)
            tally.outcomes.append(seen)
            return await self._deliver(wire, request, answer, seen)
        finally:
            tally.active -= 1

    def _answer(self, request: Request, tally: Tally, connection: int) -> Answer:
        resource = self._resources.get(request.path)
        if len(request.values("host")) != 1 and request.version == "HTTP/1.1":
            return plain(400, "Host is needed once\n")
        if resource is None:
            return plain(404, "not found\n")
        tally.requests += 1
        exchange = Exchange(request, tally.requests, connection, tally, resource)
        faults = met(exchange)
        for fault in faults:
            resource = fault.represent(resource, exchange)
        exchange = replace(exchange, resource=resource)
        answer = right_answer(request, resource)
        for fault in faults:
            answer = fault.answer(answer, exchange)
        return answer

    async def _deliver(
        self, wire: Wire, request: Request, answer: Answer, seen: Seen
    ) -> tuple[bool, float | None]:
        seen.status = answer.status
        how = answer.delivery
        asked_to_close = "close" in (request.header("connection") or "").lower()
        close = how.close or asked_to_close or request.version == "HTTP/1.0"
        if asked_to_close:
            answer = answer.having("Connection", "close")
        body = answer.body
        if request.method == "HEAD":
            body, how = b"", replace(how, chunk=None)
        await deliver(wire, answer.head(), body, how, seen)
        return seen.done and not close, how.idle


async def _end(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, asyncio.CancelledError, asyncio.TimeoutError):
        await asyncio.wait_for(writer.wait_closed(), 1)
    writer.transport.abort()
